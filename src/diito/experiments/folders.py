"""The folder of a job: ``<output>/jobs/<hash>/``.

``job.json`` what it is, ``log.txt`` what its processes printed, ``attempts.jsonl`` how long each try took,
``status.json`` who runs it since when, ``done.json`` that it is finished; of a distillation ``recipe.yaml`` and ``run/`` (as
``diito distill`` leaves it, without its checkpoints once it is done), of an evaluation ``results.json`` (as ``diito evaluate``
writes it), of a preparation ``made/``. No torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diito.files import append_json_line, read_json_lines


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
        self.made = self.path / "made"

    @property
    def is_done(self) -> bool:
        """Whether the job is finished: the last thing that is written says so."""
        return self.done.is_file()

    def add_attempt(self, attempt: dict[str, Any]) -> None:
        """Note what one try took and how it ended."""
        append_json_line(self.attempts, attempt)

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
        return next(reversed(read_json_lines(self.run / "metrics.jsonl")), {})
