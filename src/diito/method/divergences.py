"""Divergences between what student and teacher predict: rows of losses beside the paper's forward KL (``ce``).

Each is a function of log-probabilities that sums over the last dimension, in nats; :func:`compare` softens the logits, a few
tokens at a time. Times τ², as ``ce``, so that the size of the gradients does not depend on τ; ``tvd`` is no KL and stays within
[0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diito.method.losses import Loss, by_chunks
from diito.models.answers import Answers
from diito.refusal import Refusal

LogProbabilities = Float[Tensor, "*shape words"]
Divergence = Callable[[LogProbabilities, LogProbabilities], Float[Tensor, "*shape"]]
"""From the student's and the teacher's log-probabilities."""


def kl(log_p: LogProbabilities, log_q: LogProbabilities) -> Float[Tensor, "*shape"]:
    """KL(p ‖ q) in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_student: LogProbabilities, log_teacher: LogProbabilities) -> Float[Tensor, "*shape"]:
    """KL(student ‖ teacher): mode-seeking (MiniLLM, Gu et al., 2024)."""
    return kl(log_student, log_teacher)


def generalised_jsd(log_student: LogProbabilities, log_teacher: LogProbabilities, *, beta: float) -> Float[Tensor, "*shape"]:
    """β KL(teacher ‖ m) + (1 − β) KL(student ‖ m) with m = β teacher + (1 − β) student (GKD, Agarwal et al., 2024).

    β = 0 is KL(teacher ‖ student) and β = 1 is KL(student ‖ teacher), the convention of TRL (the formula is 0 at both).
    """
    if beta == 0:
        return kl(log_teacher, log_student)
    if beta == 1:
        return kl(log_student, log_teacher)
    mixture = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    return beta * kl(log_teacher, mixture) + (1 - beta) * kl(log_student, mixture)


def total_variation(log_student: LogProbabilities, log_teacher: LogProbabilities) -> Float[Tensor, "*shape"]:
    """½ Σ |teacher − student|, from 0 to 1 (f-distillation, Wen et al., 2023)."""
    return 0.5 * (log_teacher.exp() - log_student.exp()).abs().sum(-1)


def skewed_kl(log_student: LogProbabilities, log_teacher: LogProbabilities, *, alpha: float) -> Float[Tensor, "*shape"]:
    """KL(teacher ‖ α teacher + (1 − α) student): finite where the student says never (DistiLLM, Ko et al., 2024)."""
    if alpha == 0:
        return kl(log_teacher, log_student)
    return kl(log_teacher, torch.logaddexp(log_teacher + math.log(alpha), log_student + math.log1p(-alpha)))


def compare(
    divergence: Divergence,
    student_logits: Float[Tensor, "tokens words"],
    teacher_logits: Float[Tensor, "tokens words"],
    *,
    temperature: float,
    scale: float = 1.0,
    answers: Answers = "classes",
) -> Float[Tensor, " tokens"]:
    """``scale`` times the divergence of the softened predictions, a value a token.

    ``answers``: of several classes at once each is a distribution of its own, applying or not; their mean is taken.
    """

    def soften(logits: Tensor) -> Tensor:
        logits = logits.float()
        if answers == "several":
            logits = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
        return F.log_softmax(logits / temperature, dim=-1)

    def value(student: Tensor, teacher: Tensor) -> Tensor:
        apart = scale * divergence(soften(student), soften(teacher))
        return apart.mean(-1) if answers == "several" else apart

    return by_chunks(value, student_logits, teacher_logits)


DIVERGENCES: Mapping[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "reverse_kl": (reverse_kl, {}),
    "jsd": (generalised_jsd, {"beta": 0.5}),
    "tvd": (total_variation, {}),
    "skew_kl": (skewed_kl, {"alpha": 0.1}),
}
"""The divergences by name, each with its options and their defaults."""
_RANGES = {"beta": ("from 0 to 1", lambda value: 0 <= value <= 1), "alpha": ("from 0 to below 1", lambda value: 0 <= value < 1)}


def divergence_rows(temperature: float, answers: Answers, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Loss]:
    """The rows of :data:`DIVERGENCES`. ``options`` by name; each may have a ``temperature`` in place of the common one.

    Raises Refusal naming an option whose value is out of its range.
    """
    rows: dict[str, Loss] = {}
    for name, (function, defaults) in DIVERGENCES.items():
        given = {**defaults, "temperature": temperature, **options.get(name, {})}
        own_temperature = given.pop("temperature")
        check_temperature(f"objective.options.{name}.temperature", own_temperature)
        for option, value in given.items():
            words, fits = _RANGES[option]
            if not fits(value):
                raise Refusal(f"objective.options.{name}.{option}", f"{value} must be {words}")
        scale = 1.0 if name == "tvd" else own_temperature**2
        rows[name] = (
            _no_distribution(name)
            if answers == "numbers"
            else Loss(_reading_logits(partial(function, **given), temperature=own_temperature, scale=scale, answers=answers))
        )
    return rows


def check_temperature(field: str, temperature: float) -> None:
    """Refuse a temperature that is not above 0."""
    if not temperature > 0:
        raise Refusal(field, f"{temperature} must be above 0")


def _reading_logits(divergence: Divergence, **options: Any) -> Callable[..., Tensor]:
    return lambda student, teacher, labels: compare(divergence, student.logits, teacher.logits, **options)


def _no_distribution(name: str) -> Loss:
    def refuse(models: Any) -> Loss:
        raise Refusal(
            f"objective.weights.{name}",
            "compares distributions, and the models answer with a number; give ce or mse a weight instead",
        )

    return Loss(make=refuse)
