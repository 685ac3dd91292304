"""Dropout for the CPU: the same distribution as torch's, several times faster.

torch draws dropout masks on the CPU one number after another, in double precision, and its attention with dropout holds all
probabilities in fp32; together a third of a training step. Here

1. 16 random bits decide about an element, four elements a draw of numpy's SFC64, seeded from torch's default generator;
2. masks are integers of 0 or -1, of the element's size, which bitwise operations apply at full vector speed;
3. attention with dropout goes a few heads at a time, so that probabilities stay in the processor's cache, and keeps one tensor
   for its backward pass: the probabilities, negative where dropped.

The rate is rounded to a multiple of 2 ** -16, and what is kept is scaled by exactly that rate. On other devices torch's kernels
draw in parallel; leave them alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "diito"
"""The name under which transformers knows :func:`attention_with_dropout`."""
LEVELS = 1 << 16
CHUNK = 1 << 20
"""Probabilities worked on at a time: what stays in a processor's cache."""
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def use_fast_dropout(model: PreTrainedModel) -> None:
    """Let ``model`` draw its dropout as here, in place of ``nn.Dropout`` and of torch's attention.

    Its weights stay as they are, and in eval mode it computes what it did before, bit for bit.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, FastDropout(child.p).train(child.training))
    if model.config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False):
        AttentionInterface.register(ATTENTION, attention_with_dropout)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)


class FastDropout(nn.Dropout):
    """``nn.Dropout`` with :func:`keep_masks`; draws from torch's default generator."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability ``p`` in train mode, and scale the others by 1 / (1 - p)."""
        if self.training and input.ndim and input.numel() and 0 < _rounded(self.p) < 1:
            return _Dropout.apply(input, self.p)
        return super().forward(input)


def attention_with_dropout(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens width"],
    key: Float[Tensor, "batch key_heads keys width"],
    value: Float[Tensor, "batch key_heads keys values"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch tokens heads values"], None]:
    """Attention for transformers' ``AttentionInterface``: with dropout as here, otherwise torch's own.

    torch's also where attention is causal, heads share keys, precisions are mixed, or the mask is not one of the kind below.

    ``attention_mask``: Bool, broadcast to [batch heads tokens keys], True = attend; None attends to all.
    """
    causal = attention_mask is None and (is_causal if is_causal is not None else getattr(module, "is_causal", True))
    masked_otherwise = attention_mask is not None and attention_mask.dtype != torch.bool
    grouped = not query.shape[1] == key.shape[1] == value.shape[1]
    mixed = not query.dtype == key.dtype == value.dtype
    if causal or masked_otherwise or grouped or mixed or not 0 < _rounded(dropout) < 1:
        options = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _Attention.apply(query, key, value, attention_mask, dropout, scaling).transpose(1, 2), None


def keep_masks(shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    """Integers of ``dtype``'s size: -1 (all bits) where an element is kept, 0, with probability ``rate``, where it is dropped.

    A function of torch's default generator, from which it takes one number.
    """
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()))
    draws = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // 4)))
    bits = draws.view(torch.int16)[:count].view(*shape)
    return bits.ge_(round(rate * LEVELS) - LEVELS // 2).neg_().to(_INTEGERS[dtype.itemsize])


def _rounded(rate: float) -> float:
    return round(rate * LEVELS) / LEVELS


def _keep(values: Tensor, masks: Tensor) -> Tensor:
    """``values``, set to 0 in place where ``masks`` say so."""
    values.view(masks.dtype).bitwise_and_(masks)
    return values


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, rate: float) -> Tensor:
        ctx.scale = 1 / (1 - _rounded(rate))
        masks = keep_masks(input.shape, rate, input.dtype)
        ctx.save_for_backward(masks)
        return _keep((input * ctx.scale).contiguous(), masks)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (masks,) = ctx.saved_tensors
        return _keep((upstream * ctx.scale).contiguous(), masks), None


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ · scaling), dropped out, times v. Scores and softmax in fp32 at least, products in the inputs' precision."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "batch heads tokens width"],
        key: Float[Tensor, "batch heads keys width"],
        value: Float[Tensor, "batch heads keys values"],
        mask: Tensor | None,
        rate: float,
        scaling: float,
    ) -> Float[Tensor, "batch heads tokens values"]:
        ctx.drop_scale, ctx.scaling = 1 / (1 - _rounded(rate)), scaling
        precise = torch.promote_types(query.dtype, torch.float32)
        signed = query.new_empty(*query.shape[:3], key.shape[2])
        hidden = None if mask is None else ~mask.expand_as(signed)
        output = _as_layers_hold_it(query, value.shape[3])
        with torch.autocast(query.device.type, enabled=False):
            for part in _parts(signed.shape):
                scores = (query[part].to(precise) * scaling) @ key[part].to(precise).transpose(2, 3)
                if hidden is not None:
                    scores.masked_fill_(hidden[part], -math.inf)
                probabilities = scores.softmax(-1)
                if hidden is not None:  # a row that attends to nothing gives 0, as torch has it
                    probabilities.masked_fill_(hidden[part].all(-1, keepdim=True), 0.0)
                signed[part] = probabilities
                masks = keep_masks(scores.shape, rate, signed.dtype)
                sign = torch.iinfo(masks.dtype).min
                signed[part].view(masks.dtype).bitwise_or_(masks.bitwise_not_().bitwise_and_(sign))
                output[part] = (signed[part].clamp(min=0) @ value[part]).mul_(ctx.drop_scale)
        ctx.save_for_backward(query, key, value, signed, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, signed, output = ctx.saved_tensors
        integer = _INTEGERS[signed.element_size()]
        to_query, to_key, to_value = (_as_layers_hold_it(tensor, tensor.shape[3]) for tensor in (query, key, value))
        # The softmax's gradient takes off, from each row, its mean under the probabilities: Σ p · dp = Σ output · upstream.
        mean = (upstream * output).sum(-1, keepdim=True, dtype=torch.promote_types(signed.dtype, torch.float32))
        for part in _parts(signed.shape):
            given = upstream[part] * ctx.drop_scale
            to_value[part] = signed[part].clamp(min=0).transpose(2, 3) @ given
            masks = signed[part].view(integer).bitwise_right_shift(8 * signed.element_size() - 1).bitwise_not_()
            to_scores = _keep(given @ value[part].transpose(2, 3), masks)
            to_scores.sub_(mean[part]).mul_(signed[part].abs()).mul_(ctx.scaling)
            to_query[part] = to_scores @ key[part]
            to_key[part] = to_scores.transpose(2, 3) @ query[part]
        return to_query, to_key, to_value, None, None, None


def _as_layers_hold_it(tensor: Float[Tensor, "batch heads tokens _"], width: int) -> Float[Tensor, "batch heads tokens width"]:
    """An empty tensor of ``width`` with tokens before heads in memory, so that what comes next reads it without a copy."""
    batch, heads, tokens, _ = tensor.shape
    return tensor.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _parts(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Slices of batch and heads that hold about :data:`CHUNK` probabilities each."""
    batch, heads, tokens, keys = shape
    rows, together = max(1, CHUNK // (heads * tokens * keys)), min(heads, max(1, CHUNK // (tokens * keys)))
    for row, head in itertools.product(range(0, batch, rows), range(0, heads, together)):
        yield slice(row, row + rows), slice(head, head + together)
