"""From the sections of a recipe to the parts of a run, refusing what does not fit together.

Cheap checks come first, then the models, then the corpus; a refusal is a ValueError of one sentence that names the field.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from diito.corpus import Corpus, check_sources, load_corpus
from diito.evaluation.held_out.text import HeldOut, uniform_masking
from diito.method.alignment import Alignment
from diito.method.alignment_files import build_alignment
from diito.method.objective import DistillationObjective
from diito.method.positions import RULES, Pairing, derangement
from diito.models.layered import family_of
from diito.models.student import build_student, student_layers
from diito.models.teacher import load_config, load_teacher, load_tokenizer, special_ids
from diito.plugins import load
from diito.recipe import CorpusSection, Recipe
from diito.refusal import Refusal
from diito.run.plan import Plan
from diito.speed.precision import prepare_models
from diito.tasks.masked_lm import Masking
from diito.training.trainer import DistillationTrainer, Evaluation

PAIRINGS: dict[str, Pairing] = {"in-batch": derangement, "independent": derangement}
"""Pairings by their names in a recipe; with independent ones every row brings its source."""


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


def prepare(recipe: Recipe, arguments: TrainingArguments) -> Parts:
    """Load what ``recipe`` names. Cheap checks come first, then the models, then the corpus. Raises ValueError."""
    check_sources(recipe.corpus.sources, field="corpus.sources")
    if recipe.evaluation.sources:
        check_sources(recipe.evaluation.sources, field="evaluation.sources")
    config = load_config(recipe.teacher)
    chosen = student_layers(recipe.student.layers, config.num_hidden_layers)
    depths = {"teacher_layers": config.num_hidden_layers, "student_layers": len(chosen)}
    alignment = build_alignment(recipe.alignment, **depths, seed=recipe.seed)
    width = config.hidden_size
    alignment.check(**depths, teacher_width=width, student_width=width)
    recipe = _with_lengths(recipe, config)
    tokenizer = load_tokenizer(recipe.teacher, config)
    teacher = load_teacher(recipe.teacher)
    student = build_student(teacher, chosen, dropout=recipe.student.dropout)
    with arguments.main_process_first(desc="corpus"):
        corpus = load_corpus(recipe.corpus, tokenizer=tokenizer, seed=recipe.seed)
        held_out = _held_out(recipe, tokenizer, config.vocab_size)
    plan = Plan(recipe, teacher, student, chosen, alignment, corpus, arguments.world_size)
    if plan.steps_per_epoch == 0:
        raise ValueError(
            f"training.batch: the corpus has {len(corpus)} sequences, fewer than one micro-batch of {recipe.training.batch} on "
            f"{arguments.world_size} process(es); give more text or a smaller batch"
        )
    return Parts(tokenizer, teacher, student, alignment, corpus, held_out, plan)


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
        positions=load(intervention.positions, field="intervention.positions", group="diito.positions", known=RULES),
        pairing=load(intervention.pairing, field="intervention.pairing", group="diito.pairings", known=PAIRINGS),
        share=intervention.share,
        specials=intervention.specials,
        special_ids=special_ids(parts.tokenizer),
        source_positions=intervention.source_positions,
        control=intervention.control,
        seed=recipe.seed,
    )
    prepare_models(parts.student, teacher, recipe.speed, device=arguments.device)
    masking = Masking.for_tokenizer(
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


def _with_lengths(recipe: Recipe, config: Any) -> Recipe:
    """The recipe with the lengths that it leaves open: as many tokens as the teacher allows, at most 512."""
    longest = family_of(config.model_type).longest(config)
    for field, length in (("corpus.length", recipe.corpus.length), ("evaluation.length", recipe.evaluation.length)):
        if length is not None and length > longest:
            raise Refusal(field, f"{length} tokens, but the teacher has positions for {longest}; give at most {longest}")
    corpus = dataclasses.replace(recipe.corpus, length=recipe.corpus.length or min(longest, 512))
    evaluation = dataclasses.replace(recipe.evaluation, length=recipe.evaluation.length or min(longest, 512))
    return dataclasses.replace(recipe, corpus=corpus, evaluation=evaluation)


def _held_out(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> HeldOut | None:
    evaluation = recipe.evaluation
    if not evaluation.sources:
        return None
    section = CorpusSection(
        sources=evaluation.sources,
        length=evaluation.length,
        workers=recipe.corpus.workers,
        cache=recipe.corpus.cache,
    )
    corpus = load_corpus(section, tokenizer=tokenizer, seed=recipe.seed, field="evaluation")
    masking = uniform_masking(tokenizer, vocab_size=vocab_size)
    return HeldOut(corpus, masking, recipe.seed, evaluation.blocks, evaluation.batch)
