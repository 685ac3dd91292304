"""What a grid is going to do, in numbers: ``diito reproduce GRID --dry-run``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from diito.experiments.expansion import Evaluation
from diito.experiments.folders import JobFolder
from diito.experiments.grid import Resources, Share
from diito.experiments.jobs import Job
from diito.files import read_json, read_json_lines
from diito.speed.precision import choose_precision
from diito.tables import MISSING, Table

SHARE_OF_PEAK = 0.4
"""Of the rate of a large matrix product, what training reaches: benchmarks/results has 41 to 77 % on the CPU."""


def estimate(jobs: Sequence[Job], output: Path, resources: Resources) -> str:
    """The jobs with tokens, FLOPs and hours.

    Hours of jobs that are done are their own. The others have those of their kind that are done in this grid, distillations by
    their FLOPs. Before there are any, a distillation is taken to reach :data:`SHARE_OF_PEAK` of a matrix product on this
    machine, and an evaluation's hours are not known.
    """
    unique = list({job.hash: job for job in jobs}.values())
    rate, hours_of_kind = _rates(unique, output)
    source = "the distillations that are done"
    if rate is None:
        peak = _matrix_product_rate()
        rate = SHARE_OF_PEAK * peak
        source = f"{SHARE_OF_PEAK:.0%} of a matrix product on this machine, {peak / 1e12:.2f} TFLOP/s"
    header = ("job", "folder", "tokens, M", "PFLOP", "hours", "")
    rows: list[Sequence[str]] = []
    total = 0.0
    unknown = 0
    for job in unique:
        done = read_json(JobFolder(output / "jobs" / job.hash).done)
        numbers = job.numbers
        if done:
            hours = done["seconds"] / 3600
        elif numbers is not None:
            hours = numbers.flops / rate / 3600
        else:
            hours = hours_of_kind.get(_kind(job))
        if not done:
            total, unknown = (total, unknown + 1) if hours is None else (total + hours, unknown)
        rows.append(
            (
                job.planned.title,
                job.hash,
                f"{numbers.tokens / 1e6:,.2f}" if numbers else "",
                f"{numbers.flops / 1e15:,.3g}" if numbers else "",
                MISSING if hours is None else f"{hours:.2f}",
                "done" if done else "",
            )
        )
    table = Table("jobs", "Jobs", "", header, [("", rows)])
    lines = [table.text(), "", _summary(unique, jobs), f"to do: {total:,.1f} hours of jobs, one after another (rate: {source})"]
    if unknown:
        lines.append(f"{unknown:,} evaluations are not in that figure: none of their kind is done yet")
    lines += [f"a distillation takes {_takes(resources.distil)}, an evaluation {_takes(resources.evaluate)}"]
    return "\n".join(lines)


def _rates(jobs: Sequence[Job], output: Path) -> tuple[float | None, dict[tuple[str, str | None], float]]:
    """FLOP/s of the distillations that are done, and the hours of each kind of evaluation, from medians."""
    rates: list[float] = []
    hours: dict[tuple[str, str | None], list[float]] = {}
    for job in jobs:
        folder = JobFolder(output / "jobs" / job.hash)
        if not folder.is_done:
            continue
        if job.numbers is not None:
            speeds = [
                line["tokens_per_second"]
                for line in read_json_lines(folder.run / "metrics.jsonl")
                if line.get("tokens_per_second")
            ]
            rates += [job.numbers.flops / job.numbers.tokens * statistics.median(speeds)] if speeds else []
        else:
            hours.setdefault(_kind(job), []).append(read_json(folder.done)["seconds"] / 3600)
    medians = {kind: statistics.median(values) for kind, values in hours.items()}
    return (statistics.median(rates) if rates else None), medians


def _kind(job: Job) -> tuple[str, str | None]:
    assert isinstance(job.planned, Evaluation)
    return job.kind, job.planned.task


def _summary(unique: Sequence[Job], jobs: Sequence[Job]) -> str:
    students = [job for job in unique if job.numbers is not None]
    tokens, flops = (sum(getattr(job.numbers, name) for job in students) for name in ("tokens", "flops"))
    shared = f" ({len(jobs) - len(unique)} more are the same as one of these)" if len(jobs) > len(unique) else ""
    return (
        f"{len(unique):,} jobs{shared}: {len(students):,} distillations of {tokens / 1e6:,.1f} M tokens and "
        f"{flops / 1e15:,.3g} PFLOP in all, {len(unique) - len(students):,} evaluations"
    )


def _takes(share: Share) -> str:
    return f"{share.cpus:g} CPUs and {share.gpus:g} GPUs"


def _matrix_product_rate() -> float:
    """FLOP/s of a large matrix product here, in the precision that the device multiplies itself; the median of five."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    size = 1024 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if choose_precision("auto", device) == "bf16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[1:])
