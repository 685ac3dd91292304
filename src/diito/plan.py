"""What a run is going to do, in numbers, before it does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from diito.alignment import AlignedPair, Alignment, DimensionRange
from diito.corpus import Corpus
from diito.flops import ModelSize, StepCost, step_cost
from diito.recipe import Recipe
from diito.recipe_checks import is_causal


@dataclass(frozen=True)
class Plan:
    """The plan of one run; ``str`` gives it as the screen shows it."""

    recipe: Recipe
    teacher: PreTrainedModel
    student: PreTrainedModel
    student_layers: Sequence[int]
    """The teacher layers that the student is made of."""
    alignment: Alignment
    corpus: Corpus
    processes: int

    @property
    def rows_per_step(self) -> int:
        """Sequences of an optimiser step, over all processes."""
        return self.recipe.training.batch * self.recipe.training.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of a pass over the corpus; partial micro-batches are dropped."""
        batches = len(self.corpus) // (self.recipe.training.batch * self.processes)
        return -(-batches // self.recipe.training.accumulation)

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        training = self.recipe.training
        return training.steps or -(-int(training.epochs * self.steps_per_epoch * 1e6) // 10**6)

    @property
    def tokens_per_step(self) -> float:
        """Tokens of an optimiser step, on average."""
        return self.rows_per_step * self.corpus.statistics.mean_length

    @property
    def cost(self) -> StepCost:
        """Matrix-product FLOPs for one token."""
        return step_cost(
            ModelSize.of(self.teacher.config),
            ModelSize.of(self.student.config),
            self.alignment,
            length=round(self.corpus.statistics.mean_length),
            loss_tokens=1.0 if self.recipe.objective.tokens == "all" else self.recipe.masking.rate,
            counterfactual=is_causal(self.recipe),
            from_the_start=self.recipe.intervention.control == "token-swap",
        )

    def __str__(self) -> str:
        return "\n".join(f"{name:<10} {text}" for name, text in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        recipe, training = self.recipe, self.recipe.training
        sizes = [model.num_parameters() for model in (self.teacher, self.student)]
        weights = " + ".join(f"{value:.3g} {name}" for name, value in vars(recipe.objective.weights).items() if value)
        shape = f"{training.batch} × {training.accumulation}" + (f" × {self.processes}" if self.processes > 1 else "")
        tokens = self.tokens_per_step
        lines = [
            ("teacher", f"{recipe.teacher.model}: {_model(self.teacher)}, {sizes[0] / 1e6:.1f} M parameters"),
            (
                "student",
                f"{_model(self.student)} from teacher layers {_list(self.student_layers)}, "
                f"{sizes[1] / 1e6:.1f} M parameters ({sizes[1] / sizes[0]:.0%})",
            ),
            ("objective", weights),
            ("alignment", self._alignment()),
            *(("corpus" if index == 0 else "", line) for index, line in enumerate(self.corpus.statistics.describe().splitlines())),
            (
                "steps",
                f"{self.steps:,} of {shape} = {self.rows_per_step:,} sequences, {_about(self.corpus)}{tokens:,.0f} tokens a step; "
                f"{self.steps * tokens / 1e6:,.2f} M tokens in all ({self.steps / self.steps_per_epoch:.2f} epochs)",
            ),
            (
                "compute",
                f"{self.cost.total * tokens / 1e9:,.0f} GFLOP a step, {self.cost.total / self.cost.base:.2f} × standard distillation; "
                f"{self.cost.total * tokens * self.steps / 1e15:,.3g} PFLOP in all (matrix products, estimated)",
            ),
        ]
        return lines

    def _alignment(self) -> str:
        if not is_causal(self.recipe):
            return "none: no loss reads a counterfactual run"
        name = self.recipe.alignment.kind + (", shuffled" if self.recipe.alignment.shuffled else "")
        intervention = self.recipe.intervention
        swapped = f"{intervention.positions} {intervention.share:.0%} of tokens"
        if intervention.control != "none":
            swapped += f", {intervention.control}"
        return f"{name}: {', '.join(map(_pair, self.alignment.pairs))}; {swapped}"


def _pair(pair: AlignedPair) -> str:
    student = _list(pair.student) + _ranges(pair.student_dimensions)
    return f"{student} → {_list(pair.teacher)}{_ranges(pair.teacher_dimensions)}"


def _ranges(ranges: Sequence[DimensionRange] | None) -> str:
    return "" if ranges is None else " " + "".join(f"[{start}:{stop}]" for start, stop in ranges)


def _model(model: PreTrainedModel) -> str:
    config = model.config
    return f"{config.model_type}, {config.num_hidden_layers} layers × {config.hidden_size}"


def _list(numbers: Sequence[int]) -> str:
    return "+".join(map(str, numbers))


def _about(corpus: Corpus) -> str:
    return "" if corpus.lengths is None else "about "
