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
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
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
# The types of CoNLL's chunks:
_CHUNKS = frozenset(["NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"])
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
    chosen: dict[int, tuple[int, int]] = {}
    for split, (hub_name, file_names, called) in _SPLITS.items():
        if data is None:
            places[split] = f"{HUB}, split {hub_name}"
            sentences[split] = _read_hub(hub_name, places[split])
        else:
            path = find_file(
                data, file_names, content=f"the {called} sentences of CoNLL-2003 or the like, a word and its tag a line"
            )
            places[split] = str(path)
            sentences[split] = read_columns(path, chosen)
        if not sentences[split]:
            raise Refusal(f"{places[split]}", "no sentence; a sentence is one line or more, each with a word and its tag")
        notes.append(f"{split}: {scheme([tags for _, tags in sentences[split]])}")
    notes += [
        f"words from column {word + 1} and tags from column {tag + 1} of {width}"
        for width, (word, tag) in chosen.items()
        if (word, tag) != (0, width - 1)
    ]
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


def read_columns(path: Path, chosen: dict[int, tuple[int, int]] | None = None) -> list[Sentence]:
    """The sentences of a column file, with the tags as they are written there.

    A row is a word, a tag and any number of columns that are not read, separated by spaces or tabs, or by tabs alone in a row
    that holds one. Blank lines and ``-DOCSTART-`` lines end a sentence; a line that begins with # and is no row of the file is
    a comment. Which columns are read is seen in the rows (:func:`choose_columns`), or stands in ``chosen`` by the number of
    columns, where another file has been read before. Raises Refusal for a malformed row.
    """
    lines = [(number, line.strip(" \t")) for number, line in enumerate(read_lines(path), start=1)]
    width = _width([row for _, row in lines if row and not row.startswith("-DOCSTART-")])
    rows: list[list[str]] = []
    ends = [0]
    numbers: list[int] = []
    for number, row in lines:
        if not row or row.startswith("-DOCSTART-"):
            ends.append(len(rows))
            continue
        columns, place = _split(row), f"{path}, line {number}"
        if _is_comment(row, columns, width):
            continue
        if len(columns) == 1:
            raise Refusal(place, f"one column ({row!r}); a row is a word and, in the last column, its tag")
        if len(columns) != (width := width or len(columns)):
            first = next(number for number, row in lines if row[:1] not in ("", "#") and len(_split(row)) == width)
            raise Refusal(place, f"{len(columns)} columns, but line {first} has {width}; each row of a file has as many")
        rows.append(columns)
        numbers.append(number)
    ends.append(len(rows))
    if not rows:
        return []
    chosen = {} if chosen is None else chosen
    word, tag = chosen.setdefault(width, choose_columns(rows, ends))
    words = [columns[word] for columns in rows]
    tags = [_checked(columns[tag], f"{path}, line {number}") for columns, number in zip(rows, numbers, strict=True)]
    return [(words[start:end], tags[start:end]) for start, end in itertools.pairwise(ends) if start < end]


def choose_columns(rows: Sequence[Sequence[str]], ends: Sequence[int]) -> tuple[int, int]:
    """The columns of the word and of its tag.

    A first column that counts, from 0 or 1 in every sentence or through all of them, is passed over. The tag is in the last
    column. Where the one before it has entities of the same types, it is that one: in GermEval and the like the last
    holds the entities inside others. Chunks, as in CoNLL-2003, have other types.
    """
    width = len(rows[0])
    word = 1 if width > 2 and _is_running([row[0] for row in rows], ends) else 0
    tag = width - 1
    while tag - 1 > word and _is_outer({row[tag - 1] for row in rows}, {row[tag] for row in rows}):
        tag -= 1
    return word, tag


def _is_outer(before: Collection[str], last: Collection[str]) -> bool:
    """Whether a column of tags holds the entities around those of the last column."""
    if not all(map(_TAG.fullmatch, before)):
        return False
    outer, inner = ({tag[2:] for tag in tags if tag != "O"} for tags in (before, last))
    return bool(outer & inner) or bool(outer and not inner and not outer & _CHUNKS)


def _split(row: str) -> list[str]:
    # Not strip() and split() of everything that Unicode calls white space: a no-break space may be a word.
    return [column.strip(" ") for column in row.split("\t")] if "\t" in row else re.split(" +", row)


def _width(rows: Sequence[str]) -> int:
    """The columns that most rows have; comments are left out as far as they look like some."""
    widths = Counter(len(_split(row)) for row in rows if not row.startswith("#"))
    return widths.most_common(1)[0][0] if widths else 0


def _is_comment(row: str, columns: Sequence[str], width: int) -> bool:
    """Whether a line that begins with # is none of the file's rows, whose word may be that very sign."""
    return row.startswith("#") and not (len(columns) == width and _TAG.fullmatch(columns[-1]))


def _is_running(column: Sequence[str], ends: Sequence[int]) -> bool:
    """Whether the numbers of a column go up by one, from 0 or 1 in each sentence or through all of them."""
    if not all(cell.isdecimal() for cell in column):
        return False
    numbers = [int(cell) for cell in column]
    sentences = [numbers[start:end] for start, end in itertools.pairwise(ends) if start < end]
    if len(numbers) > 1 and _counts(numbers, numbers[0]):
        return True
    return max(map(len, sentences)) > 1 and any(all(_counts(part, first) for part in sentences) for first in (0, 1))


def _counts(numbers: list[int], first: int) -> bool:
    return numbers == list(range(first, first + len(numbers)))


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
    from seqeval.metrics import accuracy_score  # of the extra; what reads column files needs none
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

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
