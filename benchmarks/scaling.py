"""How the cost of a step grows: with length, depth, width, vocabulary, batch, accumulation, and over two processes.

    python -m benchmarks.scaling --output scaling.json

One size is changed at a time. All cases take turns in one process, a step of DIITO each round, and are compared with the first
by their medians; the same ratio of FLOPs says what was to be expected. Two gloo processes with half the threads each are
compared with one process with all of them, at the same tokens a step. The data path is ``python -m benchmarks.corpus``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.machine import described, device_named, keep, print_columns
from benchmarks.sides import SIDES, Case, Stepper, build_models, step_flops

BASE = Case(teacher_layers=6, student_layers=3, width=256, batch=8, length=128, words=16_000)
CHANGES: list[tuple[str, list[Any]]] = [
    ("length", [256, 512]),
    ("batch", [16, 32]),
    ("student_layers", [1, 6]),
    ("teacher_layers", [3, 12]),
    ("width", [128, 512]),
    ("words", [1_000, 32_000, 64_000]),
]
ACCUMULATION = [2, 4]
WARMUP = 2
"""Rounds before those that count."""


def cases() -> dict[str, tuple[Case, int]]:
    """Cases and micro-batches by what is changed."""
    changed = {
        f"{name} {value}": (replace(BASE, **{name: value}), 1)  # a mapping, so each stands once
        for name, values in CHANGES
        for value in values
    }
    return {"base": (BASE, 1), **changed, **{f"accumulation {count}": (BASE, count) for count in ACCUMULATION}}


def measure_costs(side: str, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Seconds of a step of each case, and both ratios to the base."""
    steppers = {
        name: (Stepper(SIDES[side], case, *build_models(case, device)), case.pairs()[0], count)
        for name, (case, count) in cases().items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for step in range(rounds + WARMUP):
        for name, (stepper, pair, count) in steppers.items():
            took = stepper(step, pair, micro_batches=count)
            if step >= WARMUP:
                seconds[name].append(took)
    flops = {name: count * step_flops(SIDES[side], stepper.case, pair) for name, (stepper, pair, count) in steppers.items()}
    return [
        {
            "changed": name,
            "median_seconds": statistics.median(took),
            "tokens_per_second": count * stepper.case.tokens / statistics.median(took),
            "of_base": statistics.median(took) / statistics.median(seconds["base"]),
            "of_base_in_flops": flops[name] / flops["base"],
        }
        for (name, took), (stepper, _, count) in zip(seconds.items(), steppers.values(), strict=True)
    ]


def measure_processes(side: str, steps: int) -> dict[str, Any]:
    """Tokens a second of one process with all threads and of two gloo processes with half of them each, taking turns."""
    threads = torch.get_num_threads()
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for count, measured in rates.items():
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command += ["-m", "benchmarks.scaling", "--rank", "--side", side, "--rounds", str(steps)]
            environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads // count))}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            measured.append(float(done.stdout.strip().splitlines()[-1]))
    best = {f"{count} processes": max(measured) for count, measured in rates.items()}
    return {**best, "ratio": best["2 processes"] / best["1 processes"], "threads": threads}


def run_rank(side: str, steps: int) -> None:
    """One of the processes; the first prints tokens a second, all processes together."""
    torch.distributed.init_process_group("gloo")
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    case = replace(BASE, batch=2 * BASE.batch // count)
    models = build_models(case, torch.device("cpu"))
    stepper = Stepper(SIDES[side], case, *models, wrap=DistributedDataParallel)
    seconds = [stepper(step * count + rank, case.pairs()[0]) for step in range(steps + WARMUP)]
    if rank == 0:
        print(steps * case.tokens * count / sum(seconds[WARMUP:]))
    torch.distributed.destroy_process_group()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the tables, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--side", default="diito-bf16", choices=[name for name, side in SIDES.items() if side.speed and not side.literal]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    if options.rank:
        run_rank(options.side, options.rounds)
        return {}
    costs = measure_costs(options.side, options.rounds, device_named(options.device))
    print(BASE, SIDES[options.side].title, sep="\n")
    rows = [
        [
            each["changed"],
            f"{1e3 * each['median_seconds']:.0f}",
            f"{each['tokens_per_second']:,.0f}",
            f"{each['of_base']:.2f}",
            f"{each['of_base_in_flops']:.2f}",
        ]
        for each in costs
    ]
    print_columns([["changed", "ms a step", "tokens/s", "of the base", "in FLOPs"], *rows])
    report: dict[str, Any] = {"environment": described(), "base": vars(BASE), "side": options.side, "costs": costs}
    if options.device != "cuda":
        report["processes"] = measure_processes(options.side, 3 * options.rounds)
        print(*(f"{name}: {value:,.2f}" for name, value in report["processes"].items()), sep="\n")
    keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
