"""What each loss costs beside standard distillation: FLOPs as the plan counts them, and bytes kept for the backward pass.

``python -m benchmarks.losses``: random models of BERT's kind, 12 → 6 layers; the FLOPs at 768 wide and 512 tokens, the bytes of
one forward pass at ``--width`` and ``--length``. Counts, not timings: they come out the same on any machine.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from diito import AlignedPair, Alignment, DistillationObjective, build_student
from diito.method.cost import ModelSize, step_cost

STANDARD = {"task": 1 / 3, "ce": 1 / 3, "cos": 1 / 3}
LOSSES = (
    "reverse_kl", "jsd", "tvd", "skew_kl", "mse", "hidden", "cka", "relations", "attention", "contrastive",
    "causal_ce", "causal_jsd", "causal_hidden", "causal_relations", "strict", "manifold",
)  # fmt: skip
VARIANTS = {
    "`causal_ce`, `sources_per_row` 3": {"sources_per_row": 3},
    "`causal_ce`, `pairs_per_batch` 2": {"pairs_per_batch": 2},
    "`causal_ce`, `pairs_per_batch` 6": {"pairs_per_batch": 6},
    "`causal_ce`, `balance_every` 1 micro-batch": {"balance_every": 1},
    "`causal_ce`, `balance_every` 100": {"balance_every": 100},
}
"""What is asked of the interventions or of the weights, beside standard distillation and causal_ce."""
SLOTS = 0.15


def models(width: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher."""
    sizes = {"num_hidden_layers": 12, "hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 12}
    teacher = BertForMaskedLM(BertConfig(**sizes, vocab_size=30522))
    return build_student(teacher, layers=6), teacher


def objective(student: PreTrainedModel, teacher: PreTrainedModel, name: str | None, **options: Any) -> DistillationObjective:
    """Standard distillation and one loss more; strict has half of each state aligned."""
    half = [(0, student.config.hidden_size // 2)]
    full = Alignment.full(12, 6)
    pairs = Alignment(AlignedPair(pair.student, pair.teacher, half, half) for pair in full.pairs)
    weights = STANDARD if name is None else {**STANDARD, name: 0.1}
    return DistillationObjective(student, teacher, pairs if name == "strict" else full, weights=weights, **options)


def relative_flops(method: DistillationObjective, *, batch: int, length: int) -> float:
    """FLOPs of a step over those of standard distillation."""
    sizes = ModelSize.of(method.teacher), ModelSize.of(method.student)
    balanced = 0.0 if method.balance is None else 1 / method.balance.every
    rows = {"losses": method.losses, "weights": method.weights, "balanced": balanced, "pairs_per_batch": method.pairs_per_batch}
    cost = step_cost(*sizes, method.alignment, length=length, loss_tokens=SLOTS, batch=batch, **rows)
    return cost.total / cost.base


def bytes_kept(method: DistillationObjective, *, batch: int, length: int) -> int:
    """Bytes that a forward pass keeps for its backward pass, parameters aside."""
    ids = torch.randint(1000, 30000, (batch, length), generator=torch.Generator().manual_seed(0))
    slots = torch.arange(1, 1 + round(SLOTS * length)).expand(batch, -1)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    method.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = method({"input_ids": ids, "slots": slots, "labels": ids.gather(1, slots)}, step=0)
    for parameter in method.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del losses
    return sum(kept.values())


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    given = parser.parse_args()
    wide = models(768)
    small = models(given.width)
    memory = {"batch": given.batch, "length": given.length}
    standard = bytes_kept(objective(*small, None), **memory)
    print(f"| loss | FLOPs, 8 × 512 × 768 | kept for the backward pass, {given.batch} × {given.length} × {given.width} |")
    print("|---|--:|--:|")
    print(f"| none | 1.000 | 1.00 ({standard / 1e6:.0f} MB) |")
    asked: dict[str, tuple[str, dict[str, Any]]] = {f"`{name}`": (name, {}) for name in LOSSES}
    asked |= {said: ("causal_ce", options) for said, options in VARIANTS.items()}
    for said, (name, options) in asked.items():
        flops = relative_flops(objective(*wide, name, **options), batch=8, length=512)
        kept = bytes_kept(objective(*small, name, **options), **memory)
        print(f"| {said} | {flops:.3f} | {kept / standard:.2f} |", flush=True)


if __name__ == "__main__":
    main()
