"""Slots, the positions that are predicted, and the labels at them, from whatever form of batch is given.

A task's batches have both; a collator of transformers gives a label a token or a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from diito.method.positions import IGNORED
from diito.models.answers import Answers, predicts_next
from diito.models.layered import Inputs, Layered
from diito.models.padding import real_positions
from diito.refusal import Refusal


def with_slots(layered: Layered, batch: Inputs) -> Inputs:
    """A batch of a sequence classifier with one slot a row, the token that the head reads, and the row's label at it.

    Its ``labels`` may be those of transformers, [batch] or [batch classes], or those at the slots. Those of a decoder too:
    transformers gives each token as its own label, to be predicted from the tokens before it.
    """
    if "slots" in batch:
        return batch
    if layered.per_token:
        return _with_next_tokens(batch) if predicts_next(layered.model) and _are_own(batch) else batch
    labels = batch["labels"]
    labels = labels.view(-1, 1) if labels.numel() == len(labels) else labels.unsqueeze(1)
    return {**batch, "labels": labels, "slots": layered.read_positions(batch).int().argmax(1, keepdim=True)}


def _are_own(batch: Inputs) -> bool:
    """Whether every label is the token at which it stands: nothing that a model which sees the token could be asked for."""
    labels, ids = batch.get("labels"), batch["input_ids"]
    return labels is not None and labels.shape == ids.shape and bool(((labels == ids) | (labels == IGNORED)).all())


def _with_next_tokens(batch: Inputs) -> Inputs:
    """Each label at the token before its own."""
    labels = torch.full_like(batch["labels"], IGNORED)
    labels[:, :-1] = batch["labels"][:, 1:]
    return {**batch, "labels": labels}


def labels_at_slots(batch: Mapping[str, Tensor], answers: Answers) -> Shaped[Tensor, "batch positions ..."]:
    """The labels of a batch, one a token; with slots, one a slot, as numbers where the models answer with numbers.

    Raises Refusal for labels of another shape or kind.
    """
    labels, slots = batch["labels"], batch.get("slots")
    right = batch["input_ids"].shape if slots is None else slots.shape
    if answers != "classes":
        labels = labels if labels.is_floating_point() else labels.float().masked_fill(labels == IGNORED, math.nan)
    elif labels.is_floating_point():
        raise Refusal("labels", "need whole numbers, the classes; set problem_type in the configuration of the models")
    if labels.shape == right or (answers == "several" and labels.shape[:2] == right):
        return labels
    if labels.shape != batch["input_ids"].shape:
        raise Refusal("labels", f"need Int{list(right)}, or one for each of the input_ids, not Int{list(labels.shape)}")
    return labels.gather(1, batch["slots"].clamp(min=0))


def slots_and_labels(
    batch: Mapping[str, Tensor], *, tokens: Literal["masked", "all"]
) -> tuple[Int[Tensor, "batch slots"], Shaped[Tensor, "batch slots ..."]]:
    """Positions of the loss tokens, -1 in unused slots, and the labels there, -100 or NaN where there is none.

    ``tokens``: "masked", those with a label, or "all" real ones.
    """
    if batch["labels"].is_floating_point():
        return batch["slots"], batch["labels"]
    labels, slots = batch["labels"], batch.get("slots")
    real = real_positions(batch)
    everywhere = torch.arange(real.shape[1], device=real.device).expand_as(real)
    if slots is not None and tokens == "all":
        places = slots.masked_fill(slots < 0, real.shape[1])
        whole = labels.new_full((len(real), real.shape[1] + 1), IGNORED)
        labels, slots = whole.scatter(1, places, labels)[:, :-1], None
    if slots is None:
        slots = everywhere.masked_fill(~real, -1) if tokens == "all" else _labelled_slots(batch, everywhere)
        labels = labels.gather(1, slots.clamp(min=0))
    return slots, labels.masked_fill(slots < 0, IGNORED)


def _labelled_slots(batch: Mapping[str, Tensor], everywhere: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch slots"]:
    """The positions with a label, ascending, -1 in unused slots."""
    if "masked_positions" in batch:
        return batch["masked_positions"]
    labelled = batch["labels"] != IGNORED
    slots = int(labelled.sum(1).max())  # the only synchronisation: a batch with slots has none
    return everywhere.masked_fill(~labelled, -1).sort(1, descending=True).values[:, : max(slots, 1)].flip(1)
