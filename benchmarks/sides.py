"""What is compared: ways to make an optimiser step, on random weights and random tokens (neither changes the speed)."""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from benchmarks.literal import LiteralStep
from benchmarks.machine import Shape, synchronise
from diito.method import positions as position_rules
from diito.method.alignment import AlignedPair, Alignment
from diito.method.cost import BACKWARD, ModelSize, step_cost
from diito.method.draws import generator
from diito.method.objective import DistillationObjective
from diito.method.runs import LiveTeacher
from diito.method.weights import PAPER_WEIGHTS
from diito.models.student import build_student
from diito.recipe import SpeedSection
from diito.speed.precision import prepare_models
from diito.speed.process import keep_freed_memory
from diito.tasks.masked_lm import Masking
from diito.training.cached_teacher import CachedTeacher, WritingTeacher
from diito.training.placement import cast_parameters
from diito.training.teacher_cache import Answers

MASK_RATE, SHARE, SEED = 0.15, 0.3, 42
MASK_ID, SPECIAL_IDS = 4, [1, 2]
STANDARD_WEIGHTS = {**PAPER_WEIGHTS, "causal_ce": 0.0}
ALIGNMENTS = {"full": Alignment.full, "middle": Alignment.middle, "late-released": Alignment.late_released}


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *rest, out_shape=None, **options: sdpa_flop_count(query, key, value)
    )
}
"""What torch's counter, which knows CUDA's kernels alone, is told of the CPU's (forward; the teacher has no backward)."""


@dataclass(frozen=True)
class Case:
    """The sizes of a step."""

    teacher_layers: int = 12
    student_layers: int = 6
    width: int = 768
    batch: int = 8
    length: int = 128
    words: int = 30522
    alignment: str = "full"
    heads: int | None = None
    """None: a head for every 64 of the width."""

    def __str__(self) -> str:
        layers = f"{self.teacher_layers} → {self.student_layers} × {self.width}"
        return f"{layers}, {self.batch} × {self.length} tokens, {self.words} words, {self.alignment}"

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.length

    def pairs(self) -> list[AlignedPair]:
        """The aligned pairs, one of which is drawn for a step."""
        return ALIGNMENTS[self.alignment](self.teacher_layers, self.student_layers).pairs

    def sizes(self) -> tuple[ModelSize, ModelSize]:
        """Of teacher and student."""
        shape = {"width": self.width, "inner": 4 * self.width, "words": self.words}
        teacher, student = (ModelSize.of_bert(layers=layers, **shape) for layers in (self.teacher_layers, self.student_layers))
        return teacher, student

    def products(self) -> list[Shape]:
        """The matrix products of the models."""
        rows, width, inner = self.tokens, self.width, 4 * self.width
        predicted = round(rows * MASK_RATE)
        return [(rows, width, width), (rows, width, inner), (rows, inner, width), (predicted, width, self.words)]


SIZES = ("teacher_layers", "student_layers", "width", "batch", "length", "words")


def add_case(parser: argparse.ArgumentParser, *, several: bool) -> None:
    """A flag for every field of a case, which may take several values."""
    count = "+" if several else None
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, nargs=count, default=getattr(Case(), name))
    parser.add_argument("--alignment", nargs=count, default="full", choices=ALIGNMENTS)
    parser.add_argument("--heads", type=int, help="attention heads (default: width / 64)")


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """The combinations of what :func:`add_case` was given."""
    names = (*SIZES, "alignment")
    given = (getattr(options, name) for name in names)
    values = itertools.product(*(each if isinstance(each, list) else [each] for each in given))
    return [Case(**dict(zip(names, each, strict=True)), heads=options.heads) for each in values]


@dataclass(frozen=True)
class Side:
    """One way to make a step, as its user runs it."""

    title: str
    literal: bool = False
    weights: dict[str, float] | None = None
    """None: the paper's."""
    bf16: bool = False
    speed: SpeedSection | None = None
    """None: torch and the allocator as they come."""
    cached: bool = False
    """Whether the teacher's answers are read from files that were written before the step."""

    @property
    def precision(self) -> str:
        """As matrix products are multiplied."""
        return "bf16" if self.bf16 else "fp32"


FAST, COMPILED = SpeedSection(), SpeedSection(compile=True)
SIDES = {
    "literal": Side("(a) Algorithm 1 literally, fp32", literal=True),
    "literal-kept": Side("(a) with memory kept", literal=True, speed=FAST),
    "diito-fp32": Side("(b) DIITO, fp32", speed=FAST),
    "diito-bf16": Side("(c) DIITO, bf16", bf16=True, speed=FAST),
    "cached-fp32": Side("(b) DIITO, fp32, cached teacher", speed=FAST, cached=True),
    "cached-bf16": Side("(c) DIITO, bf16, cached teacher", bf16=True, speed=FAST, cached=True),
    "standard-fp32": Side("(d) standard, fp32", weights=STANDARD_WEIGHTS, speed=FAST),
    "standard-bf16": Side("(d) standard, bf16", weights=STANDARD_WEIGHTS, bf16=True, speed=FAST),
    "diito-bf16-compiled": Side("(c) compiled", bf16=True, speed=COMPILED),
    "standard-bf16-compiled": Side("(d) standard, bf16, compiled", weights=STANDARD_WEIGHTS, bf16=True, speed=COMPILED),
    "diito-bf16-plain": Side("(c) with speed off", bf16=True),
}


@dataclass(frozen=True)
class Swap:
    """The draw of one round: the one a ``DistillationObjective`` makes at that step, and the aligned pair."""

    step: int
    pair: AlignedPair
    rows: Tensor
    """Int[batch]: each row's source."""
    positions: Tensor
    """Bool[batch tokens]"""


def build_models(case: Case, device: torch.device) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A teacher and a student, both fp32, of random weights that are the same in every process."""
    config = BertConfig(
        vocab_size=case.words,
        hidden_size=case.width,
        intermediate_size=4 * case.width,
        num_hidden_layers=case.teacher_layers,
        num_attention_heads=case.heads or max(1, case.width // 64),
        max_position_embeddings=max(512, case.length),
    )
    torch.manual_seed(SEED)
    teacher = BertForMaskedLM(config).to(device).eval()
    return teacher, build_student(teacher, case.student_layers)


def masked_batch(case: Case, step: int, device: torch.device) -> dict[str, Tensor]:
    """Random tokens between [CLS] and [SEP], masked as in training."""
    masking = Masking(
        token_counts=None,
        rate=MASK_RATE,
        smoothing=0.0,
        mask_token_id=MASK_ID,
        vocab_size=case.words,
        special_ids=SPECIAL_IDS,
        pad_token_id=None,
    )
    draws = generator("batch", SEED, step, device=device)
    ids = torch.randint(MASK_ID + 1, case.words, (case.batch, case.length), generator=draws, device=device)
    ids[:, 0], ids[:, -1] = SPECIAL_IDS
    return masking({"input_ids": ids}, generator=draws)


def draw_swap(batch: dict[str, Tensor], pair: AlignedPair, step: int) -> Swap:
    """What the objective draws for this step on its own, for the side that cannot; a test holds the two together."""
    ids, draws = batch["input_ids"], generator("swap", SEED, step, 0, device=batch["input_ids"].device)
    rows = position_rules.derangement(len(ids), draws)
    allowed = ~position_rules.special_positions(ids, torch.ones_like(ids, dtype=torch.bool), None)
    eligible = position_rules.eligible_positions(allowed, allowed[rows])
    return Swap(step, pair, rows, position_rules.consecutive(eligible, batch["labels"] >= 0, SHARE, draws))


class AnswerFiles:
    """A teacher's answers in a file for each step, in a folder of their own."""

    def __init__(self) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix="answers-")
        self.folder = Path(self._holder.name)

    def add(self, step: int, answers: Answers) -> None:
        """Write them."""
        save_file(answers, self.folder / f"{step}.safetensors")

    def read(self, step: int) -> Answers:
        """Read them."""
        return load_file(self.folder / f"{step}.safetensors")


class Stepper:
    """A side with models of its own: each call makes one optimiser step. The given teacher is shared where it is fp32.

    ``wrap`` is put around diito's objective, such as ``DistributedDataParallel``.
    """

    def __init__(
        self,
        side: Side,
        case: Case,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        *,
        wrap: Callable[[nn.Module], nn.Module] = lambda objective: objective,
    ) -> None:
        self.side, self.case, self.device = side, case, student.device
        if side.speed is not None and side.speed.keep_memory:
            keep_freed_memory()
        if side.bf16:
            teacher = copy.deepcopy(teacher)
            cast_parameters(teacher, torch.bfloat16)
        if side.speed is not None and not side.literal:
            prepare_models(student, teacher, side.speed, device=self.device)
        self.teacher, self.student = teacher, student
        self.loss = self._literal(teacher, student) if side.literal else self._ours(teacher, student, wrap)
        self.prepare: Callable[[dict[str, Tensor], Swap], None] = lambda batch, swap: None
        if side.cached:
            self._cache()
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
        self.weight_bytes = sum(tensor.nbytes for model in (teacher, student) for tensor in model.parameters())

    def _literal(self, teacher: nn.Module, student: nn.Module) -> Callable[[dict[str, Tensor], Swap], Tensor]:
        step = LiteralStep(student, teacher, weights=PAPER_WEIGHTS)

        def loss(batch: dict[str, Tensor], swap: Swap) -> Tensor:
            source = {"input_ids": batch["input_ids"][swap.rows]}
            return step(batch, source, list(swap.pair.student), list(swap.pair.teacher), swap.positions)

        return loss

    def _ours(
        self, teacher: PreTrainedModel, student: PreTrainedModel, wrap: Callable[[nn.Module], nn.Module]
    ) -> Callable[[dict[str, Tensor], Swap], Tensor]:
        alignment, weights = Alignment(self.case.pairs()), self.side.weights
        objective = DistillationObjective(student, teacher, alignment, weights=weights, share=SHARE, seed=SEED).train()
        module = wrap(objective)
        self.objective = objective

        def loss(batch: dict[str, Tensor], swap: Swap) -> Tensor:
            objective.alignment = Alignment([swap.pair])
            return module(batch, step=swap.step)["loss"]

        return loss

    def _cache(self) -> None:
        """Have the teacher's answers written before a step, and read in it."""
        objective, files = self.objective, AnswerFiles()
        live = LiveTeacher(objective.teacher)
        writing, reading = WritingTeacher(live, files), CachedTeacher(live, files)

        def prepare(batch: dict[str, Tensor], swap: Swap) -> None:
            objective.alignment = Alignment([swap.pair])
            objective.take_teacher(writing)
            with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.side.bf16):
                objective.teacher_runs(batch, step=swap.step)
            objective.take_teacher(reading)

        self.prepare = prepare

    def forward_backward(self, batch: dict[str, Tensor], swap: Swap) -> None:
        """One micro-batch."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.side.bf16):
            loss = self.loss(batch, swap)
        loss.backward()

    def __call__(self, step: int, pair: AlignedPair, *, micro_batches: int = 1) -> float:
        """Seconds the step took; batch and swap are functions of its number."""
        batches = [masked_batch(self.case, step * micro_batches + micro, self.device) for micro in range(micro_batches)]
        draws = [draw_swap(batch, pair, step) for batch in batches]
        for batch, swap in zip(batches, draws, strict=True):
            self.prepare(batch, swap)
        synchronise(self.device)
        start = time.perf_counter()
        for batch, swap in zip(batches, draws, strict=True):
            self.forward_backward(batch, swap)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronise(self.device)
        return time.perf_counter() - start

    def counted_flops(self, step: int, pair: AlignedPair) -> float:
        """FLOPs of one micro-batch, forward and backward, as torch's counter sees them."""
        batch = masked_batch(self.case, step, self.device)
        swap = draw_swap(batch, pair, step)
        self.prepare(batch, swap)
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            self.forward_backward(batch, swap)
        self.optimizer.zero_grad()
        return counter.get_total_flops()


def step_flops(side: Side, case: Case, pair: AlignedPair) -> float:
    """FLOPs of one step by formula: matrix products only, for this pair exactly."""
    teacher, student = case.sizes()
    if side.literal:
        forward = 3 * (model_cost(teacher, case.length) + model_cost(student, case.length))
        source_backward = (pair.student[-1] + 1) * student.layer(case.length)  # no loss reads what lies above
        return case.tokens * (forward + BACKWARD * (2 * model_cost(student, case.length) + source_backward))
    loss_tokens = max(1, round(MASK_RATE * (case.length - 2))) / case.length
    cost = step_cost(
        teacher,
        student,
        Alignment([pair]),
        length=case.length,
        loss_tokens=loss_tokens,
        counterfactual=side.weights is None,
        cached=side.cached,
    )
    return case.tokens * cost.total


def model_cost(model: ModelSize, length: int) -> float:
    """Forward FLOPs for one token that goes through all layers and the head."""
    return model.layers * model.layer(length) + model.head()
