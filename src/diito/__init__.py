"""diito: causal distillation of language models (the DIITO objective of Wu et al., NAACL 2022).

Importing the package loads nothing heavy; each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diito.renamed import install

if TYPE_CHECKING:
    from diito.method.alignment import AlignedPair as AlignedPair
    from diito.method.alignment import Alignment as Alignment
    from diito.method.intervention import get_values as get_values
    from diito.method.intervention import interchange as interchange
    from diito.method.objective import DistillationObjective as DistillationObjective
    from diito.method.rotation_files import load_rotation as load_rotation
    from diito.models.student import build_student as build_student
    from diito.refusal import Refusal as Refusal
    from diito.refusal import Refusals as Refusals
    from diito.training.trainer import DistillationTrainer as DistillationTrainer
    from diito.version import __version__ as __version__

_PUBLIC = {
    "AlignedPair": "method.alignment",
    "Alignment": "method.alignment",
    "DistillationObjective": "method.objective",
    "DistillationTrainer": "training.trainer",
    "Refusal": "refusal",
    "Refusals": "refusal",
    "build_student": "models.student",
    "get_values": "method.intervention",
    "interchange": "method.intervention",
    "load_rotation": "method.rotation_files",
}
__all__ = sorted(_PUBLIC)

install()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("diito.version").__version__
    if name not in _PUBLIC:
        raise AttributeError(f"module 'diito' has no attribute {name!r}")
    return getattr(import_module(f"diito.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
