"""How fast evaluation is: examples a second of every kind, and the time of a small suite.

    python -m benchmarks.evaluation --glue data/glue --squad data/squad --examples 400

Each kind is measured as ``diito evaluate`` does it, on one model (by default the teacher that comes with diito, which is its
own teacher in the interchange). Kinds without data are left out; for NER, a column file is made of the held-out text, with
random labels: its figures say nothing but the speed. Preparing (reading, tokenising, hashing) is timed apart from measuring.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import described, keep, print_columns
from diito.corpus.sources import read_file
from diito.embedded import resolve
from diito.evaluation.kinds import Job, find
from diito.models.load import ModelSource
from diito.recipe import SourceSection
from diito.speed.process import keep_freed_memory

TEXT = "embedded:wikitext-2/valid.txt.gz"
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "B-ORG", "B-MISC"]


def jobs(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, float, Job]]:
    """Kind, seconds of preparing, and the job."""
    source, device = ModelSource(options.model), "auto"
    text: dict[str, Any] = {"sources": [SourceSection(path=TEXT)], "length": 128, "cache": str(folder / "cache")}
    tuned: dict[str, Any] = {"examples": options.examples, "epochs": 1, "precision": options.precision}
    interchange = {**text, "teacher": options.model, "limit": options.blocks}
    settings = {"perplexity": {**text, "draws": 1}, "interchange": interchange, "map": interchange}
    settings["ner"] = {"data": make_ner(folder), **tuned}
    for suite in ("glue", "squad"):
        if data := getattr(options, suite):
            settings[suite] = {"data": data, **tuned}
    for name, values in settings.items():
        start = time.perf_counter()
        kind = find(name)
        planned = kind.jobs(kind.settings(**values), source, device=device, results=None)
        preparing = (time.perf_counter() - start) / len(planned)
        for job in planned:
            yield (f"{name}, {job.identity['task']}" if len(planned) > 1 else name), preparing, job


def make_ner(folder: Path) -> str:
    """CoNLL's columns, from held-out text and random labels."""
    draws = random.Random(0)
    text = (line.split() for line in read_file(Path(resolve(TEXT)), column="text", field="text"))
    words = [line[:40] for line in text if len(line) > 10]
    for name, lines in (("train.txt", words[:400]), ("valid.txt", words[400:800])):
        rows = ["".join(f"{word} X X {draws.choice(LABELS)}\n" for word in line) for line in lines]
        (folder / name).write_text("\n".join(rows), encoding="utf-8")
    return str(folder)


def speeds(seconds: float, result: dict[str, Any], blocks: int) -> dict[str, float]:
    """Examples a second."""
    if "train_rows_per_second" in result:
        return {name: result[f"{name}_per_second"] for name in ("train_rows", "predicted_features")}
    return {"blocks": result.get("examples", blocks) / seconds}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:teacher-minilm-mlm")
    parser.add_argument("--glue", help="folder with the tasks of GLUE")
    parser.add_argument("--squad", help="folder with SQuAD v1.1")
    parser.add_argument("--examples", type=int, default=400, help="training rows of each task")
    parser.add_argument("--blocks", type=int, default=100, help="of the interchange")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of fine-tuning")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    measured, begin = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for kind, preparing, job in jobs(options, Path(folder)):
            start = time.perf_counter()
            result, _ = job.run()
            seconds = time.perf_counter() - start
            rates = speeds(seconds, result, options.blocks)
            measured.append({"kind": kind, "preparing_seconds": preparing, "seconds": seconds, "per_second": rates})
            print(kind, f"{seconds:.1f} s", flush=True)
    report = {"environment": described(), "kinds": measured, "suite_seconds": time.perf_counter() - begin}
    rows = [
        [
            each["kind"],
            f"{each['preparing_seconds']:.1f}",
            f"{each['seconds']:.1f}",
            ", ".join(f"{rate:.1f} {name.replace('_', ' ')}" for name, rate in each["per_second"].items()),
        ]
        for each in measured
    ]
    print_columns([["", "preparing, s", "measuring, s", "a second"], *rows])
    print(f"the suite: {report['suite_seconds']:.0f} s")
    keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
