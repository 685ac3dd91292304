"""A process that is asked in lines and answers in lines: what lets checkouts and environments take turns."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Silence(RuntimeError):
    """The process ended before it answered."""


class Talker:
    """A process of its own; ``errors``: the file of what it says on the standard error."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        folder: Path | None = None,
        errors: Path | None = None,
    ) -> None:
        self._errors = None if errors is None else errors.open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, line: str) -> str:
        """The answer to a line."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Silence from error
        return self.answer()

    def answer(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Silence
        return line.strip()

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()
        if self._errors is not None:
            self._errors.close()
