"""Whether a change costs a step anything: this checkout against another, step by step in turns.

    git worktree add ../before v0.1.0
    python -m benchmarks.versions ../before --rounds 12

Each checkout runs in a process of its own and steps alone while the other waits; who goes first alternates.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from pathlib import Path

from benchmarks.machine import described, keep, print_columns
from benchmarks.sides import Case, add_case, chosen_cases
from benchmarks.talk import Talker

HERE = Path(__file__).resolve().parent.parent
WORKER = """
import benchmarks, sys, torch
torch.set_num_threads(int(sys.argv[3]))
from benchmarks.sides import SIDES, Case, Stepper, build_models
case = Case(**eval(sys.argv[2]))
stepper = Stepper(SIDES[sys.argv[1]], case, *build_models(case, torch.device("cpu")))
print("ready", flush=True)
for line in sys.stdin:
    step = int(line)
    pairs = case.pairs()
    print(stepper(step, pairs[step % len(pairs)]), flush=True)
"""


class Checkout(Talker):
    """A process that makes steps with the code of one checkout."""

    def __init__(self, folder: Path, side: str, case: Case, threads: int) -> None:
        command = [sys.executable, "-c", WORKER, side, repr(dataclasses.asdict(case)), str(threads)]
        path = os.pathsep.join([str(folder / "src"), str(folder)])
        super().__init__(command, environment={**os.environ, "PYTHONPATH": path}, folder=folder)
        assert self.answer() == "ready"

    def step(self, number: int) -> float:
        """Seconds of one step."""
        return float(self.ask(str(number)))


def main(arguments: list[str] | None = None) -> None:
    """Time both checkouts and print the ratio of this one to the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--sides", nargs="+", default=["diito-bf16", "diito-fp32"], help="as in benchmarks.step")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path)
    add_case(parser, several=True)
    options = parser.parse_args(arguments)
    rows, results = [["step", "this, ms", "other, ms", "this / other", "paired"]], []
    for case in chosen_cases(options):
        for side in options.sides:
            checkouts = [Checkout(folder, side, case, options.threads) for folder in (HERE, options.other.resolve())]
            seconds: list[list[float]] = [[], []]
            for number in range(options.warmup + options.rounds):
                for turn in (0, 1) if number % 2 else (1, 0):
                    taken = checkouts[turn].step(number)
                    if number >= options.warmup:
                        seconds[turn].append(taken)
            for checkout in checkouts:
                checkout.stop()
            ours, theirs = (statistics.mean(each) for each in seconds)
            paired = statistics.median(one / other for one, other in zip(*seconds, strict=True))
            results.append({"case": dataclasses.asdict(case), "side": side, "seconds": seconds, "ratio": ours / theirs})
            rows.append(
                [f"{side}, {case}", f"{1e3 * ours:.0f}", f"{1e3 * theirs:.0f}", f"{ours / theirs:.3f}", f"{paired:.3f}"]
            )
    print_columns(rows)
    keep({**described(), "results": results}, options.output)


if __name__ == "__main__":
    main()
