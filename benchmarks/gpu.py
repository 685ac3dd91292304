"""All figures of one short stay on a machine with a GPU: throughput at BERT-base scale, the profile of the best, the tests.

    python -m benchmarks.gpu --output gpu/        # about ten minutes; --quick for a first look

1. the peak of the machine, and a sweep over batch and length: DIITO and standard distillation, bf16, compiled and not;
2. the profile of the fastest case;
3. the tests marked gpu: parity with the CPU, a bf16 trajectory, no host synchronisation in a step.

Random weights and tokens, full optimiser steps of one micro-batch. Results are written after every case, so that a stay cut
short loses nothing; a case that does not fit the memory is noted as such. ``--device cpu`` with a small ``--width`` tries the
script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import profile
from benchmarks.machine import MatrixProducts, described, keep, peak_memory, print_columns, reset_peak
from benchmarks.sides import SIDES, Case, Stepper, build_models, step_flops

COMPARED = ("diito-bf16", "standard-bf16", "diito-bf16-compiled", "standard-bf16-compiled")


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Batches and lengths of equal tokens come after each other, small steps first."""
    base = Case(width=options.width)
    sizes = [(batch, length) for length in options.lengths for batch in options.batches]
    for batch, length in sorted(sizes, key=lambda size: size[0] * size[1]):
        yield replace(base, batch=batch, length=length)


def measure(case: Case, name: str, device: torch.device, *, steps: int) -> dict[str, Any]:
    """Seconds of a step over all pairs of the alignment, tokens a second, memory; or that it does not fit."""
    result: dict[str, Any] = {"case": vars(case), "side": name}
    try:
        result |= time_steps(case, name, device, steps=steps)
    except torch.OutOfMemoryError:
        result["out_of_memory"] = True
    release(device)
    return result


def release(device: torch.device) -> None:
    """Give memory that is no longer used back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def time_steps(case: Case, name: str, device: torch.device, *, steps: int) -> dict[str, float]:
    """The figures of a case that fits."""
    pairs, side = case.pairs(), SIDES[name]
    stepper = Stepper(side, case, *build_models(case, device))
    first = stepper(0, pairs[0])
    for step, pair in enumerate(pairs):  # every depth once: what is compiled or allocated has been after this
        stepper(step, pair)
    reset_peak(device)
    rounds = max(1, steps // len(pairs))
    mean = statistics.mean(stepper(step, pair) for step in range(rounds) for pair in pairs)
    return {
        "first_step_seconds": first,
        "mean_seconds": mean,
        "tokens_per_second": case.tokens / mean,
        "flops_per_second": statistics.mean(step_flops(side, case, pair) for pair in pairs) / mean,
        "peak_bytes": peak_memory(device),
    }


def print_sweep(results: list[dict[str, Any]], peak: float) -> None:
    """A line a case and side."""
    rows = []
    for each in results:
        case = f"{each['case']['batch']} × {each['case']['length']}"
        if "out_of_memory" in each:
            rows.append([case, each["side"], "does not fit", "", "", ""])
            continue
        rate, share = f"{each['tokens_per_second']:,.0f}", f"{each['flops_per_second'] / peak:.1%}"
        memory = f"{each['peak_bytes'] / 1e9:.1f}"
        rows.append([case, each["side"], f"{1e3 * each['mean_seconds']:.1f}", rate, share, memory])
    print_columns([["batch × length", "side", "ms a step", "tokens/s", "of peak", "peak GB"], *rows])


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 40, 64, 128])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=24, help="steps of each case and side, after the warm-up")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="one case, no tests")
    parser.add_argument("--output", type=Path, help="folder for sweep.json, profile.json")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: there is no CUDA device here; --device cpu with a small --width tries the script")
    if options.quick:
        options.batches, options.lengths = options.batches[-1:], options.lengths[-1:]
    device = torch.device(options.device)
    products = MatrixProducts(Case(width=options.width, batch=40, length=512).products(), device)
    for _ in range(3):
        products.visit()
    peak = products.peak("bf16")
    sweep: dict[str, Any] = {"environment": described(), "peak": products.best, "results": []}
    for case in cases(options):
        for name in COMPARED:
            sweep["results"].append(measure(case, name, device, steps=options.steps))
            print_sweep(sweep["results"][-1:], peak)
            keep(sweep, options.output and options.output / "sweep.json")
    print_sweep(sweep["results"], peak)
    done = [each for each in sweep["results"] if "tokens_per_second" in each and each["side"] == "diito-bf16"]
    if done:
        best = Case(**max(done, key=lambda each: each["tokens_per_second"])["case"])
        profile.print_measured(measured := profile.measure(best, "diito-bf16", device, steps=6))
        keep({"environment": described(), **measured}, options.output and options.output / "profile.json")
    if not options.quick:
        release(device)  # the tests' processes need memory too
        sweep["tests"] = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "tests"], check=False).returncode
        keep(sweep, options.output and options.output / "sweep.json")
    return sweep


if __name__ == "__main__":
    main()
