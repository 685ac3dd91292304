"""The folder of a job: ``<output>/jobs/<hash>/``.

``job.json`` what it is, ``log.txt`` what its processes printed, ``attempts.jsonl`` how long each try took,
``status.json`` who runs it since when, ``done.json`` that
it is finished; of a distillation ``recipe.yaml`` and ``run/`` (as ``diito distill`` leaves it, without its checkpoints once
it is done), of an evaluation ``results.json`` (as ``diito evaluate`` writes it). No torch here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class JobFolder:
    """What is in a job's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.job = self.path / "job.json"
        self.log = self.path / "log.txt"
        self.lock = self.path / "lock"
        self.status = self.path / "status.json"
        self.attempts = self.path / "attempts.jsonl"
        self.done = self.path / "done.json"
        self.recipe = self.path / "recipe.yaml"
        self.run = self.path / "run"
        self.student = self.run / "student"
        self.results = self.path / "results.json"

    @property
    def is_done(self) -> bool:
        """Whether the job is finished: the last thing that is written says so."""
        return self.done.is_file()

    def add_attempt(self, attempt: dict[str, Any]) -> None:
        """Note what one try took and how it ended."""
        with self.attempts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(attempt) + "\n")

    @property
    def is_begun(self) -> bool:
        """Whether a distillation has a run that can be resumed."""
        return (self.run / "recipe.yaml").is_file()

    def log_end(self, lines: int = 15) -> str:
        """The last lines of the log."""
        if not self.log.is_file():
            return ""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 8_192))
            text = file.read().decode("utf-8", errors="replace")
        return "\n".join(text.replace("\r", "\n").splitlines()[-lines:])

    def last_metrics(self) -> dict[str, Any]:
        """The newest line of a distillation's metrics; empty before there is one."""
        return next(reversed(read_lines(self.run / "metrics.jsonl")), {})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file that are whole."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # being written
            continue
    return lines


def write_json(path: Path, content: Any) -> None:
    """Write JSON aside and rename it."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text aside and rename it; two processes may do so at once."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
