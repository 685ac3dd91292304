"""The trainer: what it optimises, what a checkpoint holds and when it appears, and what stops it (laws 12 and 13)."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import signal
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback, trainer_utils
from transformers.trainer_pt_utils import safe_globals

from diito.corpus import collate
from diito.method.draws import generator
from diito.run.parts import build_trainer, prepare
from diito.training.arguments import training_arguments
from diito.training.callbacks import MetricsFile
from diito.training.checkpoints import STAGING

INPUTS = {"input_ids": torch.tensor([[2, 9, 4, 17, 31, 8, 3], [2, 40, 41, 42, 43, 44, 3]])}


class Gradients(TrainerCallback):
    """The student's gradients at each optimiser step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: value.grad.clone() for name, value in model.student.named_parameters()})


class EachStep(TrainerCallback):
    """Calls ``function(step)`` at the end of each step."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        self.function(state.global_step)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# Law 12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_stays_as_it_was_and_is_in_no_checkpoint_and_no_optimiser(precision, tmp_path):
    recipe = tiny.recipe(tmp_path, {"speed.precision": precision, "training.save_every": "3", "student.dropout": "0.2"})
    _, trainer = tiny.parts_and_trainer(recipe)
    teacher, student = trainer.objective.teacher, trainer.objective.student
    with torch.no_grad():
        answer = teacher(**INPUTS).logits
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = []
    trainer.add_callback(EachStep(lambda step: modes.append((teacher.training, student.training))))
    trainer.train()
    assert modes == [(False, True)] * 6
    assert not any(module.training for module in teacher.modules())
    with torch.no_grad():
        assert torch.equal(teacher(**INPUTS).logits, answer)
    assert tiny.same(before, teacher.state_dict())
    assert all(value.grad is None and not value.requires_grad for value in teacher.parameters())

    optimised = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert optimised == {id(parameter) for parameter in student.parameters()}
    assert {id(parameter) for parameter in trainer.model.parameters()} == optimised
    for name in ("checkpoint-3", "checkpoint-6"):
        folder = tmp_path / "tiny" / "checkpoints" / name
        weights = [file for file in files(folder) if file.endswith((".safetensors", ".bin", ".pt", ".pth", ".pkl"))]
        assert sorted(weights) == ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"]
        saved = tiny.weights(folder)
        assert {key.removeprefix("student.") for key in saved} == set(saved) <= set(student.state_dict())
        assert not any("encoder.layer.2" in key for key in saved)  # the teacher's third layer
        size = sum(value.numel() for value in student.parameters())
        optimiser = torch.load(folder / "optimizer.pt", weights_only=True)
        assert sum(state["exp_avg"].numel() for state in optimiser["state"].values()) == size
        torch.load(folder / "scheduler.pt", weights_only=True)
        with safe_globals():  # numpy's array type, as Trainer allows it
            torch.load(folder / "rng_state.pth", weights_only=True)


def test_a_checkpoint_is_an_ordinary_model(tmp_path):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path))
    trainer.train()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "tiny" / "checkpoints" / "checkpoint-6").eval()
    trainer.student().eval()
    with torch.no_grad():
        assert torch.equal(loaded(**INPUTS).logits, trainer.student()(**INPUTS).logits)


# Law 13


def by_hand(trainer, first: int, count: int) -> dict[str, torch.Tensor]:
    """Gradient of the mean loss of micro-batches ``first`` to ``first + count`` of epoch 0."""
    size, objective = trainer.args.per_device_train_batch_size, trainer.objective
    order = list(trainer.sampler)
    objective.train()
    losses = []
    for index in range(first, first + count):
        rows = [trainer.train_dataset[row] for row in order[index * size : (index + 1) * size]]
        masked = trainer.batching.batch(collate(rows, pad_token_id=0), generator=generator("mask", trainer.args.seed, index, 0))
        losses.append(objective(masked, step=index)["loss"])
    gradients = torch.autograd.grad(sum(losses) / count, list(objective.student.parameters()))
    return dict(zip((name for name, _ in objective.student.named_parameters()), gradients, strict=True))


@pytest.mark.parametrize("layout", ["blocks", "lines"])
def test_accumulated_micro_batches_give_the_gradient_of_their_mean(layout, tmp_path):
    overrides = {
        "corpus.layout": layout,
        "training.accumulation": "6",
        "training.steps": "2",
        "training.clip": "0",
        "training.learning_rate": "1e-30",  # too little to move a weight, so that every step starts from the same ones
        "student.dropout": "0.1",
    }
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, overrides))
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    micro_batches = len(trainer.train_dataset) // 4
    left = micro_batches - 6  # the epoch's last step is incomplete
    assert 0 < left < 6 or layout == "lines"
    _, fresh = tiny.parts_and_trainer(tiny.recipe(tmp_path / "hand", overrides))
    for step, (first, count) in enumerate([(0, 6), (6, min(left, 6))]):
        for name, value in by_hand(fresh, first, count).items():
            torch.testing.assert_close(gradients.steps[step][name], value, rtol=1e-5, atol=1e-7, msg=f"step {step}, {name}")


def test_micro_batches_are_counted_through_incomplete_steps_and_epochs(tmp_path):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, {"training.accumulation": "4", "training.steps": "7"}))
    seen = []
    forward = trainer.objective.forward
    trainer.objective.forward = lambda batch, *, step=None: seen.append(step) or forward(batch, step=step)
    trainer.train()
    assert len(trainer.train_dataset) // 4 == 11  # 4 + 4 + 3 a pass
    assert seen == list(range(11 + 11 + 4))


# Checkpoints


def test_a_checkpoint_has_its_name_only_when_it_is_complete_and_old_ones_go(tmp_path, monkeypatch):
    overrides = {"training.save_every": "1", "training.keep": "2", "training.steps": "4"}
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, overrides))
    folder, seen = tmp_path / "tiny" / "checkpoints", []

    def watch(name):
        stock = getattr(Trainer, name)

        def look(self, *args, **kwargs):
            seen.append(sorted(entry.name for entry in folder.iterdir()))
            result = stock(self, *args, **kwargs)
            seen.append(sorted(entry.name for entry in folder.iterdir()))
            return result

        monkeypatch.setattr(Trainer, name, look)

    watch("_save_optimizer_and_scheduler")
    watch("_save_rng_state")
    trainer.train()
    steps = [[int(name.removeprefix("checkpoint-")) for name in names if name != STAGING] for names in seen]
    assert all(STAGING in names for names in seen)
    assert steps == [[]] * 4 + [[1]] * 4 + [[1, 2]] * 4 + [[2, 3]] * 4
    assert tiny.checkpoints(tmp_path / "tiny") == ["checkpoint-3", "checkpoint-4"]
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4 and state["num_input_tokens_seen"] == 4 * 2 * 4 * 16


def test_the_best_checkpoint_is_kept_and_loaded_at_the_end(tmp_path):
    recipe = tiny.recipe(tmp_path, {"training.save_every": "1", "training.keep": "1", "training.evaluate_every": "1"})
    recipe.training.arguments = {"metric_for_best_model": "perplexity"}
    numbers = iter([5.0, 3.0, 4.0, 6.0, 7.0, 8.0])
    seen = []

    def evaluation(student):
        seen.append({name: value.clone() for name, value in student.state_dict().items()})
        return {"perplexity": next(numbers)}

    arguments = training_arguments(recipe, output_dir=str(tmp_path / "tiny" / "checkpoints"))
    arguments.load_best_model_at_end = True
    trainer = build_trainer(recipe, prepare(recipe, arguments), arguments, evaluation)
    trainer.train()
    assert trainer.state.best_metric == 3.0 and trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint == str(tmp_path / "tiny" / "checkpoints" / "checkpoint-2")
    assert tiny.same(trainer.student().state_dict(), seen[1]) and not tiny.same(seen[1], seen[-1])
    assert "checkpoint-2" in tiny.checkpoints(tmp_path / "tiny")
    assert not Path(tmp_path / "tiny" / "checkpoints" / "checkpoint-1").exists()


def test_the_student_of_each_checkpoint_is_uploaded(tmp_path, monkeypatch):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, {"training.steps": "2", "training.save_every": "1"}))
    uploaded = []

    def upload(folder, repository, args, message, **options):
        uploaded.append((repository, message, files(folder)))

    monkeypatch.setattr("diito.training.upload._upload", upload)
    trainer.args.push_to_hub, trainer.args.hub_always_push, trainer.hub_model_id = True, True, "me/tiny"
    trainer.train()
    assert {repository for repository, _, _ in uploaded} == {"me/tiny"}
    assert [message.rpartition(" ")[2] for _, message, _ in uploaded] == ["checkpoint-1", "checkpoint-2"]
    assert all("model.safetensors" in held for _, _, held in uploaded)


def test_evaluation_is_logged_and_needs_a_function(tmp_path):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path), evaluation=lambda student: {"perplexity": 12.5})
    assert trainer.evaluate() == {"eval_perplexity": 12.5}
    assert trainer.state.log_history[-1]["eval_perplexity"] == 12.5
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path))
    with pytest.raises(ValueError, match="evaluation: give DistillationTrainer an evaluation"):
        trainer.evaluate()


# Numbers


def test_logged_losses_are_means_over_the_micro_batches_and_the_total_their_weighted_sum(tmp_path):
    overrides = {"training.log_every": "3", "training.accumulation": "2", "training.learning_rate": "1e-30"}
    recipe = tiny.recipe(tmp_path, overrides)
    _, trainer = tiny.parts_and_trainer(recipe)
    seen = []
    forward = trainer.objective.forward

    def spy(batch, *, step=None):
        losses = forward(batch, step=step)
        seen.append({name: value.item() for name, value in losses.items()})
        return losses

    trainer.objective.forward = spy
    trainer.add_callback(MetricsFile(tmp_path / "tiny" / "metrics.jsonl"))
    trainer.train()
    lines = tiny.metrics(tmp_path / "tiny")
    assert [line["step"] for line in lines] == [1, 3, 6]
    assert len(seen) == 11  # the sixth step ends the epoch with one micro-batch
    for line, micro_batches, count in zip(lines, (seen[:2], seen[2:6], seen[6:]), (2, 6, 11), strict=True):
        for name in ("task", "ce", "cos", "causal_ce", "loss"):
            mean = sum(losses[name] for losses in micro_batches) / len(micro_batches)
            assert math.isclose(line[name], mean, rel_tol=1e-5), (line["step"], name)
        assert math.isclose(line["loss"], sum(line[name] for name in ("task", "ce", "cos", "causal_ce")) / 4, rel_tol=1e-5)
        assert line["tokens"] == count * 4 * 16 and line["tokens_per_second"] > 0
        assert line["learning_rate"] >= 0 and "causal_cos" not in line


# What stops a run


@pytest.mark.parametrize("log_every, save_every, names", [(1, 2, "step 3: ce, loss"), (100, 4, "step 3: ce, loss")])
def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint_before_it(log_every, save_every, names, tmp_path):
    overrides = {"training.log_every": str(log_every), "training.save_every": str(save_every), "training.steps": "8"}
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, overrides))
    stock = trainer.objective.losses["ce"]

    def spoiled(student, teacher, labels):
        return stock.function(student, teacher, labels) * (math.nan if trainer.state.global_step == 2 else 1)

    trainer.objective.losses["ce"] = dataclasses.replace(stock, function=spoiled)
    with pytest.raises(FloatingPointError, match=names):
        trainer.train()
    assert tiny.checkpoints(tmp_path / "tiny") == (["checkpoint-2"] if save_every == 2 else [])


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    _, trainer = tiny.parts_and_trainer(tiny.recipe(tmp_path, {"training.save_every": "2"}))

    def spoil(step):
        if step == 4:
            next(trainer.student().parameters()).data[0, 0] = math.inf

    trainer.add_callback(EachStep(spoil))
    with pytest.raises(FloatingPointError, match="step 4: the student's weights are not finite"):
        trainer.train()
    assert (tmp_path / "tiny" / "checkpoints" / "checkpoint-2").is_dir()
    assert not (tmp_path / "tiny" / "checkpoints" / "checkpoint-4").exists()


def test_previous_signal_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    tiny.run(tmp_path, {"training.steps": "1"})
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# What we rely on in transformers


def test_the_private_names_of_trainer_that_we_rely_on_exist_as_we_know_them():
    expected = {
        "_get_train_sampler": ["self", "train_dataset"],
        "_get_output_dir": ["self", "trial"],
        "_save_checkpoint": ["self", "model", "trial"],
        "_save": ["self", "output_dir", "state_dict"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "_load_best_model": ["self"],
        "_save_optimizer_and_scheduler": ["self", "output_dir"],
        "_save_rng_state": ["self", "output_dir"],
        "_push_from_checkpoint": ["self", "checkpoint_folder"],
        "_prepare_inputs": ["self", "inputs"],
        "training_step": ["self", "model", "inputs", "num_items_in_batch"],
        "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
        "log": ["self", "logs", "start_time"],
        "get_train_dataloader": ["self"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters, name
    source = inspect.getsource(Trainer)
    for call in (
        "self._get_output_dir(trial",
        "self._save_checkpoint(model, trial",
        "self._load_from_checkpoint(resume_from_checkpoint",
        "self._load_best_model()",
        "self._get_train_sampler",
        "accepts_loss_kwargs",
        "skip_first_batches(",
    ):
        assert call in source, call
    rotate = inspect.signature(trainer_utils.rotate_checkpoints).parameters
    assert {"output_dir", "save_total_limit", "best_model_checkpoint", "use_mtime"} <= set(rotate)
    assert trainer_utils.PREFIX_CHECKPOINT_DIR == "checkpoint"
