"""The folder of a run: what is in it, when it may be written, and where a resumed run goes on.

``manifest.json`` what decides the student, ``plan.json`` steps and what a step costs, ``recipe.yaml`` as run (the last thing
that is written at the start, and never again), ``environment.json``, ``resumes.jsonl`` a line a resume, ``metrics.jsonl``,
``results.json``, ``checkpoints/``, ``student/``.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.environment import environment
from diito.files import (
    append_json_line,
    check_writable,
    checksums,
    first_difference,
    is_aside,
    read_json,
    replace_folder,
    write_json,
    write_text,
    writing,
)
from diito.locks import HOLDER, Held, hold
from diito.models.adapter import is_merged, merged
from diito.models.cut import Cut
from diito.paths import expand
from diito.recipe import Recipe
from diito.recipe.file import dump, read
from diito.recipe.values import differing_fields
from diito.refusal import Refusal
from diito.run.manifest import deciding_fields, fixed_fields, refuse_another_run, refuse_other_fields
from diito.training.checkpoints import checkpoint_fault, checkpoints_by_step

_CARD = "README.md"
_KEPT = "cut.json"


class RunFolder:
    """``<output>/<name>`` of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = expand(recipe.output, field="output") / recipe.name
        self.lock = self.path / ".lock"
        self.manifest = self.path / "manifest.json"
        self.recipe_file = self.path / "recipe.yaml"
        self.plan = self.path / "plan.json"
        self.environment = self.path / "environment.json"
        self.resumes = self.path / "resumes.jsonl"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"
        self._searched: tuple[Path | None, dict[Path, str]] | None = None
        """What was found of the checkpoints, each of which is hashed to be found whole."""

    # Whether it may be written

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse what would lose or mix runs (Refusal); changes nothing."""
        check_writable(self.recipe_file, "output")
        if resume:
            if not self.recipe_file.is_file():
                raise Refusal("name", f"there is no run to resume in {self.path}; leave out --resume to start it")
            self._check_same_fields()
        elif not self._is_unused():
            if not overwrite:
                raise Refusal(
                    "name",
                    f"the run {self.path} exists; continue it with --resume, replace it with --overwrite, "
                    "or give another --name",
                )
            if not (self.recipe_file.is_file() and (self.manifest.is_file() or self.environment.is_file())):
                raise Refusal("name", f"{self.path} is no run of diito, which alone --overwrite replaces; give another --name")

    def check_manifest(self, manifest: dict[str, Any]) -> None:
        """Refuse to resume what ``manifest`` does not describe; a run of diito 0.1.0 has none to compare with."""
        before = self._read_manifest()
        if before is not None:
            refuse_another_run(before, manifest, self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder from other processes. Raises Refusal, naming the one that has it."""
        try:
            with hold(self.lock):
                self._searched = None  # another process may have written until now
                yield
        except Held as holder:
            sentence = f"the run {self.path} is being written by {holder}; wait for it, or give another --name"
            raise Refusal("name", sentence) from None

    def start(self, *, resume: bool, manifest: dict[str, Any] | None = None, plan: dict[str, Any] | None = None) -> None:
        """Make the folder, in place of what is there, or note that the run is resumed and remove what is damaged."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if resume:
                self._resume()
            else:
                self._clear()
        if plan is not None:
            write_json(self.plan, plan)
        if resume:
            return
        if manifest is not None:
            write_json(self.manifest, manifest)
        write_json(self.environment, environment())
        write_text(self.recipe_file, dump(self.recipe))

    # Where a resumed run goes on

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; None where the run has none yet.

        Raises Refusal where it has some and none is whole.
        """
        found, damaged = self._search_checkpoints()
        if found is None and damaged:
            names = ", ".join(f"{folder.name} ({fault})" for folder, fault in damaged.items())
            raise Refusal("", f"no checkpoint of the run {self.path} is whole: {names}; start it anew with --overwrite")
        return found

    def damaged_checkpoints(self) -> dict[Path, str]:
        """Checkpoints newer than the newest whole one, each with what is wrong with it."""
        return self._search_checkpoints()[1]

    def is_finished(self) -> bool:
        """Whether nothing is left to do. Raises Refusal for a student that is damaged and cannot be made again."""
        results = self.read_results()
        if "student" not in results:  # as diito 0.1.0 left it, the student last
            return "recipe" in results and (self.student / "config.json").is_file() and not self.manifest.is_file()
        fault = first_difference(self.student, results["student"])
        if fault is not None and not checkpoints_by_step(self.checkpoints):
            raise Refusal("", f"{self.student}: {fault}, and the run has no checkpoint left; start it anew with --overwrite")
        return fault is None

    # What it holds

    def read_results(self) -> dict[str, Any]:
        """What ``results.json`` holds so far; nothing where it is damaged, so that it is measured again."""
        try:
            return read_json(self.results)
        except ValueError:
            return {}

    def save_student(
        self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, *, kept: Cut | None = None
    ) -> dict[str, str]:
        """Weights, configuration, tokenizer and model card, written aside and renamed; the checksums of all but the card, which
        is there to be edited. ``kept``: what of the teacher a student that was cut is made of. Raises CannotWrite."""
        lora = self.recipe.student.lora
        if lora is not None and is_merged(lora):
            student = merged(student)
        aside = self.student.with_name("student.new")
        shutil.rmtree(aside, ignore_errors=True)
        with writing(self.student):
            student.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
            write_text(aside / _CARD, card)
            if kept is not None:
                write_json(aside / _KEPT, kept.as_json())
            sums = checksums(aside, without=[_CARD])
        replace_folder(aside, self.student)
        return sums

    def _check_same_fields(self) -> None:
        before = self._read_manifest()
        if before is None:
            refuse_other_fields(deciding_fields(read(self.recipe_file)), deciding_fields(self.recipe), self.path)
        else:
            refuse_other_fields(before["fields"], fixed_fields(self.recipe), self.path)

    def _read_manifest(self) -> dict[str, Any] | None:
        """None: a run of diito 0.1.0."""
        try:
            return read_json(self.manifest) or None
        except ValueError:
            raise Refusal("", f"{self.manifest} is damaged; start the run anew with --overwrite") from None

    def _search_checkpoints(self) -> tuple[Path | None, dict[Path, str]]:
        """The newest whole checkpoint, and the damaged ones before it; searched once while the folder is held."""
        if self._searched is None:
            self._searched = self._search()
        return self._searched

    def _search(self) -> tuple[Path | None, dict[Path, str]]:
        damaged: dict[Path, str] = {}
        for folder in checkpoints_by_step(self.checkpoints):
            fault = checkpoint_fault(folder, has_checksums=self.manifest.is_file())
            if fault is None:
                return folder, damaged
            damaged[folder] = fault
        return None, damaged

    def _is_unused(self) -> bool:
        """Whether there is nothing but what a start that was interrupted leaves."""
        ours = {entry.name for entry in (self.lock, self.plan, self.manifest, self.environment)} | {self.lock.name + HOLDER}
        return not self.path.exists() or all(entry.name in ours or is_aside(entry) for entry in self.path.iterdir())

    def _clear(self) -> None:
        """Remove the run. What says that it is one goes last, so that a kill leaves it to be removed or resumed."""
        kept = {self.lock.name, self.lock.name + HOLDER}
        order = [self.environment, self.recipe_file, self.manifest]
        rest = [entry for entry in self.path.iterdir() if entry.name not in kept and entry not in order]
        for entry in [self.checkpoints, *rest, *order]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _resume(self) -> None:
        found, damaged = self._search_checkpoints()
        for entry in self.path.iterdir():
            if is_aside(entry):
                entry.unlink()
        for folder in damaged:  # it is made again, and would be taken for the newest
            shutil.rmtree(folder)
        self._searched = found, {}
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "step": 0 if found is None else int(found.name.rpartition("-")[2]),
            "damaged": {folder.name: fault for folder, fault in damaged.items()},
            "changed": differing_fields(read(self.recipe_file), self.recipe),
            "environment": environment(),
        }
        append_json_line(self.resumes, line)
