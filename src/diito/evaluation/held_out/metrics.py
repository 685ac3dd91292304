"""What a task is measured by on held-out text: a row each, named by ``Task.metric``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from diito import plugins
from diito.evaluation.held_out.perplexity import perplexity
from diito.evaluation.held_out.text import HeldOut
from diito.refusal import Refusal


@dataclass(frozen=True)
class Metric:
    """A measurement of one model."""

    measure: Callable[[PreTrainedModel, HeldOut], Mapping[str, float]]
    """Named numbers of a model, in eval mode and put back into its own."""
    figures: Mapping[str, tuple[str, str]]
    """Those that are shown and kept: title and format by name, the main one first."""

    def __call__(self, model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
        """The numbers of ``figures`` that the model has."""
        numbers = self.measure(model, held_out)
        return {name: numbers[name] for name in self.figures if name in numbers}


METRICS: dict[str, Metric] = {
    "perplexity": Metric(perplexity, {"perplexity": ("perplexity", ".2f"), "bits_per_byte": ("bits/byte", ".3f")})
}
"""The metrics by name."""


def find_metric(name: str) -> Metric:
    """The metric of that name, a row of :data:`METRICS` or an import path of one. Raises Refusal where there is none."""
    metric: Any = plugins.load(name, field="task", group="diito.metrics", known=METRICS)
    if not isinstance(metric, Metric):
        raise Refusal("task", f"{name} is no diito.evaluation.held_out.metrics.Metric; give a task whose metric is one")
    return metric
