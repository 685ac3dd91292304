"""The table of losses: every row that a weight can name, with its options; and what those with a weight need of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from diito.method.alignment import Alignment
from diito.method.divergences import DIVERGENCES, check_temperature, divergence_rows
from diito.method.intervention_losses import intervention_rows
from diito.method.losses import ATTENTION, NATURAL, STATES, Loss, Models, find_loss, paper_losses
from diito.method.representations import REPRESENTATIONS, representation_row
from diito.models.answers import Answers
from diito.models.kept import Wanted
from diito.models.layered import Layered
from diito.refusal import Refusal

Options = Mapping[str, Mapping[str, Any]]
"""Options of losses by the loss's name, such as ``{"jsd": {"beta": 0.3}}``; a loss's causal form has the same ones."""

_TEMPERATURE = ("temperature",)


def loss_rows(temperature: float = 2.0, answers: Answers = "classes", options: Options | None = None) -> dict[str, Loss]:
    """Every loss of diito's own by name: the paper's, divergences, representations and interventions.

    ``temperature``: of those that have none of their own among their ``options``. ``answers``: what the models answer with.
    Raises Refusal naming an option that the loss does not have, or whose value is out of its range.
    """
    options = options or {}
    check_temperature("objective.temperature", temperature)
    _check_options(options)
    own = options.get("ce", {}).get("temperature", temperature)
    check_temperature("objective.options.ce.temperature", own)
    return {
        **paper_losses(own, answers),
        **divergence_rows(temperature, answers, options),
        **{name: representation_row(name, **options.get(name, {})) for name in REPRESENTATIONS},
        **intervention_rows(temperature, answers, options),
    }


@dataclass(frozen=True)
class Needs:
    """What some losses need of a micro-batch."""

    base: bool
    """The base runs."""
    counterfactual: bool
    """Runs under a swap."""
    outside: bool
    """The student's run under a swap outside of Π."""
    student: Wanted
    """What is kept of the student's layers."""
    teacher: Wanted
    """What is kept of the teacher's."""

    @classmethod
    def of(cls, losses: Iterable[Loss]) -> Needs:
        """Those of ``losses``."""
        rows = list(losses)

        def layers(reads: frozenset[str], place: int) -> frozenset[int]:
            return frozenset(pair[place] for row in rows if reads & row.reads for pair in row.layers)

        return cls(
            base=any(row.run != "counterfactual" or NATURAL & row.reads for row in rows),
            counterfactual=any(row.run != "base" for row in rows),
            outside=any(row.outside for row in rows),
            student=Wanted(layers(STATES, 0), layers(ATTENTION, 0)),
            teacher=Wanted(layers(STATES, 1), layers(ATTENTION, 1)),
        )


def make_losses(
    names: Iterable[str],
    table: Mapping[str, Loss],
    student: PreTrainedModel,
    teacher: object,
    alignment: Alignment,
    *,
    seed: int,
) -> dict[str, Loss]:
    """The rows of ``names`` from ``table``, made for the two models. ``teacher``: a model, or anything that answers as one.

    Raises Refusal naming the weight of a loss that there is not, or that these two models cannot have.
    """
    rows = {name: find_loss(name, table) for name in names}
    theirs = Layered(teacher, field="teacher") if isinstance(teacher, PreTrainedModel) else None
    for name, row in rows.items():
        if row.reads & (STATES | ATTENTION) and theirs is None:
            sentence = "reads what the teacher's layers hold, which a teacher that is no model does not give; leave it out"
            raise Refusal(f"objective.weights.{name}", sentence)
    models = Models(Layered(student, field="student"), theirs, alignment, seed)
    # A loss and its causal form are one row, read from two runs: what it trains, such as projections, is made once.
    own = {id(row.make): row.make(models) for row in rows.values() if row.make is not None}
    return {
        name: row if row.make is None else replace(own[id(row.make)], counterfactual=row.counterfactual)
        for name, row in rows.items()
    }


def check_widths(losses: Mapping[str, Loss], student: int, teacher: int) -> None:
    """Refuse, naming its weight, a loss that compares hidden states of one width where the models have two."""
    for name, loss in losses.items():
        if "hidden" in loss.reads and student != teacher:
            raise Refusal(
                f"objective.weights.{name}",
                f"must be 0 where the widths of student ({student}) and teacher ({teacher}) differ; hidden compares "
                "states of any widths",
            )


def modules_of(losses: Mapping[str, Loss]) -> nn.ModuleDict:
    """The losses that are modules, by name; one that a loss and its causal form share has the shorter."""
    modules: dict[str, nn.Module] = {}
    for name in sorted(losses, key=lambda name: (len(name), name)):
        function = losses[name].function
        if isinstance(function, nn.Module) and all(function is not other for other in modules.values()):
            modules[name] = function
    return nn.ModuleDict(modules)


def _check_options(options: Options) -> None:
    known = {
        **dict.fromkeys(("ce", "strict"), _TEMPERATURE),
        **{name: (*defaults, *_TEMPERATURE) for name, (_, defaults) in DIVERGENCES.items()},
        **{name: _keywords(kind) for name, (kind, _) in REPRESENTATIONS.items()},
    }
    for name, given in options.items():
        if name not in known:
            sentence = f"no loss of that name has options; those that have are {', '.join(known)}"
            raise Refusal(f"objective.options.{name}", sentence)
        for option in given:
            if option not in known[name]:
                raise Refusal(f"objective.options.{name}.{option}", f"unknown option; {name} has {', '.join(known[name])}")


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
