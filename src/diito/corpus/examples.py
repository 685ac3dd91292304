"""Labelled examples: rows of files and hub datasets with a text or two, or with words, and an answer; each makes one sequence.

1. :func:`read_examples` yields the rows of all sources, without those that hold no text;
2. :func:`choose` draws the few that are wanted, as many of each class;
3. :class:`Examples` holds their tokens in memory, for a set of labelled examples is small beside a corpus of text.

Nothing is split or joined: what is longer than a sequence is cut, and said. Reading again gives the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diito.corpus.dataset import Corpus, Statistics
from diito.corpus.formats import CHECKED_ROWS
from diito.corpus.sources import HubDataset, find_sources
from diito.refusal import Refusal

if TYPE_CHECKING:
    from diito.recipe import SourceSection


@dataclass(frozen=True)
class Row:
    """A row of a source."""

    source: int
    """Which of the sources it is from."""
    place: str
    """Where it stands, in words."""
    text: Any
    """What the column of the text holds."""
    pair: Any
    """What the column of the second text holds; None where there is none."""
    label: Any
    """What the column of the label holds; None where there is none."""


def read_examples(
    sources: Sequence[SourceSection | str], *, field: str, dropped: dict[str, int] | None = None
) -> Iterator[Row]:
    """Yield the rows of the sources in order. Rows without a text are left out and counted in ``dropped``.

    Raises Refusal for a column that is not there, and for a column of labels in which no row has one.
    """
    dropped = {} if dropped is None else dropped
    for index, (found, given) in enumerate(zip(find_sources(sources, field=field), sources, strict=True)):
        column, pair, label = columns_of(given)
        columns = [name for name in (column, pair, label) if name is not None]
        labelled = label is None
        for place, cells in found.cells(columns, optional=() if label is None else (label,)):
            row = dict(zip(columns, cells, strict=True))
            texts = [row[name] for name in (column, pair) if name is not None]
            labelled = labelled or row[label] is not None  # type: ignore[index]
            if not all(text is not None and len(text) and not (isinstance(text, str) and text.isspace()) for text in texts):
                dropped[WITHOUT_TEXT] = dropped.get(WITHOUT_TEXT, 0) + 1
                continue
            yield Row(index, place, row[column], row[pair] if pair else None, row[label] if label else None)
        if not labelled:
            raise Refusal(
                f"{field}[{index}].label",
                f"no row has a column {label!r}; name the one of the labels, or leave it out to train on the teacher's "
                "answers alone",
            )


def check_examples(sources: Sequence[SourceSection | str], *, field: str) -> None:
    """Refuse sources whose first rows could not be read, before anything slow is started; hub datasets are not looked at."""
    for index, (found, given) in enumerate(zip(find_sources(sources, field=field), sources, strict=True)):
        if isinstance(found, HubDataset):
            continue
        column, pair, label = columns_of(given)
        columns = [name for name in (column, pair, label) if name is not None]
        for path in found.paths:
            of_one = type(found)((path,), found.column, f"{field}[{index}]")
            rows = list(itertools.islice(of_one.cells(columns, optional=() if label is None else (label,)), CHECKED_ROWS))
            if not rows:
                raise Refusal(f"{field}[{index}]", f"'{path}' holds no row; give a file that holds some, or leave it out")


def columns_of(source: SourceSection | str) -> tuple[str, str | None, str | None]:
    """The columns of the text, the second text and the label."""
    return ("text", None, None) if isinstance(source, str) else (source.column, source.pair, source.label)


def choose(classes: Sequence[Any], count: int, *, seed: int, field: str) -> list[int]:
    """The indices of ``count`` examples, ascending, a function of the seed: as many of each class as there can be.

    ``classes``: the class of each example, None where it has none; those are drawn only where no example has one. Where a
    class has too few, the others have more. Raises Refusal, naming ``field``, where there are fewer than ``count``.
    """
    by_class: dict[Any, list[int]] = defaultdict(list)
    for index, each in enumerate(classes):
        by_class[each].append(index)
    unlabelled = by_class.pop(None, [])
    groups = [by_class[each] for each in sorted(by_class)] or [unlabelled]
    available = sum(map(len, groups))
    if available < count:
        raise Refusal(field, f"{count:,} of {available:,} examples{' with a label' if by_class else ''}; give at most as many")
    draws = random.Random(f"examples {seed}")
    for group in groups:
        draws.shuffle(group)
    # A row of each class in turn: the first classes have one more where the number does not divide.
    rounds = itertools.zip_longest(*groups)
    chosen = itertools.islice((index for row in rounds for index in row if index is not None), count)
    return sorted(chosen)


WITHOUT_TEXT = "rows without text"


class Examples(Corpus):
    """Tokenised examples in memory, a sequence each; a map-style torch dataset.

    ``columns``: what each row has, by name: ``input_ids``, a list of ids; other lists of that length, such as
    ``token_type_ids`` and the labels of tokens; or one value, such as a class. ``documents``: how many rows there were.
    ``dropped``: what was left out, by reason; ``answers``: the labels in words. ``remarks``: what
    the user should know of the sources.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        documents: int,
        dropped: Mapping[str, int],
        answers: str,
        vocabulary: int,
        remarks: Sequence[str] = (),
    ) -> None:
        self.columns = {name: _Column(values) for name, values in columns.items()}
        ids = self.columns["input_ids"]
        self.lengths = ids.sizes.astype(np.int32)
        self.documents = np.arange(len(ids.sizes), dtype=np.int32)
        self.token_counts = torch.from_numpy(np.bincount(ids.values, minlength=vocabulary))
        self.layout = "examples"
        self.remarks = list(remarks)
        self.statistics = Statistics(
            layout=self.layout,
            documents=documents,
            documents_used=len(ids.sizes),
            sequences=len(ids.sizes),
            tokens=len(ids.values),
            longest=int(self.lengths.max()),
            dropped=dict(dropped),
            answers=answers,
        )

    def __len__(self) -> int:
        return len(self.columns["input_ids"].sizes)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several rows in the order asked for."""
        return [{name: column[index] for name, column in self.columns.items()} for index in indices]

    def digest(self) -> str:
        """A hash of all rows, their labels too."""
        total = hashlib.sha256()
        for name, column in self.columns.items():
            total.update(name.encode() + column.sizes.tobytes() + column.values.tobytes())
        return total.hexdigest()[:32]


class _Column:
    """Values of rows, one or several each, in one array."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.is_list = bool(len(values)) and isinstance(values[0], (list, tuple))
        lists = values if self.is_list else [[value] for value in values]
        joined = list(itertools.chain.from_iterable(lists))
        kind = np.float32 if any(isinstance(value, float) for value in joined) else np.int64
        self.values = np.array(joined, dtype=kind)
        self.sizes: NDArray[np.int64] = np.array([len(each) for each in lists], dtype=np.int64)
        self._ends = np.cumsum(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        end = self._ends[index]
        values = torch.from_numpy(self.values[end - self.sizes[index] : end].copy())
        return values if self.is_list else values[0]
