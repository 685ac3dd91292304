"""``gradient_checkpointing``: the gradients of a run without it, dropout and counterfactual runs included, in less memory."""

from __future__ import annotations

import pytest
import tiny
import torch
from models import text
from objectives import batch_of, make, models

from diito.models import steps
from diito.speed.dropout import use_fast_dropout

DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


def objective_and_batch(family: str, case: str, fast: bool = False):
    """An objective in train mode, and lines with padding; ``case``: where the sources are from."""
    student, teacher = models(family, 4, 4, **DROPOUT)
    if fast:
        use_fast_dropout(student)
    method = make(student, teacher, control="token-swap" if case == "token-swap" else "none").train()
    batch = batch_of(lengths=(12, 7, 9))
    if case == "independent":
        batch |= {f"source_{name}": value for name, value in text(5, (8, 12, 6)).items()}
    return method, batch


def gradients(method, batch, step):
    method.student.zero_grad()
    losses = method(batch, step=step)
    losses["loss"].backward()
    return losses, {name: value.grad.clone() for name, value in method.student.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("case", ["in-batch", "independent", "token-swap"])
def test_the_gradients_are_those_of_a_run_without_it(family, case):
    method, batch = objective_and_batch(family, case, fast=family == "bert")
    for step in range(3):  # other pairs of layers, another dropout
        plain_losses, plain = gradients(method, batch, step)
        method.activation_checkpointing_enable()
        torch.manual_seed(step)
        losses, recomputed = gradients(method, batch, step)
        state = torch.get_rng_state()
        torch.manual_seed(step)
        assert torch.equal(state, torch.get_rng_state()), "nothing is drawn from the caller's generator"
        method.recompute = False
        assert plain.keys() == recomputed.keys() and plain_losses.keys() == losses.keys()
        for name in losses:
            torch.testing.assert_close(losses[name], plain_losses[name], rtol=1e-6, atol=1e-6)
        for name, value in plain.items():
            torch.testing.assert_close(recomputed[name], value, rtol=1e-6, atol=1e-6, msg=f"step {step}, {name}")


def bytes_kept(method, batch, monkeypatch) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters aside: what is saved, and the inputs of layers that
    are going to be run again."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def checkpoint(call, hidden, **options):
        return real(call, keep(hidden), **options)

    real = steps.checkpoint
    monkeypatch.setattr(steps, "checkpoint", checkpoint)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = method(batch, step=0)
    monkeypatch.undo()
    for parameter in method.student.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del losses
    return sum(kept.values())


def test_it_keeps_less_memory(monkeypatch):
    student, teacher = models("bert", 4, 4, hidden_size=32, intermediate_size=128, **DROPOUT)
    method = make(student, teacher, weights={"task": 0.5, "causal_ce": 0.5}).train()
    batch = batch_of(lengths=(36, 30, 36))
    plain = bytes_kept(method, batch, monkeypatch)
    method.activation_checkpointing_enable()
    assert 3 * bytes_kept(method, batch, monkeypatch) < plain


def test_only_the_student_in_training_runs_twice(monkeypatch):
    method, batch = objective_and_batch("bert", "in-batch")
    method.activation_checkpointing_enable()
    runs = []
    for name, model in (("student", method.student), ("teacher", method.teacher)):
        layer = model.bert.encoder.layer[0]
        layer.register_forward_pre_hook(lambda *call, name=name: runs.append(name))
    method(batch, step=0)["loss"].backward()
    assert runs.count("student") == 2 and runs.count("teacher") == 1
    runs.clear()
    method.eval()(batch, step=0)["loss"].backward()
    assert runs.count("student") == 1


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_a_run_with_it_makes_the_same_student(name, tmp_path):
    options = {"training.steps": 2, "student.dropout": 0.2, "corpus.layout": "lines", "evaluation.sources": "[]"}
    plain = tiny.run(tmp_path / "plain", options)
    recomputed = tiny.run(tmp_path / "recomputed", options | {"training.arguments": f"{{{name}: true}}"})
    assert tiny.same(tiny.weights(plain / "student"), tiny.weights(recomputed / "student"))
