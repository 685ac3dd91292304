"""From a micro-batch's runs to its named losses: means over tokens, and over the interventions where there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from diito.method.losses import Loss, NamedLosses, token_mean
from diito.method.positions import has_label
from diito.method.recompute import values_of
from diito.method.runs import Runs


def mean_losses(
    losses: Mapping[str, Loss],
    student: Runs,
    teacher: Runs,
    labels: Shaped[Tensor, "batch slots *classes"],
    slots: Int[Tensor, "batch slots"],
    reach: Sequence[Bool[Tensor, "batch slots"]],
    *,
    words: int,
) -> NamedLosses:
    """Each of ``losses``: the mean over its tokens; of one under the intervention the mean of these over the interventions.

    ``reach``: for each intervention the slots that its swap can change; the others are out of the losses under it. ``words``:
    logits of a token.
    """
    base = {name: loss for name, loss in losses.items() if loss.run == "base"}
    swapped = {name: loss for name, loss in losses.items() if loss.run != "base"}
    means = _means(base, student, teacher, labels, slots, None, words)
    if swapped:
        runs = zip((student, *student.further), (teacher, *teacher.further), reach, strict=True)
        each = [_means(swapped, ours, theirs, labels, slots, counted, words) for ours, theirs, counted in runs]
        means |= each[0] if len(each) == 1 else {name: torch.stack([one[name] for one in each]).mean() for name in swapped}
    return NamedLosses({name: means[name] for name in losses})


def _means(
    losses: Mapping[str, Loss],
    student: Runs,
    teacher: Runs,
    labels: Shaped[Tensor, "batch slots *classes"],
    slots: Int[Tensor, "batch slots"],
    reach: Bool[Tensor, "batch slots"] | None,
    words: int,
) -> dict[str, Tensor]:
    """Of the base runs, or of those under one intervention."""
    values: dict[str, Tensor] = {}
    for run, of_teacher in (("base", "base"), ("counterfactual", "counterfactual"), ("outside", "base")):
        read = {name: loss for name, loss in losses.items() if loss.run == run}
        if read:
            values |= values_of(read, student.read(run), teacher.read(of_teacher), labels.flatten(0, 1), words=words)
    means = {}
    for name, loss in losses.items():
        counted = has_label(labels) if loss.labelled else slots >= 0
        if reach is not None:
            counted = counted & reach
        means[name] = token_mean(values[name], counted.flatten().float()) if values[name].ndim else values[name]
    return means
