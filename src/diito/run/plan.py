"""What a run is going to do, in numbers, before it does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel

from diito.corpus import Corpus
from diito.method.alignment import Alignment
from diito.method.cost import ModelSize, StepCost, step_cost
from diito.method.losses import Loss
from diito.method.memory import StepMemory, step_memory
from diito.method.outputs import count_outputs
from diito.method.rows import Needs
from diito.method.schedules import Ramp, Weight
from diito.models.load import sizes_of
from diito.recipe import Recipe
from diito.recipe.sections import CHOICE_STEPS


@dataclass(frozen=True)
class Plan:
    """The plan of one run; ``str`` gives it as the screen shows it."""

    recipe: Recipe
    teacher: PreTrainedModel
    student: PreTrainedModel
    made_of: str
    """What the student is made of, in words."""
    alignment: Alignment
    corpus: Corpus
    processes: int
    losses: Mapping[str, Loss]
    """Those with a weight, made for the two models."""
    weights: Mapping[str, Weight]
    left_out: str = ""
    """What is not among the losses although it would be by default, in words."""
    slot_share: float = 1.0
    """Slots for each token."""
    balance_every: int | None = None
    """Micro-batches between two measurements of the gradients' norms; None: the weights are taken as they are."""
    held_out_blocks: int | None = None
    """Blocks that are measured; None where nothing is."""
    available: float | None = None
    """Bytes of memory that each process can have; None: not known."""
    held_out_layout: str = "blocks"
    """What they are: blocks, lines (conversations), or labelled examples."""

    @property
    def has_counterfactual(self) -> bool:
        """Whether a loss reads the runs under the intervention."""
        return Needs.of(self.losses.values()).counterfactual

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
        return training.steps or math.ceil(training.epochs * self.steps_per_epoch)  # as Trainer counts

    @property
    def tokens_per_step(self) -> float:
        """Tokens of an optimiser step, on average."""
        return self.rows_per_step * self.corpus.statistics.mean_length

    @cached_property
    def cost(self) -> StepCost:
        """Matrix-product FLOPs for one token."""
        intervention = self.recipe.intervention
        return step_cost(
            ModelSize.of(self.teacher),
            ModelSize.of(self.student),
            self.alignment,
            length=round(self.corpus.statistics.mean_length),
            loss_tokens=1.0 if self.recipe.objective.tokens == "all" else self.slot_share,
            from_the_start=intervention.control == "token-swap",
            beside_token_swap=intervention.control == "both",
            batch=self.recipe.training.batch,
            losses=self.losses,
            weights=self.weights,
            pairs_per_batch=self.recipe.alignment.pairs_per_batch,
            own_sources=intervention.sources_per_row if intervention.pairing == "independent" else 0,
            balanced=0.0 if self.balance_every is None else 1 / self.balance_every,
            cached=self.recipe.teacher.cache is not None,
        )

    @cached_property
    def memory(self) -> StepMemory:
        """Bytes of a step on each device."""
        recipe = self.recipe
        further = recipe.training.arguments
        return step_memory(
            self.teacher,
            self.student,
            self.alignment,
            self.losses,
            batch=recipe.training.batch,
            length=round(self.corpus.statistics.mean_length),
            loss_tokens=1.0 if recipe.objective.tokens == "all" else self.slot_share,
            words=count_outputs(self.student),
            bf16=recipe.speed.precision == "bf16",
            from_the_start=recipe.intervention.control == "token-swap",
            beside_token_swap=recipe.intervention.control == "both",
            pairs_per_batch=recipe.alignment.pairs_per_batch,
            own_sources=recipe.intervention.sources_per_row if recipe.intervention.pairing == "independent" else 0,
            recompute=bool(further.get("gradient_checkpointing") or further.get("activation_checkpointing")),
        )

    def as_json(self) -> dict[str, Any]:
        """What a report needs of it: steps, and what a step costs."""
        return {
            "steps": self.steps,
            "tokens_per_step": self.tokens_per_step,
            "flops_per_step": self.cost.total * self.tokens_per_step,
            "standard_flops_per_step": self.cost.base * self.tokens_per_step,
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:<10} {text}" for name, text in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        teacher, student = (model.num_parameters() for model in (self.teacher, self.student))
        corpus = self.corpus.statistics.describe().splitlines()
        return [
            ("teacher", f"{self.recipe.teacher.model}: {_model(self.teacher)}, {_count(teacher)} parameters{self._cache()}"),
            (
                "student",
                f"{_model(self.student)} {self.made_of}, {_count(student)} ({student / teacher:.0%}){self._trained()}",
            ),
            ("objective", self._objective()),
            ("alignment", self._alignment()),
            *zip(["corpus"] + [""] * len(corpus), corpus, strict=False),
            *(("corpus", remark) for remark in self.corpus.remarks),
            ("held-out", self.held_out),
            ("steps", self._steps()),
            ("compute", self._compute()),
            ("memory", self._memory()),
        ]

    def _cache(self) -> str:
        cache = self.recipe.teacher.cache
        return "" if cache is None else f"; its answers from {cache}"

    def _objective(self) -> str:
        terms = " + ".join(f"{_weight(weight)} {name}" for name, weight in self.weights.items()) + self.left_out
        if self.balance_every is None:
            return terms
        every = self.balance_every // self.recipe.training.accumulation
        return f"{terms}; shares of the gradient's norm, measured every {_steps(every)}"

    def _trained(self) -> str:
        """How much of the student is trained, where not all of it is."""
        trained = self.student.num_parameters(only_trainable=True)
        return (
            ""
            if trained == self.student.num_parameters()
            else f", of which {trained / self.student.num_parameters():.1%} are trained"
        )

    def _steps(self) -> str:
        training = self.recipe.training
        parts = [f"{training.batch:,} in each micro-batch", f"{training.accumulation:,} of them"]
        shape = ", ".join([*parts, f"on {self.processes:,} processes"] if self.processes > 1 else parts)
        about = "" if self.corpus.lengths is None else "about "
        return (
            f"{self.steps:,}, each of {self.rows_per_step:,} sequences ({shape}), {about}{self.tokens_per_step:,.0f} tokens; "
            f"{_tokens(self.steps * self.tokens_per_step)} in all ({self.steps / self.steps_per_epoch:.2f} epochs)"
        )

    @property
    def held_out(self) -> str:
        """What is measured on, in words."""
        evaluation = self.recipe.evaluation
        if self.held_out_blocks is None:
            reason = "evaluation.sources is empty" if evaluation.sources == [] else "the corpus is too small to set some aside"
            return f"none, nothing is measured: {reason}"
        own = " of documents of the corpus that are not trained on" if evaluation.sources is None else ""
        if self.held_out_layout == "examples":
            return f"{self.held_out_blocks:,} examples" + (" of the corpus that are not trained on" if own else "")
        if self.held_out_layout == "lines":
            return f"{self.held_out_blocks:,} conversations of at most {evaluation.length} tokens" + (
                " of the corpus that are not trained on" if own else ""
            )
        return f"{self.held_out_blocks:,} blocks of {evaluation.length} tokens{own}"

    def _compute(self) -> str:
        flops = self.cost.total * self.tokens_per_step
        digits = 0 if flops >= 1e10 else 2
        return (
            f"{flops / 1e9:,.{digits}f} GFLOP a step, {self.cost.total / self.cost.base:.2f} × standard distillation; "
            f"{flops * self.steps / 1e15:,.3g} PFLOP in all (matrix products, estimated)"
        )

    def _memory(self) -> str:
        memory = self.memory
        parts = {
            "student with gradients and AdamW": memory.student,
            "teacher": memory.teacher,
            "what layers keep": memory.layers,
            "logits": memory.logits,
        }
        text = f"about {_bytes(memory.total)} a process: {', '.join(f'{name} {_bytes(each)}' for name, each in parts.items())}"
        if self.available is None or memory.total < self.available:
            return f"{text} (estimated)"
        return (
            f"{text}; that is more than the {_bytes(self.available)} there are: give a smaller micro-batch and more "
            "accumulation, or training.gradient_checkpointing true"
        )

    def _alignment(self) -> str:
        if not self.has_counterfactual:
            return "none: no loss reads a counterfactual run"
        section = self.recipe.alignment
        name = section.kind + (", shuffled" if section.shuffled else "")
        if section.kind == "learned":
            name += f" every {_steps(section.every or CHOICE_STEPS)}, beginning with"
        intervention = self.recipe.intervention
        named = not isinstance(intervention.positions, str)
        swapped = str(intervention.positions) if named else f"{intervention.positions} {intervention.share:.0%} of tokens"
        if intervention.sources_per_row > 1:
            swapped += f" from {intervention.sources_per_row} sources a row"
        swapped += {"none": "", "token-swap": ", token-swap", "both": ", and the same as a token-swap"}[intervention.control]
        runs = f"; {section.pairs_per_batch} pairs a micro-batch" if section.pairs_per_batch > 1 else ""
        within = "" if section.rotation.path is None else f", in the sub-spaces of {section.rotation.path}"
        return f"{name}: {self.alignment}{within}{runs}; {swapped}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count:,} steps"


def _weight(weight: Weight) -> str:
    if isinstance(weight, Ramp):
        return f"({weight.start:.3g} to {weight.end:.3g} by {weight.by:.0%})"
    return f"{weight:.3g}"


def _model(model: PreTrainedModel) -> str:
    config = model.config
    depth, width, _ = sizes_of(config, field="teacher.model")
    return f"{config.model_type}, {depth} layers × {width}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M" if parameters >= 1e6 else f"{parameters:,}"


def _tokens(number: float) -> str:
    return f"{number / 1e6:,.2f} M tokens" if number >= 1e5 else f"{number:,.0f} tokens"
