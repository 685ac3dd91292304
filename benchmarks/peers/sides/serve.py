"""One side of a case: requests come as lines of JSON on the standard input, answers go as lines of JSON to the standard output.

    python serve.py MODULE CASE      # CASE as JSON; see cases.py for what it holds

1. the module's libraries are imported, and that is said, so that memory can be read before there are models;
2. ``build``: models, optimiser;
3. ``step`` N: one optimiser step, or one interchange, on the data of that number: processor and wall seconds, named values.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Values = dict[str, float]


def optimiser_steps(module: Any, case: dict[str, Any]) -> Callable[[int], Callable[[], Any]]:
    """The module's losses and AdamW, as Trainer has it by default; of a step's number a step that can be taken."""
    import torch
    from peer_models import batch_of, teacher_and_student

    side = module.Side(case, *teacher_and_student(case))
    optimizer = torch.optim.AdamW(side.parameters(), lr=1e-4, fused=True)

    def prepare(number: int) -> Callable[[], Any]:
        batch = side.prepare(batch_of(case, number))

        def step() -> Any:
            losses = side.backward(batch, number)
            optimizer.step()
            optimizer.zero_grad()
            return losses

        return step

    return prepare


def interchanges(module: Any, case: dict[str, Any]) -> Callable[[int], Callable[[], Any]]:
    """The module's interchange; each step swaps at another layer."""
    from peer_models import SEED, batch_of, build, shown

    side = module.Side(case, build(case, case["teacher_layers"], seed=SEED).eval().requires_grad_(False))

    def prepare(number: int) -> Callable[[], Any]:
        base, source = (batch_of(case, 2 * number + which)["input_ids"] for which in (0, 1))
        layer = number % case["teacher_layers"]
        return lambda: shown(side.logits(base, source, layer))

    return prepare


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    module, case = importlib.import_module(sys.argv[1]), json.loads(sys.argv[2])
    import torch

    torch.set_num_threads(case["threads"])
    say("ready")
    prepare: Any = None
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        if what == "build":
            prepare = (interchanges if case["kind"] == "interchange" else optimiser_steps)(module, case)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            say("built")
            continue
        step = prepare(*arguments)
        processor, wall = time.process_time(), time.perf_counter()
        values = step()
        processor, wall = time.process_time() - processor, time.perf_counter() - wall
        say({"processor": processor, "wall": wall, "values": {name: value.detach().item() for name, value in values.items()}})


if __name__ == "__main__":
    main()
