"""What a task is measured by on held-out text: a row each, named by ``Task.metric``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from diito import plugins
from diito.evaluation.held_out import classification
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
    compare: Callable[[PreTrainedModel, PreTrainedModel, HeldOut], Mapping[str, float]] | None = None
    """Named numbers of a student and its teacher together; None: there are none."""
    packages: Sequence[str] = ()
    """Modules beyond diito's core that it imports."""
    is_of_classes: bool = True
    """Whether a prediction is one of several classes or words: interchange-intervention accuracy is defined then."""

    def with_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
        """The numbers of the two together."""
        return {} if self.compare is None else dict(self.compare(student, teacher.to(student.device), held_out))  # type: ignore[arg-type]

    def check_packages(self) -> None:
        """Refuse (Refusal) to start without the packages that the measurement would miss."""
        for module in self.packages:
            if importlib.util.find_spec(module) is None:
                raise Refusal(
                    "evaluation.sources",
                    f"{module} is not installed, and measuring needs it; install it with: pip install 'diito[evaluation]', or "
                    "give an empty list",
                )

    def __call__(self, model: PreTrainedModel, held_out: HeldOut) -> dict[str, float]:
        """The numbers of ``figures`` that the model has."""
        numbers = self.measure(model, held_out)
        return {name: numbers[name] for name in self.figures if name in numbers}


_AGREEMENT = {"agreement": ("agreement", ".3f")}
METRICS: dict[str, Metric] = {
    "perplexity": Metric(perplexity, {"perplexity": ("perplexity", ".2f")}),
    "perplexity-of-text": Metric(perplexity, {"perplexity": ("perplexity", ".2f"), "bits_per_byte": ("bits/byte", ".3f")}),
    "classification": Metric(
        classification.classes,
        {"accuracy": ("accuracy", ".3f"), "f1": ("F1", ".3f"), "matthews": ("Matthews", ".3f"), "ece": ("ECE", ".3f")}
        | _AGREEMENT,
        compare=classification.agreement_of_classes,
        packages=("sklearn", "torchmetrics"),
    ),
    "tagging": Metric(
        classification.tags,
        {"f1": ("F1", ".3f"), "f1_macro": ("macro F1", ".3f"), "accuracy": ("accuracy", ".3f"), "ece": ("ECE", ".3f")}
        | _AGREEMENT,
        compare=classification.agreement_of_classes,
        packages=("sklearn", "seqeval", "torchmetrics"),
    ),
    "regression": Metric(
        classification.numbers,
        {"pearson": ("Pearson", ".3f"), "spearman": ("Spearman", ".3f"), "squared_error": ("sq. error", ".3f")} | _AGREEMENT,
        compare=classification.agreement_of_numbers,
        packages=("scipy",),
        is_of_classes=False,
    ),
    "multi-label": Metric(
        classification.several,
        {"accuracy": ("accuracy", ".3f"), "f1": ("F1", ".3f"), "f1_micro": ("micro F1", ".3f")} | _AGREEMENT,
        compare=classification.agreement_of_several,
        packages=("sklearn",),
        is_of_classes=False,
    ),
}
"""The metrics by name."""


def find_metric(name: str) -> Metric:
    """The metric of that name, a row of :data:`METRICS` or an import path of one. Raises Refusal where there is none."""
    metric: Any = plugins.load(name, field="task", group="diito.metrics", known=METRICS)
    if not isinstance(metric, Metric):
        raise Refusal("task", f"{name} is no diito.evaluation.held_out.metrics.Metric; give a task whose metric is one")
    return metric
