"""From the sections of a recipe to the parts of a run, refusing what does not fit together.

1. :func:`survey` reads names, configurations and the tokenizer, fills in what the recipe leaves open, and refuses everything
   that these can tell at once;
2. :func:`load` loads the models and the corpus; :func:`prepare` does both;
3. :func:`build_trainer` puts the parts together.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from diito import plugins
from diito.corpus import LENGTH, Corpus, collate
from diito.evaluation.held_out.text import HeldOut
from diito.method.alignment import Alignment
from diito.method.alignment_files import build_alignment
from diito.method.draws import generator
from diito.method.losses import Loss
from diito.method.memory import device_memory
from diito.method.objective import DistillationObjective
from diito.method.positions import Pairing, PositionRule, derangement
from diito.method.rotation import Rotation
from diito.method.runs import check_pairs
from diito.models.cut import Cut
from diito.models.layered import longest_sequence
from diito.models.load import Sizes, sizes_of
from diito.models.teacher import load_config, load_teacher, load_tokenizer
from diito.recipe import Recipe
from diito.recipe.checks import in_full, too_few_rows
from diito.refusal import Refusal, collect, refuse
from diito.run.losses import active_weights, balance_every, has_counterfactual, make_all_losses, own_losses, with_widths
from diito.run.plan import Plan
from diito.run.rotations import rotation_of
from diito.run.students import PlannedStudent, build, calibration_rows, plan_student
from diito.run.text import load_text, with_lengths
from diito.speed.precision import prepare_models
from diito.tasks import find_task
from diito.tasks.rules import find_rule, named_rule
from diito.tasks.task import Batching, Task
from diito.training.trainer import DistillationTrainer, Evaluation, refuse_unreached

PAIRINGS: dict[str, Pairing] = {"in-batch": derangement, "independent": derangement}
"""Pairings by their names in a recipe; with independent ones every row brings its source."""


@dataclass(frozen=True)
class Survey:
    """What a recipe names, as far as it is known without weights and text."""

    recipe: Recipe
    """With numbers where it left the choice to the teacher."""
    task: Task
    losses: Mapping[str, Loss]
    """Rows of the user's own."""
    sizes: Sizes
    """The teacher's."""
    tokenizer: PreTrainedTokenizerBase
    student: PlannedStudent
    alignment: Alignment
    rotation: Rotation | None = None
    """What is swapped of the states; None where the alignment says it."""
    left_out: str = ""
    """A loss that the recipe would have by default and the student cannot have, in words."""

    @property
    def words(self) -> int:
        """The words that both teacher and student know."""
        return min(self.sizes.words, self.student.sizes.words)

    @property
    def alignment_of_losses(self) -> Alignment:
        """Π as losses of states compare layers by it: ``alignment.shuffled`` is a control of the interventions alone."""
        section = dataclasses.replace(self.recipe.alignment, shuffled=False)
        depths = {"teacher_layers": self.sizes.depth, "student_layers": self.student.sizes.depth}
        return build_alignment(section, **depths, seed=self.recipe.seed)


@dataclass(frozen=True)
class Parts:
    """What a recipe names, loaded and checked."""

    task: Task
    losses: Mapping[str, Loss]
    """Rows of the user's own."""
    tokenizer: PreTrainedTokenizerBase
    teacher: PreTrainedModel
    student: PreTrainedModel
    alignment: Alignment
    corpus: Corpus
    held_out: HeldOut | None
    plan: Plan
    compared: Alignment | None = None
    """The alignment by which losses of states compare layers."""
    words: int | None = None
    """How many words the logits of both have in common, where they differ in number."""
    kept: Cut | None = None
    """Of a student that was cut: what of the teacher was kept."""
    rotation: Rotation | None = None
    """What is swapped of the states, the student's side as it is trained; None where the alignment says it."""


def survey(recipe: Recipe) -> Survey:
    """What ``recipe`` names, checked without loading weights or text.

    Raises Refusal, or Refusals with everything that can be told at once (both are ValueErrors).
    """
    losses: dict[str, Loss] | None = None
    with collect() as attempt:
        for field, sources in (("corpus", recipe.corpus.sources), ("evaluation", recipe.evaluation.sources or [])):
            with attempt():
                if sources:
                    find_task(recipe.task).check_sources(sources, field=f"{field}.sources")
        with attempt():
            if isinstance(recipe.intervention.positions, str):
                named_rule(recipe.intervention.positions, field="intervention.positions")
        with attempt():
            pairing_of(recipe)
        with attempt():
            losses = own_losses(recipe)
            reads_intervention = has_counterfactual(recipe, losses)
            if (control := recipe.intervention.control) != "none" and not reads_intervention:
                raise Refusal("intervention.control", f"{control} needs a weight of a loss that reads the swapped text")
            refuse(too_few_rows(recipe) if reads_intervention else ())
        task = find_task(recipe.task)
        with attempt():
            task.check(recipe)
        config = load_config(recipe.teacher, head=task.head, noun=task.noun)
        sizes = sizes_of(config, field="teacher.model")
        tokenizer: Any = None
        with attempt():
            tokenizer = load_tokenizer(recipe.teacher, config, needed=task.needed_tokens)
            if not isinstance(recipe.intervention.positions, str):
                position_rule(recipe, task, tokenizer)
        student: Any = None
        with attempt():
            student = plan_student(recipe.student, task, config, tokenizer)
            recipe = dataclasses.replace(recipe, student=in_full(recipe.student))
        with attempt():
            longest, own = _longest_sequence(config, tokenizer), student and student.longest
            for field, section in (("corpus", recipe.corpus), ("evaluation", recipe.evaluation)):
                with attempt():
                    _check_length(f"{field}.length", section.length, longest, "teacher")
                    _check_length(f"{field}.length", section.length, own, "student")
            recipe = with_lengths(recipe, min(LENGTH, longest or LENGTH, own or LENGTH))
        if student is not None:
            depths = {"teacher_layers": sizes.depth, "student_layers": student.sizes.depth}
            with attempt():
                alignment = build_alignment(recipe.alignment, **depths, seed=recipe.seed)
                alignment.check(**depths, teacher_width=sizes.width, student_width=student.sizes.width)
                check_pairs(recipe.alignment.pairs_per_batch, alignment)
                causal = losses is not None and has_counterfactual(recipe, losses)
                rotation = rotation_of(recipe, alignment, teacher=sizes, student=student.sizes, causal=causal)
        if student is not None and losses is not None:
            with attempt():
                recipe, left_out = with_widths(recipe, losses, sizes.width, student.sizes.width)
                balance_every(recipe)
    assert losses is not None
    return Survey(recipe, task, losses, sizes, tokenizer, student, alignment, rotation, left_out)


def as_run(recipe: Recipe, arguments: TrainingArguments) -> Recipe:
    """The recipe with the precision that was chosen, so that a run resumed elsewhere goes on as it began."""
    return dataclasses.replace(recipe, speed=dataclasses.replace(recipe.speed, precision="bf16" if arguments.bf16 else "fp32"))


def position_rule(recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase) -> PositionRule:
    """The rule that chooses the swapped positions. Raises Refusal for one that cannot be found or would never swap."""
    intervention = recipe.intervention
    field = "intervention.positions"
    return find_rule(intervention.positions, task, tokenizer, field=field, specials=intervention.specials)


def pairing_of(recipe: Recipe) -> Pairing:
    """What gives each row its source in the batch. Raises Refusal for one that cannot be found."""
    field, name = "intervention.pairing", recipe.intervention.pairing
    pairing: Any = plugins.load(name, field=field, group="diito.pairings", known=PAIRINGS)
    return _function(pairing, name, field=field)


def _function(part: Any, reference: str, *, field: str) -> Any:
    if not callable(part):
        raise Refusal(field, f"{reference} is a {type(part).__name__}; it must be a function")
    return part


def prepare(recipe: Recipe, arguments: TrainingArguments) -> Parts:
    """Load what ``recipe`` names, after checking what can be checked before. Raises ValueError."""
    return load(survey(recipe), arguments)


def load(surveyed: Survey, arguments: TrainingArguments) -> Parts:
    """Load the models, then the text. Raises ValueError."""
    recipe, task, tokenizer = surveyed.recipe, surveyed.task, surveyed.tokenizer
    teacher = load_teacher(recipe.teacher, head=task.head, noun=task.noun)
    task.check_model(teacher, recipe)
    task = task.of(teacher)
    planned, compared = surveyed.student, surveyed.alignment_of_losses
    student = None if planned.calibration else build(planned, teacher, recipe, task)
    losses = {} if student is None else make_all_losses(recipe, surveyed.losses, compared, student.model, teacher)
    with arguments.main_process_first(desc="corpus"):
        corpus, held_out = load_text(recipe, task, tokenizer, vocab_size=surveyed.words)
    if student is None:  # which parts of the teacher it keeps depends on the text
        batching = _batching(recipe, task, tokenizer, corpus, words=surveyed.words)
        rows = calibration_rows(corpus, batching, planned.calibration, seed=recipe.seed)
        student = build(planned, teacher, recipe, task, rows)
        losses = make_all_losses(recipe, surveyed.losses, compared, student.model, teacher)
    plan = Plan(
        recipe,
        teacher,
        student.model,
        planned.made_of,
        surveyed.alignment,
        corpus,
        arguments.world_size,
        losses=losses,
        weights=active_weights(recipe),
        left_out=surveyed.left_out,
        balance_every=balance_every(recipe),
        slot_share=task.slot_share(_settings(recipe, task)),
        available=device_memory(arguments.device) / (arguments.world_size if arguments.device.type == "cpu" else 1),
        held_out_blocks=None if held_out is None else len(held_out.examples),
        held_out_layout="blocks" if held_out is None else held_out.layout,
    )
    if plan.steps_per_epoch == 0:
        raise Refusal(
            "training.batch",
            f"the corpus has {len(corpus)} sequences, fewer than one micro-batch of {recipe.training.batch} on "
            f"{arguments.world_size} process(es); give more text or a smaller batch",
        )
    return Parts(
        task,
        surveyed.losses,
        tokenizer,
        teacher,
        student.model,
        surveyed.alignment,
        corpus,
        held_out,
        plan,
        compared=compared,
        words=planned.words(surveyed.sizes, tokenizer),
        kept=student.kept,
        rotation=surveyed.rotation,
    )


def build_trainer(
    recipe: Recipe, parts: Parts, arguments: TrainingArguments, evaluation: Evaluation | None = None
) -> DistillationTrainer:
    """The trainer of ``recipe``, with a teacher of its own where training holds it in another precision."""
    teacher = copy.deepcopy(parts.teacher) if arguments.bf16 else parts.teacher
    module = _objective(recipe, parts, teacher)
    prepare_models(parts.student, teacher, recipe.speed, device=arguments.device)
    return DistillationTrainer(
        module,
        arguments,
        train_dataset=parts.corpus,
        batching=_batching_of(recipe, parts),
        draw_sources=recipe.intervention.pairing == "independent" and module.has_counterfactual,
        evaluation=evaluation,
        processing_class=parts.tokenizer,
    )


def check_reached(recipe: Recipe, parts: Parts) -> None:
    """Refuse, by a few rows of the corpus, weights of which none depends on what of the student is trained.

    The first step would refuse them, after the measurements before it.
    """
    if all(weight.requires_grad for weight in parts.student.parameters()):
        return
    batching = _batching_of(recipe, parts)
    enough = [number % len(parts.corpus) for number in range(1 + recipe.intervention.sources_per_row)]  # a row and its sources
    rows = collate(parts.corpus.__getitems__(enough), pad_token_id=batching.pad_token_id)
    batch = batching.batch(rows, generator=generator("mask", recipe.seed))
    objective = _objective(recipe, parts, parts.teacher)
    objective.balance = None  # no weight is 0, whatever it is
    refuse_unreached(objective(batch, step=0, progress=0.0))


def _objective(recipe: Recipe, parts: Parts, teacher: PreTrainedModel) -> DistillationObjective:
    intervention, objective = recipe.intervention, recipe.objective
    return DistillationObjective(
        parts.student,
        teacher,
        parts.alignment,
        weights=active_weights(recipe),
        options=objective.options.as_dict(),
        losses=parts.losses,
        temperature=objective.temperature,
        tokens=objective.tokens,
        positions=position_rule(recipe, parts.task, parts.tokenizer),
        pairing=pairing_of(recipe),
        share=intervention.share,
        sources_per_row=intervention.sources_per_row,
        pairs_per_batch=recipe.alignment.pairs_per_batch,
        balance_every=balance_every(recipe),
        specials=intervention.specials,
        special_ids=parts.task.special_ids(parts.tokenizer),
        reach=parts.task.reach,
        words=parts.words,
        compared=parts.compared,
        source_positions=intervention.source_positions,
        control=intervention.control,
        rotation=parts.rotation,
        seed=recipe.seed,
    )


def _batching_of(recipe: Recipe, parts: Parts) -> Batching:
    words = parts.words or sizes_of(parts.teacher.config, field="teacher.model").words
    return _batching(recipe, parts.task, parts.tokenizer, parts.corpus, words=words)


def _batching(recipe: Recipe, task: Task, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, *, words: int) -> Batching:
    """What makes batches of the corpus; ``words``: of both models."""
    settings = _settings(recipe, task)
    return task.batching(settings, tokenizer=tokenizer, vocab_size=words, token_counts=corpus.token_counts)


def _settings(recipe: Recipe, task: Task) -> Any:
    """The section of the recipe that the task reads, if any."""
    return getattr(recipe, task.settings) if task.settings else None


def _longest_sequence(config: Any, tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """Tokens for which the teacher has positions; where it does not say, what its tokenizer (None: a refused one) does."""
    limit = longest_sequence(config)
    if limit is None:
        if tokenizer is None:
            return None
        limit = tokenizer.model_max_length  # a huge number where the tokenizer does not know
    return limit if limit < 10**9 else None


def _check_length(field: str, length: int | None, longest: int | None, model: str) -> None:
    if length is not None and longest is not None and length > longest:
        raise Refusal(field, f"{length} tokens, but the {model} has positions for {longest}; give at most {longest}")
