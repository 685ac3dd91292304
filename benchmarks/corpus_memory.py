"""Does memory grow with the corpus? Builds corpora of several sizes and reads them through, measuring anonymous memory.

    python benchmarks/corpus_memory.py TEXT TOKENIZER --megabytes 50 200

TEXT (.txt, also .gz or .xz) is repeated to each size. For each size a fresh process tokenises it and another
reads every row in the order of the sampler; the peak of RssAnon, the process and its workers together, is printed as
JSON. RssAnon and not RSS: pages of a memory-mapped file count in RSS, and the system takes them back whenever it likes.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    """Run ``work`` in a fresh process: its result, its seconds, and its memory in MB at the start and at the peak."""
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
    began = time.perf_counter()
    result = work(*arguments)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    sender.send(result | {"seconds": round(seconds, 1), "start_mb": round(start / 1e6, 1), "peak_mb": round(peak / 1e6, 1)})


def _load(path: str, options: argparse.Namespace, cache: str) -> Any:
    from transformers import AutoTokenizer

    from diito.corpus import load_corpus
    from diito.recipe import CorpusSection

    section = CorpusSection(sources=[path], layout=options.layout, length=options.length, workers=options.workers, cache=cache)
    return load_corpus(section, tokenizer=AutoTokenizer.from_pretrained(options.tokenizer), seed=0)


def tokenise(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    statistics = _load(path, options, cache).statistics
    return {"sequences": statistics.sequences, "tokens": statistics.tokens}


def read(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    from diito.corpus import collate
    from diito.corpus.sampler import ShuffledSampler

    corpus = _load(path, options, cache)
    order = iter(ShuffledSampler(len(corpus), seed=0, batch=options.batch, lengths=corpus.lengths))
    tokens = 0
    while indices := [index for _, index in zip(range(options.batch), order, strict=False)]:
        tokens += collate(corpus.__getitems__(indices), pad_token_id=0)["input_ids"].numel()
    return {"tokens_read": tokens}


def write_text(source: str, target: Path, megabytes: float) -> None:
    from diito.corpus.sources import read_file

    text = "\n".join(read_file(Path(source), column="text", field="text")).encode() + b"\n"
    with target.open("wb") as file:
        while file.tell() < megabytes * 1e6:
            file.write(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="a text file to repeat")
    parser.add_argument("tokenizer", help="folder or hub id of a tokenizer")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[50, 200])
    parser.add_argument("--layout", choices=["blocks", "lines"], default="blocks")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    results = []
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            write_text(options.text, path, megabytes)
            result: dict[str, Any] = {"layout": options.layout, "megabytes": round(path.stat().st_size / 1e6, 1)}
            for work in (tokenise, read):
                result[work.__name__] = run_measured(work, str(path), options, str(Path(folder) / "cache"))
            results.append(result)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
