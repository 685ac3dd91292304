"""The screen of a run: a live table on a terminal where rich is installed, else a bar there, else a line a log step."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Display(Protocol):
    """What shows the steps of a run on a terminal."""

    def step(self, number: int) -> None:
        """A step is done."""

    def numbers(self, logs: dict[str, Any]) -> None:
        """The losses and tokens/s of a log step, or what was measured (``eval_``)."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """The end, also of a run that an error ends."""


class Bar:
    """A bar of tqdm with the last losses behind it."""

    def __init__(self, names: Sequence[str], *, step: int, steps: int) -> None:
        self._names = names
        self._bar: tqdm[Any] = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def step(self, number: int) -> None:
        """See :class:`Display`."""
        self._bar.update(number - self._bar.n)

    def numbers(self, logs: dict[str, Any]) -> None:
        """See :class:`Display`."""
        if "loss" in logs:
            self._bar.set_postfix_str(losses_line(self._names, logs))

    def say(self, line: str) -> None:
        """See :class:`Display`."""
        self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """See :class:`Display`."""
        self._bar.close()


class Progress(TrainerCallback):
    """Shows the named losses and tokens/s; what is measured on the way has a line of its own, with the figures called
    ``measured``. To be closed: a run may end without ``on_train_end``."""

    def __init__(self, names: Sequence[str], measured: Sequence[str] = ()) -> None:
        self.names, self.measured = [*names, "loss"], measured
        self._display: Display | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not sys.stderr.isatty():
            return
        if importlib.util.find_spec("rich") is None:
            self._display = Bar(self.names, step=state.global_step, steps=state.max_steps)
        else:
            from diito.training.live import LiveTable

            self._display = LiveTable(self.names, self.measured, step=state.global_step, steps=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._display is not None:
            self._display.step(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        figures = [f"{name} {logs[f'eval_{name}']:.4g}" for name in self.measured if f"eval_{name}" in logs]
        place = f"step {state.global_step}/{state.max_steps}"
        if figures:
            self._say(f"{place}  held-out: {'  '.join(figures)}")
        if self._display is not None:
            self._display.numbers(logs)
        elif "loss" in logs:
            self._say(f"{place}  {losses_line(self.names, logs)}")

    def _say(self, line: str) -> None:
        if self._display is not None:
            self._display.say(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._display is not None:
            self._display.close()
            self._display = None


def losses_line(names: Sequence[str], logs: dict[str, Any]) -> str:
    """The losses and tokens/s of a log step in a line."""
    text = "  ".join(f"{name} {logs[name]:.3f}" for name in names if name in logs)
    return f"{text}  {logs['tokens_per_second']:,.0f} tokens/s"
