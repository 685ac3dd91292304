"""How long an optimiser step takes: Algorithm 1 taken literally, DIITO as it is here, and standard distillation.

    python -m benchmarks.step --width 256 768 --batch 8 --length 128 512 --output step.json

Sizes take several values; every combination is a case. Each side lives in a process of its own, as its user would run it (the
literal side with torch and the allocator as they come), and makes one step in every round, one side at a time, in
an order that rotates; within a round all get the same masked batch, swap and aligned pair, and each pair of the alignment comes
up equally often. Ratios are of the means over all rounds, since the cost of a step depends on the pair; the
median of the ratios within each round stands beside them.

Between the rounds the matrix products of the models are timed; the best rate is the peak, of which each side reaches the share
shown (FLOPs by formula over mean time over peak). torch counts the FLOPs of one step as well. Memory is the peak of the
process from the first step on, beyond what it held before it had models.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import random
import statistics
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import MatrixProducts, described, device_named, keep, peak_memory, print_columns, reset_peak, resident
from benchmarks.sides import SEED, SIDES, Case, Stepper, add_case, build_models, chosen_cases, step_flops


class SideProcess:
    """A side in a process of its own."""

    def __init__(self, name: str, case: Case, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, name, case, options), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, what: str, *arguments: Any) -> Any:
        """Have the process do something, and wait for the answer."""
        self.connection.send((what, *arguments))
        return self.connection.recv()

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join()


def _serve(connection: Connection, name: str, case: Case, options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    device, side, pairs = device_named(options.device), SIDES[name], case.pairs()
    before = 0 if device.type == "cuda" else resident("VmRSS")
    stepper = Stepper(side, case, *build_models(case, device))
    reset_peak(device)
    answers = {
        "step": lambda step, pair: stepper(step, pairs[pair]),
        "flops": lambda: stepper.counted_flops(0, pairs[0]),
        "memory": lambda: {"peak_bytes": peak_memory(device) - before, "weight_bytes": stepper.weight_bytes},
    }
    while True:
        try:
            what, *arguments = connection.recv()
        except EOFError:
            return
        connection.send(answers[what](*arguments))


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """All sides of one case, round by round."""
    pairs, order = case.pairs(), random.Random(SEED)
    chosen = [0] * options.warmup  # the costliest: what a run allocates it has allocated then
    for _ in range(math.ceil(options.rounds / len(pairs))):
        chosen += order.sample(range(len(pairs)), len(pairs))
    products = MatrixProducts(case.products(), device_named(options.device))
    sides = {name: SideProcess(name, case, options) for name in options.sides}
    rounds, first = [], {}
    for step, pair in enumerate(chosen):
        turn = step % len(sides)
        names = [*options.sides[turn:], *options.sides[:turn]]
        seconds = {name: sides[name].ask("step", step, pair) for name in names}
        first = first or seconds
        products.visit()
        if step >= options.warmup:
            flops = {name: step_flops(SIDES[name], case, pairs[pair]) for name in options.sides}
            rounds.append({"pair": pair, "seconds": seconds, "flops": flops})
    memory = {name: side.ask("memory") for name, side in sides.items()}
    counted = {name: side.ask("flops") / step_flops(SIDES[name], case, pairs[0]) for name, side in sides.items()}
    for side in sides.values():
        side.stop()
    return {"case": vars(case), **summarise(case, rounds, products, first, memory, counted), "rounds": rounds}


def summarise(
    case: Case,
    rounds: list[dict[str, Any]],
    products: MatrixProducts,
    first: dict[str, float],
    memory: dict[str, dict[str, int]],
    counted: dict[str, float],
) -> dict[str, Any]:
    """Figures of each side, ratios between sides, peaks."""
    sides = {}
    for name in rounds[0]["seconds"]:
        seconds = [each["seconds"][name] for each in rounds]
        flops = statistics.mean(each["flops"][name] for each in rounds)
        mean = statistics.mean(seconds)
        sides[name] = {
            "title": SIDES[name].title,
            "median_seconds": statistics.median(seconds),
            "mean_seconds": mean,
            "first_step_seconds": first[name],
            "tokens_per_second": case.tokens / mean,
            "flops": flops,
            "counted_over_formula": counted[name],
            "share_of_peak": flops / mean / products.peak(SIDES[name].precision),
            **memory[name],
        }
    ratios = {}
    for slow, fast in itertools.permutations(sides, 2):
        if _is_compared(slow, fast):
            in_rounds = [each["seconds"][slow] / each["seconds"][fast] for each in rounds]
            ratios[f"{slow} / {fast}"] = {
                "median_of_rounds": statistics.median(in_rounds),
                "of_means": sides[slow]["mean_seconds"] / sides[fast]["mean_seconds"],
                "of_flops": sides[slow]["flops"] / sides[fast]["flops"],
                "of_memory": sides[slow]["peak_bytes"] / sides[fast]["peak_bytes"],
            }
    peak = {precision: {"flops_per_second": products.peak(precision), **best} for precision, best in products.best.items()}
    return {"sides": sides, "ratios": ratios, "peak": peak}


def _is_compared(slow: str, fast: str) -> bool:
    """The literal sides with ours; DIITO with standard distillation run alike; another way to run a side with that side."""
    if slow.startswith("literal"):
        return not fast.startswith("literal")
    return slow.replace("diito", "standard") == fast or slow.startswith(f"{fast}-")


def print_case(case: Case, measured: dict[str, Any]) -> None:
    """The tables of one case."""
    print(case)
    head = ["", "ms a step", "mean", "tokens/s", "GFLOP", "torch's", "of peak", "peak MB", "weights MB", "first step ms"]
    rows = [
        [
            side["title"],
            f"{1e3 * side['median_seconds']:.0f}",
            f"{1e3 * side['mean_seconds']:.0f}",
            f"{side['tokens_per_second']:.0f}",
            f"{side['flops'] / 1e9:.1f}",
            f"{side['counted_over_formula'] * side['flops'] / 1e9:.1f}",
            f"{side['share_of_peak']:.1%}",
            f"{side['peak_bytes'] / 1e6:.0f}",
            f"{side['weight_bytes'] / 1e6:.0f}",
            f"{1e3 * side['first_step_seconds']:.0f}",
        ]
        for side in measured["sides"].values()
    ]
    print_columns([head, *rows])
    kinds = ("median_of_rounds", "of_means", "of_flops", "of_memory")
    rows = [[name, *(f"{ratio[kind]:.2f}" for kind in kinds)] for name, ratio in measured["ratios"].items()]
    print_columns([["", *(kind.replace("_", " ") for kind in kinds)], *rows])
    peaks = (f"{name} {best['flops_per_second'] / 1e9:.0f}" for name, best in measured["peak"].items())
    print("peak GFLOP/s:", ", ".join(peaks), "\n", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; ``options.cases`` are the combinations of the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case(parser, several=True)
    parser.add_argument("--rounds", type=int, default=12, help="rounded up to a multiple of the aligned pairs")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before those that count")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int)
    sides = ["literal", "diito-fp32", "diito-bf16", "standard-fp32", "standard-bf16"]
    parser.add_argument("--sides", nargs="+", default=sides, choices=SIDES)
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} must be at least 1")
    options.cases = chosen_cases(options)
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure every case, print its tables, write the JSON; returns what the JSON holds."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"environment": described(), "cases": []}
    for case in options.cases:
        report["cases"].append(measure(case, options))
        print_case(case, report["cases"][-1])
        keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
