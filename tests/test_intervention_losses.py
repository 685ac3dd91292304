"""strict and manifold against the oracle made of hooks, and weights over the steps, in Python."""

import oracle
import pytest
import torch
from models import counted
from objectives import batch_of, fixed_pairing, fixed_rule, make, models

from diito import AlignedPair, Alignment
from diito.method.alignment import other_dimensions
from diito.method.intervention_losses import distance_to_nearest
from diito.method.losses import smoothed_cross_entropy
from diito.method.schedules import Ramp
from diito.refusal import Refusal

PAIR = Alignment([AlignedPair([0], [1], [(4, 10)], [(0, 6)])])


def swapped(**options):
    """A student and a teacher, a batch, fixed swaps, and an objective on them."""
    student, teacher = models()
    batch = batch_of()
    positions = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    positions[0, 2:4] = positions[1, 5] = positions[2, 1] = True
    rows = (1, 2, 0)
    given = {"positions": fixed_rule(positions), "pairing": fixed_pairing(*rows)}
    return student, teacher, batch, positions, list(rows), make(student, teacher, PAIR, **given, **options)


@pytest.mark.parametrize(
    ("ranges", "others"),
    [(None, ()), (((4, 10),), ((0, 4), (10, 16))), (((8, 16), (0, 3)), ((3, 8),)), (((0, 16),), ())],
)
def test_the_dimensions_that_ranges_leave_out(ranges, others):
    assert other_dimensions(ranges, 16) == others


def test_strict_is_the_distance_of_a_swap_outside_of_the_alignment_to_the_teachers_base_run():
    student, teacher, batch, positions, rows, method = swapped(weights={"strict": 1.0})
    source = {"input_ids": batch["input_ids"][rows]}
    ours = oracle.interchange(student, batch, source, [0], positions, dimensions=[(0, 4), (10, 16)])[0]
    theirs = oracle.run(teacher, batch)[0]
    chosen = batch["labels"] != -100
    losses = method(batch, step=0)
    torch.testing.assert_close(losses["strict"], smoothed_cross_entropy(ours[chosen], theirs[chosen], 2.0).mean())
    losses["loss"].backward()
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0


def test_strict_costs_one_resumed_run_of_the_student():
    calls = []
    for weights in ({"ce": 1.0, "causal_ce": 1.0}, {"ce": 1.0, "causal_ce": 1.0, "strict": 1.0}):
        student, teacher, batch, *_, method = swapped(weights=weights)
        with counted(student) as ours, counted(teacher) as theirs:
            method(batch, step=0)
        calls.append((ours["layers"], theirs["layers"]))
    assert calls[0][0] == [1, 2] and calls[1][0] == [1, 3]
    assert calls[0][1] == calls[1][1]


def test_manifold_is_the_distance_to_the_nearest_natural_state():
    student, _, batch, positions, rows, method = swapped(weights={"manifold": 1.0})
    source = {"input_ids": batch["input_ids"][rows]}
    chosen = batch["labels"] != -100
    _, final = oracle.interchange(student, batch, source, [0], positions, dimensions=[(4, 10)])
    _, _, natural = oracle.run(student, batch)
    expected = distance_to_nearest(final[chosen], natural[chosen]).mean()
    torch.testing.assert_close(method(batch, step=0)["manifold"], expected)


@pytest.mark.parametrize("name", ["strict", "manifold"])
def test_they_are_refused_where_they_mean_nothing(name):
    student, teacher = models()
    with pytest.raises(Refusal, match=f"^objective.weights.{name}: .* swaps words"):
        make(student, teacher, PAIR, weights={name: 1.0, "task": 1.0}, control="token-swap")
    with pytest.raises(Refusal, match=f"causal_{name}"):
        make(student, teacher, PAIR, weights={f"causal_{name}": 1.0})
    if name == "strict":
        with pytest.raises(Refusal, match="no neuron of it lies outside"):
            make(student, teacher, weights={name: 1.0})


def test_a_ramp_is_linear_and_then_stays():
    ramp = Ramp(0.0, 0.5, 0.2)
    assert [ramp.at(progress) for progress in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.25, 0.5, 0.5])
    assert (Ramp(1.0, 0.0, 0.3).active, ramp.active, Ramp(0.0, 0.0).active) == (0.3, 1.0, 0.0)


def test_a_weight_of_0_is_not_computed_at_any_step_and_progress_is_asked_for():
    student, teacher = models()
    method = make(student, teacher, weights={"task": 1.0, "causal_ce": Ramp(0.5, 0.0, 0.5), "jsd": Ramp(0.0, 0.0)})
    assert set(method.weights) == {"task", "causal_ce"}
    with counted(student) as calls:
        late = method(batch_of(), step=0, progress=0.7)
    assert set(late) == {"task", "loss"} and calls["layers"] == [1, 1]
    early = method(batch_of(), step=0, progress=0.25)
    torch.testing.assert_close(early["loss"], early["task"] + 0.25 * early["causal_ce"])
    with pytest.raises(Refusal, match=r"^progress: "):
        method(batch_of(), step=0)


@pytest.mark.parametrize(
    ("weight", "field"),
    [
        (Ramp(-1.0, 1.0), "objective.weights.ce"),
        (Ramp(0.0, float("inf")), "objective.weights.ce"),
        (Ramp(0.0, 1.0, 0.0), "objective.weights.ce.by"),
        (Ramp(0.0, 1.0), "objective.weights"),
        (Ramp(1.0, 0.0), "objective.weights"),
    ],
)
def test_schedules_that_cannot_be_right_are_refused(weight, field):
    with pytest.raises(Refusal) as refused:
        make(*models(), weights={"ce": weight})
    assert refused.value.field == field
