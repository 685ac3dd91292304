"""The data path: tokens a second tokenised and loaded, and memory against the size of the corpus.

    python -m benchmarks.corpus --megabytes 10 40

The text (by default the one that comes with diito) is repeated to each size. For each size a fresh process tokenises it, and
another reads every row in the order of the sampler and masks it, as training does. Memory is the peak of RssAnon, the process
and its workers together; not RSS, since pages of a memory-mapped file count there, and the system takes those back whenever it
likes. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import described, keep, print_columns


def measure_anonymous(process: int) -> int:
    """Bytes of RssAnon of a process and all its descendants."""
    total = 0
    try:
        status = Path(f"/proc/{process}/status").read_text()
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(measure_anonymous(int(child)) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # ended while we looked
    return total


def run_measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run ``work`` in a fresh process: its result, and its memory in MB at the start and at the peak."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_report, args=(sender, work, arguments))
    process.start()
    sender.close()
    result: dict[str, Any] = receiver.recv()
    process.join()
    return result


def _report(sender: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    import torch  # noqa: F401  what every run holds anyway is no part of what is measured
    import transformers  # noqa: F401

    import diito.corpus  # noqa: F401

    start = peak = measure_anonymous(os.getpid())
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, measure_anonymous(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = work(*arguments)
    done.set()
    watcher.join()
    sender.send(result | {"start_mb": round(start / 1e6, 1), "peak_mb": round(peak / 1e6, 1)})


def load(path: str, options: argparse.Namespace, cache: str) -> Any:
    """The tokenizer, and the corpus of a text."""
    from transformers import AutoTokenizer

    from diito.corpus import load_corpus
    from diito.embedded import resolve
    from diito.recipe import CorpusSection

    tokenizer = AutoTokenizer.from_pretrained(resolve(options.tokenizer))
    section = CorpusSection(sources=[path], layout=options.layout, length=options.length, workers=options.workers, cache=cache)
    return tokenizer, load_corpus(section, tokenizer=tokenizer, seed=0)


def tokenise(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Text to a corpus on disk."""
    start = time.perf_counter()
    statistics = load(path, options, cache)[1].statistics
    return {"sequences": statistics.sequences, "tokens": statistics.tokens, "seconds": time.perf_counter() - start}


def read(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Every row in the order of the sampler, collated and masked, in one process."""
    from diito.corpus import collate
    from diito.corpus.sampler import ShuffledSampler
    from diito.method.draws import generator
    from diito.recipe import MaskingSection
    from diito.tasks.masked_lm import Masking

    tokenizer, corpus = load(path, options, cache)
    masking = Masking.for_tokenizer(
        MaskingSection(), tokenizer=tokenizer, vocab_size=len(tokenizer), token_counts=corpus.token_counts
    )
    order = iter(ShuffledSampler(len(corpus), seed=0, batch=options.batch, lengths=corpus.lengths))
    tokens, step, start = 0, 0, time.perf_counter()
    while indices := [index for _, index in zip(range(options.batch), order, strict=False)]:
        batch = masking(collate(corpus.__getitems__(indices), pad_token_id=0), generator=generator("mask", 0, step))
        tokens, step = tokens + batch["input_ids"].numel(), step + 1
    return {"tokens": tokens, "seconds": time.perf_counter() - start}


def repeat_text(source: str, target: Path, megabytes: float) -> None:
    """Repeat a text file up to a size."""
    from diito.corpus.sources import read_file
    from diito.embedded import resolve

    text = "\n".join(read_file(Path(resolve(source)), column="text", field="text")).encode() + b"\n"
    with target.open("wb") as file:
        while file.tell() < megabytes * 1e6:
            file.write(text)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both kinds of work, at each size."""
    results = []
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            repeat_text(options.text, path, megabytes)
            result: dict[str, Any] = {"layout": options.layout, "megabytes": round(path.stat().st_size / 1e6, 1)}
            for work in (tokenise, read):
                done = run_measured(work, str(path), options, str(Path(folder) / "cache"))
                result[work.__name__] = done | {"tokens_per_second": done["tokens"] / done["seconds"]}
            results.append(result)
    return results


def print_measured(results: list[dict[str, Any]]) -> None:
    """A line a size."""
    rows = [
        [
            f"{result['megabytes']} MB, {result['layout']}",
            *(f"{result[work][key]:,.0f}" for work in ("tokenise", "read") for key in ("tokens_per_second", "peak_mb")),
        ]
        for result in results
    ]
    print_columns([["text", "tokenised tokens/s", "peak MB", "loaded and masked tokens/s", "peak MB"], *rows])


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is read, and how."""
    parser.add_argument("--text", default="embedded:wikitext-2/train.txt.gz", help="a text file to repeat")
    parser.add_argument("--tokenizer", default="embedded:teacher-minilm-mlm", help="folder or hub id")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10, 40])
    parser.add_argument("--layout", choices=["blocks", "lines"], default="blocks")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args(arguments)
    report = {"environment": described(), "sizes": measure(options)}
    print_measured(report["sizes"])
    keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
