"""The file of a rotation, as ``diito align`` writes it: the teacher's rows by layer, and what is known of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diito.files import sha256, writing, written_aside
from diito.method.alignment import Alignment
from diito.method.rotation import Rotation, check_bases
from diito.paths import expand
from diito.refusal import Refusal
from diito.secrets import redact

_LAYER = "layers."
_FACTS = "diito"
FIELD = "alignment.rotation.path"


@dataclass(frozen=True)
class FoundRotation:
    """What was found in a teacher."""

    path: Path
    bases: dict[int, Tensor]
    """By layer orthonormal rows Float[dimensions width]."""
    facts: dict[str, Any]
    """``teacher``, its name, and ``teacher_digest``; how the rows were found, and what was measured of them."""

    def check_teacher(self, digest: str, *, field: str = FIELD) -> None:
        """Refuse another teacher than the one that it was found in, which has the weights that ``digest`` says."""
        if self.facts["teacher_digest"] != digest:
            raise Refusal(
                field,
                f"{self.path} was found in {self.facts['teacher']}, and the states of another teacher lie in other directions; "
                "find one in this one with: diito align TEACHER --rotation.dimensions",
            )


def load_rotation(path: str | os.PathLike[str], alignment: Alignment, *, student_width: int, seed: int = 42) -> Rotation:
    """The rotation in a file for the pairs of an alignment; the student's side begins as :class:`Rotation` says.

    Whether the file is of the teacher at hand is not looked at. Raises Refusal naming ``alignment.rotation``.
    """
    return Rotation(read_rotation(path).bases, alignment, student_width=student_width, seed=seed)


def write_rotation(path: Path, bases: Mapping[int, Tensor], facts: Mapping[str, Any]) -> None:
    """Write it aside and rename it. Raises CannotWrite."""
    tensors = {f"{_LAYER}{layer}": basis.detach().float().contiguous().cpu() for layer, basis in bases.items()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        save_file(tensors, aside, metadata={"format": "pt", _FACTS: redact(json.dumps(dict(facts)))})


def read_rotation(path: str | os.PathLike[str], *, field: str = FIELD) -> FoundRotation:
    """What such a file holds. Raises Refusal naming ``field`` for a file that is none."""
    place = expand(os.fspath(path), field=field)
    try:
        with safe_open(place, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            bases = {int(name.removeprefix(_LAYER)): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not isinstance(facts, dict) or not {"teacher", "teacher_digest"} <= facts.keys():
            raise ValueError("it does not name its teacher")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Refusal(field, f"{place} is no file of a rotation, as diito align writes it ({error})") from error
    for layer, basis in bases.items():
        check_bases({layer: basis}, width=basis.shape[-1] if basis.ndim else 0, field=field)
    return FoundRotation(place, dict(sorted(bases.items())), facts)


def digest_of(path: str) -> str:
    """A hash of the file's content."""
    return sha256(expand(path, field=FIELD))[:40]
