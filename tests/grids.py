"""Tiny grids for the tests of experiments: a tiny teacher, a tiny corpus, GLUE's RTE and STS-B with made-up sentences."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import tiny


def glue_folder(folder: Path) -> Path:
    """RTE and STS-B in GLUE's layout, 24 training and 8 development rows each, in the words that the tokenizer knows."""
    draws = random.Random(0)

    def sentence() -> str:
        return " ".join(f"w{draws.randrange(tiny.WORDS)}" for _ in range(draws.randint(2, 6)))

    for task in ("RTE", "STS-B"):
        (folder / task).mkdir(parents=True)
    for split, rows in (("train", 24), ("dev", 8)):
        lines = [f"{row}\t{sentence()}\t{sentence()}\t{draws.choice(['entailment', 'not_entailment'])}" for row in range(rows)]
        (folder / "RTE" / f"{split}.tsv").write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n")
        lines = [f"{row}\tg\tf\ty\t0\tn\tn\t{sentence()}\t{sentence()}\t{draws.uniform(0, 5):.3f}" for row in range(rows)]
        header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
        with gzip.open(folder / "STS-B" / f"{split}.tsv.gz", "wt") as stream:
            stream.write("\n".join([header, *lines]) + "\n")
    return folder


def write(folder: Path, *, conditions: str, text: str = "") -> Path:
    """The file of a grid on the tiny recipe: perplexity, interchange and two tasks unless ``text`` says otherwise."""
    path = folder / "grid.yaml"
    if "evaluations:" not in text:
        text += f"""
evaluations:
  parts: [perplexity, interchange, glue]
  perplexity: {{sources: [{tiny.corpus(20)}], length: 16, draws: 1, workers: 1, cache: {tiny.FOLDER / "cache"}}}
  interchange: {{sources: [{tiny.corpus(20)}], length: 16, blocks: 6, workers: 1, cache: {tiny.FOLDER / "cache"}}}
  glue: {{data: {glue_folder(folder / "glue")}, tasks: [rte, stsb], epochs: 1, batch: 8, length: 16}}
"""
    if "seeds:" not in text:
        text += "\nseeds: [1]\nfine_tuning_seeds: [7]"
    content = f"name: g\nrecipe: {tiny.recipe_file()}\nconditions: {conditions}\noutput: {folder / 'out'}\n{text}\n"
    path.write_text(content, encoding="utf-8")
    return path
