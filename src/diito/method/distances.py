"""Distances between what layers of two models hold: states, relations, attention. Pure functions, in fp32.

``counted`` is Bool[batch tokens], the tokens of which the mean is taken, and ``real`` those that are no padding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from diito.models.kept import Attention

States = Float[Tensor, "batch tokens width"]
OtherStates = Float[Tensor, "batch tokens other_width"]
Counted = Bool[Tensor, "batch tokens"]


def mean_over(values: Float[Tensor, "*shape"], counted: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean of the values that count; 0 where none does. The others are not read, not even a NaN."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)


def state_distance(student: States, teacher: States, counted: Counted, measure: Literal["mse", "cosine"]) -> Float[Tensor, ""]:
    """Mean squared difference over tokens and dimensions (TinyBERT, Jiao et al., 2020, Eq. 9), or the mean of 1 − cos."""
    student, teacher = student.float(), teacher.float()
    if measure == "cosine":
        return mean_over(1 - F.cosine_similarity(student, teacher, dim=-1), counted)
    return mean_over((student - teacher).square().mean(-1), counted)


def linear_cka(student: States, teacher: OtherStates, counted: Counted) -> Float[Tensor, ""]:
    """Linear CKA of two sets of states over the tokens that count, from 0 to 1 (Kornblith et al., 2019).

    ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) in Frobenius norms, X and Y centred over the tokens; widths may differ.
    """
    weights = counted.flatten().unsqueeze(-1)

    def centred(states: Tensor) -> Tensor:
        rows = torch.where(weights, states.float().flatten(0, 1), 0.0)
        return torch.where(weights, rows - rows.sum(0) / weights.sum().clamp(min=1), 0.0)

    ours, theirs = centred(student), centred(teacher)
    cross = (theirs.T @ ours).square().sum()
    # An epsilon under the roots: the gradient of a norm at 0 is not finite.
    norms = ((each.T @ each).square().sum().add(1e-12).sqrt() for each in (ours, theirs))
    return cross / math.prod(norms)


def relation_divergence(
    student: Float[Tensor, "batch heads tokens size"],
    teacher: Float[Tensor, "batch heads tokens other_size"],
    counted: Counted,
    real: Counted,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of the relations softmax(R Rᵀ / √size), in nats: the mean over relation heads and the tokens that
    count, each related to all real tokens (MiniLMv2, Wang et al., 2021, Eqs. 3 to 6)."""

    def relations(vectors: Tensor) -> Tensor:
        vectors = vectors.float()
        scores = vectors @ vectors.transpose(2, 3) / math.sqrt(vectors.shape[-1])
        # The most negative finite number: of a row without any real token no softmax would be finite.
        hidden = ~real[:, None, None, :]
        return scores.masked_fill(hidden, torch.finfo(scores.dtype).min).log_softmax(-1)

    ours, theirs = relations(student), relations(teacher)
    divergence = torch.where(real[:, None, None, :], theirs.exp() * (theirs - ours), 0.0).sum(-1).mean(1)
    return mean_over(divergence, counted)


def attention_distance(
    student: Attention, teacher: Attention, counted: Counted, real: Counted, of: Literal["scores", "maps"]
) -> Float[Tensor, ""]:
    """Mean squared difference of the attention of as many heads, over heads, tokens that count and what both let them see.

    ``of``: the scores q·k / √size before the softmax (TinyBERT, Jiao et al., 2020, Eq. 7), or the maps behind it.
    """
    visible = real[:, None, None, :] & counted[:, None, :, None]
    for each in (student, teacher):
        if each.visible is not None:
            visible = visible & each.visible
    ours, theirs = (_scores(each) for each in (student, teacher))
    visible = visible.expand_as(ours)
    if of == "maps":
        hidden = ~visible
        ours, theirs = (scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1) for scores in (ours, theirs))
    return mean_over((ours - theirs).square(), visible)


def _scores(attention: Attention) -> Float[Tensor, "batch heads tokens keys"]:
    queries, keys = attention.queries.float(), attention.keys.float()
    if keys.shape[1] != queries.shape[1]:  # several queries share a key
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    return queries @ keys.transpose(2, 3) * attention.scaling


def pooled(states: States, counted: Counted) -> Float[Tensor, "batch width"]:
    """The mean of each row's states over its tokens that count."""
    total = torch.where(counted.unsqueeze(-1), states.float(), 0.0).sum(1)
    return total / counted.sum(1, keepdim=True).clamp(min=1)


def contrast(
    student: Float[Tensor, "batch width"],
    teacher: Float[Tensor, "batch width"],
    counted: Bool[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Each of the student's rows is to be told its teacher's among the batch's: −log softmax(cos(s_i, t_j) / τ) at j = i, in
    nats (InfoNCE with in-batch negatives; CoDIR, Sun et al., 2020). Rows that do not count are no negatives either."""
    scores = F.normalize(student.float(), dim=-1) @ F.normalize(teacher.float(), dim=-1).T / temperature
    scores = scores.masked_fill(~counted, torch.finfo(scores.dtype).min)
    return mean_over(-scores.log_softmax(-1).diagonal(), counted)
