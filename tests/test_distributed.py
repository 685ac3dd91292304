"""Law 9: two processes (gloo, on the CPU), all in one torchrun; what each rank saw is compared here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import classifiers
import decoders
import pytest
import tiny
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from diito.corpus import collate
from diito.evaluation.held_out.choice import Choice
from diito.method.alignment import AlignedPair, Alignment
from diito.method.draws import generator
from diito.recipe import Recipe
from diito.recipe.file import read
from diito.run import distill as distill_module
from diito.run import learned as learned_module
from diito.run.cache import cache
from diito.run.distill import distill
from diito.training.callbacks import Interruption

CLASSIFIED = {"corpus.length": "24", "corpus.layout": "lines", "evaluation.sources": "[]"}


def cases() -> dict[str, dict[str, str]]:
    """Fields of the recipe by the name of a case."""
    return {
        "blocks": {},
        "lines": {"corpus.layout": "lines"},
        "cached": {},
        "several": {
            "intervention.sources_per_row": "2",
            "alignment.pairs_per_batch": "2",
            "objective.balance": "gradient-norm",
            "objective.balance_every": "2",
        },
        "sources": {"intervention.pairing": "independent", "speed.precision": "bf16"},
        "decoder": {"task": "causal-lm", "teacher.model": decoders.teacher("qwen3"), "evaluation.continuations": "0"},
        "classifier": CLASSIFIED
        | {
            "task": "sequence-classification",
            "teacher.model": classifiers.teacher("bert"),
            "corpus.sources": json.dumps([classifiers.source(classifiers.table(44))]),
        },
        "tagger": CLASSIFIED
        | {
            "task": "token-classification",
            "teacher.model": classifiers.teacher("roberta", labels=classifiers.TAGS, tags=True),
            "corpus.sources": f"[{classifiers.column_file(44)}]",
        },
    }


# 40 to 47 rows: 5 micro-batches of 2 × 4 an epoch, so 2 + 2 + 1 of them a step; 5 steps end inside the second epoch.
EPOCHS = {"training.steps": "5", "training.accumulation": "2", "student.dropout": "0.1"}
STOPS = [2, 4]


def test_two_ranks(tmp_path):
    check_two_ranks(tmp_path, "blocks", "classifier")


@pytest.mark.soak
def test_two_ranks_of_the_other_tasks(tmp_path):
    check_two_ranks(tmp_path, "blocks", "cached", "sources", "several", "lines", "decoder", "tagger")


def check_two_ranks(tmp_path: Path, *names: str) -> None:
    run_two_ranks(tmp_path, names)
    for case in names:
        stopped_by_a_signal_to_one_and_resumed_they_equal_two_that_were_not(case, tmp_path)
    they_have_the_same_student_and_count_the_tokens_of_both(tmp_path, names)
    gradients_are_the_average_of_their_own(tmp_path)
    the_alignment_is_drawn_once_for_both_and_the_positions_for_each(tmp_path)
    an_alignment_that_is_chosen_is_that_of_the_first(tmp_path)


def run_two_ranks(folder: Path, names: tuple[str, ...]) -> None:
    """Run this file as a script under torchrun; it fills the folder. Once: starting it costs more than all it does."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
        "TINY_RECIPE": tiny.recipe_file(),
        "TINY_CASES": json.dumps({name: cases()[name] for name in names}),
        "HF_HUB_OFFLINE": "1",
    }
    launch = ["torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [sys.executable, "-m", *launch, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def of_rank(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"rank-{rank}.json").read_text())


def stopped_by_a_signal_to_one_and_resumed_they_equal_two_that_were_not(case: str, ran: Path) -> None:
    straight, stopped = ran / "straight" / case, ran / "stopped" / case
    assert tiny.same(tiny.weights(straight / "student"), tiny.weights(stopped / "student"))
    rates = ("tokens_per_second",)
    lines = [[{k: v for k, v in line.items() if k not in rates} for line in tiny.metrics(run)] for run in (straight, stopped)]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [1, 2, 3, 4, 5]
    for rank in (0, 1):
        codes, newest = of_rank(ran, rank)["stops"][case]
        assert codes == [143] * len(STOPS)
        assert newest == [f"checkpoint-{step}" for step in STOPS]


def they_have_the_same_student_and_count_the_tokens_of_both(ran: Path, names: tuple[str, ...]) -> None:
    for case in names:
        assert of_rank(ran, 0)["students"][case] == of_rank(ran, 1)["students"][case]
    assert [line["tokens"] for line in tiny.metrics(ran / "straight" / "blocks")] == [
        2 * 4 * 16 * micro_batches for micro_batches in (2, 4, 5, 7, 9)
    ]
    assert json.loads((ran / "straight" / "blocks" / "environment.json").read_text())["processes"] == 2


def gradients_are_the_average_of_their_own(ran: Path) -> None:
    together = [load_file(ran / f"together-{rank}.safetensors") for rank in (0, 1)]
    own = [load_file(ran / f"own-{rank}.safetensors") for rank in (0, 1)]
    assert tiny.same(*together) and not tiny.same(*own)
    for name, value in together[0].items():
        torch.testing.assert_close(value, (own[0][name] + own[1][name]) / 2, rtol=0, atol=1e-6)
    assert max(value.abs().max() for value in together[0].values()) > 1e-3


def the_alignment_is_drawn_once_for_both_and_the_positions_for_each(ran: Path) -> None:
    first, second = (of_rank(ran, rank)["draws"] for rank in (0, 1))
    assert len(first) == len(second) == 9
    assert [draw["pair"] for draw in first] == [draw["pair"] for draw in second]
    assert len({str(draw["pair"]) for draw in first}) > 1
    assert all(one["rows"] != other["rows"] for one, other in zip(first, second, strict=True))
    assert [draw["positions"] for draw in first] != [draw["positions"] for draw in second]
    assert sum(one["positions"] == other["positions"] for one, other in zip(first, second, strict=True)) < 3


def an_alignment_that_is_chosen_is_that_of_the_first(ran: Path) -> None:
    first, second = (of_rank(ran, rank)["learned"] for rank in (0, 1))
    assert first == second and first["chosen_at"] == 1
    assert [pair["teacher"] for pair in first["pairs"]] == [[0], [1]]


# What the ranks do


def recipe_for(output: Path, name: str, overrides: dict[str, str]) -> Recipe:
    return read(os.environ["TINY_RECIPE"], {"output": str(output), "name": name} | EPOCHS | overrides)


def stop_at(step: int | None) -> None:
    """Rank 1 alone is sent a signal at the end of ``step``."""

    class Signalled(Interruption):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step and torch.distributed.get_rank() == 1:
                signal.raise_signal(signal.SIGTERM)
            super().on_step_end(args, state, control, **kwargs)

    distill_module.Interruption = Signalled


def stop_and_resume(folder: Path, report: dict) -> None:
    students: list[torch.nn.Module] = []
    train = distill_module.train
    distill_module.train = lambda recipe, parts, *rest: (students.append(parts.student), train(recipe, parts, *rest))[1]
    for case, overrides in json.loads(os.environ["TINY_CASES"]).items():
        stop_at(None)
        assert distill(recipe_for(folder / "straight", case, overrides)) == 0
        report["students"][case] = [float(value.double().sum()) for value in students[-1].parameters()]
        if case == "cached":  # a live teacher for the run without a stop, its answers for the one with stops
            assert cache(recipe_for(folder, case, overrides), folder / "cache") == 0
            overrides |= {"teacher.cache": str(folder / "cache")}
        recipe = recipe_for(folder / "stopped", case, overrides)
        codes, newest = [], []
        for index, step in enumerate(STOPS):
            stop_at(step)
            codes.append(distill(recipe, resume=index > 0))
            torch.distributed.barrier()
            newest.append(tiny.checkpoints(folder / "stopped" / case)[-1])
        stop_at(None)
        torch.distributed.barrier()
        assert distill(recipe, resume=True) == 0
        report["stops"][case] = codes, newest
    distill_module.train = train


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            student = getattr(model, "module", model).student
            self.first = {name: value.grad.clone() for name, value in student.named_parameters()}


def compare_gradients(folder: Path, report: dict) -> None:
    """The gradients of an accumulated step under DDP, and this rank's own, worked out outside Trainer."""
    rank = torch.distributed.get_rank()
    overrides = {"training.clip": "0", "training.learning_rate": "1e-30"}
    _, trainer = tiny.parts_and_trainer(recipe_for(folder, "gradients", overrides))
    objective, gradients = trainer.objective, Gradients()
    trainer.add_callback(gradients)
    run, draw_swap = objective.alignment.draw, objective.draw_swap

    def draw(random):
        pair = run(random)
        report["draws"].append({"pair": [list(pair.student), list(pair.teacher)]})
        return pair

    def swap(batch, **keys):
        drawn = draw_swap(batch, **keys)
        report["draws"][-1] |= {"positions": drawn.positions.tolist(), "rows": batch["input_ids"].tolist()}
        return drawn

    object.__setattr__(objective.alignment, "draw", draw)
    objective.draw_swap = swap
    trainer.train()
    assert len(report["draws"]) == 9
    save_file({name: value.contiguous() for name, value in gradients.first.items()}, folder / f"together-{rank}.safetensors")

    trainer.sampler.set_epoch(0)
    order, losses = list(trainer.sampler), []
    for index in range(2):
        start = (2 * index + rank) * 4  # whole micro-batches go to the ranks in turn
        rows = [trainer.train_dataset[row] for row in order[start : start + 4]]
        masked = trainer.batching.batch(collate(rows, pad_token_id=0), generator=generator("mask", 1, index, rank))
        losses.append(objective(masked, step=index)["loss"])
    names, values = zip(*objective.student.named_parameters(), strict=True)
    own = torch.autograd.grad(sum(losses) / 2, values)
    save_file(dict(zip(names, own, strict=True)), folder / f"own-{rank}.safetensors")


def choose_otherwise_on_each(folder: Path, report: dict) -> None:
    """A learned alignment, of which rounding might have each rank choose another."""
    rank = torch.distributed.get_rank()
    own = Alignment([AlignedPair([layer], [layer + rank]) for layer in range(2)])
    learned_module.choose_alignment = lambda *args, **keywords: Choice(own, 0.5, 0.1)
    overrides = {"alignment.kind": "learned", "alignment.every": "1", "training.steps": "2"}
    recipe = recipe_for(folder, "learned", overrides)
    parts, trainer = tiny.parts_and_trainer(recipe)
    callback = learned_module.learned_alignment(recipe, parts)
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.objective.alignment == callback.present
    report["learned"] = callback.as_data()


def main(folder: Path) -> None:
    report: dict = {"stops": {}, "students": {}, "draws": []}
    stop_and_resume(folder, report)
    compare_gradients(folder, report)
    choose_otherwise_on_each(folder, report)
    del report["draws"][9:]  # those of the gradients by hand
    (folder / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(report))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
