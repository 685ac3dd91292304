"""Sub-spaces that are swapped instead of whole states: the first k rows of an orthogonal map of a layer's hidden state.

With the rows R [k, width], which are orthonormal, and v what the source holds, a swap sets h' = h + Rᵀ R (v − h): the part of
the state that lies in the span of the rows is the source's, what is orthogonal to it stays the base's (Distributed Alignment
Search, Geiger et al., 2023). The other width − k rows of the map make no difference to that, so nobody keeps them.

The teacher's rows are found on the teacher alone (``diito align --rotation``) and stay as they are; the student has rows of its
own, which are trained along with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diito.method.alignment import Alignment
from diito.method.draws import Key, generator
from diito.refusal import Refusal

Bases = Mapping[int, Tensor]
"""By layer the orthonormal rows, Float[dimensions width], in whose span it is swapped."""
_FIELD = "alignment.rotation"


def orthonormal(matrix: Float[Tensor, "*layers dimensions width"]) -> Float[Tensor, "*layers dimensions width"]:
    """Orthonormal rows with the span of the rows of ``matrix``, which are linearly independent; gradients flow through.

    By Householder reflections (QR). The span depends on the directions of the rows alone, not on their lengths, so weight decay
    moves nothing.
    """
    return torch.linalg.qr(matrix.mT).Q.mT


def drawn_basis(dimensions: int, width: int, *key: Key) -> Float[Tensor, "dimensions width"]:
    """Orthonormal rows of a sub-space of which each is as likely as another, drawn by a key."""
    return orthonormal(torch.randn(dimensions, width, generator=generator("rotation", *key)))


def within(
    hidden: Float[Tensor, "batch tokens width"],
    values: Float[Tensor, "batch tokens width"],
    basis: Float[Tensor, "dimensions width"],
) -> Float[Tensor, "batch tokens width"]:
    """``hidden`` with what ``values`` hold in the span of the rows of ``basis``; worked out in fp32."""
    with torch.autocast(hidden.device.type, enabled=False):
        rows = basis.float()
        change = (values.float() - hidden.float()) @ rows.mT @ rows
        return (hidden.float() + change).to(hidden.dtype)


def check_bases(bases: Bases, *, width: int, field: str) -> None:
    """Refuse, naming ``field``, what are no orthonormal rows of a state of ``width``."""
    for layer, basis in bases.items():
        if basis.ndim != 2 or basis.shape[1] != width or not basis.is_floating_point():
            shape = f"{basis.dtype}{list(basis.shape)}"
            raise Refusal(field, f"layer {layer}: need Float[dimensions, {width}], rows as wide as the model, not {shape}")
        if len(basis) > width:
            raise Refusal(field, f"layer {layer}: {len(basis)} dimensions do not lie in the model's width of {width}")
        rows = basis.detach().float()
        products = rows @ rows.mT
        if not torch.allclose(products, torch.eye(len(rows), device=rows.device), atol=1e-3):
            raise Refusal(
                field, f"layer {layer}: the rows are not orthonormal; diito.method.rotation.orthonormal makes them so"
            )


class Rotation(nn.Module):
    """The sub-spaces in which the pairs of an alignment are swapped: the teacher's, and the student's own.

    ``bases``: the teacher's rows by layer. Each student layer of the alignment gets as many rows of its own, which are the
    module's parameter, so that an objective trains them along with the student. They begin as those of the highest teacher
    layer in its first pair where the models are equally wide (layers that were copied from the teacher hold their states in
    its directions), and are drawn by ``seed`` where they are not.

    Raises Refusal naming ``alignment.rotation`` for a layer of the alignment that has no rows, for pairs with ranges of
    dimensions, and for more dimensions than the student is wide.
    """

    def __init__(self, bases: Bases, alignment: Alignment, *, student_width: int, seed: int = 42) -> None:
        super().__init__()
        teacher_layers = sorted({layer for pair in alignment.pairs for layer in pair.teacher})
        _check_pairs(bases, alignment, teacher_layers)
        sizes = {tuple(bases[layer].shape) for layer in teacher_layers}
        if len(sizes) > 1:
            raise Refusal(_FIELD, "its layers differ in their dimensions or their width; give one with as many in each")
        self.dimensions, self.teacher_width = sizes.pop()
        self.student_width = student_width
        if self.dimensions > student_width:
            raise Refusal(_FIELD, f"{self.dimensions} dimensions do not lie in the student's width of {student_width}")
        for layer in teacher_layers:
            self.register_buffer(f"teacher_{layer}", bases[layer].detach().clone(), persistent=False)
        self.teacher_layers = tuple(teacher_layers)
        self.student_layers = tuple(sorted({layer for pair in alignment.pairs for layer in pair.student}))
        self.student_rows = nn.Parameter(torch.stack(list(self._first_rows(bases, alignment, seed))))
        """[student layers, dimensions, width]: what :func:`orthonormal` is made of."""

    def _first_rows(self, bases: Bases, alignment: Alignment, seed: int) -> Iterator[Tensor]:
        for layer in self.student_layers:
            pair = next(pair for pair in alignment.pairs if layer in pair.student)
            if self.student_width == self.teacher_width:
                yield bases[pair.teacher[-1]].detach().float()
            else:
                yield drawn_basis(self.dimensions, self.student_width, "student", seed, layer)

    def teacher(self) -> dict[int, Tensor]:
        """The teacher's rows by layer."""
        return {layer: self.get_buffer(f"teacher_{layer}") for layer in self.teacher_layers}

    def student(self) -> dict[int, Tensor]:
        """The student's rows by layer, with gradients: all of them depend on the parameter, whichever pair is drawn."""
        return dict(zip(self.student_layers, orthonormal(self.student_rows), strict=True))

    def check(self, alignment: Alignment, *, teacher_width: int, student_width: int, has_use: bool) -> None:
        """Raise Refusal where this rotation is not one of these models and this alignment.

        ``has_use``: whether states are swapped for a loss, in a teacher that is a model.
        """
        if not has_use:
            sentence = "needs a teacher that is a model, swaps of states, and a weight of a loss under them, such as causal_ce"
            raise Refusal(_FIELD, sentence)
        _check_pairs(self.teacher(), alignment, sorted({layer for pair in alignment.pairs for layer in pair.teacher}))
        check_bases(self.teacher(), width=teacher_width, field=_FIELD)
        missing = {layer for pair in alignment.pairs for layer in pair.student} - {*self.student_layers}
        if missing or student_width != self.student_width:
            raise Refusal(_FIELD, "it was made for another student or alignment; make it anew")


def _check_pairs(bases: Bases, alignment: Alignment, teacher_layers: list[int]) -> None:
    if missing := [layer for layer in teacher_layers if layer not in bases]:
        known = ", ".join(map(str, sorted(bases)))
        sentence = f"it has no teacher layer {missing[0]}, which the alignment names; its layers are {known}"
        raise Refusal(_FIELD, sentence)
    if any(pair.student_dimensions or pair.teacher_dimensions for pair in alignment.pairs):
        raise Refusal(_FIELD, "says itself which dimensions are swapped; leave student_dimensions and teacher_dimensions out")
