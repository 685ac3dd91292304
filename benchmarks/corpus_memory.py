"""Memory against the shape of a corpus: the same text as many lines, as one line, as one row or cell; many short rows.

Its documents are read; it is tokenised, read in the order of training, and as held-out text, masked as it is for perplexity.

    python -m benchmarks.corpus_memory --megabytes 100 --rows 10000000
    python -m benchmarks.corpus_memory --megabytes 100 --works documents    seconds, where tokenising takes minutes

Words of a fixed list stand in for text. Each shape is tokenised by a fresh process and read by another, as in
``benchmarks.corpus``; memory is the peak of RssAnon. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.corpus import add_options, load, read, run_measured, tokenise
from benchmarks.machine import described, keep, print_columns

_WORDS = [
    "the",
    "of",
    "and",
    "in",
    "to",
    "was",
    "he",
    "on",
    "as",
    "for",
    "by",
    "with",
    "that",
    "is",
    "at",
    "his",
    "from",
    "it",
    "an",
    "were",
]
_LINE = 20  # words
_SHORT = 10  # words of a short row, the fewest that the layout of lines keeps


def _texts(megabytes: float) -> Iterator[str]:
    draws = random.Random(0)
    blocks = [" ".join(draws.choices(_WORDS, k=_LINE)) for _ in range(1_000)]
    size = 0
    for block in itertools.cycle(blocks):
        yield block
        size += len(block) + 1
        if size > megabytes * 1e6:
            return


def _lines(path: Path, megabytes: float) -> Path:
    with (path / "lines.txt").open("w") as file:
        file.writelines(f"{text}\n" for text in _texts(megabytes))
    return path / "lines.txt"


def _one_line(path: Path, megabytes: float) -> Path:
    with (path / "line.txt").open("w") as file:
        file.writelines(f"{text} " for text in _texts(megabytes))
    return path / "line.txt"


def _json_row(path: Path, megabytes: float) -> Path:
    (path / "row.jsonl").write_text(json.dumps({"text": " ".join(_texts(megabytes))}) + "\n")
    return path / "row.jsonl"


def _table_row(path: Path, megabytes: float) -> Path:
    with (path / "row.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], [1, " ".join(_texts(megabytes))]])
    return path / "row.csv"


def _parquet_cell(path: Path, megabytes: float) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": [" ".join(_texts(megabytes))]}), path / "cell.parquet")
    return path / "cell.parquet"


SHAPES: dict[str, Callable[[Path, float], Path]] = {
    "lines of 20 words": _lines,
    "one line": _one_line,
    "one row of .jsonl": _json_row,
    "one row of .csv": _table_row,
    "one cell of .parquet": _parquet_cell,
}


def _short_rows(path: Path, rows: int) -> Path:
    draws = random.Random(0)
    block = "".join(f"{' '.join(draws.choices(_WORDS, k=_SHORT))}\n" for _ in range(1_000))
    with (path / "short.txt").open("w") as file:
        for _ in range(rows // 1_000):
            file.write(block)
    return path / "short.txt"


def documents(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """The documents one by one, as the early check and then tokenising reads them."""
    from diito.corpus import check_sources
    from diito.corpus.sources import find_sources

    check_sources([path], field="text")
    lengths = [len(document) for source in find_sources([path], field="text") for document in source.documents()]
    return {"characters": sum(lengths), "pieces": len(lengths)}


def held_out(path: str, options: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Every row once as held-out text, masked, in batches, as perplexity is measured; without a model."""
    import torch

    from diito.evaluation.held_out.text import HeldOut
    from diito.tasks.masked_lm import MaskedLM

    tokenizer, corpus = load(path, options, cache)
    batching = MaskedLM().held_out_batching(tokenizer=tokenizer, vocab_size=len(tokenizer))
    text = HeldOut(corpus, batching, seed=0, batch=options.batch)
    tokens = sum(text.batch_of(rows, device=torch.device("cpu"))["input_ids"].numel() for rows in text.batches())
    return {"tokens": tokens, "documents": len(text.documents)}


WORKS = {work.__name__: work for work in (documents, tokenise, read, held_out)}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every shape, then the short rows in the layout that keeps a row a document."""
    results = []
    for name, write in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), options.megabytes[0])
            results.append(_measure(f"{name}, {options.megabytes[0]:g} MB", path, options, Path(folder)))
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            options.layout = "lines"
            results.append(_measure(f"{rows:,} short rows", _short_rows(Path(folder), rows), options, Path(folder)))
    return results


def _measure(name: str, path: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    done = {work: run_measured(WORKS[work], str(path), options, str(folder / "cache")) for work in options.works}
    print(name, json.dumps(done), flush=True)
    return {"shape": name, **done}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON; returns what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--rows", type=int, nargs="*", default=[])
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    options = parser.parse_args(arguments)
    report = {"environment": described(), "shapes": measure(options)}
    rows = [[each["shape"], *(f"{each[work]['peak_mb']:,.0f}" for work in options.works)] for each in report["shapes"]]
    print_columns([["text", *(f"{work}, peak MB" for work in options.works)], *rows])
    keep(report, options.output)
    return report


if __name__ == "__main__":
    main()
