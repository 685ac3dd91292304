"""Where the time of a step goes, by part: teacher, student, heads, losses, optimiser, data.

    python -m benchmarks.profile --width 768 --batch 8 --length 512

torch's profiler records a few steps, data included: reading rows of a corpus would come on top, see ``scaling``. An operation
belongs to the innermost part it ran in; one of a backward pass, to the part of the forward operation it belongs to, which
autograd's sequence numbers tell. "waiting" is time in which no operation ran: Python on a CPU, an idle device on CUDA.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.machine import described, device_named, keep, print_columns, synchronise
from benchmarks.sides import SIDES, Case, Stepper, add_case, build_models, chosen_cases, draw_swap, masked_batch
from diito.models.layered import Layered

PREFIX = "part: "
REST = "losses and swaps"
"""What runs in the objective outside of the models."""
DIFFERENTIATED = ("teacher", "student", "heads", REST)
"""The parts of which forward and backward are told apart; the others are the optimiser and the data."""


def mark(module: nn.Module, part: str) -> None:
    """Operations of ``module`` belong to ``part``."""
    open_ranges: list[Any] = []

    def enter(*_: Any) -> None:
        open_ranges.append(record_function(PREFIX + part))
        open_ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        open_ranges.pop().__exit__(None, None, None)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def mark_models(teacher: Any, student: Any) -> None:
    """Body of the teacher, body of the student, heads of both."""
    for model, part in ((teacher, "teacher"), (student, "student")):
        layered = Layered(model)
        for module in (layered.body.embeddings, *layered.layers):
            mark(module, part)
        mark(model.cls, "heads")


def parts_of(events: Iterable[Any], device: torch.device) -> dict[str, float]:
    """Microseconds of each part, forward and backward apart: on the device where kernels ran, else of the operations."""
    forward: dict[int, str] = {}
    spent: dict[str, float] = defaultdict(float)
    backward = []
    for event in events:
        part, is_backward = _place(event)
        if not is_backward and event.sequence_nr >= 0 and part is not None:
            forward[event.sequence_nr] = part  # the last: the operation that autograd recorded is the innermost
        time_here = _own_time(event, device)
        if is_backward:
            backward.append((event, time_here))
        elif part is not None:
            spent[f"{part}, forward" if part in DIFFERENTIATED else part] += time_here
    for event, time_here in backward:
        spent[f"{forward.get(_sequence(event), REST)}, backward"] += time_here
    return spent


def _place(event: Any) -> tuple[str | None, bool]:
    """The part whose range is nearest above an operation, and whether it runs in a backward pass."""
    above = event
    while above is not None:
        if above.name.startswith(PREFIX):
            return above.name.removeprefix(PREFIX), False
        if above.name.startswith("autograd::engine"):
            return None, True
        above = above.cpu_parent
    return None, False


def _sequence(event: Any) -> int:
    while event is not None:
        if event.name.startswith("autograd::engine"):
            return event.sequence_nr
        event = event.cpu_parent
    return -1


def _own_time(event: Any, device: torch.device) -> float:
    """Microseconds that an operation itself took: on CUDA the kernels that it started."""
    return event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total


def _of_host(events: Iterable[Any]) -> list[Any]:
    """Without the device's own events: the kernels are in the time of the operations that started them."""
    return [event for event in events if event.device_type == DeviceType.CPU]


def measure(case: Case, name: str, device: torch.device, *, steps: int) -> dict[str, Any]:
    """Seconds a step of each part, on average over the pairs of the alignment."""
    teacher, student = build_models(case, device)
    stepper = Stepper(SIDES[name], case, teacher, student)
    pairs = case.pairs()
    for step, pair in enumerate(pairs[:2]):
        stepper(step, pair)
    mark_models(stepper.teacher, student)
    order = [pairs[index % len(pairs)] for index in range(steps)]
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA][: 1 + (device.type == "cuda")]) as profiler:
        start = time.perf_counter()
        for step, pair in enumerate(order):
            with record_function(PREFIX + "data"):
                batch = masked_batch(case, step, device)
                swap = draw_swap(batch, pair, step)
            with record_function(PREFIX + REST):
                stepper.forward_backward(batch, swap)
            with record_function(PREFIX + "optimiser"):
                stepper.optimizer.step()
                stepper.optimizer.zero_grad()
        synchronise(device)
        seconds = time.perf_counter() - start
    spent = {part: 1e-6 * value / steps for part, value in parts_of(_of_host(profiler.events()), device).items()}
    spent["waiting"] = max(0.0, seconds / steps - sum(spent.values()))
    largest = sorted(_of_host(profiler.key_averages()), key=lambda event: -_own_time(event, device))
    operations = {event.key: 1e-6 * _own_time(event, device) / steps for event in largest if not event.key.startswith(PREFIX)}
    return {
        "case": vars(case),
        "side": name,
        "step_seconds": seconds / steps,
        "parts": dict(sorted(spent.items(), key=lambda item: -item[1])),
        "operations": dict(list(operations.items())[:20]),
    }


def print_measured(measured: dict[str, Any]) -> None:
    """The parts, then the operations that take longest."""
    total = measured["step_seconds"]
    for title, table in (("part", measured["parts"]), ("operation", measured["operations"])):
        rows = [[name, f"{1e3 * seconds:.1f}", f"{seconds / total:.1%}"] for name, seconds in table.items()]
        print_columns([[title, "ms a step", "share"], *rows])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Profile, print the tables, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case(parser, several=False)
    parser.add_argument("--side", default="diito-bf16", choices=[name for name, side in SIDES.items() if not side.literal])
    parser.add_argument("--steps", type=int, default=6, help="steps recorded; the pairs of the alignment take turns")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    (case,) = chosen_cases(options)
    measured = measure(case, options.side, device_named(options.device), steps=options.steps)
    print(case, SIDES[options.side].title, sep="\n")
    print_measured(measured)
    report = {"environment": described(), **measured}
    keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
