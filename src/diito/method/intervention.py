"""GetVals, SetVals and the interchange intervention: the paper's three operators (Section 3, Eqs. 1 and 2).

The same neurons are read and written: same layer (its *output*), same token positions, same dimensions. Nothing is hooked
or patched. A run below the swap is the base's own run, so :func:`resume` starts from states that are already there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from transformers import PreTrainedModel

from diito.method.alignment import DimensionRange, Dimensions, dimension_ranges
from diito.method.positions import matched_sources
from diito.method.rotation import Bases, check_bases, within
from diito.models.kept import Kept
from diito.models.layered import Inputs, Layered, Run
from diito.models.padding import real_positions
from diito.refusal import Refusal


def get_values(model: PreTrainedModel, inputs: Inputs, layers: Iterable[int]) -> dict[int, Float[Tensor, "batch tokens width"]]:
    """GetVals: the outputs of ``layers`` (0-based) when ``model`` processes ``inputs``.

    ``inputs``: ``input_ids`` Int[batch tokens], optionally ``attention_mask``, ``token_type_ids``, ``position_ids``, and
    whatever else the model's own forward reads. The run stops at the highest layer asked for, in the caller's
    mode and gradient state. Raises ValueError for a layer the model lacks, and for an input that it does not read.
    """
    layered = Layered(model)
    layered.check_inputs(inputs)
    wanted = _checked_layers(layered, layers)
    return layered.states(inputs, wanted)[1]


def interchange(
    model: PreTrainedModel,
    base: Inputs,
    source: Inputs,
    layers: Iterable[int],
    positions: Bool[Tensor, "batch tokens"],
    *,
    source_positions: Bool[Tensor, "batch source_tokens"] | None = None,
    dimensions: Dimensions = None,
    bases: Bases | None = None,
) -> Float[Tensor, "batch ..."]:
    """IntInv (Eq. 2): logits for ``base`` with its neurons N holding what they hold for ``source``.

    N is the output of every layer in ``layers`` at ``positions`` (True = swapped), all of it or the ranges in ``dimensions``
    (``(start, stop)`` or a list of them), or of a layer in ``bases`` what lies in the span of these orthonormal rows
    Float[dimensions width]. Row i of ``source`` is the source of row i of ``base``; lengths may differ.
    ``source_positions``: where to read in the source, as many a row as in ``positions``, matched in ascending order; None
    reads at ``positions``. The run keeps all inputs of the base, the caller's mode (in train mode
    base and source draw their own dropout) and gradient state; gradients reach ``source`` through the swap.

    Gives [batch tokens words], or [batch labels] where the head reads whole sequences. Raises ValueError for a layer or
    dimension the model lacks, for shapes that do not fit, and for a position on padding or beyond the source.
    """
    layered = Layered(model)
    wanted = _checked_layers(layered, layers)
    ranges = _checked_dimensions(dimensions, layered.width)
    if bases is not None:
        _check_bases(bases, wanted, ranges, layered.width)
    for inputs in (base, source):
        layered.check_inputs(inputs)
    _check_positions(base, source, positions, source_positions)
    index = None if source_positions is None else matched_sources(positions, source_positions)
    _, source_states = layered.states(source, wanted)
    run, base_states = layered.states(base, wanted[:1])
    values = {layer: source_values(source_states[layer], positions.shape[1], index=index) for layer in wanted}
    final = resume(layered, run, base_states[wanted[0]], values, positions, dimensions=ranges, bases=bases)
    return layered.head(final, base)


def set_values(
    hidden: Float[Tensor, "batch tokens width"],
    values: Float[Tensor, "batch tokens width"],
    positions: Bool[Tensor, "batch tokens"],
    *,
    dimensions: Sequence[DimensionRange] | None = None,
    basis: Float[Tensor, "rows width"] | None = None,
) -> Float[Tensor, "batch tokens width"]:
    """SetVals on one layer: ``hidden`` with ``values`` at ``positions`` and ``dimensions``; gradients flow through both.

    ``basis``: in place of dimensions, orthonormal rows in whose span it is set.
    """
    chosen = positions.unsqueeze(-1)
    if basis is not None:
        return torch.where(chosen, within(hidden, values, basis), hidden)
    if dimensions is None:
        return torch.where(chosen, values, hidden)
    pieces, done = [], 0
    for start, stop in sorted(dimensions):
        pieces += [hidden[..., done:start], torch.where(chosen, values[..., start:stop], hidden[..., start:stop])]
        done = stop
    return torch.cat([*pieces, hidden[..., done:]], dim=-1)


def source_values(
    states: Shaped[Tensor, "rows source_tokens width"],
    tokens: int,
    *,
    rows: Int[Tensor, " batch"] | Int[Tensor, "batch tokens"] | None = None,
    index: Int[Tensor, "batch tokens"] | None = None,
) -> Shaped[Tensor, "batch tokens width"]:
    """A source's states laid out as the base's: row ``rows[b]`` for row b, and for each token the one it reads.

    ``rows``: None takes the rows in order; one for each token where the tokens of a row have several sources, with the
    ``index`` beside it. ``index``: None reads the base's own positions (padded or cut to ``tokens``).
    """
    if rows is not None and rows.ndim == 2:
        assert index is not None
        # An unswapped token reads something that is never used; in a shorter source that may be its last token.
        return states[rows, index.clamp(max=states.shape[1] - 1)]
    if rows is not None:
        states = states[rows]
    if index is not None:
        return states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
    if states.shape[1] != tokens:
        return F.pad(states, (0, 0, 0, tokens - states.shape[1]))
    return states


def resume(
    layered: Layered,
    run: Run,
    hidden: Float[Tensor, "batch tokens width"],
    values: Mapping[int, Float[Tensor, "batch tokens width"]],
    positions: Bool[Tensor, "batch tokens"],
    *,
    dimensions: Sequence[DimensionRange] | None = None,
    bases: Bases | None = None,
    keep: Kept | None = None,
) -> Float[Tensor, "batch tokens width"]:
    """The counterfactual run from its first swap upwards: N_h under the intervention.

    ``hidden``: the base run's output of the lowest layer in ``values``, where the run is taken up again. ``values``: for each
    swapped layer what it is set to, as the run passes it. ``bases``: layers that are set in a sub-space alone. ``keep``: takes
    what it wants of the layers from the swap upwards. Returns the last layer's representation, after the final norm.
    """
    lowest = min(values)
    for layer in range(lowest, layered.depth):
        if layer > lowest:
            hidden = layered.advance(run, hidden, layer, keep)
        if layer in values:
            basis = None if bases is None else bases.get(layer)
            hidden = set_values(hidden, values[layer], positions, dimensions=dimensions, basis=basis)
        if keep is not None:
            keep.keep(layer, hidden)
    return layered.final(hidden)


def _checked_layers(layered: Layered, layers: Iterable[int]) -> list[int]:
    wanted = sorted(set(layers))
    if not wanted or wanted[0] < 0 or wanted[-1] >= layered.depth:
        raise Refusal("layers", f"{wanted} are not among the model's layers 0 to {layered.depth - 1}")
    return wanted


def _checked_dimensions(dimensions: Dimensions, width: int) -> tuple[DimensionRange, ...] | None:
    ranges = dimension_ranges(dimensions)
    if ranges is not None and max(stop for _, stop in ranges) > width:
        raise Refusal("dimensions", f"{list(ranges)} do not lie in the model's width of {width}")
    return ranges


def _check_bases(bases: Bases, layers: Sequence[int], ranges: Sequence[DimensionRange] | None, width: int) -> None:
    if not bases.keys() <= {*layers}:
        raise Refusal("bases", f"layers {sorted(bases)} must be among those that are swapped, {list(layers)}")
    if ranges is not None:
        raise Refusal("bases", "say themselves which dimensions are swapped; leave dimensions out")
    check_bases(bases, width=width, field="bases")


def _check_positions(base: Inputs, source: Inputs, positions: Tensor, source_positions: Tensor | None) -> None:
    """The conditions under which a swap is defined (ValueError otherwise). Reads the tensors, so it synchronises."""
    real, source_real = real_positions(base), real_positions(source)
    if positions.dtype != torch.bool or positions.shape != real.shape:
        raise Refusal(
            "positions", f"need Bool{list(real.shape)}, the base's shape, not {positions.dtype}{list(positions.shape)}"
        )
    if len(real) != len(source_real):
        raise Refusal("source", f"{len(source_real)} rows for {len(real)} rows of the base; give one source a row")
    if (positions & ~real).any():
        raise Refusal("positions", "a position is on the base's padding")
    if source_positions is None:
        length = min(positions.shape[1], source_real.shape[1])
        if positions[:, length:].any() or (positions[:, :length] & ~source_real[:, :length]).any():
            raise Refusal("positions", "a position is beyond the source or on its padding")
        return
    if source_positions.dtype != torch.bool or source_positions.shape != source_real.shape:
        raise Refusal("source_positions", f"need Bool{list(source_real.shape)}, the source's shape")
    if (source_positions & ~source_real).any():
        raise Refusal("source_positions", "a position is on the source's padding")
    if (positions.sum(1) != source_positions.sum(1)).any():
        raise Refusal("source_positions", "each row needs as many positions as in positions")
