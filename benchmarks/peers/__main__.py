"""diito against its peers on the same work, on a processor.

    python -m benchmarks.peers                       # all cases; --small first shows in minutes whether all sides run
    python -m benchmarks.peers --cases decoder --threads 1 --output decoder.json
    python -m benchmarks.peers --show decoder.json   # Markdown of what was measured

Peers are installed in environments of their own from the pinned requirements beside this file, once, below ``--environments``.
Every side has the same models (random weights of one seed), the same tokens, the same losses and fused AdamW; it lives in a
process of its own and makes one step in every round, one side at a time, in an order that rotates. A step is a micro-batch's
losses, the backward pass and the optimiser; making the batch is not in it. A peer is driven as its documents say.

The values of each side's first step are shown and must be those of the reference side: the command ends with 1 where they are
not. Ratios are of means over the rounds, of processor time and of wall time, with the lowest and the highest round. Memory is
the peak of the process from its first step on, beyond what it held before it had models.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import described, keep
from benchmarks.peers.cases import CASES
from benchmarks.peers.tables import markdown, print_case
from benchmarks.peers.turns import measure
from benchmarks.peers.verdicts import judge
from diito.speed.precision import choose_precision

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "diito" / "peers"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=CASES)
    sides = sorted({name for case in CASES.values() for name in (case.ours, *case.others)})
    parser.add_argument("--sides", nargs="+", choices=sides, help="only these of a case's sides")
    parser.add_argument("--rounds", type=int, default=6, help="DIITO FULL has 6 aligned pairs, and takes another each round")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before those that count; at least 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="as speed.precision")
    parser.add_argument("--dropout", type=float, default=0.0, help="of encoders; first values are then held less closely")
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether all sides run and do the same work")
    parser.add_argument("--environments", type=Path, default=CACHE, help=f"their folder (default: {CACHE})")
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    parser.add_argument("--show", type=Path, nargs="+", help="print these results as Markdown and measure nothing")
    options = parser.parse_args(arguments)
    for name in ("rounds", "warmup", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: {getattr(options, name)} must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure every case, print its table, write the JSON; 1 where a side did other work than the reference."""
    options = parse(arguments)
    if options.show:
        print(*(markdown(case) for file in options.show for case in json.loads(file.read_text())["cases"]), sep="\n")
        return 0
    precision = choose_precision(options.precision, torch.device("cpu"))
    told: dict[str, Any] = {"precision": precision, "threads": options.threads, "dropout": options.dropout}
    report: dict[str, Any] = {"environment": described(), "cases": []}
    for name in options.cases:
        case = CASES[name].smaller() if options.small else CASES[name]
        names = [side for side in (case.ours, *case.others) if not options.sides or side in options.sides]
        sides = measure(case, names, told, options.environments.resolve(), warmup=options.warmup, rounds=options.rounds)
        said = {"case": name, "title": CASES[name].title, "small": options.small, "options": told, "rounds": options.rounds}
        report["cases"].append({**said, **judge(case, sides, precision=precision, dropout=options.dropout)})
        print_case(report["cases"][-1])
        keep(report, options.output)
    differing = [side["title"] for case in report["cases"] for side in case["sides"].values() if side.get("agrees") is False]
    if differing:
        print(f"other values than the reference: {', '.join(differing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
