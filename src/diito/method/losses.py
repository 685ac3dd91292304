"""The losses: pure functions of tensors that give one value a token, averaged by :func:`token_mean`; and what a row of them is.

The paper's are here; divergences, hidden states and interventions have files of their own, and ``rows`` names them all.

Everything is computed in fp32, whatever the models run in: a softmax over 30,000 words in bf16 is wrong in the second digit.
Losses over the vocabulary go through :func:`by_chunks`: a step spends more time on passes over logits than on making them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from diito.method.alignment import Alignment
from diito.models.answers import Answers
from diito.models.kept import Kept
from diito.models.steps import Steps
from diito.refusal import Refusal


def masked_cross_entropy(
    student_logits: Float[Tensor, "tokens words"], labels: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """CE(S(x), y) in nats (paper, Eq. 4); 0 where the label is -100."""
    return by_chunks(partial(F.cross_entropy, reduction="none"), student_logits, labels)


def smoothed_cross_entropy(
    student_logits: Float[Tensor, "tokens words"], teacher_logits: Float[Tensor, "tokens words"], temperature: float
) -> Float[Tensor, " tokens"]:
    """CE_τ of Eqs. 3 and 5, in nats: τ² · KL(softmax(t/τ) ‖ softmax(s/τ)) (Hinton et al., 2015).

    It differs from the cross-entropy by the teacher's entropy, a constant, so that it is 0 where student and teacher agree.
    τ² keeps the size of its gradients independent of τ.
    """

    def divergence(student: Tensor, teacher: Tensor) -> Tensor:
        log_student = F.log_softmax(student / temperature, dim=-1)
        log_teacher = F.log_softmax(teacher.float() / temperature, dim=-1)
        return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1)

    return by_chunks(divergence, student_logits, teacher_logits)


def cosine_distance(
    student_hidden: Float[Tensor, "tokens width"], teacher_hidden: Float[Tensor, "tokens width"]
) -> Float[Tensor, " tokens"]:
    """1 − cos of the contextual representations (Eqs. 6 and 8)."""
    return 1 - F.cosine_similarity(student_hidden.float(), teacher_hidden.float(), dim=-1)


def squared_error(
    student_logits: Float[Tensor, "tokens words"], teacher_logits: Float[Tensor, "tokens words"]
) -> Float[Tensor, " tokens"]:
    """Squared difference of the logits, summed over the vocabulary (DistilBERT's optional loss)."""
    return by_chunks(lambda student, teacher: (student - teacher.float()).square().sum(-1), student_logits, teacher_logits)


def squared_distance(student_logits: Float[Tensor, "rows numbers"], labels: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Squared error of a predicted number; NaN labels are those of rows without any, and are never counted."""
    return (student_logits[:, 0].float() - labels.nan_to_num()).square()


def binary_cross_entropy(
    student_logits: Float[Tensor, "rows classes"], labels: Float[Tensor, "rows classes"]
) -> Float[Tensor, " rows"]:
    """The cross-entropy of each class on its own (1: it applies), averaged over the classes."""
    known = labels.nan_to_num()
    return F.binary_cross_entropy_with_logits(student_logits.float(), known, reduction="none").mean(-1)


def smoothed_binary_cross_entropy(
    student_logits: Float[Tensor, "rows classes"], teacher_logits: Float[Tensor, "rows classes"], temperature: float
) -> Float[Tensor, " rows"]:
    """:func:`smoothed_cross_entropy` of each class on its own, applying or not, averaged over the classes."""

    def pairs(logits: Tensor) -> Tensor:
        return torch.stack([logits.float(), torch.zeros_like(logits, dtype=torch.float32)], dim=-1) / temperature

    log_student, log_teacher = (F.log_softmax(pairs(logits), dim=-1) for logits in (student_logits, teacher_logits.detach()))
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean(-1)


CHUNK = {"cpu": 1 << 19}
"""Elements of a chunk by kind of device: on a processor what stays in its cache, elsewhere what bounds the memory."""


def by_chunks(
    function: Callable[..., Float[Tensor, " tokens"]],
    logits: Float[Tensor, "tokens words"],
    other: Shaped[Tensor, "tokens ..."],
) -> Float[Tensor, " tokens"]:
    """``function(logits.float(), other)``, a value a token, computed a few tokens at a time.

    The gradient of ``logits`` is worked out in the same visit, while the chunk is at hand, and kept in their precision, so
    that no fp32 copy of them ever exists. ``function`` must treat tokens independently; ``other`` gets no gradient.
    """
    return _ByChunks.apply(function, logits, other.detach())


_LATER: ContextVar[bool] = ContextVar("_LATER", default=False)


@contextmanager
def without_gradients(later: bool) -> Iterator[None]:
    """Where ``later``, :func:`by_chunks` gives values alone: all of it will run once more, for its gradients."""
    token = _LATER.set(later)
    try:
        yield
    finally:
        _LATER.reset(token)


class _ByChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], logits: Tensor, other: Tensor) -> Tensor:
        rows = _rows(logits)
        gradient = torch.empty_like(logits) if logits.requires_grad else None
        needs_gradient = logits.requires_grad and not _LATER.get()
        values = []
        for start in range(0, len(logits), rows):
            chunk = logits[start : start + rows].detach().float().requires_grad_(needs_gradient)
            with _own_graph(), torch.set_grad_enabled(needs_gradient), torch.autocast(logits.device.type, enabled=False):
                value = function(chunk, other[start : start + rows])
                if gradient is not None and needs_gradient:
                    gradient[start : start + rows] = torch.autograd.grad(value.sum(), chunk)[0]
            values.append(value.detach())
        ctx.save_for_backward(gradient)
        return torch.cat(values) if values else logits.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        scaled = torch.empty_like(gradient)
        rows = _rows(gradient)
        for start in range(0, len(gradient), rows):
            part = slice(start, start + rows)
            scaled[part] = gradient[part].float() * upstream[part].unsqueeze(-1)
        return None, scaled, None


def _own_graph() -> AbstractContextManager[None]:
    """Inside, tensors are kept for the backward pass as they are: that of a chunk is over before another begins."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _rows(logits: Tensor) -> int:
    return max(1, CHUNK.get(logits.device.type, 1 << 26) // max(1, logits.shape[-1]))


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
        self.kept: Kept | None = None
        """What the run's layers held, where a loss reads it."""
        self.natural: Predictions | None = None
        """Of a counterfactual run: the same model's predictions in its base run, where a loss reads them."""
        self.used: Bool[Tensor, " tokens"] | None = None
        """Which of the tokens are loss tokens; the others stand in for those that a row has not. None: all."""
        self._head = head

    @cached_property
    def logits(self) -> Float[Tensor, "tokens words"]:
        """N_y, the output logits."""
        return self._head(self.hidden)

    def of(self, hidden: Float[Tensor, "tokens width"]) -> Predictions:
        """The same head's predictions of other representations."""
        return Predictions(hidden, self._head)

    def part(self, tokens: slice) -> Predictions:
        """Those of some of the tokens."""
        return self.of(self.hidden[tokens])


LOGITS, HIDDEN = frozenset({"logits"}), frozenset({"hidden"})
STATES, ATTENTION, NATURAL = frozenset({"states"}), frozenset({"attention"}), frozenset({"natural"})
READABLE = LOGITS | HIDDEN | STATES | ATTENTION | NATURAL
LayerPairs = tuple[tuple[int, int], ...]
"""(student layer, teacher layer), counted from 0."""


@dataclass(frozen=True)
class Models:
    """The two models that a loss is made for."""

    student: Steps
    teacher: Steps | None
    """None where the teacher is no model, but something that answers as one: for losses of predictions alone."""
    alignment: Alignment
    seed: int


@dataclass(frozen=True)
class Loss:
    """A row of the table of losses: what a named term of the objective reads, and the value it gives each token.

    Its causal form, ``causal_`` and its name, is the same row read from the runs under the interchange intervention.
    """

    function: Callable[[Predictions, Predictions, Shaped[Tensor, "tokens ..."]], Float[Tensor, "*shape"]] | None = None
    """From the student's and the teacher's predictions and the labels (-100 or NaN where there is none): a value a token, or
    one number for all of them. A module is trained with the student, and saved beside it."""
    counterfactual: bool = False
    """True reads the runs under the interchange intervention instead of the base runs."""
    labelled: bool = False
    """True averages over the tokens with a label only (where the objective's tokens are "masked", all have one)."""
    reads: frozenset[str] = LOGITS
    """What of the predictions it reads: ``logits``; ``hidden`` (which must be as wide in student and teacher); ``states``,
    the outputs of layers, or ``attention``, their queries, keys and values, both in ``Predictions.kept``; ``natural``, the
    student's base run beside its counterfactual one."""
    layers: LayerPairs = ()
    """The layers whose states or attention it reads."""
    make: Callable[[Models], Loss] | None = None
    """In place of ``function``: makes the row for two models, so that it can know their sizes."""
    outside: bool = False
    """True compares the student's run under a swap outside of Π with the teacher's base run."""

    def __post_init__(self) -> None:
        if not self.reads or not self.reads <= READABLE:
            raise Refusal("reads", f"{sorted(self.reads)} must be some of {sorted(READABLE)}")
        if self.reads & (STATES | ATTENTION | NATURAL) and self.reads & LOGITS:
            sentence = "a loss of states, attention or natural runs cannot read logits too, which may be made in parts"
            raise Refusal("reads", sentence)
        if (self.function is None) == (self.make is None):
            raise Refusal("function", "give a loss either a function or what makes it (make)")

    @property
    def run(self) -> str:
        """The run of the student that it reads: ``base``, ``counterfactual`` or ``outside``."""
        return "outside" if self.outside else "counterfactual" if self.counterfactual else "base"

    def flops(self, rows: int, tokens: int, loss_tokens: float) -> float:
        """Matrix products of a micro-batch of ``rows`` sequences of ``tokens``, of which a share are loss tokens: what a
        ``function`` that multiplies by itself says of itself, in its own ``flops(rows, tokens, loss_tokens)``."""
        own = getattr(self.function, "flops", None)
        return 0.0 if own is None else own(rows, tokens, loss_tokens)

    def values(
        self, student: Predictions, teacher: Predictions, labels: Shaped[Tensor, "tokens ..."]
    ) -> Float[Tensor, "*shape"]:
        """What ``function`` gives."""
        assert self.function is not None
        return self.function(student, teacher, labels)


TASK = "task"
"""The name of the task's own loss, whatever the task (the paper's L_MLM)."""
ALIASES = {"mlm": TASK}
"""Other names of losses, from diito 0.1.0."""
CAUSAL = "causal_"


def paper_losses(temperature: float, answers: Answers = "classes") -> dict[str, Loss]:
    """The losses of the paper and DistilBERT's logit MSE, by name; those under the intervention are their causal forms.

    ``answers``: what the models answer with. Of numbers both ``task`` and ``ce`` are squared errors; of several classes at
    once they are those of each class on its own.
    """

    def smoothed(student: Predictions, teacher: Predictions, labels: Tensor) -> Tensor:
        if answers == "numbers":
            return squared_error(student.logits, teacher.logits)
        compare = smoothed_binary_cross_entropy if answers == "several" else smoothed_cross_entropy
        return compare(student.logits, teacher.logits, temperature)

    right = {"classes": masked_cross_entropy, "numbers": squared_distance, "several": binary_cross_entropy}[answers]
    return {
        TASK: Loss(lambda student, teacher, labels: right(student.logits, labels), labelled=True),
        "ce": Loss(smoothed),
        "cos": Loss(lambda student, teacher, labels: cosine_distance(student.hidden, teacher.hidden), reads=HIDDEN),
        "mse": Loss(lambda student, teacher, labels: squared_error(student.logits, teacher.logits)),
    }


def find_loss(name: str, table: Mapping[str, Loss]) -> Loss:
    """The row of a name, or the causal form of the row it names. Raises Refusal where there is none, naming the weights."""
    if name in table:
        if name.startswith(CAUSAL) and not table[name].counterfactual:
            raise Refusal(
                f"objective.weights.{name}",
                f"a name with {CAUSAL} in front is of a loss under the intervention, and the row says counterfactual=False; "
                "set it to True, or give the row another name",
            )
        return table[name]
    row = table.get(name.removeprefix(CAUSAL)) if name.startswith(CAUSAL) else None
    if row is None:
        raise Refusal(
            "objective.weights",
            f"no loss is called {name!r}; the losses are {', '.join(table)}, and each with {CAUSAL} in front of its name "
            "where it is to be read under the intervention",
        )
    if row.labelled:
        raise Refusal("objective.weights", f"{name}: a label says what the base is, not what an intervention makes of it")
    if row.counterfactual or row.outside:
        raise Refusal("objective.weights", f"{name}: {name.removeprefix(CAUSAL)} is of an intervention as it is")
    return replace(row, counterfactual=True)


class NamedLosses(dict[str, Tensor]):
    """Losses by name, each a mean over its tokens. The task's own loss also answers to ``mlm``, its name in diito 0.1.0."""

    def __missing__(self, name: str) -> Tensor:
        if name in ALIASES and ALIASES[name] in self:
            return self[ALIASES[name]]
        raise KeyError(name)
