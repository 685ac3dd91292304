"""Perplexity of masked tokens: exp of their mean cross-entropy (the paper's measure on WikiText)."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel

from diito.evaluation.held_out import HeldOut, at_slots
from diito.layered import Layered
from diito.losses import masked_cross_entropy


@torch.no_grad()
def perplexity(model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
    """``perplexity``, and ``loss`` (nats a token) it is the exponential of, over ``tokens`` masked tokens.

    In eval mode; the model's mode is put back afterwards.
    """
    training = model.training
    layered = Layered(model.eval())
    total, tokens = 0.0, 0
    for examples in held_out.batches():
        batch = held_out.masked(examples, device=model.device)
        top = layered.depth - 1
        _, states = layered.states(batch, [top])
        slots = batch["masked_positions"]
        logits = layered.head(at_slots(layered.final(states[top]), slots))
        labels = batch["labels"].gather(1, slots.clamp(min=0))[slots >= 0]
        total += float(masked_cross_entropy(logits, labels).double().sum())
        tokens += len(labels)
    model.train(training)
    return {"perplexity": math.exp(total / tokens), "loss": total / tokens, "tokens": tokens}
