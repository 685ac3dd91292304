"""A generated folder: rows that a recipe reads, a tokenizer, and the causal model as JSON.

``teacher.jsonl``, ``train.jsonl``, ``validation.jsonl``, ``test.jsonl``, ``held.jsonl``: a row a line, its ``text`` with the
mask at the end, its ``prompt`` (the text before the mask) and its ``answer``; ``counterfactuals.jsonl``: a pair a line, with
base, source, the variable and the answers; ``causal-model.json``: the variables with the spans that can carry them;
``tokenizer/``: a word a token.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diito.files import check_writable, write_json, write_text
from diito.paths import expand
from diito.refusal import Refusal
from diito.structured import make_structure
from diito.structured.settings import GenerateSettings
from diito.structured.splits import Inputs, Splits, make_splits
from diito.structured.structure import ANSWER, MASK, Structure

SPLITS = ("teacher", "train", "validation", "test", "held")
"""The files of rows."""
COUNTERFACTUALS = "counterfactuals.jsonl"
MODEL = "causal-model.json"
TOKENIZER = "tokenizer"
_SPECIALS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": MASK}


def generate(name: str, settings: GenerateSettings) -> Path:
    """Write the folder of a structure, and give its path. Raises Refusal for what cannot be generated."""
    structure = make_structure(name, seed=settings.seed, size=settings.size)
    splits = make_splits(structure, rows=settings.rows)
    folder = expand(settings.output or f"data/{name}-{settings.seed}", field="--output")
    check_writable(folder / MODEL, "--output")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).unlink(missing_ok=True)
    for split in SPLITS:
        write_text(folder / f"{split}.jsonl", _lines(_row(structure, inputs) for inputs in getattr(splits, split)))
    write_text(folder / COUNTERFACTUALS, _lines(_pairs(structure, splits)))
    _write_tokenizer(folder / TOKENIZER, _vocabulary(structure, splits.teacher))
    write_json(folder / MODEL, _model(structure, splits))  # last: the folder is whole where it is there
    return folder


@dataclass(frozen=True)
class Question:
    """A counterfactual pair in words, with the answers."""

    base: str
    source: str
    variable: str
    answer: str
    unchanged: str
    new: bool


@dataclass(frozen=True)
class Generated:
    """A generated folder, read."""

    path: Path
    variables: dict[str, dict[str, list[int] | list[str]]]
    """Each with the spans that can carry it."""

    @classmethod
    def read(cls, path: str | Path, *, field: str) -> Generated:
        """The folder at ``path``. Raises Refusal, naming ``field``, where none was generated."""
        folder = expand(path, field=field)
        try:
            return cls(folder, json.loads((folder / MODEL).read_text(encoding="utf-8"))["variables"])
        except OSError:
            raise Refusal(field, f"{path} is no generated folder (it has no {MODEL}); make one with: diito generate") from None
        except (ValueError, KeyError, TypeError):
            raise Refusal(field, f"{folder / MODEL} is damaged; make it again with: diito generate") from None

    def split(self, name: str, *, field: str) -> Path:
        """The file of a split."""
        if name not in SPLITS:
            raise Refusal(field, f"{name!r} is not one of {', '.join(SPLITS)}")
        return self.path / f"{name}.jsonl"

    def questions(self, variable: str) -> list[Question]:
        """The counterfactual pairs of a variable."""
        lines = (self.path / COUNTERFACTUALS).read_text(encoding="utf-8").splitlines()
        return [Question(**row) for row in map(json.loads, lines) if row["variable"] == variable]

    def digest(self) -> str:
        """A hash of all that is in it but the tokenizer, which is the model's own."""
        total = hashlib.sha256()
        for name in (*(f"{split}.jsonl" for split in SPLITS), COUNTERFACTUALS, MODEL):
            total.update(name.encode() + (self.path / name).read_bytes())
        return total.hexdigest()[:32]


def _row(structure: Structure, inputs: Inputs) -> dict[str, str]:
    answer = structure.answer_word(structure.solve(inputs)[ANSWER])
    return {"text": structure.text(inputs), "prompt": " ".join(structure.words(inputs)), "answer": answer}


def _pairs(structure: Structure, splits: Splits) -> Iterable[dict[str, Any]]:
    for pair in splits.pairs:
        yield {
            "base": structure.text(pair.base),
            "source": structure.text(pair.source),
            "variable": pair.variable,
            "answer": structure.answer_word(pair.answer),
            "unchanged": structure.answer_word(pair.unchanged),
            "new": pair.new,
        }


def _model(structure: Structure, splits: Splits) -> dict[str, Any]:
    return {
        "structure": structure.name,
        "seed": structure.seed,
        "size": structure.size,
        "variables": structure.variables,
        "combination": structure.combination,
        "held": splits.cells,
        "rows": {split: len(getattr(splits, split)) for split in SPLITS},
    }


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _vocabulary(structure: Structure, rows: Sequence[Inputs]) -> list[str]:
    words = {word for inputs in rows for word in structure.words(inputs)}
    return sorted(words | {structure.answer_word(structure.solve(inputs)[ANSWER]) for inputs in rows})


def _write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [*_SPECIALS.values(), *words]
    backend = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    # A prompt, which ends with a mark, and its completion are joined as they are: "=" and "w2" are two tokens in "=w2" too.
    marks = pre_tokenizers.Split(Regex(r"[=+]"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    PreTrainedTokenizerFast(tokenizer_object=backend, **_SPECIALS).save_pretrained(folder)
