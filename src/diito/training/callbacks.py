"""What happens around the steps of a run: stopping on a signal, the metrics file, choices of an alignment, factors of
weights."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from diito.files import append_json_line, write_text
from diito.method.alignment import AlignedPair, Alignment

Map = Sequence[dict[str, Any]]
"""Figures of pairs of layers, as they were measured."""
Chooser = Callable[[PreTrainedModel, Alignment], tuple[Alignment, Mapping[str, float], Map]]
"""From a student and its present alignment the next one, numbers that speak for it, and the map that it was chosen from."""


class Interruption(TrainerCallback):
    """SIGINT or SIGTERM: the step is finished, a checkpoint written, and training stops.

    ``signal_number`` says afterwards which signal it was (None: none). The same signal a second time stops at once. Ranks may
    see a signal a step apart, so at every step they agree, over a group on the CPU that does not wait for a device.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}
        self._group: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._group = torch.distributed.new_group(backend="gloo")
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._notice)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._group is not None:
            flag = torch.tensor(self.signal_number or 0)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
            self.signal_number = int(flag) or None
        if self.signal_number is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _notice(self, number: int, frame: Any) -> None:
        self.signal_number = number
        signal.signal(number, self._previous.pop(number, signal.SIG_DFL))
        print(f"\ndiito: {signal.Signals(number).name}: finishing this step, then saving", file=sys.stderr, flush=True)


class MetricsFile(TrainerCallback):
    """``metrics.jsonl``: a line for each log step and each evaluation, in the order of the steps.

    A resumed run drops the lines of steps that it repeats.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as file:
            kept = [line for line in file if _step_of(line) <= state.global_step]
        write_text(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if state.is_world_process_zero and ("loss" in logs or any(name.startswith("eval_") for name in logs)):
            append_json_line(self.path, {"step": state.global_step, **logs})


def _step_of(line: str) -> float:
    """The step of a line; a line that a kill left unfinished belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def _log(log: Callable[..., None], numbers: Mapping[str, Any], control: TrainerControl) -> None:
    """Log beside what this step logs anyway: Trainer takes any log for that of the step, and would not write its losses."""
    is_due = control.should_log
    log(dict(numbers))
    control.should_log = is_due


class Every(TrainerCallback):
    """Logs a measurement of the student every so many steps, as ``eval_<name>``; ``log`` is the trainer's."""

    def __init__(self, steps: int, measure: Callable[[PreTrainedModel], Mapping[str, float]], log: Callable[..., None]) -> None:
        self.steps, self.measure, self.log = steps, measure, log

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        together = args.eval_steps and state.global_step % args.eval_steps == 0  # then it is part of the evaluation
        if state.global_step % self.steps == 0 and not together:
            student = kwargs["model"].student
            _log(self.log, {f"eval_{name}": value for name, value in self.measure(student).items()}, control)


class LearnedAlignment(TrainerCallback):
    """Chooses Π anew every so many steps and says so: on the screen, in the log, in the checkpoints.

    ``choose``: from the student and the present alignment the next one, numbers that speak for it, and the map. Every rank
    chooses, as a student may be spread over them, and all take what the first one has chosen. ``log`` is the trainer's,
    ``show`` gets each map with its step.
    """

    SAVED = "alignment"
    """Its name among what Trainer's state holds of callbacks; no class has it, so that Trainer leaves it to us."""

    def __init__(self, steps: int, present: Alignment, choose: Chooser) -> None:
        self.steps, self.present, self.choose = steps, present, choose
        self.chosen_at: int | None = None
        """The step of the last change; None: there was none."""
        self.log: Callable[..., None] = lambda logs: None
        self.show: Callable[[Map, int], None] = lambda pairs, step: None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        saved: Any = (state.stateful_callbacks or {}).get(self.SAVED)
        if saved is not None:
            self.present, self.chosen_at = Alignment(AlignedPair(**pair) for pair in saved["pairs"]), saved["chosen_at"]
        kwargs["model"].alignment = self.present

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps or state.global_step >= state.max_steps:
            return
        chosen = [self.choose(kwargs["model"].student, self.present)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            broadcast_object_list(chosen)
        ((alignment, numbers, pairs),) = chosen
        if alignment != self.present:
            self.present, self.chosen_at = alignment, state.global_step
        kwargs["model"].alignment = alignment
        state.stateful_callbacks[self.SAVED] = self.as_data()  # type: ignore[index, call-overload]
        named = {f"eval_alignment_{name}": value for name, value in numbers.items()}
        _log(self.log, {"eval_alignment": str(alignment), **named}, control)
        if state.is_world_process_zero:
            self.show(pairs, state.global_step)
            said = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
            tqdm.write(f"step {state.global_step}/{state.max_steps}  alignment: {alignment}  {said}", file=sys.stderr)

    def as_data(self) -> dict[str, Any]:
        """The present alignment and the step at which it was chosen."""
        return {"pairs": [dataclasses.asdict(pair) for pair in self.present.pairs], "chosen_at": self.chosen_at}


class WeightFactors(TrainerCallback):
    """Keeps the factors of weights by gradient norm in the checkpoints."""

    SAVED = "weight_factors"
    """Its name among what Trainer's state holds of callbacks."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        saved: Any = state.stateful_callbacks or {}
        kwargs["model"].balance.factors = dict(saved.get(self.SAVED, {}))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.stateful_callbacks[self.SAVED] = dict(kwargs["model"].balance.factors)  # type: ignore[index, call-overload]
