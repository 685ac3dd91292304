"""What ``diito generate`` and ``diito pretrain`` do, as data: every field is a flag. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diito.recipe.fields import AboveZero, Count, NotNegative


@dataclass
class GenerateSettings:
    """What is generated, and where."""

    seed: int = 1
    """Draws the tables, gates or pointers, the held-out combinations and the rows."""
    rows: Count = 200
    """Rows of train.jsonl."""
    size: int | None = None
    """tables, scrambled: words and values (7); chain: places and pointers (7); carry: the base (7); circuit: the depth (3)."""
    output: str | None = None
    """The folder; null: data/<structure>-<seed>."""


@dataclass
class PretrainSettings:
    """A teacher for generated data: a model with drawn weights, trained on all rows by the cross-entropy of the answer."""

    output: str | None = None
    """The folder of the model; null: models/<name of the data>."""
    seed: int = 1
    """Draws the weights and the order of the rows."""
    task: Literal["cloze", "sequence-classification", "causal-lm"] = "cloze"
    """cloze: a masked language model that answers at the mask. sequence-classification: a classifier of the text before it.
    causal-lm: a decoder whose next token after that text is the answer."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's configuration, on top of a BERT (causal-lm: a Llama) of 4 layers, 64 wide, without dropout;
    ``model_type`` names another family of transformers."""
    steps: Count = 4000
    """Optimiser steps at most; the learning rate falls to 0 over them."""
    batch: Count = 128
    """Rows of a step."""
    learning_rate: AboveZero = 2e-3
    """Highest learning rate, after 100 steps."""
    weight_decay: NotNegative = 0.01
    """Weight decay of AdamW."""
    accuracy: float = 1.0
    """The share of all rows that it has to answer rightly: training ends where it does, with a cross-entropy of at most
    ``cross_entropy``, and what does not reach it is refused."""
    cross_entropy: float = 0.05
    """Mean over all rows, in nats."""
    check_every: Count = 250
    """Steps between two looks at these."""
