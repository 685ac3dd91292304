"""What the axes of a layer's weights are made of: heads, key-value heads or neurons, as the names of its modules say.

The names are those of the families that are distilled most: BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, ModernBERT, GPT-2,
OPT, GPT-NeoX, Llama, Qwen and what is built like them. A layer whose names say nothing cannot be cut; ``cut`` refuses it.
"""

from __future__ import annotations

import re
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

Unit = Literal["heads", "groups", "neurons"]
"""What is kept or left out as a whole: an attention head, a key-value head, a neuron of the feed-forward block."""

_WRITES: tuple[tuple[Unit, str], ...] = (
    ("heads", r"(^|\.)(query|q_lin|q_proj|query_proj|pos_query_proj|c_attn|Wqkv|query_key_value|q_norm)$"),
    ("groups", r"(^|\.)(key|value|k_lin|v_lin|k_proj|v_proj|key_proj|value_proj|pos_key_proj|k_norm)$"),
    ("neurons", r"(^|\.)(intermediate\.dense|ffn\.lin1|gate_proj|up_proj|fc1|c_fc|mlp\.Wi|dense_h_to_4h)$"),
)
_READS: tuple[tuple[Unit, str], ...] = (
    ("heads", r"(^|\.)(attention\.output\.dense|attention\.out_lin|o_proj|out_proj|attn\.c_proj|attn\.Wo|attention\.dense)$"),
    ("neurons", r"(^|\.)(output\.dense|ffn\.lin2|down_proj|fc2|mlp\.c_proj|mlp\.Wo|dense_4h_to_h)$"),
)


def written_by(path: str) -> Unit | None:
    """What the outputs of the module at a path of a layer are made of; None where they are the hidden state's dimensions."""
    return next((unit for unit, pattern in _WRITES if re.search(pattern, path)), None)


def read_by(path: str) -> Unit | None:
    """The same of its inputs."""
    return next((unit for unit, pattern in _READS if re.search(pattern, path)), None)


def unit_of_axis(layer: nn.Module, name: str, axis: int) -> Unit | None:
    """What an axis of the weight called ``name`` in ``layer`` is made of; None where its names do not say so."""
    path, _, kind = name.rpartition(".")
    is_turned = isinstance(layer.get_submodule(path), Conv1D)  # which holds its weight as [inputs, outputs]
    writes = axis == (1 if is_turned and kind == "weight" else 0)
    return written_by(path) if writes else read_by(path)
