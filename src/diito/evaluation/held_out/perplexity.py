"""Perplexity of predicted tokens, masked or next ones: exp of their mean cross-entropy (of masked ones the paper's measure).

1. :func:`token_losses` sums the losses of each example, for each independent draw of the masks;
2. :func:`perplexity_numbers` makes the figures of these sums;
3. :func:`perplexity_difference` compares two models on the same masks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from diito.evaluation.held_out.intervals import bootstrap_interval, by_document
from diito.evaluation.held_out.text import LOGITS, HeldOut, at_slots, rows_of_slots
from diito.method.losses import masked_cross_entropy
from diito.models.layered import Layered
from diito.models.modes import eval_mode
from diito.models.steps import CannotRun, accepted
from diito.progress import bar
from diito.refusal import Refusal


@dataclass(frozen=True)
class TokenLosses:
    """Sums over the predicted tokens of each example."""

    losses: NDArray[np.float64]
    """[draws, examples], in nats."""
    tokens: NDArray[np.int64]
    """[draws, examples]."""
    documents: NDArray[np.int64]
    """[examples]: the document of each."""
    bytes: NDArray[np.int64] | None = None
    """[examples]: of the text that the tokens spell, where the task counts them."""

    def as_json(self) -> dict[str, Any]:
        """The same as lists."""
        counted = {} if self.bytes is None else {"bytes": self.bytes.tolist()}
        return {
            "documents": self.documents.tolist(),
            "tokens": self.tokens.tolist(),
            "losses": np.round(self.losses, 6).tolist(),
            **counted,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TokenLosses:
        """From what :meth:`as_json` made."""
        names = ("losses", "tokens", "documents", *(["bytes"] if "bytes" in content else []))
        return cls(*(np.asarray(content[name]) for name in names))


def perplexity(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``perplexity``, and ``loss`` (nats a token) it is the exponential of, over ``tokens`` predicted tokens."""
    sums = token_losses(model, held_out)
    loss = float(sums.losses.sum() / sums.tokens.sum())
    return {"perplexity": math.exp(loss), "loss": loss, "tokens": int(sums.tokens.sum()), **_of_bytes(sums)}


@torch.no_grad()
def token_losses(model: PreTrainedModel, held_out: HeldOut, *, draws: int = 1) -> TokenLosses:
    """The losses of every example, under ``draws`` independent draws of the masks (those of seed, seed + 1, ...).

    In eval mode; the model's mode is put back afterwards.
    """
    with eval_mode(model):
        return _token_losses(model, held_out.for_models(model), draws)


def _token_losses(model: PreTrainedModel, held_out: HeldOut, draws: int) -> TokenLosses:
    logits_at = _logits_at(model)
    count_bytes = getattr(held_out.batching, "count_bytes", None)
    counted: list[int] = []
    count = len(held_out.examples)
    losses, tokens = np.zeros((draws, count)), np.zeros((draws, count), dtype=np.int64)
    shown = bar(range(draws * count), "perplexity", held_out.layout)
    for draw in range(draws):
        drawn = dataclasses.replace(held_out, seed=held_out.seed + draw)
        done = 0
        for examples in drawn.batches():
            batch = drawn.batch_of(examples, device=model.device)
            slots = batch["slots"]
            labels = batch["labels"][slots >= 0]
            rows = done + rows_of_slots(slots)
            nats = [masked_cross_entropy(logits, labels[part]) for part, logits in logits_at(batch, slots)]
            np.add.at(losses[draw], rows, torch.cat([*nats, labels.new_zeros(0)]).double().cpu().numpy())
            np.add.at(tokens[draw], rows, 1)
            if count_bytes is not None and draw == 0:
                counted += count_bytes(batch["labels"])
            done += len(examples)
            shown.update(len(examples))
    shown.close()
    size = None if count_bytes is None else np.asarray(counted, dtype=np.int64)
    return TokenLosses(losses, tokens, held_out.documents.astype(np.int64), size)


def _logits_at(model: PreTrainedModel) -> Callable[[Mapping[str, Tensor], Tensor], Iterator[tuple[slice, Tensor]]]:
    """From a batch and its slots: logits at the used slots, a part of them at a time.

    The head of a model that can be run layer by layer sees no other token; any other model runs as a whole, to the same logits.
    """
    try:
        layered = Layered(model)
    except CannotRun:
        return lambda batch, slots: iter([(slice(None), at_slots(model(**accepted(model, batch)).logits, slots))])
    top = layered.depth - 1
    chunk = max(1, LOGITS // (4 * model.config.get_text_config().vocab_size))

    def logits(batch: Mapping[str, Tensor], slots: Tensor) -> Iterator[tuple[slice, Tensor]]:
        hidden = at_slots(layered.final(layered.states(batch, [top])[1][top]), slots)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            yield part, layered.head(hidden[part])

    return logits


def perplexity_numbers(sums: TokenLosses) -> dict[str, Any]:
    """The perplexity over all draws, weighted by tokens, its 95 % interval over documents, and its spread over draws."""
    each = np.exp(sums.losses.sum(1) / sums.tokens.sum(1))
    return {
        "perplexity": math.exp(sums.losses.sum() / sums.tokens.sum()),
        "interval": bootstrap_interval(_perplexity, *_of_documents(sums)),
        "draws": each.tolist(),
        "draws_sd": float(each.std(ddof=1)) if len(each) > 1 else None,
        "loss": float(sums.losses.sum() / sums.tokens.sum()),
        "tokens": int(sums.tokens.sum()),
        "examples": int(sums.tokens.shape[1]),
        "documents": len(np.unique(sums.documents)),
        **_of_bytes(sums),
    }


def _of_bytes(sums: TokenLosses) -> dict[str, Any]:
    """``bits_per_byte`` of the text, which compares between tokenizers as the perplexity of a token does not, and ``bytes``."""
    if sums.bytes is None or not sums.bytes.sum():
        return {}
    size = int(sums.bytes.sum()) * len(sums.losses)
    return {"bits_per_byte": float(sums.losses.sum() / math.log(2) / size), "bytes": int(sums.bytes.sum())}


def perplexity_difference(ours: TokenLosses, other: TokenLosses) -> dict[str, Any]:
    """Perplexity of ``ours`` minus that of ``other`` on the same masked tokens, with its paired 95 % interval.

    Raises Refusal where the masked tokens are not the same.
    """
    if not np.array_equal(ours.tokens, other.tokens) or not np.array_equal(ours.documents, other.documents):
        raise Refusal("against", "the two models read the text with other tokens, so their perplexities do not compare")
    (losses, tokens), (others, _) = _of_documents(ours), _of_documents(other)
    return {
        "difference": float(_difference(losses.sum(), others.sum(), tokens.sum())),
        "interval": bootstrap_interval(_difference, losses, others, tokens),
    }


def _of_documents(sums: TokenLosses) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses and tokens of each document, over all draws."""
    return by_document(sums.documents, sums.losses.sum(0)), by_document(sums.documents, sums.tokens.sum(0))


def _perplexity(losses: Any, tokens: Any) -> Any:
    return np.exp(losses / tokens)


def _difference(losses: Any, others: Any, tokens: Any) -> Any:
    return np.exp(losses / tokens) - np.exp(others / tokens)
