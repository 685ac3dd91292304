"""The results file: measurements as JSON, each with all that is needed to make its figures again.

A measurement is known by its *identity*: what was measured, with which settings, on which model and data. One that is in
the file already need not be made again, so an interrupted suite continues where it stopped. The file is written aside and
renamed after each measurement.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diito.files import check_writable, write_text, writing
from diito.locks import hold
from diito.paths import expand
from diito.refusal import Refusal
from diito.secrets import redact


@dataclass(frozen=True)
class Measurement:
    """One thing that was measured, once."""

    identity: dict[str, Any]
    """``kind``, ``task``, ``seed`` and everything else that determines the result."""
    settings: dict[str, Any]
    """What was asked for, names and all."""
    model: str
    """What the model was called."""
    result: dict[str, Any]
    """The figures."""
    examples: dict[str, Any]
    """Counts or predictions of single examples, from which the figures can be made again."""
    environment: dict[str, Any]
    """Versions, commit, machine."""


class ResultsFile:
    """The measurements in one file, which need not exist yet. Raises ValueError for a file of another kind."""

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path, field="--output")
        self._measurements = list(self._read())
        check_writable(self.path, "--output")

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self._measurements)

    def find(self, identity: dict[str, Any]) -> Measurement | None:
        """The measurement of that identity, if there is one."""
        wanted = json.loads(redact(json.dumps(identity)))  # as in the file: tuples are lists there, and there are no secrets
        return next((each for each in self._measurements if each.identity == wanted), None)

    def add(self, measurement: Measurement) -> None:
        """Put a measurement in, in place of one of the same identity, and write the file.

        What other processes have put in since is kept.
        """
        added = Measurement(**json.loads(redact(json.dumps(asdict(measurement)))))
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with hold(self._lock(), waiting=self._say_who):
            self._measurements = [each for each in self._read() if each.identity != added.identity] + [added]
            write_text(self.path, _text(self._measurements))

    def _say_who(self, holder: str) -> None:
        print(f"waiting for {holder}, which writes {self.path}", file=sys.stderr, flush=True)

    def _lock(self) -> Path:
        """Not beside the file, where it would stay behind."""
        name = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()
        return Path(tempfile.gettempdir()) / f"diito-{name[:32]}.lock"

    def _read(self) -> Iterator[Measurement]:
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(content["measurements"], list):
                raise TypeError("no list of measurements")
            yield from (Measurement(**entry) for entry in content["measurements"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Refusal("--output", f"{self.path} exists and is no results file of diito; give another file") from error


def slug(model: str) -> str:
    """A file name for a model: ``runs/quickstart/student`` is runs-quickstart-student."""
    parts = [part for part in model.replace(":", "/").split("/") if part not in ("", ".", "..", "~")]
    return "-".join(parts) or expand(model, field="--output").resolve().name


def _text(measurements: list[Measurement]) -> str:
    """Readable, but for the examples, which stand in one line."""
    entries = []
    for measurement in measurements:
        content = asdict(measurement)
        examples = json.dumps(content.pop("examples"), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        entries.append(
            json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
            + f',\n "examples": {examples}\n}}'
        )
    return '{"measurements": [\n' + ",\n".join(entries) + "\n]}\n"
