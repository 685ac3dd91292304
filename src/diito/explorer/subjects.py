"""The models that are looked at, with all that is asked of them: loaded once, before the page opens.

What cannot be compared is refused as ``diito evaluate interchange`` refuses it, by the same function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.embedded import resolve
from diito.evaluation.held_out.jobs import InterchangePlan, plan_interchange
from diito.evaluation.held_out.planning import device_of, load_model
from diito.evaluation.held_out.text import HeldOut
from diito.evaluation.settings import InterchangeSettings
from diito.explorer.settings import UNDISTILLED, ExploreSettings
from diito.method.alignment import AlignedPair, DimensionRange
from diito.method.outputs import count_outputs
from diito.models import load as loading
from diito.models.answers import label_names
from diito.models.layered import Layered
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.models.student import build_student
from diito.recipe.file import read
from diito.recipe.sections import SourceSection
from diito.refusal import Refusal
from diito.tasks import task_of
from diito.tasks.task import Task

_OF_LANGUAGE_MODELS = "embedded:wikitext-2/valid.txt.gz"
_WHITE = str.maketrans({" ": "·", "\n": "⏎", "\t": "⇥"})


@dataclass(frozen=True)
class Subjects:
    """Teacher, student and whoever stands beside them."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    held_out: HeldOut
    models: dict[str, PreTrainedModel]
    """By role: teacher, student, and against where there is one."""
    names: dict[str, str]
    """What the user calls each."""
    pairs: dict[str, list[AlignedPair]]
    """The alignment of each student with the teacher."""
    length: int
    """Most tokens of a text."""

    def title(self, role: str) -> str:
        """What the page calls a model."""
        if role != "against":
            return role
        return "undistilled student" if self.names[role] == UNDISTILLED else "second student"

    @property
    def depths(self) -> dict[str, int]:
        """The layers of each model."""
        return {role: Layered(model).depth for role, model in self.models.items()}

    @property
    def outputs(self) -> int:
        """The outputs that all models have."""
        return min(map(count_outputs, self.models.values()))

    @property
    def vocabulary(self) -> int:
        """The words that the teacher embeds."""
        return loading.sizes_of(self.models["teacher"].config, field="teacher").words

    @property
    def has_labels(self) -> bool:
        """Whether answers are classes with names, and not words."""
        return self.task.of_examples and "mask_token" not in self.task.needed_tokens

    def output_name(self, output: int) -> str:
        """An answer in words: a class by its name, a word as the tokenizer writes it."""
        return label_names(self.models["teacher"].config)[output] if self.has_labels else self.token_name(output)

    def token_name(self, token: int) -> str:
        """A token as text; spaces are dots, so that one sees where a word begins."""
        text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if not text.strip("\ufffd"):  # part of a character, or nothing
            text = self.tokenizer.convert_ids_to_tokens(token) or f"#{token}"
        return text.translate(_WHITE)

    def aligned(self, role: str, layer: int) -> dict[str, tuple[int, ...]] | None:
        """The layers of all models that are swapped together with ``layer`` of ``role``; None where no pair has it."""
        of_role = self.pairs.get(role, self.pairs["student"])
        pair = next((pair for pair in of_role if layer in (pair.teacher if role == "teacher" else pair.student)), None)
        if pair is None:
            return None
        found = {"teacher": pair.teacher, role if role != "teacher" else "student": pair.student}
        for student in self.pairs.keys() - found.keys():
            theirs = {each for other in self.pairs[student] if {*other.teacher} & {*pair.teacher} for each in other.student}
            if theirs:
                found[student] = tuple(sorted(theirs))
        return found

    def dimensions(self, role: str, layers: Sequence[int]) -> tuple[DimensionRange, ...] | None:
        """Which dimensions of these layers are swapped, where they are one side of an aligned pair; None: all."""
        is_teacher = role == "teacher"
        for pair in self.pairs["student" if is_teacher else role]:
            if list(pair.teacher if is_teacher else pair.student) == list(layers):
                return pair.teacher_dimensions if is_teacher else pair.student_dimensions
        return None


def load_subjects(student: str, settings: ExploreSettings) -> Subjects:
    """Load what is to be looked at. Raises Refusal for what cannot be compared."""
    source = ModelSource(student, "STUDENT", settings.revision)
    wanted = _as_interchange(settings, source)
    plan = _plan(wanted, source)
    task, device = plan.text.task, device_of(settings.device)
    models = {"teacher": load_model(plan.teacher, task), "student": load_model(source, task)}
    names = {"teacher": plan.teacher.name, "student": student}
    pairs = {"student": plan.pairs}
    for role, each in (("teacher", plan.teacher), ("student", source)):
        learn(models[role], field=each.field)
    if settings.against == UNDISTILLED:
        if plan.undistilled is None:
            sentence = f"{student!r} cannot have been made of layers of this teacher; give a second student"
            raise Refusal("against", sentence)
        models["against"] = build_student(models["teacher"], plan.undistilled).eval()
        names["against"], pairs["against"] = UNDISTILLED, plan.pairs
    elif settings.against is not None:
        other = ModelSource(settings.against, "against")
        pairs["against"] = _plan(wanted, other).pairs
        models["against"], names["against"] = load_model(other, task), settings.against
        learn(models["against"], field="against")
    for model in models.values():
        model.to(device)
    length = int(plan.identity["length"])
    return Subjects(task, plan.text.tokenizer, plan.text.examples, models, names, pairs, length)


def _plan(settings: InterchangeSettings, source: ModelSource) -> InterchangePlan:
    try:
        return plan_interchange(settings, source)
    except Refusal as refusal:
        if refusal.field != "MODEL":
            raise
        raise refusal.at(source.field) from refusal


def _as_interchange(settings: ExploreSettings, source: ModelSource) -> InterchangeSettings:
    """The same as ``diito evaluate interchange`` takes it."""
    shared = {field.name for field in dataclasses.fields(InterchangeSettings)} & {
        field.name for field in dataclasses.fields(ExploreSettings)
    } - {"share"}  # of tokens there, of the page here
    given = {name: getattr(settings, name) for name in shared}
    length = ExploreSettings.LENGTH if settings.length is None else settings.length
    longest = loading.longest_sequence(source) if settings.length is None else None
    given["length"] = length if longest is None else min(length, longest)
    return InterchangeSettings(**{**given, "sources": settings.sources or _sources_of(source, settings)})


def _sources_of(source: ModelSource, settings: ExploreSettings) -> list[SourceSection | str]:
    """The text where none is given."""
    recipe = Path(resolve(source.name)).parent / "recipe.yaml"
    if recipe.is_file() and (own := read(recipe).evaluation.sources):
        return list(own)
    task = task_of(source) if settings.task is None else None
    return [] if task is None or task.of_examples else [_OF_LANGUAGE_MODELS]
