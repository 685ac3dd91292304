"""SQuAD v1.1: the answer to a question is a span of its context. Reported: exact match and F1, over the gold answers' best.

1. :func:`squad_task` reads the questions from the hub or from SQuAD's own JSON, and refuses what does not hold together;
2. :func:`encode` cuts each context into overlapping windows beside its question: one feature a window;
3. a model gives every token of a window one logit as the start and one as the end of the answer;
4. :func:`score` decodes the best span of each question over its windows, as characters of the context, and measures it
   with torchmetrics.

Windows compete by the sum of their two logits alone. The rule of BERT's own script, by which a token may start an answer
only in the window that shows most around it, is left out: that window may cut off the answer's end, which makes the answer
unreachable, and only some two dev questions in a hundred have a second window at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.text import SQuAD
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedTokenizerBase

from diito.refusal import Refusal
from diito.suites.data import find_file, hub_split, read_lines
from diito.suites.suite import Metrics, Scores, Task

HUB = "rajpurkar/squad"
FILES = {"train": "train-v1.1.json", "dev": "dev-v1.1.json"}
STRIDE = 128
"""Tokens that neighbouring windows share. (BERT's own script calls 128 the step from one window to the next.)"""
QUESTION = 64
"""Most tokens of a question, as in BERT's own script. What is beyond is cut off, so that one strange question neither ends a
run nor leaves its context no room; SQuAD's longest has 61 of BERT's tokens."""
BEST = 20
"""Starts, and ends, of a window that are paired with one another."""
ANSWER = 30
"""Most tokens of an answer."""
_WINDOWS = 2_000  # decoded at a time
_FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("id", "question", "context")}
    | {"texts": datasets.List(datasets.Value("string")), "starts": datasets.List(datasets.Value("int64"))}
)

Question = tuple[str, str, str, list[str], list[int]]  # a row: id, question, context, texts, starts


def squad_task(data: str | None) -> Task:
    """SQuAD v1.1 from a folder with ``train-v1.1.json`` and ``dev-v1.1.json`` (also .gz, .xz), or with None from the hub.

    Rows: ``id``, ``question``, ``context``, ``texts`` (the gold answers) and ``starts`` (the character at which each begins).
    Raises ValueError, naming file and question, for data of another layout and for an answer that does not stand in its
    context where it says.
    """
    if data is None:
        splits = {"train": _from_hub("train"), "dev": _from_hub("validation")}
    else:
        content = "SQuAD v1.1 in its own JSON, from https://rajpurkar.github.io/SQuAD-explorer"
        paths = {split: find_file(data, [name], content=content) for split, name in FILES.items()}
        splits = {split: _dataset(str(path), _from_json(path)) for split, path in paths.items()}
    return Task(
        name="squad",
        head=AutoModelForQuestionAnswering,
        labels=None,
        splits=splits,
        encode=encode,
        collator=DataCollatorWithPadding,
        score=score,
        baseline=baseline,
        headline="em",
        learning_rate=3e-5,
        batch=48,
        epochs=2,
        length=384,
        logits=span_logits,
    )


def encode(
    rows: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase, length: int, *, stride: int = STRIDE
) -> dict[str, list[Any]]:
    """The windows of each row: question and context, at most ``length`` tokens, successive ones sharing ``stride`` tokens.

    Beside the model's inputs: ``start_positions`` and ``end_positions`` (first and last token of the first gold answer; the
    [CLS] token in a window that does not hold all of it), ``example`` (the row's id) and ``offsets`` (Int[tokens, 2]: where
    in the context's characters a token starts and ends; -1 for tokens outside the context). Where ``length`` is small, at
    most half of it goes to the question and the stride is at most half of what that leaves. Raises ValueError for a
    ``length`` with no room, and for a tokenizer that is not fast or has no [CLS].
    """
    if not tokenizer.is_fast or tokenizer.cls_token_id is None:
        raise Refusal("squad", "the model's tokenizer must be a fast one (a tokenizer.json) that has a [CLS] token")
    room = length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 2:
        raise Refusal("length", f"question and context need at least {length - room + 2} tokens, not {length}")
    most = min(QUESTION, room // 2)
    windows = tokenizer(
        _cut(rows["question"], tokenizer, most),
        rows["context"],
        truncation="only_second",
        max_length=length,
        stride=min(stride, (room - most) // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = windows.pop("overflow_to_sample_mapping")
    offsets = [np.array(pairs, dtype=np.int32) for pairs in windows.pop("offset_mapping")]
    for window, pairs in enumerate(offsets):
        pairs[[sequence != 1 for sequence in windows.sequence_ids(window)]] = -1
    classes = [ids.index(tokenizer.cls_token_id) for ids in windows["input_ids"]]
    spans = _answer_positions(rows, owners, offsets, classes)
    return {
        **windows,
        "start_positions": [start for start, _ in spans],
        "end_positions": [end for _, end in spans],
        "example": [rows["id"][owner] for owner in owners],
        "offsets": offsets,
    }


def span_logits(output: Any) -> Float[Tensor, "batch tokens 2"]:
    """The logits of start and end of a question-answering model's output, side by side."""
    return torch.stack([output.start_logits, output.end_logits], dim=-1)


def score(rows: datasets.Dataset, features: datasets.Dataset, logits: Sequence[NDArray[np.float32]]) -> Scores:
    """``em`` and ``f1`` (0 to 100) of the decoded answers; the predictions are SQuAD's own: the answer's text by question id.

    ``logits``: Float[tokens, 2] for each feature. A question without any possible span gets an empty answer. Raises
    FloatingPointError where a logit is not a finite number.
    """
    contexts = dict(zip(rows["id"], rows["context"], strict=True))
    spans: dict[str, tuple[float, int, int]] = {}
    windows = features.select_columns(["example", "offsets"]).with_format("arrow")
    for first in range(0, len(features), _WINDOWS):
        table = windows[first : first + _WINDOWS]
        tokens = table["offsets"].combine_chunks()
        lengths = tokens.value_lengths().to_numpy()
        offsets = tokens.flatten().flatten().to_numpy().reshape(-1, 2)
        best = _best_spans(lengths, offsets, np.concatenate(logits[first : first + _WINDOWS]))
        for example, span in zip(table["example"].to_pylist(), best, strict=True):
            # Ties go to the earlier window.
            if span is not None and (example not in spans or span[0] > spans[example][0]):
                spans[example] = span
    predictions = {example: "" for example in contexts}
    for example, (_, start, end) in spans.items():
        predictions[example] = contexts[example][start:end]
    return Scores(_metrics(rows, predictions), predictions)


def baseline(train: datasets.Dataset, rows: datasets.Dataset) -> Metrics:
    """What the first three words of each context reach: the training rows tell of no constant answer that is better."""
    answers = [" ".join(context.split()[:3]) for context in rows["context"]]
    return _metrics(rows, dict(zip(rows["id"], answers, strict=True)))


def _cut(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """Questions without leading blanks (there are thousands) and without what is beyond their first ``most`` tokens."""
    stripped = [question.lstrip() for question in questions]
    ends = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [text if len(pairs) <= most else text[: pairs[most - 1][1]] for text, pairs in zip(stripped, ends, strict=True)]


def _answer_positions(
    rows: Mapping[str, list[Any]], owners: list[int], offsets: list[NDArray[np.int32]], classes: list[int]
) -> list[tuple[int, int]]:
    """First and last token of the first gold answer in each window; its [CLS] where it does not hold them both."""
    windows_of: dict[int, list[int]] = {}
    for window, owner in enumerate(owners):
        windows_of.setdefault(owner, []).append(window)
    positions = [(place, place) for place in classes]
    for owner, windows in windows_of.items():
        start = rows["starts"][owner][0]
        end = start + len(rows["texts"][owner][0])
        # Over all windows, since the tokenizer may drop characters at the answer's ends: the tokens that overlap it.
        tokens = np.concatenate([offsets[window] for window in windows])
        tokens = tokens[(tokens[:, 1] > start) & (tokens[:, 0] < end)]
        if not len(tokens):
            continue
        for window in windows:
            firsts = np.flatnonzero(offsets[window][:, 0] == tokens[:, 0].min())
            lasts = np.flatnonzero(offsets[window][:, 1] == tokens[:, 1].max())
            if len(firsts) and len(lasts):
                positions[window] = (int(firsts[0]), int(lasts[-1]))
    return positions


def _best_spans(
    lengths: NDArray[Any], offsets: NDArray[Any], logits: NDArray[np.float32]
) -> list[tuple[float, int, int] | None]:
    """The best span of each window: the sum of its logits, its first character and the one after its last.

    ``lengths``: tokens of each window; ``offsets`` and ``logits``: [all tokens, 2]. None where a window has no span.
    """
    inside = offsets[:, 0] >= 0
    assert len(logits) == len(offsets), "one pair of logits for each token"
    if not np.isfinite(logits[inside]).all():
        raise FloatingPointError("squad: the model's logits are not all finite numbers; its fine-tuning diverged")
    real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full((*real.shape, 2), -np.inf)
    padded[real] = np.where(inside[:, None], logits, -np.inf)
    # Sorted, not partitioned: among equals the earlier token wins, whatever is beside it.
    order = np.argsort(-padded, axis=1, kind="stable")[:, :BEST]
    top = np.take_along_axis(padded, order, axis=1)
    tokens = order[:, None, :, 1] - order[:, :, None, 0] + 1
    sums = np.where((tokens >= 1) & (tokens <= ANSWER), top[:, :, None, 0] + top[:, None, :, 1], -np.inf)
    sums = sums.reshape(len(lengths), -1)
    start, end = np.divmod(sums.argmax(1), order.shape[1])
    windows, before = np.arange(len(lengths)), np.cumsum(lengths) - lengths
    starts = offsets[before + order[windows, start, 0], 0].tolist()
    ends = offsets[before + order[windows, end, 1], 1].tolist()
    chosen = zip(sums.max(1).tolist(), starts, ends, strict=True)
    return [None if span[0] == -np.inf else span for span in chosen]


def _metrics(rows: datasets.Dataset, predictions: dict[str, str]) -> Metrics:
    metric = SQuAD()
    # float64 and one question an update: torchmetrics sums an update, and by default everything, in float32.
    metric.set_dtype(torch.float64)
    for example, texts in zip(rows["id"], rows["texts"], strict=True):
        prediction = {"id": example, "prediction_text": predictions[example]}
        metric.update([prediction], [{"id": example, "answers": {"text": texts}}])
    result = metric.compute()
    return {"em": float(result["exact_match"]), "f1": float(result["f1"])}


def _from_hub(split: str) -> datasets.Dataset:
    place = f"{HUB}, split {split}"

    def questions() -> Iterator[Question]:
        for row in hub_split(HUB, split):
            answers = _value(row, "answers", dict, place)
            columns = [_value(answers, key, list, place) for key in ("text", "answer_start")]
            pairs = [{"text": text, "answer_start": start} for text, start in zip(*columns, strict=True)]
            yield _question({**row, "answers": pairs}, row, place)

    return _dataset(place, questions())


def _from_json(path: Path) -> Iterator[Question]:
    place = str(path)
    try:
        content = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise Refusal(place, f"not JSON ({error}); give SQuAD v1.1's own file") from error
    for article in _value(content, "data", list, place):
        for paragraph in _value(article, "paragraphs", list, place):
            for question in _value(paragraph, "qas", list, place):
                yield _question(question, paragraph, place)


def _question(holder: Any, paragraph: Any, place: str) -> Question:
    """A row. Raises ValueError for an answer that does not stand in its context."""
    example = _value(holder, "id", str, place)
    place = f"{place}, question {example}"
    question, context = _value(holder, "question", str, place), _value(paragraph, "context", str, place)
    answers = _value(holder, "answers", list, place)
    if not answers:
        raise Refusal(place, "no answer is given; every question of SQuAD v1.1 has one (some of v2.0 have none)")
    texts = [_value(answer, "text", str, place) for answer in answers]
    starts = [_value(answer, "answer_start", int, place) for answer in answers]
    for text, start in zip(texts, starts, strict=True):
        if not text.strip() or start < 0 or not context.startswith(text, start):
            raise Refusal(place, f"the answer {text!r} does not stand in the context at its answer_start, {start}")
    return example, question, context, texts, starts


def _value(holder: Any, key: str, kind: type, place: str) -> Any:
    """``holder[key]``. Raises ValueError where there is none, or one of another kind."""
    if not isinstance(holder, dict) or not isinstance(holder.get(key), kind):
        name = {str: "a text", int: "a whole number", list: "a list", dict: "a table"}[kind]
        raise Refusal(place, f"{key!r} is missing or not {name}, as it is in SQuAD v1.1")
    return holder[key]


def _dataset(place: str, questions: Iterable[Question]) -> datasets.Dataset:
    """Rows of questions. Raises ValueError for none and for an id that comes twice; ``place`` says where they are from."""
    rows: dict[str, Question] = {}
    for question in questions:
        if question[0] in rows:
            raise Refusal(place, f"the question id {question[0]} comes twice; each must have its own, as in SQuAD v1.1")
        rows[question[0]] = question
    if not rows:
        raise Refusal(place, "holds no question; give the whole of SQuAD v1.1")
    columns = zip(*rows.values(), strict=True)
    return datasets.Dataset.from_dict(dict(zip(_FEATURES, map(list, columns), strict=True)), features=_FEATURES)
