"""``manifest.json``: what decides the student of a run, written before it starts; a run is resumed with the same or not at all.

1. ``fields``: those of the recipe that decide the student, by their keys. Which may differ stands beside each field
   (``recipe/sections.py``);
2. ``contents``: what is found where the recipe says something is, by the field that says so: hashes of the teacher, of the
   tokenizer, of the tokenised text and of the held-out text, the alignment as pairs, hashes of the user's own modules;
3. ``distil``, a number that is raised when a change of the code changes students, and ``processes``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

from diito.corpus.tokenise import Tokeniser
from diito.files import sha256
from diito.method.rotation_files import digest_of
from diito.method.rows import Needs
from diito.models import load as models
from diito.models.load import ModelSource
from diito.recipe import Recipe
from diito.recipe.fields import FREE, PLACE
from diito.recipe.values import fields_of
from diito.refusal import Refusal
from diito.run.parts import Parts
from diito.run.students import source_of
from diito.secrets import redact

VERSIONS = {"distil": 2}
"""Part of every distillation's identity: raise it when a change of the code changes students. (Those of the kinds of
evaluation stand in their rows, ``evaluation/*/kinds.py``, that of a grid's preparations in ``experiments/jobs.py``.)"""


def make_manifest(recipe: Recipe, parts: Parts, *, processes: int) -> dict[str, Any]:
    """The manifest of a run, as JSON holds it."""
    contents = {
        **_read_contents(recipe, parts),
        "evaluation.sources": parts.held_out and parts.held_out.digest(),
        **student_contents(recipe),
        "alignment.file": [dataclasses.asdict(pair) for pair in parts.alignment.pairs],
        **own_parts(recipe),
    }
    manifest = {**VERSIONS, "processes": processes, "fields": fixed_fields(recipe), "contents": contents}
    return _as_in_a_file(manifest)


_OF_ANSWERS = ("task", "seed", "corpus", "masking", "intervention", "objective.tokens", "speed.precision")
_OF_MICRO_BATCHES = ("training.per_device_train_batch_size", "alignment.pairs_per_batch")


def answers_manifest(parts: Parts, *, processes: int) -> dict[str, Any]:
    """What decides a teacher's answers to the micro-batches of a run, by the field that says it, as JSON holds it."""
    recipe, rotation = parts.plan.recipe, parts.plan.recipe.alignment.rotation.path
    fixed = {
        key: value
        for key, value in fixed_fields(recipe).items()
        if key in _OF_MICRO_BATCHES or any(key == each or key.startswith(f"{each}.") for each in _OF_ANSWERS)
    }
    needs = Needs.of(parts.plan.losses.values())
    return _as_in_a_file(
        {
            **fixed,
            **_read_contents(recipe, parts),
            "alignment.kind": [[pair.teacher, pair.teacher_dimensions] for pair in parts.alignment.pairs],
            "alignment.rotation.path": None if rotation is None else digest_of(rotation),
            **_modules(recipe.task, recipe.intervention.positions, recipe.intervention.pairing),
            "objective.weights": ["base"] * needs.base + ["counterfactual"] * needs.counterfactual,
            "student.model": f"{parts.words} words" if parts.words else None,
            "--nproc-per-node": processes,
        }
    )


def _read_contents(recipe: Recipe, parts: Parts) -> dict[str, str]:
    """Hashes of the teacher, of its tokenizer and of the tokenised text, by the fields that name them."""
    teacher, tokenizer = recipe.teacher, parts.tokenizer
    tokeniser = Tokeniser.for_tokenizer(tokenizer, field="teacher.tokenizer", framing=parts.task.framing(tokenizer))
    return {
        "teacher.model": models.digest(ModelSource(teacher.model, "teacher.model", teacher.revision)),
        "teacher.tokenizer": tokeniser.fingerprint(),
        "corpus.sources": parts.corpus.digest(),
    }


def student_contents(recipe: Recipe) -> dict[str, str]:
    """Hashes of the checkpoint that a recipe names as its student and of its rotation, by their fields; of what there is."""
    source, rotation = source_of(recipe.student), recipe.alignment.rotation.path
    contents = {} if source is None else {source.field: models.digest(source)}
    if rotation is not None:
        contents["alignment.rotation.path"] = digest_of(rotation)
    return contents


def refuse_other_fields(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    """Refuse, naming the first, fields that a run was not started with."""
    for key in before | now:
        if before.get(key) != now.get(key):
            written = key.replace("training.arguments.", "training.").replace("weights.further.", "weights.")
            raise Refusal(
                written,
                f"the run {run} was started with {before.get(key)}, not {now.get(key)}; "
                "resume with the same recipe, or start another run with --name",
            )


def refuse_another_run(before: dict[str, Any], now: dict[str, Any], run: Path) -> None:
    """Refuse, naming the first, anything in a manifest that a run was not started with."""
    refuse_other_fields(before["fields"], now["fields"], run)
    if before["distil"] != now["distil"]:
        raise Refusal(
            "",
            f"the run {run} was started by a version of diito that makes other students; finish it with that one, "
            "or start another run with --name",
        )
    if before["processes"] != now["processes"]:
        raise Refusal(
            "--nproc-per-node",
            f"the run {run} was started on {before['processes']} process(es), not {now['processes']}, and each draws on its "
            "own; resume on as many, or start another run with --name",
        )
    contents = before["contents"], now["contents"]
    for key in contents[0] | contents[1]:
        if contents[0].get(key) != contents[1].get(key):
            raise Refusal(
                key,
                f"what it names is not what the run {run} was started with, its content has changed; "
                "resume with that, or start another run with --name",
            )


def deciding_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that decide the student, with their values: ``{"training.max_steps": 40, ...}``."""
    return {key: value for key, value, role in fields_of(recipe) if role != FREE}


def fixed_fields(recipe: Recipe) -> dict[str, Any]:
    """Those of them that must be as they were, whatever is found where the others say."""
    return _as_in_a_file({key: value for key, value, role in fields_of(recipe) if role not in (FREE, PLACE)})


def own_parts(recipe: Recipe) -> dict[str, str]:
    """The user's own modules that a recipe refers to, each with a hash of its file: the name alone says not what it does."""
    intervention = recipe.intervention
    return _modules(recipe.task, intervention.positions, intervention.pairing, *recipe.objective.losses)


def _modules(*references: Any) -> dict[str, str]:
    """Hashes of the modules that references name by an import path."""
    named = [reference for reference in references if isinstance(reference, str)]
    modules = sorted({reference.partition(":")[0] for reference in named if ":" in reference})
    files = {name: importlib.import_module(name).__file__ for name in modules}
    return {name: sha256(Path(file)) for name, file in files.items() if file is not None}


def _as_in_a_file(content: dict[str, Any]) -> dict[str, Any]:
    """As it is written and read back, to be compared: tuples are lists there, and secrets are left out."""
    return dict(json.loads(redact(json.dumps(content))))
