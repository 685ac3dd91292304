"""Every field of transformers.TrainingArguments: taken and trained with, or refused by name before anything is written."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tiny
import torch
from transformers import TrainingArguments

from diito.recipe import arguments as tables
from diito.recipe.checks import check
from diito.recipe.training import TrainingSection
from diito.refusal import Refusal
from diito.training.arguments import training_arguments

KNOWN = {field.name for field in dataclasses.fields(TrainingArguments)}
OWN = {field.name for field in dataclasses.fields(TrainingSection)} & KNOWN
ELSEWHERE = {name for names in tables.ELSEWHERE.values() for name in names}

GIVEN = {
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "batch_eval_metrics": True,
    "dataloader_in_order": True,
    "dataloader_multiprocessing_context": "fork",
    "dataloader_num_workers": 1,
    "dataloader_persistent_workers": True,
    "dataloader_pin_memory": False,
    "dataloader_prefetch_factor": 3,
    "ddp_bucket_cap_mb": 10,
    "ddp_timeout": 60,
    "debug": "",
    "disable_tqdm": False,
    "do_eval": True,
    "do_predict": True,
    "do_train": True,
    "eval_accumulation_steps": 2,
    "eval_delay": 1,
    "eval_do_concat_batches": False,
    "eval_on_start": True,
    "eval_use_gather_object": True,
    "full_determinism": True,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "greater_is_better": False,
    "hub_always_push": True,
    "hub_model_id": "me/student",
    "hub_private_repo": True,
    "hub_revision": "main",
    "hub_strategy": "end",
    "hub_token": None,
    "include_for_metrics": ["loss"],
    "length_column_name": "long",
    "log_level": "error",
    "log_level_replica": "error",
    "log_on_each_node": False,
    "logging_first_step": False,
    "logging_strategy": "epoch",
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "lr_scheduler_type": "cosine_with_restarts",
    "metric_for_best_model": "perplexity",
    "optim": "adamw_torch",
    "optim_args": "fused=False",
    "optim_target_modules": "all-linear",
    "project": "mine",
    "restore_callback_states_from_checkpoint": True,
    "run_name": "mine",
    "save_on_each_node": True,
    "skip_memory_metrics": False,
    "torch_empty_cache_steps": 1,
    "trackio_bucket_id": "me/bucket",
    "trackio_space_id": "me/space",
    "trackio_static_space_id": "me/static",
}
"""A value of each field that is taken, another than its default where that needs nothing more."""
NEED_MORE = {"ddp_backend", "deepspeed", "fsdp", "fsdp_config", "push_to_hub", "tf32"}
"""Fields that are taken where there are several processes, a device or a hub."""


@pytest.fixture(autouse=True)
def _nondeterminism():
    yield
    torch.use_deterministic_algorithms(False)


def together(names, tmp_path, **more):
    """A run of two steps with these fields; its metrics."""
    given = {name: GIVEN[name] for name in names if name in KNOWN}
    overrides = {"training.steps": 2, "training.evaluate_every": 1, "evaluation.blocks": 3, **more}
    made = tiny.recipe(tmp_path, {**overrides, "training.arguments": json.dumps(given)})
    check(made)
    assert tiny.distill(made) == 0
    assert (tmp_path / "tiny" / "student" / "model.safetensors").is_file()
    return tiny.metrics(tmp_path / "tiny")


def test_every_field_is_in_one_table():
    rows = [*OWN, *ELSEWHERE, *tables.DECIDED, *tables.UNUSABLE, *tables.PASSED_ON, *tables.WITHOUT_EFFECT]
    assert len(rows) == len(set(rows))
    assert set(rows) >= KNOWN, "a newer transformers has fields that nobody has looked at"
    assert set(GIVEN) | NEED_MORE == {*tables.PASSED_ON, *tables.WITHOUT_EFFECT}


def test_what_is_taken_trains_two_steps(tmp_path):
    lines = together(GIVEN, tmp_path)
    assert [line["step"] for line in lines if "eval_perplexity" in line] == [0, 1, 2]


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(GIVEN))
def test_each_that_is_taken_trains_two_steps(name, tmp_path):
    of_workers = {"dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context"}
    with_it = of_workers & {name} and {"dataloader_num_workers"}
    with_it |= {"lr_scheduler_kwargs"} & {name} and {"lr_scheduler_type"}
    together({name} | set(with_it), tmp_path)


@pytest.mark.parametrize("name", sorted(ELSEWHERE | {*tables.DECIDED, *tables.UNUSABLE}))
def test_what_is_not_taken_is_refused_by_name(name):
    value = {"local_rank": 1, "label_smoothing_factor": 0.1}.get(name, True)
    recipe = tiny.recipe("anywhere", {})
    recipe.training.arguments = {name: value}
    for refuse in (check, lambda recipe: training_arguments(recipe, output_dir="anywhere")):
        with pytest.raises(Refusal) as refusal:
            refuse(recipe)
        assert refusal.value.field == f"training.{name}"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("optim", {"optim": "lomo"}),
        ("optim_args", {"optim_args": "nonsense"}),
        ("lr_scheduler_type", {"lr_scheduler_type": "reduce_lr_on_plateau"}),
        ("lr_scheduler_type", {"lr_scheduler_type": "cosine_with_min_lr"}),
        ("lr_scheduler_kwargs", {"lr_scheduler_kwargs": {"nonsense": 1}}),
        ("metric_for_best_model", {"metric_for_best_model": "accuracy"}),
        ("dataloader_persistent_workers", {"dataloader_persistent_workers": True}),
        ("dataloader_multiprocessing_context", {"dataloader_multiprocessing_context": "spawn"}),
        ("dataloader_in_order", {"dataloader_in_order": False}),
        ("activation_checkpointing_kwargs", {"activation_checkpointing_kwargs": {"every_n_layers": 2}}),
        ("gradient_checkpointing_kwargs", {"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
        ("tf32", {"tf32": True}),
    ],
)
def test_what_trainer_would_refuse_after_measuring_is_refused_at_once(field, given, tmp_path):
    made = tiny.recipe(tmp_path, {"training.arguments": json.dumps(given)})
    with pytest.raises(Refusal) as refusal:
        tiny.distill(made)
    assert refusal.value.field == f"training.{field}" and "\n" not in str(refusal.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.soak
def test_the_learning_rate_may_follow_what_is_measured(tmp_path):
    given = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "perplexity"}
    overrides = {"training.steps": 2, "training.evaluate_every": 1, "evaluation.blocks": 3}
    made = tiny.recipe(tmp_path, overrides | {"training.arguments": json.dumps(given)})
    assert tiny.distill(made) == 0
    assert training_arguments(made, output_dir="anywhere").greater_is_better is False, "less perplexity is better"
