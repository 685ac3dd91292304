"""The method on one page: from a masked batch to named losses (the paper's Algorithm 1, lines 7 to 18).

1. draw one aligned pair of layer sets, the swapped positions and each row's source (lines 7 and 8);
2. run teacher and student on the base, keeping the outputs of the aligned layers;
3. the counterfactual runs (lines 9 to 15): the source's states are written over the base's at the aligned layers and the
   runs resumed above them. A source in the same batch has been run already; below the swap nothing is computed twice;
4. the vocabulary head at the loss tokens only, then the named losses and their weighted sum (lines 16 to 18).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from diito.method.alignment import Alignment, DimensionRange
from diito.method.draws import generator, host_random, keyed_dropout
from diito.method.intervention import resume
from diito.method.losses import Loss, Predictions, paper_losses, token_mean
from diito.method.positions import RULES, Pairing, PositionRule, derangement, real_positions
from diito.method.swaps import Swap, SwapDraws
from diito.models.layered import Inputs, Layered

IGNORED = -100  # a label where there is nothing to predict
PAPER_WEIGHTS = {"mlm": 0.25, "ce": 0.25, "cos": 0.25, "causal_ce": 0.25}


@dataclass(frozen=True)
class Runs:
    """What one model predicts in its base run and in its counterfactual run; None where no loss reads it."""

    base: Predictions | None
    counterfactual: Predictions | None

    def of(self, loss: Loss) -> Predictions:
        """The run that ``loss`` reads."""
        predictions = self.counterfactual if loss.counterfactual else self.base
        assert predictions is not None
        return predictions


class DistillationObjective(nn.Module):
    """Teacher, student and Π as one module: a masked batch in, named losses out.

    The teacher is frozen, in eval mode, and no part of the module tree: it is in no state dict and no optimiser.

    ``alignment``: Π; one pair is drawn for each micro-batch, the same on all ranks.
    ``weights``: weight of each loss by name, used as given; a loss of weight 0 is not computed, and without counterfactual
    losses there is no counterfactual run. Default: mlm, ce, cos, causal_ce at 1/4.
    ``temperature``: of the smoothed cross-entropies. ``tokens``: the tokens of every loss but mlm, "masked" or "all" real ones.
    ``positions``: a rule of ``positions``, or its name; ``share``: of the eligible positions; ``specials``: whether [CLS]
    and [SEP] are eligible; ``special_ids``: their ids, None takes the first and last real token of each row.
    ``source_positions``: "same" as the base's, or "independent" (drawn by the rule for the source, as many).
    ``pairing``: gives each row its source in the batch; a batch with ``source_input_ids`` brings its own.
    ``control``: "token-swap" swaps the input ids instead of the activations.
    ``losses``: further losses by name, or others in place of the paper's. ``words``: size of the vocabulary that student and
    teacher share, where their logits differ in number (the same tokenizer, padded differently).

    Raises ValueError, naming the recipe's field, for values no batch could make right.
    """

    accepts_loss_kwargs = False  # Trainer then divides the loss by the accumulation steps

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        alignment: Alignment,
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float = 2.0,
        tokens: Literal["masked", "all"] = "masked",
        positions: PositionRule | str = "consecutive",
        share: float = 0.3,
        specials: bool = False,
        special_ids: Sequence[int] | None = None,
        source_positions: Literal["same", "independent"] = "same",
        pairing: Pairing = derangement,
        control: Literal["none", "token-swap"] = "none",
        losses: Mapping[str, Loss] | None = None,
        words: int | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.student = student
        # A tuple hides the teacher from nn.Module: no parameter, no state, no train().
        self._hidden_teacher = (teacher.eval().requires_grad_(False),)
        self.alignment = alignment
        chosen = PAPER_WEIGHTS if weights is None else weights
        self.weights = {name: float(weight) for name, weight in chosen.items() if weight != 0}
        self.losses = {**paper_losses(temperature), **(losses or {})}
        self.tokens = tokens
        self.swaps = SwapDraws(
            rule=RULES[positions] if isinstance(positions, str) else positions,
            pairing=pairing,
            share=share,
            specials=specials,
            special_ids=special_ids,
            independent_positions=source_positions == "independent",
        )
        self.token_swap = control == "token-swap"
        self.seed = seed
        self.micro_batches = 0
        self.words = _shared_words(student, teacher, words)
        self._check(temperature)

    @property
    def teacher(self) -> PreTrainedModel:
        """The frozen teacher."""
        return self._hidden_teacher[0]

    @property
    def has_base(self) -> bool:
        """Whether any active loss reads the base runs."""
        return any(not self.losses[name].counterfactual for name in self.weights)

    @property
    def has_counterfactual(self) -> bool:
        """Whether any active loss reads the counterfactual runs."""
        return any(self.losses[name].counterfactual for name in self.weights)

    def forward(self, batch: Mapping[str, Tensor], *, step: int | None = None) -> dict[str, Float[Tensor, ""]]:
        """Named losses of one micro-batch, each a mean over its tokens, and ``loss``, their weighted sum. All carry gradients.

        ``batch``: masked ``input_ids`` Int[batch tokens]; ``labels`` of the same shape, -100 where there is nothing to predict;
        optionally ``attention_mask``, ``token_type_ids``; ``masked_positions`` Int[batch slots], -1 in unused slots, saves the
        search for them; ``source_input_ids``, ``source_attention_mask`` (any length): sources that are not rows of the batch.
        ``step``: micro-batches since the start; it keys every draw, dropout included. None uses a counter of the module's own,
        which is part of its state dict.
        """
        step = self._step(step)
        input_ids = batch["input_ids"]
        slots = self._loss_slots(batch)
        labels = batch["labels"].gather(1, slots.clamp(min=0)).masked_fill(slots < 0, IGNORED)
        pair = self.alignment.draw(host_random("alignment", self.seed, step))
        swap = self.draw_swap(batch, step=step) if self.has_counterfactual else None
        dropout = partial(keyed_dropout, "dropout", self.seed, step, _rank(), device=input_ids.device)

        with torch.no_grad():
            teacher = self._run(self.teacher, pair.teacher, pair.teacher_dimensions, batch, swap, slots, dropout)
        student = self._run(self.student, pair.student, pair.student_dimensions, batch, swap, slots, dropout)
        return self._named_losses(student, teacher, labels, slots, swap)

    def draw_swap(self, batch: Mapping[str, Tensor], *, step: int) -> Swap:
        """What micro-batch ``step`` swaps on this rank: a function of the batch, the seed, ``step`` and the rank."""
        draws = generator("swap", self.seed, step, _rank(), device=batch["input_ids"].device)
        return self.swaps.draw(batch, draws)

    def _run(
        self,
        model: PreTrainedModel,
        layers: Sequence[int],
        dimensions: Sequence[DimensionRange] | None,
        batch: Inputs,
        swap: Swap | None,
        slots: Int[Tensor, "batch slots"],
        dropout: Callable[[], AbstractContextManager[None]],
    ) -> Runs:
        """One model's base run and, where there is a swap, its counterfactual run, read at the loss tokens.

        A source run of its own draws the dropout of the base run, as a source in the batch does.
        """
        layered = Layered(model)
        top = layered.depth - 1
        swapped_layers = [] if swap is None or self.token_swap else list(layers)
        sources: dict[int, Tensor] = {}
        if swap is not None and swap.sources is not None and swapped_layers:
            with dropout():
                _, sources = layered.states(swap.sources, swapped_layers)
        with dropout():
            base_layers = [top] if self.has_base else []
            run, states = layered.states(batch, swapped_layers + base_layers)
            base = self._predict(layered, layered.final(states[top]), slots) if self.has_base else None
            if swap is None:
                return Runs(base, None)
            if self.token_swap:
                _, stitched = layered.states(swap.stitched(batch), [top])
                final = layered.final(stitched[top])
            else:
                values = {layer: swap.values((sources or states)[layer]) for layer in layers}
                final = resume(layered, run, states[min(layers)], values, swap.positions, dimensions=dimensions)
            return Runs(base, self._predict(layered, final, slots))

    def _predict(
        self, layered: Layered, final: Float[Tensor, "batch tokens width"], slots: Int[Tensor, "batch slots"]
    ) -> Predictions:
        """The predictions at the loss tokens; unused slots read token 0 and are never counted."""
        index = slots.clamp(min=0).unsqueeze(-1).expand(-1, -1, final.shape[-1])
        return Predictions(final.gather(1, index).flatten(0, 1), lambda hidden: layered.head(hidden)[:, : self.words])

    def _named_losses(
        self,
        student: Runs,
        teacher: Runs,
        labels: Int[Tensor, "batch slots"],
        slots: Int[Tensor, "batch slots"],
        swap: Swap | None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Every active loss and their weighted sum. Rows without a swap are out of the counterfactual losses."""
        named: dict[str, Tensor] = {}
        for name in self.weights:
            loss = self.losses[name]
            counted = (labels != IGNORED) if loss.labelled else (slots >= 0)
            if loss.counterfactual:
                assert swap is not None
                counted = counted & swap.positions.any(1, keepdim=True)
            values = loss.function(student.of(loss), teacher.of(loss), labels.flatten())
            named[name] = token_mean(values, counted.flatten().float())
        named["loss"] = sum((weight * named[name] for name, weight in self.weights.items()), start=labels.new_zeros(()))
        return named

    def _loss_slots(self, batch: Mapping[str, Tensor]) -> Int[Tensor, "batch slots"]:
        """Positions of the loss tokens, -1 in unused slots."""
        real = real_positions(batch)
        everywhere = torch.arange(real.shape[1], device=real.device).expand_as(real)
        if self.tokens == "all":
            return everywhere.masked_fill(~real, -1)
        if "masked_positions" in batch:
            return batch["masked_positions"]
        labelled = batch["labels"] != IGNORED
        slots = int(labelled.sum(1).max())  # the only synchronisation: a batch with masked_positions has none
        return everywhere.masked_fill(~labelled, -1).sort(1, descending=True).values[:, : max(slots, 1)].flip(1)

    def _step(self, step: int | None) -> int:
        if step is not None:
            return step
        self.micro_batches += 1
        return self.micro_batches - 1

    def get_extra_state(self) -> Tensor:
        """The module's own micro-batch count, as part of its state dict."""
        return torch.tensor(self.micro_batches)

    def set_extra_state(self, state: Tensor) -> None:
        """Put back what :meth:`get_extra_state` gave."""
        self.micro_batches = int(state)

    def train(self, mode: bool = True) -> DistillationObjective:
        """Train or eval mode of the student; the teacher stays in eval mode."""
        self.teacher.eval()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationObjective:
        """The teacher moves along (``to``, ``cuda``, ...) although it is no submodule."""
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _check(self, temperature: float) -> None:
        if unknown := sorted(set(self.weights) - set(self.losses)):
            raise ValueError(f"objective.weights: no loss is called {unknown[0]!r}; the losses are {', '.join(self.losses)}")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"objective.weights.{name}: {weight} must be a finite number, 0 or above")
        if not self.weights:
            raise ValueError("objective.weights: all are 0; give at least one loss a weight above 0")
        if not temperature > 0:
            raise ValueError(f"objective.temperature: {temperature} must be above 0")
        student, teacher = Layered(self.student), Layered(self.teacher)
        self.alignment.check(
            teacher_layers=teacher.depth,
            student_layers=student.depth,
            teacher_width=teacher.width,
            student_width=student.width,
        )
        for name in ("cos", "causal_cos"):
            if name in self.weights and student.width != teacher.width:
                raise ValueError(
                    f"objective.weights.{name}: must be 0 where the widths of student ({student.width}) and teacher "
                    f"({teacher.width}) differ"
                )


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0


def _shared_words(student: PreTrainedModel, teacher: PreTrainedModel, words: int | None) -> int:
    """How many logits can be compared. Raises ValueError where the vocabularies differ and nothing says how far."""
    sizes = (student.config.vocab_size, teacher.config.vocab_size)
    if words is None and sizes[0] != sizes[1]:
        raise ValueError(
            f"teacher.model: its vocabulary of {sizes[1]} differs from the student's of {sizes[0]}; where the tokenizer is the "
            "same and only the padding of the vocabulary differs, give words=len(tokenizer)"
        )
    if words is not None and words > min(sizes):
        raise ValueError(f"words: {words} must be at most the smaller vocabulary, {min(sizes)}")
    return words or sizes[0]
