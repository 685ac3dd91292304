"""What a run keeps of its layers beside its predictions: their outputs, and what their attention compares.

Queries, keys and values are taken where every layer hands them to its attention function, which transformers looks up by
name (``AttentionInterface``): after rotations, norms and fused projections, whatever a family calls them. The layer runs as a
shallow copy whose configuration names a function that notes them and calls the layer's own: the model itself is not changed,
and it computes the same bits.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "diito-noted"
"""The name under which transformers knows :func:`_noted`."""


@dataclass(frozen=True)
class Wanted:
    """The layers of which a run is to keep something."""

    states: frozenset[int] = frozenset()
    """Those whose outputs are kept."""
    attention: frozenset[int] = frozenset()
    """Those whose queries, keys and values are kept."""

    def __bool__(self) -> bool:
        return bool(self.states or self.attention)


@dataclass(frozen=True)
class Attention:
    """What the attention of a layer compares."""

    queries: Float[Tensor, "batch heads tokens size"]
    keys: Float[Tensor, "batch key_heads tokens size"]
    values: Float[Tensor, "batch key_heads tokens value_size"]
    scaling: float
    """What a product of query and key is multiplied by."""
    visible: Bool[Tensor, "rows one tokens tokens"] | None
    """Which tokens (last) each token attends to; None: all real ones."""


@dataclass
class Kept:
    """What a run has kept so far."""

    wanted: Wanted
    counted: Bool[Tensor, "batch tokens"]
    """The tokens that count: the real ones; of a counterfactual run those that the swap can change."""
    real: Bool[Tensor, "batch tokens"]
    """The tokens that are no padding."""
    states: dict[int, Float[Tensor, "batch tokens width"]] = field(default_factory=dict)
    attention: dict[int, Attention] = field(default_factory=dict)

    def keep(self, layer: int, hidden: Tensor) -> None:
        """Keep the output of a layer, where it is wanted."""
        if layer in self.wanted.states:
            self.states[layer] = hidden

    def resumed(self, layer: int, counted: Bool[Tensor, "batch tokens"]) -> Kept:
        """What a run that is resumed above ``layer`` shares with this one."""
        below = {each: state for each, state in self.states.items() if each < layer}
        attention = {each: value for each, value in self.attention.items() if each <= layer}
        return Kept(self.wanted, counted, self.real, below, attention)


_NOTES: ContextVar[list[Attention] | None] = ContextVar("_NOTES", default=None)


def run_noting(layer: nn.Module, call: Any) -> tuple[Any, list[Attention]]:
    """``call`` of a copy of ``layer`` that computes the same: its answer, and each attention that it computed."""
    notes: list[Attention] = []
    token = _NOTES.set(notes)
    try:
        return call(_noting(layer)), notes
    finally:
        _NOTES.reset(token)


def _noting(module: nn.Module) -> nn.Module:
    """A shallow copy of a module, which shares its weights, and all whose configurations name :func:`_noted`."""
    clone = copy.copy(module)
    children = {name: None if child is None else _noting(child) for name, child in module._modules.items()}
    # Compiled code would be that of the original.
    clone.__dict__.update(_modules=children, _compiled_call_impl=None)
    config = clone.__dict__.get("config")
    if isinstance(config, PreTrainedConfig):
        noting = copy.copy(config)
        noting._attn_implementation_internal = NAME
        clone.__dict__.update(config=noting, _implementation=config._attn_implementation)
    return clone


def _noted(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *rest: Any, **keywords: Any
) -> Any:
    """The attention function of ``module``, which notes what it is called with."""
    notes = _NOTES.get()
    assert notes is not None
    scaling = keywords.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    notes.append(Attention(query, key, value, scaling, _visible(module, query, key, attention_mask, keywords)))
    name = module._implementation
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, own)
    return attend(module, query, key, value, attention_mask, *rest, **keywords)


def _visible(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, keywords: Mapping[str, Any]
) -> Bool[Tensor, "rows one tokens tokens"] | None:
    if mask is not None and mask.ndim == 4:
        mask = mask[..., : key.shape[2]]
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    causal = keywords.get("is_causal")
    if getattr(module, "is_causal", True) if causal is None else causal:
        return torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    return None


AttentionInterface.register(NAME, _noted)
