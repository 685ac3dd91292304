"""The student of a recipe: what is known of it before weights are loaded, and making it.

1. :func:`plan_student` reads names, configurations and tokenizers, and refuses what they can tell;
2. :func:`build` makes the model: some of the teacher's layers, its configuration with other sizes, or another checkpoint;
3. parts of it are taken out of training, or an adapter is put in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.corpus import Corpus, collate
from diito.method.draws import generator
from diito.models import load as models
from diito.models.adapter import add_adapter, configure
from diito.models.checkpoint import tokenizer_fault
from diito.models.cut import Cut, check_cut
from diito.models.freeze import freeze
from diito.models.layered import Inputs, longest_sequence
from diito.models.learn import learn
from diito.models.load import ModelSource, Sizes, sizes_of
from diito.models.same_words import difference
from diito.models.student import make_student, student_layers
from diito.models.student_config import FIELD, changed, check_buildable, dropout_fields, shortened
from diito.models.teacher import load_config
from diito.recipe import Recipe, StudentSection
from diito.recipe.checks import in_full
from diito.refusal import Refusal
from diito.tasks import find_task
from diito.tasks.task import Batching, Task

CALIBRATION = 256
"""Rows of the corpus that a cut looks at, where the recipe gives no number."""
_BATCH = 16  # of them, at a time


@dataclass(frozen=True)
class PlannedStudent:
    """The student as far as it is known without weights."""

    section: StudentSection
    sizes: Sizes
    layers: list[int] | None = None
    """The teacher layers it is made of; None where it is not made of whole layers."""
    longest: int | None = None
    """Tokens for which it has positions; None where it has no limit."""

    @property
    def source(self) -> ModelSource | None:
        """Where its weights come from, where it is a checkpoint of its own."""
        return source_of(self.section)

    @property
    def made_of(self) -> str:
        """What it is made of, in words."""
        if self.section.model is not None:
            return f"from the checkpoint {self.section.model}"
        if self.section.initial == "random" or (self.section.initial is None and self.layers is None):
            return "with weights drawn by the seed"
        if self.layers is None:
            return "cut out of the teacher"
        return f"from teacher layers {'+'.join(map(str, self.layers))}"

    @property
    def calibration(self) -> int:
        """Rows of the corpus that are looked at to make it."""
        return (self.section.calibration or CALIBRATION) if self.section.initial == "cut" else 0

    def words(self, teacher: Sizes, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """How many words its logits and the teacher's have in common, where they differ in number; None: all of them."""
        return None if self.sizes.words == teacher.words else max(tokenizer.get_vocab().values()) + 1


@dataclass(frozen=True)
class Student:
    """A student as it is trained, and of one that was cut what of the teacher was kept."""

    model: PreTrainedModel
    kept: Cut | None = None


def sizes_of_student(recipe: Recipe) -> Sizes:
    """The sizes of the student that a recipe describes, from configurations alone."""
    task = find_task(recipe.task)
    return plan_student(recipe.student, task, load_config(recipe.teacher, head=task.head, noun=task.noun)).sizes


def source_of(section: StudentSection) -> ModelSource | None:
    """The checkpoint that a recipe names as its student; None where it is made from the teacher."""
    return None if section.model is None else ModelSource(section.model, "student.model", section.revision)


def plan_student(
    section: StudentSection, task: Task, teacher: Any, tokenizer: PreTrainedTokenizerBase | None = None
) -> PlannedStudent:
    """What the recipe's student will be.

    ``teacher``: its configuration; ``tokenizer``: the teacher's, with which a checkpoint's own is compared (None: not now).
    Raises Refusal for a student that cannot be made, and for a checkpoint that does not do what the teacher does.
    """
    section = in_full(section)
    depth = sizes_of(teacher, field="teacher.model").depth
    if section.lora is not None:
        configure(section.lora)
    source = source_of(section)
    if source is not None:
        config = _checkpoint(source, task, teacher, tokenizer)
        return PlannedStudent(section, sizes_of(config, field="student.model"), longest=models.longest_sequence(source))
    if section.config is not None:
        config = changed(teacher, section.config, depth=depth)
        check_buildable(config, task.head.from_config)
        if section.initial == "cut":
            check_cut(teacher, config)
        return PlannedStudent(section, sizes_of(config, field=FIELD), longest=longest_sequence(config))
    assert section.layers is not None
    chosen = student_layers(section.layers, depth)
    return PlannedStudent(section, sizes_of(shortened(teacher, depth, chosen), field="student.layers"), chosen)


def build(
    planned: PlannedStudent,
    teacher: PreTrainedModel,
    recipe: Recipe,
    task: Task,
    calibration: Sequence[Inputs] | None = None,
) -> Student:
    """The student, in train mode. ``calibration``: :func:`calibration_rows`, where it is cut."""
    section = planned.section
    kept = None
    if planned.source is not None:
        changes = {} if section.dropout is None else dropout_fields(models.load_configuration(planned.source), section.dropout)
        model = models.load_trained(planned.source, task.head, noun=task.noun, **changes)
        learn(model, field="student.model")
        _check_model(model, recipe, task)
    else:
        model, kept = make_student(teacher, section, calibration=calibration, seed=recipe.seed)
    if section.freeze is not None:
        freeze(model, section.freeze)
    if section.lora is not None:
        add_adapter(model, section.lora, seed=recipe.seed)
    return Student(model.train(), kept)


def calibration_rows(corpus: Corpus, batching: Batching, count: int, *, seed: int) -> list[Inputs]:
    """``count`` rows of the corpus, spread evenly over it, in batches as they are trained on."""
    count = min(count, len(corpus))
    chosen = [place * len(corpus) // count for place in range(count)]
    made: list[Inputs] = []
    for start in range(0, count, _BATCH):
        rows = collate(corpus.__getitems__(chosen[start : start + _BATCH]), pad_token_id=batching.pad_token_id)
        made.append(batching.batch(rows, generator=generator("calibration", seed, start)))
    return made


def _checkpoint(source: ModelSource, task: Task, teacher: Any, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """The configuration of a checkpoint that can be this teacher's student."""
    models.check_trained(source, task.head, noun=task.noun)
    config = models.load_configuration(source, noun=task.noun)
    task.check_student(config, teacher, name=source.name, field=source.field)
    if tokenizer is None:
        return config
    own = models.load_tokenizer(source, config=config)
    if found := difference(own, tokenizer):
        raise Refusal(
            source.field,
            f"{source.name!r} reads text as other ids than the teacher: {found}; give a model with the teacher's tokenizer",
        )
    words = sizes_of(config, field=source.field).words
    if fault := tokenizer_fault(tokenizer, words=words):
        raise Refusal(source.field, f"{source.name!r} does not know all words: the teacher's tokenizer {fault}")
    known, given = (getattr(each, "type_vocab_size", None) for each in (config, teacher))
    if known and given and known < given and "token_type_ids" in tokenizer.model_input_names:
        raise Refusal(source.field, f"{source.name!r} knows {known} token types and the teacher {given}; give another model")
    return config


def _check_model(model: PreTrainedModel, recipe: Recipe, task: Task) -> None:
    """The task's own check, in the words of a student."""
    assert recipe.student.model is not None
    named = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, model=recipe.student.model))
    try:
        task.check_model(model, named)
    except Refusal as refusal:
        raise refusal.at("student.model" if refusal.field == "teacher.model" else refusal.field) from refusal
