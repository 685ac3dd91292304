"""How active the heads, neurons and hidden dimensions of a model are on a few hundred rows of text.

As in Minitron (Muralidharan et al., 2024, arXiv 2407.14679, Section 2.2), from forward passes alone, over all real tokens:

* a head: the L2 norm of what it gives to the output projection of its attention;
* a neuron: the absolute value of what it gives to the second matrix of the feed-forward block;
* a dimension of the hidden state: its absolute value behind the norms, summed over them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diito.models.layered import Inputs, Layered
from diito.models.modes import eval_mode
from diito.models.padding import real_positions
from diito.models.shapes import read_by
from diito.models.steps import CannotRun, accepted, first, graft

_HEAD = ("pooler",)
"""Parts of a body that only a head reads."""


@dataclass(frozen=True)
class Importance:
    """Sums over the tokens; by the path of a layer's module in the list of layers where a layer has its own."""

    heads: dict[str, Float[Tensor, " heads"]]
    neurons: dict[str, Float[Tensor, " neurons"]]
    dimensions: Float[Tensor, " width"] | None
    """None where the model has no norms over its hidden states."""


@torch.no_grad()
def measure(original: Layered, batches: Sequence[Inputs], *, head_width: int) -> Importance:
    """Run ``batches`` through the model, in eval mode, and sum up. ``head_width``: dimensions of an attention head."""
    model = original.model
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    real: list[Tensor] = []

    def add(key: str, values: Tensor) -> None:
        if values.ndim != 3 or values.shape[:2] != real[0].shape:
            if key == "dimensions":  # a norm over something else, such as DeBERTa's embeddings of relative positions
                return
            raise CannotRun(model, "its values are not one for each token", field=original.field)
        sums[key] = sums[key] + values[real[0]].double().sum(0).cpu()

    def stub(key: str, of: Callable[[Tensor, Any], Tensor]) -> Callable[..., Any]:
        def answer(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            given = module(*arguments, **keywords)
            hidden = arguments[0] if arguments else next(iter(keywords.values()))
            add(key, of(hidden, given))
            return given

        return answer

    def heads(hidden: Tensor, given: Any) -> Tensor:
        return hidden.unflatten(-1, (-1, head_width)).float().norm(dim=-1)

    stubs: dict[str, Any] = {}
    for name in dict.fromkeys(original.parts.order):
        layer = model.get_submodule(f"{original.parts.layers}.{name}")
        for path, module in layer.named_modules():
            reads = read_by(path) if path and not list(module.children()) else None
            if reads is not None:
                of = heads if reads == "heads" else lambda hidden, given: hidden.float().abs()
                stubs[f"{original.parts.layers}.{name}.{path}"] = stub(f"{reads}/{name}", of)
    stubs |= {path: stub("dimensions", lambda hidden, given: first(given).float().abs()) for path in _norms(original)}
    with eval_mode(model):
        watched = graft(model, stubs)
        for batch in batches:
            inputs = {name: value.to(model.device) for name, value in batch.items()}
            real[:] = [real_positions(inputs)]
            watched(**accepted(model, inputs))
    by_unit: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in sums.items():
        unit, _, name = key.partition("/")
        by_unit[unit][name] = value
    return Importance(by_unit["heads"], by_unit["neurons"], sums.get("dimensions"))


def _norms(original: Layered) -> list[str]:
    """The norms of the body over whole hidden states, those of single heads and of the head's own parts left out."""
    body = f"{original.parts.body}."
    found = []
    for path, module in original.model.named_modules():
        weight = getattr(module, "weight", None)
        is_norm = "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.shape == (original.width,)
        if path.startswith(body) and is_norm and not any(part in path.split(".") for part in _HEAD):
            found.append(path)
    return found
