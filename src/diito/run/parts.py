"""From the sections of a recipe to the parts of a run, refusing what does not fit together.

1. :func:`survey` reads names, configurations and the tokenizer, fills in what the recipe leaves open, and refuses everything
   that these can tell at once;
2. :func:`load` loads the models and the corpus; :func:`prepare` does both;
3. :func:`build_trainer` puts the parts together.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from diito import plugins
from diito.corpus import LENGTH, Corpus, NothingLeft, Part, check_sources, find_sources, load_corpus
from diito.evaluation.held_out.text import HeldOut, uniform_masking
from diito.method.alignment import Alignment
from diito.method.alignment_files import build_alignment
from diito.method.objective import DistillationObjective
from diito.method.positions import RULES, Pairing, PositionRule, derangement
from diito.models.load import ModelSource, longest_sequence
from diito.models.student import build_student, student_layers
from diito.models.teacher import load_config, load_teacher, load_tokenizer, special_ids
from diito.recipe import CorpusSection, Recipe
from diito.refusal import Refusal, collect
from diito.run.plan import Plan
from diito.speed.precision import prepare_models
from diito.tasks.masked_lm import MaskedLM
from diito.training.trainer import DistillationTrainer, Evaluation

PAIRINGS: dict[str, Pairing] = {"in-batch": derangement, "independent": derangement}
"""Pairings by their names in a recipe; with independent ones every row brings its source."""
HELD_OUT_SHARE = 0.05
"""Of the corpus's documents, at most, where they are held out for measuring."""
HELD_OUT_BLOCKS = 200
"""Blocks measured then, at most."""
_BYTES = 8  # of a token, at least as many as any usual text has: more is held out rather than less


@dataclass(frozen=True)
class Survey:
    """What a recipe names, as far as it is known without weights and text."""

    recipe: Recipe
    """With numbers where it left the choice to the teacher."""
    config: Any
    """The teacher's configuration."""
    tokenizer: PreTrainedTokenizerBase
    student_layers: list[int]
    """The teacher layers that the student is made of."""
    alignment: Alignment


@dataclass(frozen=True)
class Parts:
    """What a recipe names, loaded and checked."""

    tokenizer: PreTrainedTokenizerBase
    teacher: PreTrainedModel
    student: PreTrainedModel
    alignment: Alignment
    corpus: Corpus
    held_out: HeldOut | None
    plan: Plan


def survey(recipe: Recipe) -> Survey:
    """What ``recipe`` names, checked without loading weights or text.

    Raises Refusal, or Refusals with everything that can be told at once (both are ValueErrors).
    """
    with collect() as attempt:
        with attempt():
            check_sources(recipe.corpus.sources, field="corpus.sources")
        with attempt():
            if recipe.evaluation.sources:
                check_sources(recipe.evaluation.sources, field="evaluation.sources")
        with attempt():
            position_rule(recipe)
        with attempt():
            pairing_of(recipe)
        config = load_config(recipe.teacher)
        with attempt():
            tokenizer = load_tokenizer(recipe.teacher, config)
        with attempt():
            longest = longest_sequence(ModelSource(recipe.teacher.model, "teacher.model", recipe.teacher.revision))
            for field, section in (("corpus", recipe.corpus), ("evaluation", recipe.evaluation)):
                with attempt():
                    _check_length(f"{field}.length", section.length, longest)
            recipe = _with_lengths(recipe, min(LENGTH, longest or LENGTH))
        with attempt():
            chosen = student_layers(recipe.student.layers, config.num_hidden_layers)
            depths = {"teacher_layers": config.num_hidden_layers, "student_layers": len(chosen)}
            alignment = build_alignment(recipe.alignment, **depths, seed=recipe.seed)
            alignment.check(**depths, teacher_width=config.hidden_size, student_width=config.hidden_size)
    return Survey(recipe, config, tokenizer, chosen, alignment)


def position_rule(recipe: Recipe) -> PositionRule:
    """The rule that chooses the swapped positions. Raises Refusal for one that cannot be found."""
    return plugins.load(recipe.intervention.positions, field="intervention.positions", group="diito.positions", known=RULES)


def pairing_of(recipe: Recipe) -> Pairing:
    """What gives each row its source in the batch. Raises Refusal for one that cannot be found."""
    return plugins.load(recipe.intervention.pairing, field="intervention.pairing", group="diito.pairings", known=PAIRINGS)


def prepare(recipe: Recipe, arguments: TrainingArguments) -> Parts:
    """Load what ``recipe`` names, after checking what can be checked before. Raises ValueError."""
    return load(survey(recipe), arguments)


def load(surveyed: Survey, arguments: TrainingArguments) -> Parts:
    """Load the models, then the text. Raises ValueError."""
    recipe, tokenizer = surveyed.recipe, surveyed.tokenizer
    teacher = load_teacher(recipe.teacher)
    student = build_student(teacher, surveyed.student_layers, dropout=recipe.student.dropout)
    with arguments.main_process_first(desc="corpus"):
        corpus, held_out = _load_text(recipe, tokenizer, surveyed.config.vocab_size)
    plan = Plan(
        recipe,
        teacher,
        student,
        surveyed.student_layers,
        surveyed.alignment,
        corpus,
        arguments.world_size,
        held_out_blocks=None if held_out is None else len(held_out.examples),
    )
    if plan.steps_per_epoch == 0:
        raise Refusal(
            "training.batch",
            f"the corpus has {len(corpus)} sequences, fewer than one micro-batch of {recipe.training.batch} on "
            f"{arguments.world_size} process(es); give more text or a smaller batch",
        )
    return Parts(tokenizer, teacher, student, surveyed.alignment, corpus, held_out, plan)


def build_trainer(
    recipe: Recipe, parts: Parts, arguments: TrainingArguments, evaluation: Evaluation | None = None
) -> DistillationTrainer:
    """The trainer of ``recipe``, with a teacher of its own where training holds it in another precision."""
    teacher = copy.deepcopy(parts.teacher) if arguments.bf16 else parts.teacher
    intervention, objective = recipe.intervention, recipe.objective
    module = DistillationObjective(
        parts.student,
        teacher,
        parts.alignment,
        weights={"mlm" if name == "task" else name: weight for name, weight in objective.weights.as_dict().items()},
        temperature=objective.temperature,
        tokens=objective.tokens,
        positions=position_rule(recipe),
        pairing=pairing_of(recipe),
        share=intervention.share,
        specials=intervention.specials,
        special_ids=special_ids(parts.tokenizer),
        source_positions=intervention.source_positions,
        control=intervention.control,
        seed=recipe.seed,
    )
    prepare_models(parts.student, teacher, recipe.speed, device=arguments.device)
    masking = MaskedLM().batching(
        recipe.masking,
        tokenizer=parts.tokenizer,
        vocab_size=teacher.config.vocab_size,
        token_counts=parts.corpus.token_counts,
    )
    return DistillationTrainer(
        module,
        arguments,
        train_dataset=parts.corpus,
        masking=masking,
        draw_sources=intervention.pairing == "independent" and module.has_counterfactual,
        evaluation=evaluation,
        processing_class=parts.tokenizer,
    )


def _check_length(field: str, length: int | None, longest: int | None) -> None:
    if length is not None and longest is not None and length > longest:
        raise Refusal(field, f"{length} tokens, but the teacher has positions for {longest}; give at most {longest}")


def _with_lengths(recipe: Recipe, length: int) -> Recipe:
    """``recipe`` with ``length`` where it gives none, and with a limit to what is measured of its own corpus."""
    corpus, evaluation = recipe.corpus, recipe.evaluation
    blocks = HELD_OUT_BLOCKS if evaluation.sources is None and evaluation.blocks is None else evaluation.blocks
    return dataclasses.replace(
        recipe,
        corpus=dataclasses.replace(corpus, length=length if corpus.length is None else corpus.length),
        evaluation=dataclasses.replace(
            evaluation, length=length if evaluation.length is None else evaluation.length, blocks=blocks
        ),
    )


def _load_text(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> tuple[Corpus, HeldOut | None]:
    """The corpus, and the held-out text: its own sources, or documents of the corpus where the recipe names none."""
    if recipe.evaluation.sources is not None:
        corpus = load_corpus(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed)
        return corpus, _load_held_out(recipe, tokenizer, vocab_size, None) if recipe.evaluation.sources else None
    share = _held_out_share(recipe)
    try:
        held_out = _load_held_out(recipe, tokenizer, vocab_size, Part(share, recipe.seed, held_out=True))
        if len(held_out.examples) < 2:  # an intervention swaps between two
            raise NothingLeft("evaluation.sources", "too little text")
        rest = Part(share, recipe.seed, held_out=False)
        return load_corpus(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed, part=rest), held_out
    except NothingLeft:  # too little text to set some aside
        return load_corpus(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed), None


def _held_out_share(recipe: Recipe) -> float:
    """As many documents as the blocks to be measured need, at most :data:`HELD_OUT_SHARE` of them."""
    evaluation = recipe.evaluation
    assert evaluation.blocks is not None and evaluation.length is not None
    size = sum(source.size() for source in find_sources(recipe.corpus.sources, field="corpus.sources"))
    return min(HELD_OUT_SHARE, evaluation.blocks * evaluation.length * _BYTES / max(size, 1))


def _load_held_out(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, vocab_size: int, part: Part | None) -> HeldOut:
    evaluation = recipe.evaluation
    section = CorpusSection(
        sources=recipe.corpus.sources if evaluation.sources is None else evaluation.sources,
        length=evaluation.length,
        workers=recipe.corpus.workers,
        cache=recipe.corpus.cache,
    )
    corpus = load_corpus(section, tokenizer=tokenizer, seed=recipe.seed, field="evaluation", part=part)
    masking = uniform_masking(tokenizer, vocab_size=vocab_size)
    return HeldOut(corpus, masking, recipe.seed, evaluation.blocks, evaluation.batch)
