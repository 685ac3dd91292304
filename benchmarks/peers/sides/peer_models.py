"""The models and the data of a case, the same in every process: weights and tokens are functions of the seed alone.

Weights are drawn parameter by parameter, so that they do not depend on what a version of transformers draws in which order.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import vision  # noqa: F401  (before transformers)
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

SEED, MASK_RATE, MASK_ID, FIRST_WORD, PAD_ID = 42, 0.15, 4, 5, 0
CLASSES = 3


def build(case: dict[str, Any], layers: int, *, seed: int) -> nn.Module:
    """A model of the case's kind, fp32, without dropout unless the case has some."""
    width, words, length = case["width"], case["words"], case["length"]
    bert = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": max(512, length),
        "hidden_dropout_prob": case["dropout"],
        "attention_probs_dropout_prob": case["dropout"],
    }
    if case["kind"] == "masked-lm":
        model: Any = BertForMaskedLM(BertConfig(**bert))
    elif case["kind"] == "classifier":
        model = BertForSequenceClassification(BertConfig(**bert, num_labels=CLASSES))
    elif case["kind"] == "decoder":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=words,
                hidden_size=width,
                intermediate_size=64 * round(width * 8 / 3 / 64),
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                num_key_value_heads=width // 64,
                max_position_embeddings=max(512, length),
                tie_word_embeddings=True,
                use_cache=False,
            )
        )
    else:
        sizes = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "n_positions": max(512, length)}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=words, **sizes, bos_token_id=0, eos_token_id=0))
    draw_weights(model, seed)
    return model


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Matrices from a normal distribution, each by its name and the seed; norms and biases as they are."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            draws = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big"))
            parameter.normal_(0, 0.02, generator=draws)


def teacher_and_student(case: dict[str, Any]) -> tuple[Any, Any]:
    """The teacher in eval mode and without gradients, the student in train mode."""
    teacher = build(case, case["teacher_layers"], seed=SEED).eval().requires_grad_(False)
    return teacher, build(case, case["student_layers"], seed=SEED + 1).train()


def batch_of(case: dict[str, Any], number: int) -> dict[str, Tensor]:
    """The tokens of a step and what is right. ``slots`` Int[B, K] are the positions of the labels, ``labels`` Int[B, T] are
    -100 where there is nothing to predict; of a classifier there is one label a row.
    """
    draws = torch.Generator().manual_seed(1_000 * SEED + number)
    rows, length = case["batch"], case["length"]
    ids = torch.randint(FIRST_WORD, case["words"], (rows, length), generator=draws)
    if case["kind"] == "classifier":
        return {"input_ids": ids, "labels": torch.randint(CLASSES, (rows,), generator=draws)}
    if case["kind"] == "masked-lm":
        slots = torch.rand(rows, length, generator=draws).topk(round(MASK_RATE * length), dim=1).indices.sort(1).values
        labels = torch.full_like(ids, -100).scatter(1, slots, ids.gather(1, slots))
        return {"input_ids": ids.scatter(1, slots, MASK_ID), "slots": slots, "labels": labels}
    return {"input_ids": ids}


def swapped_positions(case: dict[str, Any]) -> range:
    """What an interchange swaps in every row: a span from a quarter of the row on, 30 % of it."""
    length = case["length"]
    return range(length // 4, length // 4 + round(0.3 * length))


def shown(logits: Tensor) -> dict[str, Tensor]:
    """Of the logits of an interchange what tells whether two are the same: their size, and some behind the swap."""
    last = logits[0, -1]
    return {"norm": logits.norm(), **{f"word {word}": last[word] for word in range(3)}}


def autocast(case: dict[str, Any]) -> torch.autocast:
    """What the forward passes of a step run in."""
    return torch.autocast("cpu", torch.bfloat16, enabled=case["precision"] == "bf16")
