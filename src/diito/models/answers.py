"""What the outputs of a classifier mean, as its configuration says, and which tokens they are read from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

Answers = Literal["classes", "numbers", "several"]
"""A class, or a word of the vocabulary, out of all; a number (regression); any of the classes, each on its own."""
Reads = Literal["first", "last", "all"]
"""The tokens that the head of a sequence reads: the first, the last that is no padding, or several."""


def answers_of(model: PreTrainedModel) -> Answers:
    """What the outputs of ``model`` mean; of all but sequence classifiers they are classes."""
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    return answers_of_config(model.config) if is_classifier else "classes"


def predicts_next(model: PreTrainedModel) -> bool:
    """Whether the head of ``model`` is one that predicts the next token, as its class says."""
    name = type(model).__name__
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and name not in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()


def answers_of_config(config: Any) -> Answers:
    """The same of a sequence classifier's configuration: its ``problem_type``; where it has none, one output is a number."""
    kind = getattr(config, "problem_type", None)
    if kind == "multi_label_classification":
        return "several"
    return "numbers" if kind == "regression" or (kind is None and config.num_labels == 1) else "classes"


def label_names(config: Any) -> list[str]:
    """The names of a classifier's outputs, in their order."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def read_positions(reads: Reads, inputs: Mapping[str, Tensor], padding: int | None) -> Bool[Tensor, "batch tokens"]:
    """The tokens that a head reads; of several all real ones are taken.

    As the models themselves do, the last one is the last whose id is not ``padding``, whatever the attention mask says.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    if reads == "first":
        return places == 0
    if reads == "last":
        real = torch.ones_like(ids, dtype=torch.bool) if padding is None else ids != padding
        return places == (places * real).amax(1, keepdim=True)
    return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
