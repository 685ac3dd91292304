"""Named-entity recognition: CoNLL-2003, or column files like it.

1. sentences come from the hub (``lhoestq/conll2003``), or from a folder with a training and a development file of columns;
2. IOB1 or IOB2 is recognised per split (:func:`scheme`) and brought to IOB2 (:func:`to_iob2`);
3. :func:`encode` puts the tag of a word on its first word piece; all other pieces and the specials are not trained on;
4. the model's answer on the first piece is the tag of the word, and O where a word has none (cut off, or dropped by the
   tokenizer); seqeval's default mode, which counts as conlleval does, makes the scores.

The paper's released code scores with seqeval as well, in the same mode and on first pieces, but leaves out the words that
have none: the numbers are the same where no sentence is cut.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from seqeval.metrics import accuracy_score
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedTokenizerBase

from diito.refusal import Refusal
from diito.suites.data import find_file, hub_split, read_lines
from diito.suites.suite import Metrics, Scores, Task

HUB = "lhoestq/conll2003"
Sentence = tuple[list[str], list[str]]
"""The words and their tags."""

_SPLITS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "train": ("train", ("train.txt", "eng.train", "train.conll"), "training"),
    "dev": ("validation", ("valid.txt", "dev.txt", "eng.testa", "testa.txt", "dev.conll"), "development"),
}
"""Name of the split on the hub, names of its file, and what it is called in a refusal."""
_HUB_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
_TAG = re.compile(r"O|[BI]-\S+")
_NOT_TRAINED = -100  # the label that torch's cross-entropy skips


def ner_task(data: str | None) -> Task:
    """Named-entity recognition as a task.

    ``data``: a folder with column files; None loads CoNLL-2003 from the hub. Raises ValueError, naming file and line (or the
    hub's split and row), for a malformed row, a split without a sentence, a training split without an entity, and an entity
    type in the development split that the training split does not have.
    """
    sentences: dict[str, list[Sentence]] = {}
    places: dict[str, str] = {}
    notes: list[str] = []
    for split, (hub_name, file_names, called) in _SPLITS.items():
        if data is None:
            places[split] = f"{HUB}, split {hub_name}"
            sentences[split] = _read_hub(hub_name, places[split])
        else:
            path = find_file(
                data, file_names, content=f"the {called} sentences of CoNLL-2003 or the like, a word and its tag a line"
            )
            places[split] = str(path)
            sentences[split] = read_columns(path)
        if not sentences[split]:
            raise Refusal(f"{places[split]}", "no sentence; a sentence is one line or more, each with a word and its tag")
        notes.append(f"{split}: {scheme([tags for _, tags in sentences[split]])}")
    types = sorted({tag[2:] for _, tags in sentences["train"] for tag in tags if tag != "O"})
    if not types:
        raise Refusal(f"{places['train']}", "no entity; training needs tags such as B-PER and I-PER")
    labels = ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))
    for tag in itertools.chain.from_iterable(tags for _, tags in sentences["dev"]):
        if tag not in labels:
            raise Refusal(f"{places['dev']}", f"tag {tag}, but {places['train']} has entities of type {', '.join(types)} only")
    return Task(
        name="ner",
        head=AutoModelForTokenClassification,
        labels=labels,
        splits={split: _dataset(rows, labels) for split, rows in sentences.items()},
        encode=encode,
        collator=DataCollatorForTokenClassification,
        score=functools.partial(_score, labels),
        baseline=functools.partial(_baseline, labels),
        headline="f1",
        learning_rate=5e-5,
        batch=32,
        epochs=3,
        length=512,
        notes=tuple(notes),
    )


def read_columns(path: Path) -> list[Sentence]:
    """The sentences of a column file, with the tags as they are written there.

    A row is a word, any number of columns that are not read, and a tag; columns are separated by spaces or tabs, or by tabs
    alone in a row that holds one. Blank lines and ``-DOCSTART-`` lines end a sentence. Raises ValueError for a malformed row.
    """
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    first = width = 0
    for number, line in enumerate(itertools.chain(read_lines(path), [""]), start=1):
        # Not strip() and split() of everything that Unicode calls white space: a no-break space may be a word.
        row = line.strip(" \t")
        if not row or row.startswith("-DOCSTART-"):
            if words:
                sentences.append((words, tags))
                words, tags = [], []
            continue
        place = f"{path}, line {number}"
        columns = [column.strip(" ") for column in row.split("\t")] if "\t" in row else re.split(" +", row)
        if len(columns) == 1:
            raise Refusal(place, f"one column ({row!r}); a row is a word and, in the last column, its tag")
        if not width:
            first, width = number, len(columns)
        if len(columns) != width:
            raise Refusal(place, f"{len(columns)} columns, but line {first} has {width}; each row of a file has as many")
        words.append(columns[0])
        tags.append(_checked(columns[-1], place))
    return sentences


def _read_hub(split: str, place: str) -> list[Sentence]:
    """The sentences of one split of the hub's dataset, with the tags as they are there."""
    table = hub_split(HUB, split)
    if missing := [name for name in ("tokens", "ner_tags") if name not in table.column_names]:
        raise Refusal(place, f"no column {missing[0]}, only {', '.join(table.column_names)}; give a local folder with --data")
    item = getattr(table.features["ner_tags"], "feature", None)
    names = item.names if isinstance(item, datasets.ClassLabel) else _HUB_TAGS
    sentences: list[Sentence] = []
    for number, (words, numbers) in enumerate(zip(table["tokens"][:], table["ner_tags"][:], strict=True), start=1):
        if len(words) != len(numbers):
            raise Refusal(f"{place}, row {number}", f"{len(words)} tokens and {len(numbers)} ner_tags; each token needs one")
        if not all(0 <= tag < len(names) for tag in numbers):
            raise Refusal(f"{place}, row {number}", f"ner_tags {numbers} are not all from 0 to {len(names) - 1}")
        if words:  # some copies hold a row without any
            sentences.append((words, [_checked(names[tag], f"{place}, row {number}") for tag in numbers]))
    return sentences


def _checked(tag: str, place: str) -> str:
    if not _TAG.fullmatch(tag):
        raise Refusal(place, f"{tag!r} is not a tag; it should be O, B-TYPE or I-TYPE")
    return tag


def scheme(sentences: Sequence[Sequence[str]]) -> str:
    """How the tags of the sentences are written: IOB1, IOB2, or mixed, which is neither.

    In IOB2 every entity begins with B-; in IOB1 only one that directly follows another of its type does. Tags to which both
    apply are called IOB2.
    """
    pairs = [pair for tags in sentences for pair in itertools.pairwise(("O", *tags))]
    not_iob2 = any(tag[0] == "I" and tag[2:] != before[2:] for before, tag in pairs)
    not_iob1 = any(tag[0] == "B" and tag[2:] != before[2:] for before, tag in pairs)
    return "IOB2" if not not_iob2 else "mixed" if not_iob1 else "IOB1"


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The tags of one sentence in IOB2: an I- that does not continue an entity of its type begins one."""
    return [
        f"B-{tag[2:]}" if tag[0] == "I" and tag[2:] != before[2:] else tag for before, tag in itertools.pairwise(("O", *tags))
    ]


def _dataset(sentences: Sequence[Sentence], labels: Sequence[str]) -> datasets.Dataset:
    number = {label: index for index, label in enumerate(labels)}
    return datasets.Dataset.from_dict(
        {
            "words": [words for words, _ in sentences],
            "tags": [[number[tag] for tag in to_iob2(tags)] for _, tags in sentences],
        }
    )


def encode(rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, list[Any]]:
    """Sentences to features, one each, cut at ``length`` tokens.

    ``labels``: the tag of a word on its first piece, -100 on other pieces and specials. ``first_tokens``: for each word the
    index of its first piece, -1 where it has none. Raises ValueError for a tokenizer that cannot say which word a piece is of.
    """
    if not tokenizer.is_fast:
        raise Refusal(
            f"{tokenizer.name_or_path}",
            f"{type(tokenizer).__name__} does not say which word a piece belongs to; "
            "ner needs a model with a fast tokenizer (tokenizer.json)",
        )
    words = rows["words"]
    if _keeps_spaces(tokenizer):
        words = [[f" {word}" for word in sentence] for sentence in words]
    features = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length, return_attention_mask=True)
    labels: list[list[int]] = []
    first_tokens: list[list[int]] = []
    for index, tags in enumerate(rows["tags"]):
        label = [_NOT_TRAINED] * len(features["input_ids"][index])
        first = [-1] * len(tags)
        for token, word in enumerate(features.word_ids(index)):
            if word is not None and first[word] < 0:
                first[word] = token
                label[token] = tags[word]
        labels.append(label)
        first_tokens.append(first)
    return {**features, "labels": labels, "first_tokens": first_tokens}


def _keeps_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a space is part of the word it stands before, as in byte-level BPE (RoBERTa, GPT-2, ModernBERT).

    Such a tokenizer takes words without a space for pieces of one long word, and says nothing (transformers 5.23), unless it
    was made with ``add_prefix_space=True``, to which a space before each word is equal.
    """
    rule = tokenizer.backend_tokenizer.pre_tokenizer
    return rule is not None and [piece for piece, _ in rule.pre_tokenize_str(" a")] == ["Ġa"]


def _score(
    labels: tuple[str, ...], rows: datasets.Dataset, features: datasets.Dataset, logits: Sequence[NDArray[np.float32]]
) -> Scores:
    """``logits``: one Float[tokens, labels] a sentence."""
    predictions = []
    for first_tokens, values in zip(features["first_tokens"][:], logits, strict=True):
        best = values.argmax(-1)
        predictions.append([labels[best[token]] if token >= 0 else "O" for token in first_tokens])
    return Scores(metrics=_measure(_tags(labels, rows), predictions), predictions=predictions)


def _baseline(labels: tuple[str, ...], train: datasets.Dataset, rows: datasets.Dataset) -> Metrics:
    """The metrics of the answer O for each word."""
    true = _tags(labels, rows)
    return _measure(true, [["O"] * len(tags) for tags in true])


def _tags(labels: tuple[str, ...], rows: datasets.Dataset) -> list[list[str]]:
    return [[labels[tag] for tag in tags] for tags in rows["tags"][:]]


def _measure(true: list[list[str]], predicted: list[list[str]]) -> Metrics:
    """Accuracy over words; precision, recall and F1 over entities, an entity being right when its words and its type are.

    ``f1_macro`` is the mean over the types that are there or are predicted, and None where there is no such type.
    """
    # zero_division: no predicted entity is a precision of 0, as conlleval has it, and not a warning.
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, average="micro", zero_division=0)
    by_type = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)[2]
    return {
        "accuracy": 100 * float(accuracy_score(true, predicted)),
        "f1": 100 * float(f1),
        "f1_macro": 100 * float(np.mean(by_type)) if len(by_type) else None,
        "precision": 100 * float(precision),
        "recall": 100 * float(recall),
    }
