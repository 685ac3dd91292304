"""The folder of a run: what is in it, and when it may be written.

``recipe.yaml`` as run, ``environment.json``, ``metrics.jsonl``, ``results.json``, ``checkpoints/``, ``student/``.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.environment import environment
from diito.files import check_writable, read_json, replace_folder, write_json, write_text
from diito.recipe import Recipe
from diito.recipe.file import dump, read

FREE_ON_RESUME = (
    "output",
    "name",
    "corpus.workers",
    "corpus.cache",
    "training.logging_steps",
    "training.save_steps",
    "training.save_total_limit",
    "training.eval_steps",
    "evaluation.interchange_every",
    "training.report_to",
    "speed.keep_memory",
    *(
        f"training.arguments.{name}"
        for name in (
            "dataloader_num_workers",
            "dataloader_persistent_workers",
            "dataloader_pin_memory",
            "dataloader_prefetch_factor",
            "disable_tqdm",
            "eval_",
            "hub_",
            "log_",
            "logging_",
            "push_to_hub",
            "report_to",
            "run_name",
            "save_",
        )
    ),
)
"""Fields, by the beginnings of their names, that may differ when a run is resumed: they do not change the student."""


class RunFolder:
    """``<output>/<name>`` of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.output) / recipe.name
        self.recipe_file = self.path / "recipe.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse what would lose or mix runs (ValueError); changes nothing."""
        check_writable(self.recipe_file, "output")
        if resume:
            if not self.recipe_file.is_file():
                raise ValueError(f"name: there is no run to resume in {self.path}; leave out --resume to start it")
            self._check_same_run()
        elif self.path.exists() and any(self.path.iterdir()) and not overwrite:
            raise ValueError(
                f"name: the run {self.path} exists; continue it with --resume, replace it with --overwrite, "
                "or give another --name"
            )

    def start(self, *, resume: bool) -> None:
        """Make the folder, in place of what is there unless the run is resumed."""
        if not resume:
            if self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
        write_text(self.recipe_file, dump(self.recipe))
        write_json(self.path / "environment.json", environment())

    def newest_checkpoint(self) -> Path | None:
        """The newest complete checkpoint: only complete ones bear the name."""
        steps = {}
        for folder in self.checkpoints.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdigit() and (folder / "trainer_state.json").is_file():
                steps[int(number)] = folder
        return steps[max(steps)] if steps else None

    def read_results(self) -> dict[str, Any]:
        """What ``results.json`` holds so far."""
        return read_json(self.results)

    def save_student(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str) -> None:
        """Weights, configuration, tokenizer and model card, written aside and renamed. Raises OSError on a full disk."""
        aside = self.student.with_name("student.new")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            student.save_pretrained(aside)
        except SafetensorError as error:
            raise OSError(f"{self.student}: the weights could not be written ({error})") from error
        tokenizer.save_pretrained(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")
        replace_folder(aside, self.student)

    def _check_same_run(self) -> None:
        before, now = (deciding_fields(recipe) for recipe in (read(self.recipe_file), self.recipe))
        for key in before | now:
            if before.get(key) != now.get(key):
                written = key.replace("training.arguments.", "training.").replace("weights.further.", "weights.")
                raise ValueError(
                    f"{written}: the run {self.path} was started with {before.get(key)}, not {now.get(key)}; "
                    "resume with the same recipe, or start another run with --name"
                )


def deciding_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that decide the student, with their values: ``{"training.batch": 40, ...}``."""
    return {key: value for key, value in _flat(dataclasses.asdict(recipe)).items() if not key.startswith(FREE_ON_RESUME)}


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = value
    return flat
