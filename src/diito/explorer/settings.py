"""What ``diito explore`` shows and where, as data: every field is a flag. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from diito.evaluation.settings import HeldOutSettings
from diito.recipe.fields import Count, Length
from diito.recipe.sections import AlignmentSection, SourceSection


@dataclass
class ExploreSettings(HeldOutSettings):
    """The models, and the texts from which examples and random donors are taken."""

    sources: list[SourceSection | str] = field(default_factory=list)
    """Texts, as in a recipe's ``corpus.sources``; none: what the student's run was measured on, as its recipe says, or, of
    language models, the text that comes with diito."""
    layout: Literal["blocks", "lines"] = "lines"
    """lines: one line a text. blocks: text joined and cut to ``length``."""
    length: Length | None = None
    """Most tokens of a text, those that are typed too; null: 64, or as many as the models have positions for."""
    limit: Count | None = 200
    """How many texts, spread evenly; null takes all."""
    teacher: str | None = None
    """The teacher: hub id, folder, or embedded:teacher-minilm-mlm."""
    teacher_revision: str | None = None
    """Hub revision (branch, tag or commit) of the teacher."""
    against: str | None = None
    """A second student to show beside the first: hub id, folder, or undistilled, the student as it was before training."""
    alignment: AlignmentSection = field(default_factory=AlignmentSection)
    """Which layers are swapped together."""
    student_layers: int | list[int] | str | None = None
    """The teacher layers that the undistilled student is made of, as in a recipe's ``student.layers``; null: what the student's
    recipe says, or layer i from teacher layer floor(i * L_T / n)."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu stays on the CPU even where there is an accelerator."""
    revision: str | None = None
    """Hub revision (branch, tag or commit) of the student."""
    host: str = "127.0.0.1"
    """The address that the page listens on. Whoever reaches it can use the models: of another than this machine's own, choose
    one that you trust all of."""
    port: Annotated[int, Ge(1), Le(65535)] | None = 7860
    """The port that the page listens on; null: one that is free."""
    share: bool = False
    """true opens a public address for the page, by way of gradio's servers."""

    LENGTH: ClassVar[int] = 64


UNDISTILLED = "undistilled"
"""``against``: the student before training."""
