"""The estimate of a step's memory (``diito distill --plan``) against the peaks that ``benchmarks.step`` has measured.

python -m benchmarks.memory benchmarks/results/step-widths.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.sides import MASK_RATE, SIDES, Case, build_models
from diito.method.alignment import Alignment
from diito.method.memory import FP32, step_memory
from diito.method.objective import DistillationObjective


def main() -> None:
    """A line for each case and side of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    print(f"{'case':<58}{'side':<16}{'estimated':>10}{'measured':>10}  MB")
    for file in parser.parse_args().files:
        content = json.loads(file.read_text(encoding="utf-8"))
        for measured in content.get("cases", [content]):
            case = Case(**measured["case"])
            for name, side in measured["sides"].items():
                if not SIDES[name].literal:
                    print(
                        f"{case!s:<58}{name:<16}{estimate(case, name) / 1e6:>10,.0f}{side['peak_bytes'] / 1e6:>10,.0f}",
                        flush=True,
                    )


def estimate(case: Case, name: str) -> float:
    """Bytes of a step. (A benchmark has one copy of the teacher; a run in bf16 keeps the fp32 one for its measurements.)"""
    side, alignment = SIDES[name], Alignment(case.pairs())
    teacher, student = build_models(case, torch.device("cpu"))
    objective = DistillationObjective(student, teacher, alignment, weights=side.weights)
    memory = step_memory(
        teacher,
        student,
        alignment,
        {name: loss for name, loss in objective.losses.items() if objective.weights[name]},
        batch=case.batch,
        length=case.length,
        loss_tokens=MASK_RATE,
        words=case.words,
        bf16=side.bf16,
    )
    return memory.total - (teacher.num_parameters() * FP32 if side.bf16 else 0)


if __name__ == "__main__":
    main()
