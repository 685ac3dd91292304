"""An alignment that is chosen while training (``alignment.kind: learned``): what it needs, and how it is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from diito.evaluation.held_out.choice import choose_alignment
from diito.evaluation.held_out.maps import heat_map
from diito.evaluation.held_out.metrics import find_metric
from diito.method.alignment import Alignment
from diito.recipe import Recipe
from diito.recipe.sections import CHOICE_STEPS
from diito.refusal import Refusal
from diito.run.parts import Parts, position_rule
from diito.training.callbacks import LearnedAlignment
from diito.training.loggers import log_figure, loggers_among


def check_choosable(parts: Parts) -> None:
    """Refuse an alignment that is chosen while training where there is nothing to choose it by, or nothing that reads it."""
    if not parts.plan.has_counterfactual:
        raise Refusal("alignment.kind", "learned needs a weight of a loss under the intervention, such as causal_ce")
    if parts.held_out is None:
        raise Refusal("alignment.kind", "learned needs held-out text to choose on; name some in evaluation.sources")
    if len(set(parts.held_out.documents.tolist())) < 2:
        raise Refusal("alignment.kind", "learned needs at least 2 held-out documents, to see whether another one is better")
    if not find_metric(parts.task.metric).is_of_classes:
        raise Refusal("alignment.kind", "learned compares classes, and these models answer with a number; give another kind")


def learned_alignment(recipe: Recipe, parts: Parts) -> LearnedAlignment | None:
    """What chooses the alignment while training, where the recipe says so."""
    if recipe.alignment.kind != "learned":
        return None
    held_out, rule = parts.held_out, position_rule(recipe, parts.task, parts.tokenizer)
    assert held_out is not None

    def choose(student: PreTrainedModel, present: Alignment) -> tuple[Alignment, dict[str, float], list[dict[str, Any]]]:
        choice = choose_alignment(
            student,
            parts.teacher.to(student.device),
            present,
            held_out,
            top=recipe.alignment.top,
            rule=rule,
            share=recipe.intervention.share,
            special_ids=parts.task.special_ids(parts.tokenizer),
        )
        numbers = {} if choice.divergence is None else {"counterfactual_kl": choice.divergence, "gain": choice.gain}
        return choice.alignment, numbers, choice.pairs

    return LearnedAlignment(recipe.alignment.every or CHOICE_STEPS, parts.alignment, choose)


def show_maps(learned: LearnedAlignment, callbacks: Iterable[TrainerCallback]) -> None:
    """Give the loggers among a trainer's callbacks the picture of each map that an alignment is chosen from."""
    loggers = loggers_among(callbacks)
    if not loggers:
        return

    def show(pairs: Sequence[dict[str, Any]], step: int) -> None:
        log_figure(loggers, "map", heat_map(pairs, title=f"step {step}"), step)

    learned.show = show
