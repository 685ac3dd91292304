"""Weights by gradient norm: worked by hand, measured apart, kept over stops."""

from __future__ import annotations

import pytest
import tiny
import torch
from objectives import EVERY, batch_of, make, models
from test_resume import stop_at, without_rate
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diito import AlignedPair, Alignment
from diito.method.balance import GradientNorms
from diito.method.cost import ModelSize, step_cost
from diito.method.schedules import Ramp
from diito.recipe.checks import check
from diito.refusal import Refusal, Refusals
from diito.run.distill import distill
from diito.run.manifest import fixed_fields
from diito.run.parts import prepare
from diito.training.arguments import training_arguments


class Line(nn.Module):
    """A student of two weights; a loss a slope, whose gradient is that slope."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def losses(self, **slopes: tuple[float, float]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(slope) @ self.weight for name, slope in slopes.items()}


def test_each_loss_has_its_share_of_the_gradients_norm():
    """Norms 5 and 1, weights 1 and 3: their mean is (5 + 3) / 4 = 2, so the terms have norms 2 and 6, 8 together as before."""
    student, norms = Line(), GradientNorms(["far", "near"], every=10)
    weights = norms({"far": 1.0, "near": 3.0}, student.losses(far=(3.0, 4.0), near=(0.0, 1.0)), student, step=0)
    assert weights == pytest.approx({"far": 0.4, "near": 6.0})
    assert student.weight.grad is None, "nothing is left for the optimiser"
    assert norms.weights == weights


def test_it_measures_when_it_is_time_to_and_where_a_loss_has_no_factor_yet():
    student, norms = Line(), GradientNorms(["a", "b", "c"], every=3)
    two = {"a": 1.0, "b": 1.0}
    first = norms(two, student.losses(a=(1.0, 0.0), b=(0.0, 3.0)), student, step=4)
    assert first == pytest.approx({"a": 2.0, "b": 2 / 3}), "nothing was known at the first step, whichever that is"
    others = student.losses(a=(0.0, 8.0), b=(0.0, 8.0), c=(0.0, 2.0))
    assert norms(two, others, student, step=5) == first
    assert norms(two, others, student, step=6) == pytest.approx({"a": 1.0, "b": 1.0}), "6 is a multiple of 3"
    assert norms({**two, "c": 1.0}, others, student, step=7) == pytest.approx({"a": 0.75, "b": 0.75, "c": 3.0})


@pytest.mark.parametrize("slope", [(0.0, 0.0), (float("inf"), 0.0), (float("nan"), 0.0)])
def test_a_loss_whose_norm_says_nothing_keeps_its_factor(slope):
    student, norms = Line(), GradientNorms(["a", "b", "c"], every=1)
    weights = dict.fromkeys("abc", 1.0)
    found = norms(weights, student.losses(a=(1.0, 0.0), b=(3.0, 0.0), c=slope), student, step=0)
    assert found == pytest.approx({"a": 2.0, "b": 2 / 3, "c": 1.0})
    found = norms(weights, student.losses(a=(1.0, 0.0), b=slope, c=slope), student, step=1)
    assert found == pytest.approx({"a": 1.0, "b": 2 / 3, "c": 1.0})
    constant = {"a": torch.tensor(1.0), "b": torch.tensor(2.0), "c": torch.tensor(3.0)}
    assert norms(weights, constant, student, step=2) == found, "nothing that is trained is in them"


def test_in_eval_mode_or_without_gradients_it_measures_nothing():
    student, norms = Line(), GradientNorms(["a", "b"], every=1)
    losses, weights = student.losses(a=(1.0, 0.0), b=(3.0, 0.0)), {"a": 1.0, "b": 1.0}
    with torch.no_grad():
        assert norms(weights, losses, student, step=0) == weights
    assert norms.eval()(weights, losses, student, step=0) == weights and not norms.factors


def test_the_factors_are_in_a_state_dict():
    student, norms = Line(), GradientNorms(["a", "b", "c"], every=5)
    norms({"a": 1.0, "b": 1.0}, student.losses(a=(1.0, 0.0), b=(0.3, 0.0)), student, step=0)
    again = GradientNorms(["a", "b", "c"], every=5)
    again.load_state_dict(norms.state_dict())
    assert again.factors == norms.factors and set(again.factors) == {"a", "b"}


def gradient_of(loss, student):
    gradients = torch.autograd.grad(loss, list(student.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize("recompute", [False, True])
def test_the_objectives_terms_have_the_shares_that_are_given(recompute):
    student, teacher = models(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    weights = {**EVERY, "hidden": 0.2, "relations": 0.1}
    method = make(student, teacher, weights=weights, balance_every=5).train()
    plain = make(student, teacher, weights=weights).train()
    method.recompute = plain.recompute = recompute
    losses, unbalanced = method(batch_of(), step=0), plain(batch_of(), step=0)
    assert all(torch.equal(losses[name], unbalanced[name]) for name in weights), "the losses are what they were"
    norms = {name: gradient_of(unbalanced[name], student).norm().item() for name in weights}
    terms = {name: method.balance.weights[name] * norms[name] for name in weights}
    total = sum(terms.values())
    assert total == pytest.approx(sum(weights[name] * norms[name] for name in weights), rel=1e-4)
    share = sum(weights.values())
    assert {name: term / total for name, term in terms.items()} == pytest.approx(
        {name: weight / share for name, weight in weights.items()}, rel=1e-4
    )
    torch.testing.assert_close(losses["loss"], sum(method.balance.weights[name] * losses[name] for name in weights))
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert "balance._extra_state" in method.state_dict() and not any("balance" in name for name in plain.state_dict())


def test_a_weight_with_a_schedule_has_its_share_of_the_moment():
    student, teacher = models()
    method = make(student, teacher, weights={"task": 1.0, "ce": Ramp(0.0, 1.0)}, balance_every=100).train()
    assert "ce" not in method(batch_of(), step=0, progress=0.0)
    losses = method(batch_of(), step=1, progress=0.5)
    norms = [gradient_of(method.balance.weights[name] * losses[name], student).norm() for name in ("task", "ce")]
    torch.testing.assert_close(norms[0], 2 * norms[1], rtol=1e-4, atol=0)


def test_ordinary_steps_cost_nothing_and_measured_ones_what_is_counted():
    student, teacher = models("bert", 4, 2, attention="eager", hidden_dropout_prob=0.0)
    pair = Alignment([AlignedPair([0], [0, 1])])
    weights = {"task": 1.0, "ce": 1.0, "cos": 1.0, "causal_ce": 1.0}
    sizes = ModelSize.of(teacher), ModelSize.of(student)
    method = make(student, teacher, pair, weights=weights, balance_every=2).train()
    for step, balanced in ((0, 1.0), (1, 0.0), (2, 1.0)):
        with FlopCounterMode(display=False) as counter:
            method(batch_of(), step=step)["loss"].backward()
        rows = {"losses": method.losses, "weights": method.weights}
        cost = step_cost(*sizes, pair, length=9, loss_tokens=3 / 9, batch=3, balanced=balanced, **rows)
        assert counter.get_total_flops() == pytest.approx(cost.total * 27, rel=1e-6)
        assert (cost.balance > 0) == bool(balanced)


BALANCED = {
    "objective.balance": "gradient-norm",
    "objective.balance_every": 2,
    "objective.weights": "{task: 0.25, ce: 0.5, cos: 0, causal_ce: {to: 0.5, by: 0.5}, hidden: 0.1}",
    "intervention.sources_per_row": 2,
    "alignment.pairs_per_batch": 2,
    "training.steps": 4,
    "evaluation.sources": "[]",
}


def test_a_run_is_resumed_bit_for_bit_between_two_measurements_and_logs_its_weights(tmp_path, monkeypatch):
    straight = tiny.run(tmp_path / "straight", BALANCED)
    recipe = tiny.recipe(tmp_path / "stopped", BALANCED)
    stop_at(monkeypatch, 3)
    assert distill(recipe) == 143
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    stopped = tmp_path / "stopped" / "tiny"
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    lines = tiny.metrics(straight)
    assert without_rate(lines) == without_rate(tiny.metrics(stopped))
    weights = [line["weight_task"] for line in lines]
    assert weights[0] != weights[1] == pytest.approx(weights[1]) and weights[2] == weights[3] != weights[1]
    assert all(line["weight_hidden"] > 0 for line in lines) and "weight_causal_ce" not in lines[0]


def test_the_plan_says_and_counts_all_of_it(tmp_path):
    given = {**BALANCED, "alignment.pairs_per_batch": 2, "intervention.pairing": "independent"}
    parts = {}
    for name, overrides in {"all": given, "none": {"objective.weights": BALANCED["objective.weights"]}}.items():
        made = tiny.recipe(tmp_path / name, overrides)
        parts[name] = prepare(made, training_arguments(made, output_dir=str(tmp_path))).plan
    said = str(parts["all"])
    for words in ("shares of the gradient's norm, measured every 2 steps", "2 pairs a micro-batch", "from 2 sources a row"):
        assert words in said and words not in str(parts["none"])
    assert parts["all"].cost.balance > 0 == parts["none"].cost.balance
    assert parts["all"].cost.counterfactual > 2 * parts["none"].cost.counterfactual


def test_the_fields_are_no_part_of_a_run_that_leaves_them_alone(tmp_path):
    names = ("objective.balance", "objective.balance_every", "intervention.sources_per_row", "alignment.pairs_per_batch")
    assert not fixed_fields(tiny.recipe(tmp_path)).keys() & {*names}
    assert fixed_fields(tiny.recipe(tmp_path, BALANCED)).keys() >= {*names}


@pytest.mark.parametrize(
    ("overrides", "field", "sentence"),
    [
        ({"objective.balance_every": "5"}, "objective.balance_every", "belongs to objective.balance gradient-norm"),
        ({**BALANCED, "objective.balance_every": "0"}, "objective.balance_every", "at least 1"),
        ({**BALANCED, "training.fsdp": "full_shard"}, "training.fsdp", "must be left out"),
        (
            {"objective.balance": "gradient-norm", "objective.weights": "{task: 1, ce: 0, cos: 0, causal_ce: 0}"},
            "objective.balance",
            "task alone has a weight",
        ),
        ({**BALANCED, "alignment.pairs_per_batch": "3"}, "alignment.pairs_per_batch", "the alignment has 2"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(overrides, field, sentence, tmp_path):
    with pytest.raises((Refusal, Refusals), match=sentence) as refused:
        made = tiny.recipe(tmp_path, overrides)
        check(made)
        distill(made)
    assert field in str(refused.value) and not list(tmp_path.iterdir())


def test_in_python_too():
    with pytest.raises(Refusal, match=r"^objective\.balance_every: 0 must be at least 1"):
        make(*models(), balance_every=0)
    with pytest.raises(Refusal, match=r"^objective\.balance: .* ce alone has a weight"):
        make(*models(), weights={"ce": 1.0}, balance_every=1)


def test_it_is_learnt():
    """Fifteen steps of Adam on one batch."""
    student, teacher = models()
    method = make(student, teacher, weights={"ce": 1.0, "mse": 1.0}, balance_every=5).train()
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    values = []
    for step in range(15):
        optimiser.zero_grad()
        losses = method(batch_of(), step=step)
        losses["loss"].backward()
        optimiser.step()
        values.append({name: losses[name].item() for name in ("ce", "mse")})
    assert all(values[-1][name] < 0.7 * values[0][name] for name in ("ce", "mse")), (values[0], values[-1])
