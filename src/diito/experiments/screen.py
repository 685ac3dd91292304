"""The screen of ``diito reproduce``: a live table on a terminal, a line an event elsewhere. Reads the jobs' folders."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from diito.experiments.folders import JobFolder
from diito.experiments.jobs import Job
from diito.experiments.manifest import row_of
from diito.files import read_json
from diito.tables import duration

_RUNNING_LINES = 12


class Screen:
    """What has become of the jobs of one run of ``diito reproduce``."""

    def __init__(self, jobs: Sequence[Job], output: Path, console: Console | None = None) -> None:
        self.driver = uuid.uuid4().hex
        """This run's name: a job's status that bears another is of an earlier run."""
        self.jobs = jobs
        self.folders = {job.hash: JobFolder(output / "jobs" / job.hash) for job in jobs}
        self.done = {job.hash for job in jobs if self.folders[job.hash].is_done}
        self.failed: set[str] = set()
        self._started: set[str] = set()
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        self._say(f"{len(self.done)} of {len(self.jobs)} jobs are done already")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def ended(self, job: Job, problem: str | None) -> None:
        """A job is done, or has failed for good."""
        (self.done if problem is None else self.failed).add(job.hash)
        if problem is None:
            seconds = read_json(self.folders[job.hash].done).get("seconds", 0)
            self._say(f"done       {job.planned.title} ({duration(seconds)}; {len(self.done)} of {len(self.jobs)})")
        else:
            self._say(f"failed     {job.planned.title}: {next(iter(problem.splitlines()), '')}")

    def show(self) -> None:
        """Bring the screen up to date."""
        running = self._running()
        if self._live is not None:
            self._live.update(Group(self._rows(running), *self._lines(running)), refresh=True)
            return
        for job, _ in running:
            if job.hash not in self._started:
                self._started.add(job.hash)
                self._say(f"running    {job.planned.title}")

    def _running(self) -> list[tuple[Job, float]]:
        """Jobs that a worker of this run has begun, and since when."""
        running = []
        for job in self.jobs:
            if job.hash not in self.done and job.hash not in self.failed:
                status = read_json(self.folders[job.hash].status)
                if status.get("driver") == self.driver:
                    running.append((job, status["since"]))
        return running

    def _rows(self, running: Sequence[tuple[Job, float]]) -> Table:
        """A row a condition: students and evaluations that are done, and what runs, waits and has failed."""
        table = Table("condition", "students", "evaluations", "running", "waiting", "failed")
        busy = {job.hash for job, _ in running}
        for name, jobs in self._by_row().items():
            students = [job for job in jobs if job.kind == "distil"]
            others = [job for job in jobs if job.kind != "distil"]
            counts = [sum(job.hash in group for job in jobs) for group in (busy, self.failed)]
            waiting = len(jobs) - sum(counts) - sum(job.hash in self.done for job in jobs)
            done = [f"{sum(job.hash in self.done for job in part)}/{len(part)}" for part in (students, others)]
            table.add_row(name, *done, str(counts[0]), str(waiting), Text(str(counts[1]), "red" if counts[1] else ""))
        return table

    def _lines(self, running: Sequence[tuple[Job, float]]) -> list[Text]:
        lines = [Text(f"{job.planned.title}  {duration(time.time() - since)}{self._progress(job)}") for job, since in running]
        more = [Text(f"and {len(lines) - _RUNNING_LINES} more")] if len(lines) > _RUNNING_LINES else []
        return lines[:_RUNNING_LINES] + more

    def _progress(self, job: Job) -> str:
        if job.numbers is None:
            return ""
        last = self.folders[job.hash].last_metrics()
        return f"  step {last['step']}/{job.numbers.steps}  loss {last['loss']:.3f}" if "loss" in last else ""

    def _by_row(self) -> dict[str, list[Job]]:
        rows: dict[str, list[Job]] = {}
        for job in self.jobs:
            rows.setdefault(row_of(job).name, []).append(job)
        return rows

    def _say(self, text: str) -> None:
        if self._live is None:
            self._console.print(f"{time.strftime('%H:%M:%S')}  {text}", markup=False, highlight=False, soft_wrap=True)
