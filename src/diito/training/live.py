"""The live table of a run on a terminal (rich): progress, time left, each loss with its course, tokens/s, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diito.tables import MISSING, duration

_EVERY = 0.2
"""Seconds between two pictures at least."""
_WIDTH = 32
_KEPT = 512
"""Values of a course that are kept; then two neighbours become their mean."""
_BLOCKS = "▁▂▃▄▅▆▇█"


class LiveTable:
    """A :class:`~diito.training.progress.Display`. ``names``: the losses; ``measured``: the held-out figures."""

    def __init__(
        self, names: Sequence[str], measured: Sequence[str], *, step: int, steps: int, console: Console | None = None
    ) -> None:
        self._names, self._measured = names, measured
        self._first, self._step, self._steps = step, step, steps
        self._start, self._drawn = time.monotonic(), 0.0
        self._courses: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}
        console = console or Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty())
        self._live.start()
        self._draw()

    def step(self, number: int) -> None:
        """A step is done."""
        self._step = number
        if time.monotonic() - self._drawn > _EVERY:
            self._draw()

    def numbers(self, logs: dict[str, Any]) -> None:
        """Losses, tokens/s, held-out figures."""
        for name in (*self._names, "tokens_per_second", *(f"eval_{name}" for name in self._measured)):
            if name in logs:
                self._now[name] = logs[name]
                self._courses[name] = shortened([*self._courses.get(name, []), logs[name]])
        self._draw()

    def say(self, line: str) -> None:
        """A line above the table."""
        self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.update(Group(self._progress(), self._table()), refresh=True)

    def _progress(self) -> Table:
        seconds = time.monotonic() - self._start
        done = self._step - self._first
        left = duration(seconds / done * (self._steps - self._step)) if done else MISSING
        row = Table.grid(padding=(0, 1))
        said = Text(f"step {self._step}/{self._steps}  {duration(seconds)} so far, {left} left")
        row.add_row(ProgressBar(total=max(self._steps, 1), completed=self._step, width=_WIDTH), said)
        return row

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right")
        for name in self._names:
            if name in self._now:
                table.add_row(Text(name), f"{self._now[name]:.3f}", sparkline(self._courses[name]))
        if (rate := self._now.get("tokens_per_second")) is not None:
            table.add_row("tokens/s", f"{rate:,.0f}", sparkline(self._courses["tokens_per_second"]))
        for name in self._measured:
            if (value := self._now.get(f"eval_{name}")) is not None:
                table.add_row(Text(f"held-out {name}"), f"{value:.4g}", sparkline(self._courses[f"eval_{name}"]))
        table.add_row("memory", *_memory())
        return table


def shortened(values: list[float]) -> list[float]:
    """The course with half as many values, means of two neighbours each, once it has too many."""
    if len(values) <= _KEPT:
        return values
    return [(one + other) / 2 for one, other in zip(values[::2], values[1::2], strict=False)]


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """Values as blocks between their least and their greatest, each the mean of its share of the course."""
    count = min(width, len(values))
    parts = [values[part * len(values) // count : (part + 1) * len(values) // count] for part in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    if high == low:
        return _BLOCKS[0] * count
    return "".join(_BLOCKS[round((value - low) / (high - low) * (len(_BLOCKS) - 1))] for value in means)


def _memory() -> tuple[str, str]:
    """Of this process, and the most that it has had on the accelerator."""
    process = f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"
    if not torch.accelerator.is_available():
        return process, ""
    return process, f"{torch.accelerator.max_memory_allocated() / 2**30:.1f} GiB at most on the accelerator"
