"""How long an optimiser step takes: Algorithm 1 taken literally, DIITO as it is here, and standard distillation.

    python benchmarks/step.py --output step.json

One process times every side (forward, backward, AdamW) in every round, in an order that rotates; within a round all of them
get the same masked batch, swap and aligned pair, and each pair of FULL comes up equally often. Ratios are taken
within a round, since the cost of a step depends on the pair. Models are BERTs with random weights and dropout 0.1.

The matrix products of the models are timed between the rounds as well; the best rate is the peak of the machine, of which
each side reaches the share shown (counted FLOPs over mean time over peak). Peak memory and the first step are measured in a
process for each side, with the lowest pair, which costs most.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from literal import LiteralStep
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from diito import positions as position_rules
from diito.alignment import AlignedPair, Alignment
from diito.draws import generator
from diito.flops import BACKWARD, ModelSize, step_cost
from diito.masking import Masking
from diito.objective import PAPER_WEIGHTS, DistillationObjective
from diito.run_folder import environment, write_json
from diito.student import build_student

MASK_RATE, SHARE, SEED = 0.15, 0.3, 42
MASK_ID, SPECIAL_IDS = 4, [1, 2]
STANDARD_WEIGHTS = {**PAPER_WEIGHTS, "causal_ce": 0.0}


@dataclass(frozen=True)
class Side:
    """One way to make a step."""

    title: str
    literal: bool = False
    weights: dict[str, float] | None = None
    """None: the paper's."""
    bf16: bool = False

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"


SIDES = {
    "literal": Side("(a) Algorithm 1 literally, fp32", literal=True),
    "diito-fp32": Side("(b) DIITO, fp32"),
    "diito-bf16": Side("(c) DIITO, bf16", bf16=True),
    "standard-fp32": Side("(d) standard distillation, fp32", weights=STANDARD_WEIGHTS),
    "standard-bf16": Side("(d) standard distillation, bf16", weights=STANDARD_WEIGHTS, bf16=True),
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


# What is timed


def build_models(options: argparse.Namespace, device: torch.device) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A teacher and a student, both fp32, of random weights that are the same in every process."""
    config = BertConfig(
        vocab_size=options.words,
        hidden_size=options.width,
        intermediate_size=4 * options.width,
        num_hidden_layers=options.teacher_layers,
        num_attention_heads=options.heads,
        max_position_embeddings=max(512, options.length),
    )
    torch.manual_seed(SEED)
    teacher = BertForMaskedLM(config).to(device).eval()
    return teacher, build_student(teacher, options.student_layers)


def full_alignment(options: argparse.Namespace) -> Alignment:
    return Alignment.full(options.teacher_layers, options.student_layers)


def masked_batch(options: argparse.Namespace, step: int, device: torch.device) -> dict[str, Tensor]:
    """Random tokens between [CLS] and [SEP], masked as in training."""
    masking = Masking(
        token_counts=None,
        rate=MASK_RATE,
        smoothing=0.0,
        mask_token_id=MASK_ID,
        vocab_size=options.words,
        special_ids=SPECIAL_IDS,
        pad_token_id=None,
    )
    draws = generator("batch", SEED, step, device=device)
    ids = torch.randint(MASK_ID + 1, options.words, (options.batch, options.length), generator=draws, device=device)
    ids[:, 0], ids[:, -1] = SPECIAL_IDS
    return masking({"input_ids": ids}, generator=draws)


def draw_swap(batch: dict[str, Tensor], pair: AlignedPair, step: int) -> Swap:
    """What the objective draws for this step on its own, for the side that cannot; a test holds the two together."""
    ids, draws = batch["input_ids"], generator("swap", SEED, step, 0, device=batch["input_ids"].device)
    rows = position_rules.derangement(len(ids), draws)
    allowed = ~position_rules.special_positions(ids, torch.ones_like(ids, dtype=torch.bool), None)
    eligible = position_rules.eligible_positions(allowed, allowed[rows])
    return Swap(step, pair, rows, position_rules.consecutive(eligible, batch["labels"] >= 0, SHARE, draws))


class Stepper:
    """A side with models of its own: each call makes one optimiser step. The given teacher is shared where it is fp32."""

    def __init__(self, side: Side, teacher: PreTrainedModel, student: PreTrainedModel, alignment: Alignment) -> None:
        self.bf16 = side.bf16
        self.device = student.device
        if side.bf16:
            teacher = copy.deepcopy(teacher).to(torch.bfloat16)
        self.loss: Callable[[dict[str, Tensor], Swap], Tensor] = (
            self._literal(teacher, student) if side.literal else self._ours(teacher, student, alignment, side.weights)
        )
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def _literal(self, teacher: nn.Module, student: nn.Module) -> Callable[[dict[str, Tensor], Swap], Tensor]:
        step = LiteralStep(student, teacher, weights=PAPER_WEIGHTS)

        def loss(batch: dict[str, Tensor], swap: Swap) -> Tensor:
            source = {"input_ids": batch["input_ids"][swap.rows]}
            return step(batch, source, list(swap.pair.student), list(swap.pair.teacher), swap.positions)

        return loss

    def _ours(
        self, teacher: PreTrainedModel, student: PreTrainedModel, alignment: Alignment, weights: dict[str, float] | None
    ) -> Callable[[dict[str, Tensor], Swap], Tensor]:
        objective = DistillationObjective(student, teacher, alignment, weights=weights, share=SHARE, seed=SEED).train()

        def loss(batch: dict[str, Tensor], swap: Swap) -> Tensor:
            objective.alignment = Alignment([swap.pair])
            return objective(batch, step=swap.step)["loss"]

        return loss

    def __call__(self, batch: dict[str, Tensor], swap: Swap) -> float:
        """Seconds the step took."""
        synchronise(self.device)
        start = time.perf_counter()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            loss = self.loss(batch, swap)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronise(self.device)
        return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# The peak of the machine


class MatrixProducts:
    """The matrix products of the models, and a large square one; each visit times all of them once."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        rows, width, inner = options.batch * options.length, options.width, 4 * options.width
        square, predicted = 8192 if device.type == "cuda" else min(2048, 8 * width), round(rows * MASK_RATE)
        self.device = device
        self.repetitions = 20 if device.type == "cuda" else 1
        self.shapes = [
            (rows, width, width),
            (rows, width, inner),
            (rows, inner, width),
            (predicted, width, options.words),
            (rows, width, options.words),
            (square, square, square),
        ]
        self.best: dict[str, dict[str, float]] = {"fp32": {}, "bf16": {}}
        """FLOP/s by precision and shape."""

    def visit(self) -> None:
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for rows, inner, columns in self.shapes:
                left = torch.randn(rows, inner, device=self.device).to(dtype)
                right = torch.randn(columns, inner, device=self.device).to(dtype).t()  # as a linear layer holds it
                out = torch.empty(rows, columns, dtype=dtype, device=self.device)
                torch.mm(left, right, out=out)
                synchronise(self.device)
                start = time.perf_counter()
                for _ in range(self.repetitions):
                    torch.mm(left, right, out=out)
                synchronise(self.device)
                rate = self.repetitions * 2 * rows * inner * columns / (time.perf_counter() - start)
                name = f"{rows}x{inner}x{columns}"
                self.best[precision][name] = max(rate, self.best[precision].get(name, 0.0))

    def peak(self, precision: str) -> float:
        return max(self.best[precision].values())


def step_flops(side: Side, options: argparse.Namespace, pair: AlignedPair, loss_tokens: float) -> float:
    """FLOPs of one step: matrix products only, for this pair exactly."""
    teacher = ModelSize(options.teacher_layers, options.width, 4 * options.width, options.words)
    student = ModelSize(options.student_layers, options.width, 4 * options.width, options.words)
    tokens = options.batch * options.length
    if side.literal:
        forward = 3 * (model_cost(teacher, options.length) + model_cost(student, options.length))
        source_backward = (pair.student[-1] + 1) * student.layer(options.length)  # no loss reads what lies above
        return tokens * (forward + BACKWARD * (2 * model_cost(student, options.length) + source_backward))
    counterfactual = side.weights is None
    cost = step_cost(
        teacher, student, Alignment([pair]), length=options.length, loss_tokens=loss_tokens, counterfactual=counterfactual
    )
    return tokens * cost.total


def model_cost(model: ModelSize, length: int) -> float:
    """Forward FLOPs for one token that goes through all layers and the head."""
    return model.layers * model.layer(length) + model.head()


# Memory and the first step, in a process of its own


def measure_alone(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the first step of a side, bytes of its weights, and its peak of memory in a later step."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    before = 0 if device.type == "cuda" else resident("VmRSS")
    teacher, student = build_models(options, device)
    alignment = full_alignment(options)
    stepper = Stepper(SIDES[name], teacher, student, alignment)
    weights = sum(tensor.nbytes for tensor in student.parameters())
    weights += sum(tensor.nbytes for tensor in teacher.parameters()) // (2 if SIDES[name].bf16 else 1)
    del teacher, student
    seconds = []
    for step in range(4):
        batch = masked_batch(options, step, device)
        if step == 3:
            reset_peak(device)
        seconds.append(stepper(batch, draw_swap(batch, alignment.pairs[0], step)))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM") - before
    return {"first_step_seconds": seconds[0], "peak_bytes": peak, "weight_bytes": weights}


def reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what construction and warm-up gave back is no part of a step
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def run_alone(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """:func:`measure_alone` for each side, each in a process that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diito.objective", "diito.masking", "transformers.models.bert.modeling_bert"])
    measured = {}
    for name in options.sides:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            measured[name] = pool.submit(measure_alone, name, options).result()
    return measured


# The measurement


def run_rounds(options: argparse.Namespace, device: torch.device) -> tuple[list[dict[str, Any]], MatrixProducts]:
    """One entry a round: the pair, and for each side its seconds and FLOPs."""
    teacher, student = build_models(options, device)
    alignment = full_alignment(options)
    steppers = {name: Stepper(SIDES[name], teacher, copy.deepcopy(student), alignment) for name in options.sides}
    products = MatrixProducts(options, device)
    order = random.Random(SEED)
    pairs = [alignment.pairs[0]] * options.warmup  # the costliest: what a run allocates it has allocated then
    for _ in range(options.rounds // len(alignment.pairs)):
        pairs += order.sample(alignment.pairs, len(alignment.pairs))
    rounds = []
    for step, pair in enumerate(pairs):
        batch = masked_batch(options, step, device)
        swap = draw_swap(batch, pair, step)
        loss_tokens = batch["masked_positions"].shape[1] / options.length
        first = step % len(options.sides)
        seconds = {name: steppers[name](batch, swap) for name in options.sides[first:] + options.sides[:first]}
        products.visit()
        if step >= options.warmup:
            flops = {name: step_flops(SIDES[name], options, pair, loss_tokens) for name in options.sides}
            rounds.append({"student": pair.student, "teacher": pair.teacher, "seconds": seconds, "flops": flops})
    return rounds, products


def summarise(
    options: argparse.Namespace, rounds: list[dict[str, Any]], products: MatrixProducts, alone: dict[str, dict[str, float]]
) -> dict[str, Any]:
    sides = {}
    for name in options.sides:
        seconds = [each["seconds"][name] for each in rounds]
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        rate = sum(each["flops"][name] for each in rounds) / sum(seconds)
        sides[name] = {
            "title": SIDES[name].title,
            "seconds": {"lower_quartile": lower, "median": median, "upper_quartile": upper, "mean": statistics.mean(seconds)},
            "tokens_per_second": options.batch * options.length / statistics.mean(seconds),
            "flops_per_second": rate,
            "share_of_peak": rate / products.peak(SIDES[name].precision),
            **alone[name],
        }
    ratios = {}
    comparisons = [("literal", name) for name in options.sides if name != "literal"]
    comparisons += [(f"diito-{precision}", f"standard-{precision}") for precision in ("fp32", "bf16")]
    for slow, fast in comparisons:
        if {slow, fast} <= set(options.sides):
            in_rounds = [each["seconds"][slow] / each["seconds"][fast] for each in rounds]
            flops = [sum(each["flops"][name] for each in rounds) for name in (slow, fast)]
            ratios[f"{slow} / {fast}"] = {
                "median_of_rounds": statistics.median(in_rounds),
                "of_means": sides[slow]["seconds"]["mean"] / sides[fast]["seconds"]["mean"],
                "of_flops": flops[0] / flops[1],
            }
    peak = {precision: {"flops_per_second": products.peak(precision), **best} for precision, best in products.best.items()}
    return {"sides": sides, "ratios": ratios, "peak": peak}


def print_report(report: dict[str, Any]) -> None:
    rows = [["", "ms a step", "quartiles", "mean", "tokens/s", "GFLOP/s", "of peak", "peak MB", "first step ms"]]
    for side in report["sides"].values():
        seconds = side["seconds"]
        rows.append(
            [
                side["title"],
                f"{1e3 * seconds['median']:.1f}",
                f"{1e3 * seconds['lower_quartile']:.1f} to {1e3 * seconds['upper_quartile']:.1f}",
                f"{1e3 * seconds['mean']:.1f}",
                f"{side['tokens_per_second']:.0f}",
                f"{side['flops_per_second'] / 1e9:.1f}",
                f"{side['share_of_peak']:.1%}",
                f"{side['peak_bytes'] / 1e6:.0f}",
                f"{1e3 * side['first_step_seconds']:.0f}",
            ]
        )
    print_columns(rows)
    rows = [["", "median of rounds", "of means", "of FLOPs"]]
    for name, ratio in report["ratios"].items():
        rows.append([name, *(f"{ratio[key]:.2f}" for key in ("median_of_rounds", "of_means", "of_flops"))])
    print_columns(rows)
    print(*(f"peak {name}: {best['flops_per_second'] / 1e9:.0f} GFLOP/s" for name, best in report["peak"].items()), sep="\n")


def print_columns(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)), sep="  ")
    print()


def processor_name() -> str | None:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher-layers", type=int, default=12)
    parser.add_argument("--student-layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, help="attention heads (default: width / 64)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--words", type=int, default=30522)
    parser.add_argument("--rounds", type=int, default=12, help="rounded up to a multiple of the aligned pairs")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before those that count")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"comma-separated, of {', '.join(SIDES)}")
    parser.add_argument("--output", type=Path, help="write the results here, as JSON")
    options = parser.parse_args(arguments)
    options.sides = options.sides.split(",")
    if unknown := [name for name in options.sides if name not in SIDES]:
        parser.error(f"--sides: {unknown[0]!r} is not one of {', '.join(SIDES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} must be at least 1")
    options.rounds = math.ceil(options.rounds / options.student_layers) * options.student_layers  # FULL: a pair a layer
    options.heads = options.heads or max(1, options.width // 64)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, write the JSON; returns what the JSON holds."""
    options = parse(arguments)
    alone = run_alone(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    rounds, products = run_rounds(options, torch.device(options.device))
    report = {
        "environment": {**environment(), "processor": processor_name(), "settings": torch.__config__.show()},
        "options": {name: value for name, value in vars(options).items() if name != "output"},
        **summarise(options, rounds, products, alone),
        "rounds": rounds,
    }
    print_report(report)
    if options.output:
        write_json(options.output, report)
        print(f"written to {options.output}")
    return report


if __name__ == "__main__":
    main()
