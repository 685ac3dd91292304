"""A student cut out of its teacher: the heads, neurons and hidden dimensions that are most active, as Minitron keeps them.

1. :func:`keep` measures how active they are (``importance``) and chooses: heads and neurons in each layer on its own, whole
   groups of heads where they share keys and values, dimensions once for the whole model;
2. :func:`cut_state` takes the chosen rows and columns out of the teacher's weights. What an axis is made of is told by the
   names of the modules (``shapes``) and, for the hidden state, by the size; where neither tells, the cut is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from diito.models.importance import Importance, measure
from diito.models.layered import Inputs, Layered
from diito.models.shapes import Unit, unit_of_axis
from diito.models.student_config import FIELD, head_width, size
from diito.refusal import Refusal

_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")


@dataclass(frozen=True)
class Cut:
    """What of the teacher a student is made of; all numbers are the teacher's, from 0 and in their order."""

    layers: list[int]
    """For each student layer the teacher's."""
    dimensions: list[int]
    """Of the hidden state."""
    heads: list[list[int]]
    """In each student layer."""
    groups: list[list[int]]
    """The key-value heads; the same as the heads where each head has its own."""
    neurons: list[list[int]]
    """Of the feed-forward block in each student layer."""

    def as_json(self) -> dict[str, Any]:
        """As ``cut.json`` holds it."""
        return asdict(self)

    def of(self, unit: Unit, layer: int) -> list[int]:
        """What is kept in a student layer."""
        kept: list[list[int]] = getattr(self, unit)
        return kept[layer]


def keep(original: Layered, config: PreTrainedConfig, batches: Sequence[Inputs]) -> Cut:
    """Choose what a student of ``config`` keeps of the teacher, by what is active on ``batches``; equals go by their place.

    Raises Refusal, naming ``student.config``, for a student that is larger somewhere, and where it is not known how to cut.
    """
    teacher = original.model.config
    check_cut(teacher, config)
    counts = {name: (_count(teacher, name), _count(config, name)) for name in _SIZES}
    width = head_width(teacher) or 1
    importance = measure(original, batches, head_width=width)
    depth = counts["num_hidden_layers"][1]
    layers = [index * original.depth // depth for index in range(depth)]
    names = [original.parts.order[layer] for layer in layers]
    heads, groups = counts["num_attention_heads"], counts["num_key_value_heads"]
    chosen = [_heads(importance, name, heads, groups) for name in names]
    neurons = [_most(importance.neurons.get(name), *counts["intermediate_size"], "neurons") for name in names]
    return Cut(
        layers,
        _most(importance.dimensions, *counts["hidden_size"], "dimensions"),
        [each for each, _ in chosen],
        [each for _, each in chosen],
        neurons,
    )


def cut_state(original: Layered, student: PreTrainedModel, kept: Cut) -> dict[str, Tensor]:
    """The weights of ``student`` out of the teacher's. Raises Refusal where it is not known what an axis holds."""
    teacher = original.model.state_dict()
    prefix, shared = f"{original.parts.layers}.", len(set(original.parts.order)) < original.depth
    state = {}
    for name, mine in student.state_dict().items():
        layer, path, source = None, name, name
        if name.startswith(prefix):
            number, path = name.removeprefix(prefix).split(".", 1)
            layer = 0 if shared else int(number)
            source = name if shared else f"{prefix}{original.parts.order[kept.layers[layer]]}.{path}"
        if source not in teacher:
            raise Refusal(FIELD, f"how {name} would be cut is not known: the teacher has no such weight; take initial: random")
        state[name] = _cut(original, kept, layer, path, teacher[source], mine)
    return state


def _cut(original: Layered, kept: Cut, layer: int | None, path: str, whole: Tensor, mine: Tensor) -> Tensor:
    """The part of a weight of the teacher that is kept; ``path``: its name, within the layer where it stands in one."""
    module = None if layer is None else original.layers[kept.layers[layer]]
    units = [None if module is None else unit_of_axis(module, path, axis) for axis in range(whole.ndim)]
    # A matrix of a layer from hidden states to hidden states is the attention of a family whose names are not known.
    known = module is None or whole.ndim != 2 or any(units) or set(whole.shape) != {original.width}
    value = whole
    for axis, unit in enumerate(units):
        before, after, index = whole.shape[axis], mine.shape[axis], None
        if unit is not None and layer is not None:
            index = _units(kept.of(unit, layer), unit, original, before, path)
        elif before == original.width and known:
            index = torch.tensor(kept.dimensions)
        if index is not None and len(index) == after:
            value = value.index_select(axis, index.to(value.device))
        elif before != after:
            sizes = ("×".join(map(str, each.shape)) for each in (whole, mine))
            raise Refusal(
                FIELD,
                "how {}{} [{}] of a {} would be cut to [{}] is not known; take initial: random".format(
                    "" if layer is None else "a layer's ", path, next(sizes), original.model.config.model_type, next(sizes)
                ),
            )
    return value


def _units(chosen: list[int], unit: Unit, original: Layered, size_of_axis: int, path: str) -> Tensor | None:
    """The places of whole units in an axis: blocks as wide as a head or a neuron, repeated where matrices are joined.

    GPT-NeoX holds query, key and value of a head side by side, so that a unit is three heads wide; others hold all queries,
    then all keys, then all values. None where the axis is made of something else.
    """
    config = original.model.config
    names = {"heads": "num_attention_heads", "groups": "num_key_value_heads", "neurons": "intermediate_size"}
    total, width = _count(config, names[unit]), 1 if unit == "neurons" else head_width(config) or 1
    if path.rsplit(".", 2)[-2] == "query_key_value":
        width *= 3
    copies, rest = divmod(size_of_axis, total * width)
    if rest or not copies:
        return None
    places = torch.arange(total * width).view(total, width)[chosen].flatten()
    return torch.cat([places + copy * total * width for copy in range(copies)])


def _heads(importance: Importance, name: str, heads: tuple[int, int], groups: tuple[int, int]) -> tuple[list[int], list[int]]:
    """The heads and the key-value heads that are kept in a layer: the best heads of the best groups."""
    each, kept_each = heads[0] // groups[0], heads[1] // groups[1]
    if heads[0] == heads[1] and groups[0] == groups[1]:
        return list(range(heads[0])), list(range(groups[0]))
    scores = importance.heads.get(name)
    if scores is None or len(scores) != heads[0]:
        raise Refusal(FIELD, "how its heads would be cut is not known: no output projection is found; take initial: random")
    by_group = scores.view(groups[0], each)
    best = by_group.sort(dim=1, descending=True, stable=True)
    chosen_groups = _most(best.values[:, :kept_each].sum(1), *groups, "key-value heads")
    chosen = [group * each + head for group in chosen_groups for head in sorted(best.indices[group, :kept_each].tolist())]
    return chosen, chosen_groups


def _most(scores: Tensor | None, before: int, after: int, noun: str) -> list[int]:
    """The places of the ``after`` highest scores, in order."""
    if before == after:
        return list(range(before))
    if scores is None or len(scores) != before:
        raise Refusal(FIELD, f"how its {noun} would be cut is not known: none are found to measure; take initial: random")
    return sorted(scores.sort(descending=True, stable=True).indices[:after].tolist())


def _count(config: PreTrainedConfig, name: str) -> int:
    """A size; of families that leave it open what it is by default."""
    value = size(config, name)
    if value is None and name == "num_key_value_heads":
        value = size(config, "num_attention_heads")
    if value is None and name == "intermediate_size":
        value = 4 * (size(config, "hidden_size") or 0)  # GPT-2's n_inner
    return value or 1


def check_cut(teacher: PreTrainedConfig, student: PreTrainedConfig) -> None:
    """Refuse, from the configurations alone, a student that cannot be cut out of the teacher, naming ``student.config``."""
    for name in _SIZES:
        before, after = _count(teacher, name), _count(student, name)
        if after > before:
            raise Refusal(FIELD, f"{name}: {after} is more than the teacher's {before}, and a cut keeps; give at most {before}")
    theirs, ours = head_width(teacher), head_width(student)
    if theirs != ours and theirs is not None and ours is not None:
        width = size(student, "hidden_size") or 0
        fits = width // theirs if width % theirs == 0 else None
        right = f"give num_attention_heads {fits}" if fits else f"give a hidden_size that {theirs} divides"
        raise Refusal(FIELD, f"a cut keeps heads whole, of {theirs} dimensions, and these would have {ours}; {right}")
    (heads, kept), (groups, kept_groups) = ((_count(teacher, name), _count(student, name)) for name in _SIZES[2:4])
    if kept // kept_groups > heads // groups:
        raise Refusal(
            FIELD,
            f"{kept} heads on {kept_groups} key-value heads are {kept // kept_groups} on each, and the teacher has "
            f"{heads // groups}; a cut leaves out whole heads, so give as many on each or fewer",
        )
