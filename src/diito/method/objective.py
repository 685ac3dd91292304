"""The method on one page: from a batch with slots and labels to named losses (the paper's Algorithm 1, lines 7 to 18).

1. draw one aligned pair of layer sets, the swapped positions and each row's source (lines 7 and 8);
2. run teacher and student on the base, and the counterfactual runs above the swap (lines 9 to 15; ``runs``);
3. the named losses at the slots and their weighted sum (lines 16 to 18; ``losses``, ``means``).

Slots are the tokens at which something is predicted, and labels what is right there; a task decides both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from diito.method.alignment import AlignedPair, Alignment
from diito.method.balance import GradientNorms
from diito.method.draws import generator, host_random, keyed_dropout
from diito.method.losses import Loss
from diito.method.means import mean_losses
from diito.method.outputs import count_outputs, shared_words
from diito.method.positions import NAMED_RULES, Pairing, PositionRule, derangement
from diito.method.reach import Reach, reach_of_a_decoder, reach_of_an_encoder, reached
from diito.method.rotation import Rotation
from diito.method.rows import Needs, Options, check_widths, loss_rows, make_losses, modules_of
from diito.method.runs import LiveTeacher, Runs, Teacher, check_pairs, run_model
from diito.method.schedules import Ramp, Weight, weights_at
from diito.method.second_names import with_second_names, without_second_names
from diito.method.slots import labels_at_slots, slots_and_labels, with_slots
from diito.method.swaps import Swap, SwapDraws
from diito.method.weights import PAPER_WEIGHTS as PAPER_WEIGHTS
from diito.method.weights import default_weights, named_weights
from diito.models.answers import answers_of, predicts_next
from diito.models.layered import Layered
from diito.refusal import Refusal

_TASKS = ("slots", "masked_positions", "swappable", "documents")
"""What a task says of a batch beside what the models read."""
_TYPES = "token_type_ids"
_ROTATION = "student rotation"
"""The student's sub-spaces among what is trained beside it; no loss can have this name, which is no identifier."""
_SOURCE = "source_"
"""How the names begin of what a source reads that is not a row of the batch."""


class _Draws(NamedTuple):
    """What a micro-batch swaps: the aligned pair and its swap (None: no loss reads it), and those of further pairs."""

    pair: AlignedPair
    swap: Swap | None
    further: list[tuple[AlignedPair, Swap]]


class DistillationObjective(nn.Module):
    """Teacher, student and Π as one module: a batch in, named losses out.

    The teacher is frozen, in eval mode, and no part of the module tree: it is in no state dict and no optimiser. It is a model,
    or anything that answers as :class:`diito.method.runs.Teacher` does.

    ``alignment``: Π; one pair is drawn for each micro-batch, the same on all ranks, or ``pairs_per_batch`` different ones, each
    with a swap and a counterfactual run of its own: the losses under the intervention are the means over these.
    ``weights``: weight of each loss by name (``rows`` has them all), used as given, or a ``schedules.Ramp``; a loss of weight 0
    is not computed, and without counterfactual losses there is no counterfactual run. Default: task, ce, cos, causal_ce at 1/4;
    without cos where the widths differ, which is said. ``mlm`` is another name of task. ``options``: of single losses,
    ``{"jsd": {"beta": 0.3}}``.
    ``temperature``: of the losses over predictions that have none among their options. ``tokens``: the tokens of these losses,
    but for the task's, "masked" (the slots) or "all" real ones.
    ``positions``: a rule of ``positions``, or its name; ``share``: of the eligible positions; ``specials``: whether special
    tokens are eligible; ``special_ids``: their ids ([] where rows have none), None takes the first and last real token of each
    row, which is where encoders have them.
    ``source_positions``: "same" as the base's, or "independent" (drawn by the rule for the source, as many).
    ``pairing``: gives each row its source in the batch; a batch with ``source_input_ids`` brings its own. ``sources_per_row``:
    how many sources a row has at once, each swapped in positions of its own (``swaps.SwapDraws``).
    ``control``: "token-swap" swaps the input ids instead of the activations; "both" has a run of either kind, with the same
    positions and sources, as if it were one more pair.
    ``rotation``: swaps in sub-spaces instead of whole states: the teacher's found ones, and the student's, trained along.
    ``losses``: further losses by name, or others in place of the paper's. ``reach``: which slots a swap can change; the others
    are out of the counterfactual losses; None: all slots of a row, of a causal language model those at or behind the swap.
    ``words``: size of the vocabulary that student and teacher share, where their logits differ in number (the same tokenizer,
    padded differently). ``compared``: the alignment by which losses of states compare layers where their options name none;
    None: Π. ``balance_every``: micro-batches between two measurements by which the weights are shares of the gradient's norm
    (``balance.GradientNorms``); None takes them as they are.

    Raises ValueError, naming the recipe's field, for values no batch could make right.
    """

    accepts_loss_kwargs = False  # Trainer then divides the loss by the accumulation steps

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | Teacher,
        alignment: Alignment,
        *,
        weights: Mapping[str, Weight] | None = None,
        options: Options | None = None,
        temperature: float = 2.0,
        tokens: Literal["masked", "all"] = "masked",
        positions: PositionRule | str = "consecutive",
        share: float = 0.3,
        specials: bool = False,
        special_ids: Sequence[int] | None = None,
        source_positions: Literal["same", "independent"] = "same",
        pairing: Pairing = derangement,
        sources_per_row: int = 1,
        pairs_per_batch: int = 1,
        control: Literal["none", "token-swap", "both"] = "none",
        rotation: Rotation | None = None,
        losses: Mapping[str, Loss] | None = None,
        reach: Reach | None = None,
        balance_every: int | None = None,
        words: int | None = None,
        compared: Alignment | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        self.student = student
        live = LiveTeacher(teacher) if isinstance(teacher, PreTrainedModel) else None
        # A tuple hides the teacher from nn.Module: no parameter, no state, no train().
        self._hidden_teacher: tuple[Teacher, Any] = (live or teacher, teacher)
        self.alignment = alignment
        if weights is None:
            weights = default_weights(Layered(student, field="student").width, self._hidden_teacher[0].width)
        self.weights = named_weights(weights)
        self.answers = answers_of(student)
        table = {**loss_rows(temperature, self.answers, options), **(losses or {})}
        self.losses = make_losses(self.weights, table, student, teacher, compared or alignment, seed=seed)
        self.loss_modules = modules_of(self.losses)
        """What losses train beside the student, such as projections: saved beside it, and no part of it."""
        if rotation is not None:
            self.loss_modules[_ROTATION] = rotation
        self.tokens = tokens
        self.swaps = SwapDraws(
            rule=NAMED_RULES[positions] if isinstance(positions, str) else positions,
            pairing=pairing,
            share=share,
            specials=specials,
            special_ids=special_ids,
            sources_per_row=sources_per_row,
            independent_positions=source_positions == "independent",
            of_tokens=control == "token-swap",
        )
        self.reach = reach or (reach_of_a_decoder if predicts_next(student) else reach_of_an_encoder)
        self.pairs_per_batch, self.control = pairs_per_batch, control
        self.balance = None if balance_every is None else GradientNorms([*self.weights], balance_every)
        self.seed = seed
        self.micro_batches = 0
        self.changed: Tensor | None = None
        """Of the last micro-batch in which input ids were swapped: the share of the swapped tokens that the swap made others.
        Where it is 0, swapping was plain distillation."""
        self.recompute = False
        self.words = shared_words(student, teacher, words)
        self._check()
        # safetensors, and so the stock Trainer, refuses a weight that stands under two names.
        self.register_state_dict_post_hook(without_second_names)
        self.register_load_state_dict_pre_hook(with_second_names)

    @property
    def teacher(self) -> Any:
        """The teacher as it was given: the frozen model, where it is one."""
        return self._hidden_teacher[1]

    @property
    def rotation(self) -> Rotation | None:
        """The sub-spaces that are swapped; None where whole states are, or ranges of their dimensions."""
        return next((module for module in self.loss_modules.values() if isinstance(module, Rotation)), None)

    @property
    def has_base(self) -> bool:
        """Whether any active loss reads the base runs."""
        return Needs.of(self.losses.values()).base

    @property
    def has_counterfactual(self) -> bool:
        """Whether any active loss reads runs under an intervention."""
        return Needs.of(self.losses.values()).counterfactual

    @property
    def has_schedules(self) -> bool:
        """Whether a weight changes over the steps."""
        return any(isinstance(weight, Ramp) for weight in self.weights.values())

    @property
    def reads(self) -> frozenset[str]:
        """What the active losses read of the predictions: ``logits``, ``hidden``, ..."""
        return frozenset().union(*(loss.reads for loss in self.losses.values()))

    def forward(
        self,
        batch: Mapping[str, Tensor] | None = None,
        *,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        slots: Int[Tensor, "batch slots"] | None = None,
        step: int | None = None,
        progress: float | None = None,
        **others: Tensor,
    ) -> dict[str, Float[Tensor, ""]]:
        """Named losses of one micro-batch, each a mean over its tokens, and ``loss``, their weighted sum. All carry gradients.

        ``batch``, or the same as keywords: ``input_ids`` Int[batch tokens], as the task makes them; ``labels`` of the same
        shape, -100 where there is nothing to predict; optionally what else the models read (``attention_mask``,
        ``token_type_ids``, ...). ``slots`` Int[batch slots], the positions of the labels, -1 in unused slots, saves the search
        for them; ``labels`` may then be Int[batch slots], those at the slots. (``masked_positions``: its name in diito 0.1.0,
        with labels Int[batch tokens].) ``source_input_ids``, ``source_attention_mask`` and so on (any length): sources that
        are not rows of the batch.
        ``step``: micro-batches since the start; it keys every draw, dropout included. None uses a counter of the module's own,
        which counts in train mode and is part of its state dict. ``progress``: the share of the run's steps that is done, which
        weights with a schedule need.

        Raises ValueError for labels that are neither one a token nor one a slot, and for an entry that the models do not read.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "labels": labels,
            "slots": slots,
        }
        batch = {**(batch or {}), **{name: value for name, value in given.items() if value is not None}, **others}
        batch = self._read(batch)
        step, weights = self._step(step), weights_at(self.weights, progress)
        needs = Needs.of(self.losses[name] for name in weights)
        slots, labels = slots_and_labels(batch, tokens=self.tokens)
        draws = self._draw(batch, step, needs)
        pair, swap, further = draws
        base, outputs = needs.base, self.words
        teacher = self._ask_teacher(batch, slots, draws, step, needs)
        student_bases = None if self.rotation is None or swap is None else self.rotation.student()
        key, device = (self.seed, step, _rank()), batch["input_ids"].device
        dropout = partial(keyed_dropout, "dropout", *key, device=device)
        # Heads of language models drop nothing out, and keying costs time.
        has_words = self.student.get_output_embeddings() is not None
        head_dropout = nullcontext if has_words else partial(keyed_dropout, "head dropout", *key, device=device)
        student = run_model(
            self.student,
            batch,
            pair.student,
            pair.student_dimensions,
            swap,
            slots,
            base=base,
            outputs=outputs,
            dropout=dropout,
            head_dropout=head_dropout,
            recompute=self.recompute and self.training,
            keep=needs.student,
            bases=student_bases,
            outside=needs.outside,
            reach=self.reach,
            further=[(each.student, each.student_dimensions, its_swap) for each, its_swap in further],
        )
        self.changed = swap.changed(batch) if swap is not None and self.control != "none" else None
        swaps = [] if swap is None else [swap, *(its_swap for _, its_swap in further)]
        reach = [reached(self.reach, batch, slots, each.positions) for each in swaps]
        losses, words = {name: self.losses[name] for name in weights}, self.words or count_outputs(self.student)
        named = mean_losses(losses, student, teacher, labels, slots, reach, words=words)
        if self.balance is not None:
            weights = self.balance(weights, named, self.student, step=step)
        named["loss"] = sum((weight * named[name] for name, weight in weights.items()), start=labels.new_zeros(()))
        return named

    def teacher_runs(self, batch: Mapping[str, Tensor], *, step: int) -> Runs:
        """What the teacher answers in micro-batch ``step``, for all losses, without the student; ``batch`` as in forward."""
        batch = self._read(batch)
        needs = Needs.of(self.losses.values())
        slots, _ = slots_and_labels(batch, tokens=self.tokens)
        return self._ask_teacher(batch, slots, self._draw(batch, step, needs), step, needs)

    def take_teacher(self, teacher: Teacher) -> None:
        """Ask ``teacher`` in place of the model, whose answers it gives, from a cache of them for example."""
        self._hidden_teacher = (teacher, self.teacher)

    def draw_swap(self, batch: Mapping[str, Tensor], *, step: int, run: int = 0, pair: AlignedPair | None = None) -> Swap:
        """What micro-batch ``step`` swaps on this rank: a function of the batch, the seed, ``step`` and the rank; of several
        counterfactual runs in the one of that number. ``pair``: the aligned pair that was drawn, for rules that ask for it.
        """
        further = [run] if run else []
        draws = generator("swap", self.seed, step, _rank(), *further, device=batch["input_ids"].device)
        return self.swaps.draw(batch, draws, pair=pair)

    def _read(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with slots and the labels at them, checked."""
        batch = {**with_slots(Layered(self.student), batch)}
        batch["labels"] = labels_at_slots(batch, self.answers)
        self._check_inputs(batch)
        return batch

    def _draw(self, batch: Mapping[str, Tensor], step: int, needs: Needs) -> _Draws:
        drawing = host_random("alignment", self.seed, step)
        pair = self.alignment.draw(drawing)
        swap = self.draw_swap(batch, step=step, pair=pair) if needs.counterfactual else None
        more = [] if swap is None else self.alignment.draw_others(pair, drawing, self.pairs_per_batch - 1)
        further = [(each, self.draw_swap(batch, step=step, run=run, pair=each)) for run, each in enumerate(more, start=1)]
        if swap is not None and self.control == "both":
            further.append((pair, replace(swap, of_tokens=True)))
        return _Draws(pair, swap, further)

    def _ask_teacher(self, batch: Mapping[str, Tensor], slots: Tensor, draws: _Draws, step: int, needs: Needs) -> Runs:
        bases = None if self.rotation is None or draws.swap is None else self.rotation.teacher()
        asked = {"keep": needs.teacher, "further": draws.further, "bases": bases}
        of_a_model = {name: value for name, value in asked.items() if value}
        teacher = self._hidden_teacher[0]
        return teacher.runs(batch, draws.pair, draws.swap, slots, step=step, base=needs.base, outputs=self.words, **of_a_model)

    def _step(self, step: int | None) -> int:
        if step is not None:
            return step
        step = self.micro_batches
        if self.training:  # measuring in between moves no draw of the training
            self.micro_batches += 1
        return step

    def get_extra_state(self) -> Tensor:
        """The module's own micro-batch count, as part of its state dict."""
        return torch.tensor(self.micro_batches)

    def set_extra_state(self, state: Tensor) -> None:
        """Put back what :meth:`get_extra_state` gave."""
        self.micro_batches = int(state)

    def activation_checkpointing_enable(self, *arguments: Any, **keywords: Any) -> None:
        """In training the student's layers keep their inputs alone and are run again, with the same dropout, for the backward
        pass. Trainer calls this where ``gradient_checkpointing`` is set; how it is done is not its to say.
        """
        self.recompute = True

    gradient_checkpointing_enable = activation_checkpointing_enable  # what Trainer calls before transformers had the other name

    def train(self, mode: bool = True) -> DistillationObjective:
        """Train or eval mode of the student; the teacher stays in eval mode."""
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationObjective:
        """The teacher moves along (``to``, ``cuda``, ...) although it is no submodule."""
        if isinstance(self.teacher, nn.Module):
            self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def _check_inputs(self, batch: Mapping[str, Tensor]) -> None:
        """Refuse an entry that no model reads: dropped without a word, it would be missed in silence."""
        inputs = {name: value for name, value in batch.items() if name not in _TASKS}
        sources = {name.removeprefix(_SOURCE): inputs.pop(name) for name in list(inputs) if name.startswith(_SOURCE)}
        sources = {name: value for name, value in sources.items() if name not in _TASKS}
        views = [Layered(model) for model in (self.student, self.teacher) if isinstance(model, PreTrainedModel)]
        for given in (inputs, sources):
            if any(view.reads(_TYPES, given) for view in views):  # a model without token types has those of the other in vain
                given.pop(_TYPES, None)
            for view in views if given else ():
                view.check_inputs(given)

    def _check(self) -> None:
        student, teacher = Layered(self.student, field="student"), self._hidden_teacher[0]
        if self.tokens == "all" and not student.per_token:
            raise Refusal("objective.tokens", "must be masked where a sequence has one prediction: it is not of its tokens")
        self.alignment.check(
            teacher_layers=teacher.depth,
            student_layers=student.depth,
            teacher_width=teacher.width,
            student_width=student.width,
        )
        check_pairs(
            self.pairs_per_batch, self.alignment, is_live=isinstance(teacher, LiveTeacher), of_tokens=self.swaps.of_tokens
        )
        if self.control == "both" and not isinstance(teacher, LiveTeacher):
            raise Refusal("intervention.control", "both needs a teacher that is a model")
        if self.rotation is not None:
            self.rotation.check(
                self.alignment,
                teacher_width=teacher.width,
                student_width=student.width,
                has_use=self.has_counterfactual and isinstance(teacher, LiveTeacher) and not self.swaps.of_tokens,
            )
        for name, loss in self.losses.items():
            if self.control != "none" and (loss.outside or "natural" in loss.reads):
                sentence = f"is of swapped states, and intervention.control {self.control} swaps words; leave it out"
                raise Refusal(f"objective.weights.{name}", sentence)
        check_widths(self.losses, student.width, teacher.width)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
