"""What a step is said to need, against what was measured, and against what must hold of it."""

import decoders
import models
import pytest
import tiny
import torch

from diito import Alignment, build_student
from diito.cli import main
from diito.method.losses import Loss
from diito.method.memory import kept_by_a_layer, step_memory
from diito.method.rows import find_loss, loss_rows
from diito.models.layered import Layered

PAPER = ("task", "ce", "cos", "causal_ce")


def kept(model, length: int) -> float:
    return kept_by_a_layer(Layered(model), length, bf16=False)


def losses(*names: str) -> dict[str, Loss]:
    return {name: find_loss(name, loss_rows(2.0)) for name in names}


def memory(model, names=PAPER, **asked):
    asked = {"batch": 4, "length": 16, "loss_tokens": 0.15, "words": 64, "bf16": False} | asked
    return step_memory(model, build_student(model, 2), Alignment.full(4, 2), losses(*names), **asked)


def saved_in_a_step(model, rows: int, length: int) -> int:
    """Bytes that autograd keeps in a forward pass of the whole model, each storage once, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.randint(5, 50, (rows, length))).logits.sum()
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_layers_keep_what_autograd_keeps(family):
    shallow, deep = (decoders.build(family, layers=layers) for layers in (2, 6))
    whole = saved_in_a_step(deep, 3, 32) - saved_in_a_step(shallow, 3, 32)
    assert 3 * 4 * kept(deep, 32) == pytest.approx(whole, rel=0.1)


def test_of_a_long_row_it_is_worked_out_from_short_ones(monkeypatch):
    from diito.method import memory as module

    model = decoders.build("llama", attn_implementation="eager")  # keeps a number for each pair of tokens
    exact = kept(model, 60)
    monkeypatch.setattr(module, "LONGEST_RUN", 16)
    assert kept(model, 60) == pytest.approx(exact, rel=0.05)
    assert exact > 4 * kept(model, 15)


def test_more_of_everything_takes_more_and_checkpointing_less():
    model = models.build("bert", layers=4)
    paper = memory(model)
    assert memory(model, ["task", "ce", "cos"]).layers < paper.layers < memory(model, pairs_per_batch=2).layers
    assert memory(model, batch=8).layers == 2 * paper.layers
    assert memory(model, from_the_start=True).layers > paper.layers
    assert memory(model, recompute=True).layers < paper.layers
    assert memory(model, words=1 << 22, loss_tokens=1.0).logits < 1e9  # in parts


def test_the_plan_says_it_and_warns(tmp_path, capsys, monkeypatch):
    from diito.run import parts

    words = ["distill", tiny.recipe_file(), "--output", str(tmp_path), "--plan"]
    assert main(words) == 0
    assert "memory     about" in capsys.readouterr().out
    monkeypatch.setattr(parts, "device_memory", lambda device: 1000.0)
    assert main(words) == 0
    assert "more than the" in capsys.readouterr().out
