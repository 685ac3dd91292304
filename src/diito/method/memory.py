"""Bytes that a step needs on each device, estimated: weights by counting, what layers keep for the backward pass by a short run
of two of them, logits by the losses that read them.

Buffers that live for a moment, what the process itself needs, and gradient buckets of several processes are left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diito.method.alignment import Alignment
from diito.method.losses import Loss
from diito.method.recompute import PART, WHOLE
from diito.method.rows import Needs
from diito.models.layered import Layered
from diito.models.learn import ordinary_words, put_back

FP32, BF16 = 4, 2
LONGEST_RUN = 128
"""Tokens of a row that is run to see what it keeps."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes, by what they are for."""

    teacher: float
    student: float
    """Weights, gradients, and AdamW's two moments."""
    layers: float
    """What the student's layers keep for the backward pass, with the pair of layers that is resumed lowest."""
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.teacher + self.student + self.layers + self.logits


def step_memory(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    alignment: Alignment,
    losses: Mapping[str, Loss],
    *,
    batch: int,
    length: int,
    loss_tokens: float,
    words: int,
    bf16: bool,
    from_the_start: bool = False,
    beside_token_swap: bool = False,
    pairs_per_batch: int = 1,
    own_sources: int = 0,
    recompute: bool = False,
) -> StepMemory:
    """Bytes of a step with micro-batches of ``batch`` sequences of ``length`` tokens, of which the share ``loss_tokens``
    reaches the head, which gives ``words`` logits. ``bf16``: as training computes and holds its own copy of the teacher. The
    others: as in :func:`~diito.method.cost.step_cost`; ``recompute``: layers keep their inputs alone.
    """
    trained = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    all_of_it, theirs = student.num_parameters(), teacher.num_parameters()
    counterfactual = Needs.of(losses.values()).counterfactual
    layered = Layered(student, field="student")
    of_a_layer = kept_by_a_layer(layered, length, bf16=bf16)
    runs = float(layered.depth)
    if counterfactual:
        lowest = min(pair.student[0] for pair in alignment.pairs)
        highest = max(pair.student[-1] for pair in alignment.pairs)
        runs += pairs_per_batch * (layered.depth if from_the_start else layered.depth - 1 - lowest)
        runs += (0 if from_the_start else own_sources * (highest + 1)) + beside_token_swap * layered.depth
    inputs = length * layered.width * (BF16 if bf16 else FP32)
    layers = batch * (runs * inputs + of_a_layer if recompute else runs * of_a_layer)
    return StepMemory(
        theirs * FP32 + bf16 * theirs * BF16,
        all_of_it * FP32 + 3 * trained * FP32 + bf16 * all_of_it * BF16,
        layers,
        _logits(losses, round(loss_tokens * batch * length), words, bf16=bf16, pairs=pairs_per_batch),
    )


def kept_by_a_layer(layered: Layered, length: int, *, bf16: bool) -> float:
    """Bytes that a layer keeps for the backward pass of one row of ``length`` tokens: the mean of the first and the last.

    Of a long row worked out from two short ones: a part grows with the tokens, another, of some attention, with their square.
    """
    short = LONGEST_RUN // 2
    with put_back(layered.model):
        layered.model.train()
        if length <= LONGEST_RUN:
            return _kept_by_a_row(layered, length, bf16=bf16)
        once, twice = (_kept_by_a_row(layered, tokens, bf16=bf16) for tokens in (short, 2 * short))
    square = max(0.0, (twice - 2 * once) / (2 * short**2))
    return (once / short - square * short) * length + square * length**2


def _kept_by_a_row(layered: Layered, length: int, *, bf16: bool) -> float:
    """What two rows keep beyond one: so copies of the weights in another precision are out of it."""
    one, two = (_kept_by_layers(layered, rows, length, bf16=bf16) for rows in (1, 2))
    return (two - one) / len({0, layered.depth - 1})


def _kept_by_layers(layered: Layered, rows: int, length: int, *, bf16: bool) -> int:
    """Bytes that the first and the last layer keep of ``rows`` rows."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in layered.model.parameters()}
    ids = ordinary_words(layered.model, rows * length).view(rows, length)
    kept: dict[tuple[int, int], int] = {}

    def run_layer(layer: int) -> None:
        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[layer, storage.data_ptr()] = storage.nbytes()
            return tensor

        hidden = run.embedded.detach().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs.append(layered.advance(run, hidden, layer))  # as long as it lives, no storage has the place of another

    outputs: list[Tensor] = []
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            run = layered.embed({"input_ids": ids})
        for layer in {0, layered.depth - 1}:
            run_layer(layer)
    return sum(kept.values())


def _logits(losses: Mapping[str, Loss], tokens: int, words: int, *, bf16: bool, pairs: int) -> float:
    """The logits of both models in every run, and a gradient for each loss that reads them; of parts where there are many."""
    size = BF16 if bf16 else FP32
    total = 0.0
    for run in ("base", "counterfactual"):
        reading = sum("logits" in loss.reads and (loss.run == run) for loss in losses.values())
        if reading and tokens * words > WHOLE:
            total = max(total, (2 + reading) * PART * size)
        elif reading:
            total += (2 + reading) * tokens * words * size * (1 if run == "base" else pairs)
    return total


def device_memory(device: torch.device) -> float:
    """Bytes of memory that a device has: an accelerator's own, or the machine's."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return math.inf
