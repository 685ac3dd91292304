"""Swaps in sub-spaces: against an oracle of hooks with the whole map, their laws, and what is trained of them."""

from __future__ import annotations

from itertools import product

import oracle
import pytest
import torch
from models import SPECIAL_IDS, WIDTH, build, choose, families, gradients, text
from objectives import EVERY, batch_of, make, models

import diito
from diito.method.intervention import set_values
from diito.method.rotation import Rotation, drawn_basis, orthonormal

DEPTH = 3
POSITIONS = choose([1, 2], [4, 5], [0, 3], width=8)


def orthogonal_map(seed, width=WIDTH):
    """A whole orthogonal map R [width, width]."""
    matrix = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.svd(matrix)[0]


def rotated_interchange(model, base, source, maps, kept, positions):
    """h' = h + R^T M R (v - h) by hooks, M the diagonal matrix of the first ``kept`` ones; ``maps``: R by layer."""
    values = oracle.hidden_states(model, source)
    mask = torch.diag((torch.arange(WIDTH) < kept).double())

    def write(layer):
        rotate = maps[layer]

        def rotated(output):
            new = output.double().clone()
            for row, column in positions.nonzero().tolist():
                change = values[layer][row, column].double() - output[row, column].double()
                new[row, column] += rotate.T @ mask @ rotate @ change
            return new.to(output.dtype)

        return rotated

    return oracle.run(model, base, {layer: write(layer) for layer in maps})[0]


@families
@pytest.mark.parametrize("lengths", [[8, 8, 8], [8, 6, 4]], ids=["full", "padded"])
def test_a_swap_in_a_sub_space_equals_the_oracle(family, lengths):
    model, base, source = build(family, DEPTH), text(1, lengths), text(2, lengths)
    for layers, kept in product([[0], [1, 2]], (1, 5, WIDTH)):
        maps = {layer: orthogonal_map(layer) for layer in layers}
        bases = {layer: rotate[:kept].float() for layer, rotate in maps.items()}
        ours = diito.interchange(model, base, source, layers, POSITIONS, bases=bases)
        theirs = rotated_interchange(model, base, source, maps, kept, POSITIONS)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, model(**base).logits, atol=1e-3), "the swap shows"


def test_all_dimensions_are_the_whole_swap_and_the_identity_is_a_range_of_dimensions():
    model, base, source = build(layers=DEPTH), text(1, [8, 6, 4]), text(2, [8, 6, 4])
    swap = (model, base, source, [1], POSITIONS)
    whole = diito.interchange(*swap, bases={1: orthogonal_map(3).float()})
    torch.testing.assert_close(whole, diito.interchange(*swap), rtol=1e-4, atol=1e-5)
    first = diito.interchange(*swap, bases={1: torch.eye(WIDTH)[:5]})
    torch.testing.assert_close(first, diito.interchange(*swap, dimensions=(0, 5)), rtol=1e-4, atol=1e-5)
    assert torch.equal(diito.interchange(*swap, bases={1: torch.zeros(0, WIDTH)}), model(**base).logits)
    hidden, values = torch.randn(3, 8, WIDTH), torch.randn(3, 8, WIDTH)
    for basis, dimensions in ((orthogonal_map(3).float(), None), (torch.eye(WIDTH)[:5], [(0, 5)])):
        ours = set_values(hidden, values, POSITIONS, basis=basis)
        torch.testing.assert_close(ours, set_values(hidden, values, POSITIONS, dimensions=dimensions), rtol=0, atol=2e-6)


def test_the_span_alone_decides():
    """Other orthonormal rows of the same span are the same swap; what is orthogonal to them stays the base's."""
    basis = drawn_basis(3, WIDTH, "test", 1)
    hidden, values = torch.randn(2, 4, WIDTH), torch.randn(2, 4, WIDTH)
    positions = choose([1, 3], [0], width=4)
    swapped = set_values(hidden, values, positions, basis=basis)
    mixed = set_values(hidden, values, positions, basis=orthonormal(torch.randn(3, 3) @ basis))
    torch.testing.assert_close(swapped, mixed, rtol=1e-4, atol=1e-5)
    assert torch.equal(swapped[~positions], hidden[~positions])
    torch.testing.assert_close(swapped[positions] @ basis.T, values[positions] @ basis.T, rtol=1e-4, atol=1e-5)
    outside = torch.eye(WIDTH) - basis.T @ basis
    torch.testing.assert_close(swapped[positions] @ outside, hidden[positions] @ outside, rtol=1e-4, atol=1e-5)


def test_padding_is_not_written_and_gradients_reach_the_source_within_the_sub_space():
    basis = drawn_basis(3, WIDTH, "test", 1)
    source = torch.randn(2, 4, WIDTH, requires_grad=True)
    positions = choose([1, 3], [0], width=4)
    aim = torch.randn(2, 4, WIDTH)
    (set_values(torch.randn(2, 4, WIDTH), source, positions, basis=basis) * aim).sum().backward()
    torch.testing.assert_close(source.grad[positions], aim[positions] @ basis.T @ basis)
    assert not source.grad[~positions].any()


def test_bases_that_do_not_fit_are_refused():
    model, base = build(layers=DEPTH), text(1, [8, 8, 8])
    for bases, sentence in (
        ({0: torch.eye(WIDTH)}, r"bases: layers \[0\] must be among those that are swapped, \[1\]"),
        ({1: torch.eye(4)}, rf"bases: layer 1: need Float\[dimensions, {WIDTH}\]"),
        ({1: torch.ones(2, WIDTH)}, "bases: layer 1: the rows are not orthonormal"),
    ):
        with pytest.raises(diito.Refusal, match=sentence):
            diito.interchange(model, base, base, [1], POSITIONS, bases=bases)
    with pytest.raises(diito.Refusal, match="bases: say themselves"):
        diito.interchange(model, base, base, [1], POSITIONS, bases={1: torch.eye(WIDTH)}, dimensions=(0, 2))


# -------------------------------------------------------------------------------------------------------- objective


def bases_of(layers, dimensions=3, width=WIDTH):
    return {layer: drawn_basis(dimensions, width, "teacher", layer) for layer in range(layers)}


def test_a_student_that_is_the_teacher_answers_in_the_same_sub_space():
    """Law 6: its rows begin as the teacher's."""
    teacher = build(layers=2)
    alignment = diito.Alignment.full(2, 2)
    rotation = Rotation(bases_of(2), alignment, student_width=WIDTH)
    losses = make(build(layers=2), teacher, alignment, rotation=rotation)(batch_of())
    assert losses["causal_ce"].abs() < 1e-6 and losses["causal_cos"].abs() < 1e-6


@pytest.mark.parametrize("several", [{}, {"pairs_per_batch": 2, "sources_per_row": 2}], ids=["one", "several"])
def test_all_dimensions_are_the_objective_without_a_rotation(several):
    student, teacher = models()
    alignment, batch = diito.Alignment.full(4, 2), batch_of()
    whole = {layer: orthogonal_map(layer).float() for layer in range(4)}
    rotated = make(student, teacher, alignment, rotation=Rotation(whole, alignment, student_width=WIDTH), **several)
    rotated, plain = rotated(batch, step=3), make(student, teacher, alignment, **several)(batch, step=3)
    for name, value in plain.items():
        torch.testing.assert_close(rotated[name], value, rtol=1e-4, atol=1e-5)
    assert torch.equal(rotated["ce"], plain["ce"]), "the base runs are the same"


def test_the_students_rows_are_trained_saved_and_the_only_ones():
    student, teacher = models(student_layers=2)
    alignment = diito.Alignment.full(4, 2)
    rotation = Rotation(bases_of(4), alignment, student_width=WIDTH, seed=5)
    objective = make(student, teacher, alignment, rotation=rotation)
    batch = batch_of()
    loss = objective(batch, step=1)["causal_ce"]
    (gradient,) = torch.autograd.grad(loss, rotation.student_rows, retain_graph=True)
    drawn = [bool(layer.abs().sum() > 0) for layer in gradient]
    assert sorted(drawn) == [False, True], "of the pair that is drawn, and none is without a gradient"
    assert any(value.any() for value in gradients(loss, student).values())
    state = objective.state_dict()
    assert [name for name in state if "rotation" in name] == ["loss_modules.student rotation.student_rows"]
    assert objective.rotation is rotation and make(student, teacher, alignment).rotation is None


def test_a_student_of_another_width_gets_rows_by_the_seed():
    student, teacher = build(layers=2, hidden_size=8), build(layers=4)
    alignment = diito.Alignment.full(4, 2)
    rows = [Rotation(bases_of(4), alignment, student_width=8, seed=seed).student_rows for seed in (1, 1, 2)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])
    weights = {name: weight for name, weight in EVERY.items() if "cos" not in name}
    rotation = Rotation(bases_of(4), alignment, student_width=8)
    assert make(student, teacher, alignment, weights=weights, rotation=rotation)(batch_of())["causal_ce"] > 0


def test_rotations_that_do_not_fit_are_refused():
    student, teacher = models()
    full, wide = diito.Alignment.full(4, 2), bases_of(4)
    ranges = diito.Alignment([diito.AlignedPair([0], [0], None, [(0, 4)])])
    for bases, alignment, width, sentence in (
        (bases_of(3), full, WIDTH, "it has no teacher layer 3, which the alignment names; its layers are 0, 1, 2"),
        (wide, ranges, WIDTH, "says itself which dimensions are swapped"),
        (wide, full, 2, "3 dimensions do not lie in the student's width of 2"),
        ({**wide, 0: drawn_basis(2, WIDTH, 0)}, full, WIDTH, "its layers differ in their dimensions"),
    ):
        with pytest.raises(diito.Refusal, match=f"^alignment.rotation: {sentence}"):
            Rotation(bases, alignment, student_width=width)
    rotation = Rotation(wide, full, student_width=WIDTH)
    for options, sentence in (
        ({"weights": {"task": 1.0}}, "needs a teacher that is a model"),
        ({"control": "token-swap"}, "needs a teacher that is a model"),
        ({"alignment": diito.Alignment([diito.AlignedPair([1], [4])])}, "the teacher has no layer 4"),
        ({"alignment": diito.Alignment([diito.AlignedPair([0], [1])])}, None),
    ):
        alignment = options.pop("alignment", full)
        if sentence is None:
            make(student, teacher, alignment, rotation=rotation)
            continue
        with pytest.raises(diito.Refusal, match=f"^alignment(.rotation)?: {sentence}"):
            make(student, teacher, alignment, rotation=rotation, **options)
    other_student = Rotation(wide, diito.Alignment([diito.AlignedPair([0], [0])]), student_width=WIDTH)
    with pytest.raises(diito.Refusal, match="it has no teacher layer 1"):
        make(student, teacher, full, rotation=other_student)
    other = Rotation(bases_of(4, width=8), full, student_width=WIDTH)
    with pytest.raises(diito.Refusal, match=rf"layer 0: need Float\[dimensions, {WIDTH}\]"):
        make(student, teacher, full, rotation=other, special_ids=SPECIAL_IDS)
