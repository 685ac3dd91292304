"""diito: causal distillation of language models (the DIITO objective of Wu et al., NAACL 2022).

Importing the package loads nothing heavy; each public name is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diito.alignment import AlignedPair as AlignedPair
    from diito.alignment import Alignment as Alignment
    from diito.intervention import get_values as get_values
    from diito.intervention import interchange as interchange
    from diito.objective import DistillationObjective as DistillationObjective
    from diito.student import build_student as build_student
    from diito.trainer import DistillationTrainer as DistillationTrainer

_PUBLIC = {
    "AlignedPair": "alignment",
    "Alignment": "alignment",
    "DistillationObjective": "objective",
    "DistillationTrainer": "trainer",
    "build_student": "student",
    "get_values": "intervention",
    "interchange": "intervention",
}
__all__ = sorted(_PUBLIC)

try:
    __version__ = version("diito")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'diito' has no attribute {name!r}")
    return getattr(import_module(f"diito.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
