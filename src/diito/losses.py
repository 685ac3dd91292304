"""The losses: pure functions of tensors that give one value a token, averaged by :func:`token_mean`; and their table.

Everything is computed in fp32, whatever the models run in: a softmax over 30,000 words in bf16 is wrong in the second digit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def masked_cross_entropy(
    student_logits: Float[Tensor, "tokens words"], labels: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """CE(S(x), y) in nats (paper, Eq. 4); 0 where the label is -100."""
    return F.cross_entropy(student_logits.float(), labels, reduction="none")


def smoothed_cross_entropy(
    student_logits: Float[Tensor, "tokens words"], teacher_logits: Float[Tensor, "tokens words"], temperature: float
) -> Float[Tensor, " tokens"]:
    """CE_τ of Eqs. 3 and 5, in nats: τ² · KL(softmax(t/τ) ‖ softmax(s/τ)) (Hinton et al., 2015).

    It differs from the cross-entropy by the teacher's entropy, a constant, so that it is 0 where student and teacher agree.
    τ² keeps the size of its gradients independent of τ.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1)


def cosine_distance(
    student_hidden: Float[Tensor, "tokens width"], teacher_hidden: Float[Tensor, "tokens width"]
) -> Float[Tensor, " tokens"]:
    """1 − cos of the contextual representations (Eqs. 6 and 8)."""
    return 1 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)


def squared_error(
    student_logits: Float[Tensor, "tokens words"], teacher_logits: Float[Tensor, "tokens words"]
) -> Float[Tensor, " tokens"]:
    """Squared difference of the logits, summed over the vocabulary (DistilBERT's optional loss)."""
    return (student_logits.float() - teacher_logits.float()).square().sum(-1)


def token_mean(values: Float[Tensor, " tokens"], weights: Float[Tensor, " tokens"]) -> Float[Tensor, ""]:
    """Mean of the values whose weight is 1; 0 where there is none. A value of weight 0 is never read, not even a NaN."""
    total = torch.where(weights > 0, values, 0.0).sum()
    return total / weights.sum().clamp(min=1.0)


class Predictions:
    """What a run says at the loss tokens. Logits are computed when a loss first asks for them, and once."""

    def __init__(
        self,
        hidden: Float[Tensor, "tokens width"],
        head: Callable[[Float[Tensor, "tokens width"]], Float[Tensor, "tokens words"]],
    ) -> None:
        self.hidden = hidden
        """N_h, the contextual representation: Float[tokens width]."""
        self._head = head

    @cached_property
    def logits(self) -> Float[Tensor, "tokens words"]:
        """N_y, the output logits."""
        return self._head(self.hidden)


@dataclass(frozen=True)
class Loss:
    """A named term of the objective: what it computes, on which run, and over which tokens it is averaged."""

    function: Callable[[Predictions, Predictions, Int[Tensor, " tokens"]], Float[Tensor, " tokens"]]
    """From the student's and the teacher's predictions and the labels (-100 where there is none): a value a token."""
    counterfactual: bool = False
    """True reads the runs under the interchange intervention instead of the base runs."""
    labelled: bool = False
    """True averages over the tokens with a label only (where the objective's tokens are "masked", all have one)."""


def paper_losses(temperature: float) -> dict[str, Loss]:
    """The five losses of the paper and DistilBERT's logit MSE, by name."""

    def smoothed(student: Predictions, teacher: Predictions, labels: Tensor) -> Tensor:
        return smoothed_cross_entropy(student.logits, teacher.logits, temperature)

    def cosine(student: Predictions, teacher: Predictions, labels: Tensor) -> Tensor:
        return cosine_distance(student.hidden, teacher.hidden)

    return {
        "mlm": Loss(lambda student, teacher, labels: masked_cross_entropy(student.logits, labels), labelled=True),
        "ce": Loss(smoothed),
        "cos": Loss(cosine),
        "causal_ce": Loss(smoothed, counterfactual=True),
        "causal_cos": Loss(cosine, counterfactual=True),
        "mse": Loss(lambda student, teacher, labels: squared_error(student.logits, teacher.logits)),
    }
