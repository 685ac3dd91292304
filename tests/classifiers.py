"""Tiny random classifiers of several families with tokenizers of their kinds, labelled data, and recipes on them."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import decoders
import tiny
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from diito.recipe import Recipe
from diito.recipe.file import read

ENCODERS = ("bert", "roberta", "deberta-v2", "modernbert")
DECODERS = ("gpt2", "qwen3")
FAMILIES = (*ENCODERS, *DECODERS)
CLASSES = ("negative", "neutral", "positive")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
VOCABULARY, WIDTH, LONGEST = 64, 16, 64
_SIZES: dict[str, dict[str, Any]] = {
    "bert": {"intermediate_size": 24, "num_attention_heads": 2},
    "roberta": {"intermediate_size": 24, "num_attention_heads": 2, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 2},
    "deberta-v2": {
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
    },
    "modernbert": {
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
    "gpt2": {"n_embd": WIDTH, "n_head": 2, "n_positions": LONGEST},
    "qwen3": {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "layer_types": None},
}


def build(
    family: str = "bert",
    layers: int = 4,
    *,
    labels: tuple[str, ...] = CLASSES,
    head: Any = AutoModelForSequenceClassification,
    seed: int = 0,
    **changes: Any,
) -> PreTrainedModel:
    """A tiny model in eval mode, every weight of it random."""
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "max_position_embeddings": LONGEST, "pad_token_id": 0}
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    config = AutoConfig.for_model(family, **{**sizes, **_SIZES[family], **depth, **names, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = head.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.25 * torch.randn_like(parameter))
    return model.eval()


@functools.cache
def teacher(family: str = "bert", *, labels: tuple[str, ...] = CLASSES, tags: bool = False, problem: str | None = None) -> str:
    """The folder of a classifier, or with ``tags`` of a tagger, with its tokenizer."""
    folder = tiny.FOLDER / f"classifier-{family}-{'-'.join(labels)}-{tags}-{problem}"
    head = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    changes = {} if problem is None else {"problem_type": problem}
    build(family, labels=labels, head=head, seed=1, **changes).save_pretrained(folder)
    if family in DECODERS:
        words = decoders.tokenizer(adds_bos=False)
        words.pad_token = "<s>"
        words.save_pretrained(folder)
    else:
        tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@functools.cache
def table(rows: int = 48, *, seed: int = 0, labels: tuple[Any, ...] = CLASSES, ending: str = ".tsv") -> str:
    """A file with a text, another, and a label in each row; every sixth row of a ``.jsonl`` has no label."""
    draws = random.Random(seed)
    made = [
        {"sentence": _words(draws, 12), "other": _words(draws, 8), "label": labels[draws.randrange(len(labels))]}
        for _ in range(rows)
    ]
    path = tiny.FOLDER / f"table-{rows}-{seed}-{'-'.join(map(str, labels))}{ending}"
    if ending == ".jsonl":
        for row in made[::6]:
            row["label"] = None
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    else:
        lines = ["sentence\tother\tlabel", *("\t".join(map(str, row.values())) for row in made)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@functools.cache
def column_file(sentences: int = 40, *, seed: int = 0) -> str:
    """A column file: a word and its tag a line, in IOB2."""
    draws = random.Random(seed)
    lines = []
    for _ in range(sentences):
        before = "O"
        for word in _words(draws, 10).split():
            inside = [f"I-{before[2:]}"] if before != "O" else []
            before = draws.choice(["O", "O", "B-PER", "B-LOC", *inside])
            lines.append(f"{word} {before}")
        lines.append("")
    path = tiny.FOLDER / f"columns-{sentences}-{seed}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _words(draws: random.Random, longest: int) -> str:
    return " ".join(f"w{draws.randrange(tiny.WORDS)}" for _ in range(draws.randint(3, longest)))


def source(path: str, *, pair: bool = False, label: str | None = "label") -> dict[str, Any]:
    """A source of :func:`table`."""
    return {"path": path, "column": "sentence", **({"pair": "other"} if pair else {}), **({"label": label} if label else {})}


def recipe(
    output: Path, overrides: dict[str, Any] | None = None, *, family: str = "bert", pair: bool = False, label: Any = "label"
) -> Recipe:
    """The tiny recipe for a sequence classifier."""
    given = {
        "output": str(output),
        "task": "sequence-classification",
        "teacher.model": teacher(family),
        "corpus.sources": json.dumps([source(table(), pair=pair, label=label)]),
        "evaluation.sources": json.dumps([source(table(20, seed=1), pair=pair, label=label)]),
        "corpus.length": "24",
        "evaluation.length": "24",
        "evaluation.blocks": "null",
        **(overrides or {}),
    }
    return read(tiny.recipe_file(), given)


def tagging_recipe(output: Path, overrides: dict[str, Any] | None = None, *, family: str = "bert") -> Recipe:
    """The tiny recipe for a tagger."""
    given = {
        "output": str(output),
        "task": "token-classification",
        "teacher.model": teacher(family, labels=TAGS, tags=True),
        "corpus.sources": f"[{column_file()}]",
        "evaluation.sources": f"[{column_file(12, seed=1)}]",
        "corpus.length": "24",
        "evaluation.length": "24",
        "evaluation.blocks": "null",
        **(overrides or {}),
    }
    return read(tiny.recipe_file(), given)
