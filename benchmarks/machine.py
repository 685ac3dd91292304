"""The machine under a benchmark: its peak, its memory, what it is; and how results are shown and kept."""

from __future__ import annotations

import ctypes
import datetime
import gc
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diito.environment import environment
from diito.files import write_json

Shape = tuple[int, int, int]
"""Rows, inner size and columns of a matrix product."""


class MatrixProducts:
    """Rates of the products of linear layers, the best of all visits: what a step can reach."""

    def __init__(self, shapes: list[Shape], device: torch.device) -> None:
        square = 8192 if device.type == "cuda" else 1536
        self.shapes = [*dict.fromkeys([*shapes, (square, square, square)])]
        self.device = device
        self.repetitions = 20 if device.type == "cuda" else 2
        self.best: dict[str, dict[str, float]] = {"fp32": {}, "bf16": {}}
        """FLOP/s by precision and shape."""

    def visit(self) -> None:
        """Time every product once more."""
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for rows, inner, columns in self.shapes:
                left = torch.randn(rows, inner, device=self.device).to(dtype)
                weight = torch.randn(columns, inner, device=self.device).to(dtype)
                F.linear(left, weight)
                synchronise(self.device)
                start = time.perf_counter()
                for _ in range(self.repetitions):
                    F.linear(left, weight)
                synchronise(self.device)
                rate = self.repetitions * 2 * rows * inner * columns / (time.perf_counter() - start)
                name = f"{rows}x{inner}x{columns}"
                self.best[precision][name] = max(rate, self.best[precision].get(name, 0.0))

    def peak(self, precision: str) -> float:
        """FLOP/s of the fastest product."""
        return max(self.best[precision].values())


def device_named(name: str) -> torch.device:
    """``auto`` is CUDA where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def synchronise(device: torch.device) -> None:
    """Wait for what ``device`` was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def resident(field: str, process: int | str = "self") -> int:
    """Bytes of a process, of this one by default: VmRSS now, VmHWM at most since the last reset. Linux only."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def reset_peak(device: torch.device) -> None:
    """Forget the peak of memory so far, and what was freed before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes at most since :func:`reset_peak`: of the process on a CPU, of tensors on CUDA."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def described() -> dict[str, Any]:
    """Date, versions, commit, command and processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **environment(),
        "command": ["python", *sys.orig_argv[1:]],
        "processor": processor,
    }


def print_columns(rows: list[list[str]]) -> None:
    """A table: the first row is the head, the first column text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)), sep="  ")
    print(flush=True)


def keep(report: dict[str, Any], output: Path | None) -> None:
    """Write a report as JSON, where a place was given."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, report)
        print(f"written to {output}")
