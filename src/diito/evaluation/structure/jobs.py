"""The job that measures a model on generated data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.corpus.examples import read_examples
from diito.evaluation.held_out.planning import check_model, device_of, load_model, names_of
from diito.evaluation.kind import Job, Result
from diito.evaluation.results import Measurement, ResultsFile
from diito.evaluation.settings import StructureSettings
from diito.evaluation.structure.sites import Answering, Site, all_sites, best_site, other_site, worst_layer
from diito.files import check_writable, write_json
from diito.models import load as models
from diito.models.layered import Layered
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.models.modes import eval_mode
from diito.paths import expand
from diito.recipe import SourceSection
from diito.refusal import Refusal
from diito.structured.folder import Generated
from diito.tasks import find_task, task_of
from diito.tasks.task import Task


def structure_jobs(
    settings: StructureSettings, source: ModelSource, *, device: str, results: ResultsFile | None = None
) -> list[Job]:
    """The job of one model, with ``teacher`` of both."""
    identity = structure_identity(settings, source)
    generated, task = _generated(settings), _task(source)
    sources = [source] if settings.teacher is None else [source, _teacher(settings)]
    if settings.write_site is not None:
        check_writable(expand(settings.write_site, field="write_site"), "write_site")

    def run() -> Result:
        loaded = [(each, load_model(each, task).to(device_of(device)), models.load_tokenizer(each)) for each in sources]
        for each, model, _ in loaded:
            learn(model, field=each.field)
        answers = [_answers(model, tokenizer, generated, settings) for _, model, tokenizer in loaded]
        measured = {
            name: _measured(model, tokenizer, generated, settings, own, answers[1:])
            for name, (_, model, tokenizer), own in zip(names_of(*sources), loaded, answers, strict=True)
        }
        return {"models": measured}, {}

    return [Job(identity, dataclasses.asdict(settings), f"structure of {source.name}", source.name, run)]


def structure_identity(settings: StructureSettings, source: ModelSource, *, depth: int | None = None) -> dict[str, Any]:
    """What decides the result."""
    generated = _generated(settings)
    told_of = _told_of(settings, generated)
    for split in settings.splits:
        generated.split(split, field="splits")
    task = _task(source)
    for each in (source, *([] if settings.teacher is None else [_teacher(settings)])):
        check_model(each, task)
    identity = {
        "kind": "structure",
        "model": models.digest(source),
        "data": generated.digest(),
        "splits": settings.splits,
        "site": told_of,
    }
    return identity if settings.teacher is None else {**identity, "teacher": models.digest(_teacher(settings))}


def site_file(settings: StructureSettings, measurements: Sequence[Measurement], results: Path) -> Iterator[Path]:
    """Where the model carries a value best, and where it does not, for the recipes of a grid."""
    if settings.write_site is None:
        return
    numbers = next(iter(measurements[0].result["models"].values()))
    sites, best = [Site(**each) for each in numbers["sites"]], Site(**numbers["site"])
    other = other_site(sites, best)
    content = {
        "variable": best.variable,
        "positions": best.positions,
        "layer": best.layer,
        "effective_iia": best.effective_iia,
        "wrong_layer": worst_layer(sites, best).layer,
        "other_positions": None if other is None else other.positions,
    }
    path = expand(settings.write_site, field="write_site")
    write_json(path, content)
    yield path


def _generated(settings: StructureSettings) -> Generated:
    if settings.data is None:
        raise Refusal("data", "name the folder that diito generate has written, such as data/tables-1")
    return Generated.read(settings.data, field="data")


def _told_of(settings: StructureSettings, generated: Generated) -> tuple[str, list[int]] | None:
    """The variable and the span of ``site``; None where the model itself says which."""
    if settings.site is None:
        return None
    path = expand(settings.site, field="site")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        variable, positions = str(found["variable"]), list(found["positions"])
        known = positions in generated.variables[variable].values()
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        sentence = f"{settings.site} is not a site of this data; write one with: diito evaluate structure --write_site"
        raise Refusal("site", sentence)
    return variable, positions


def _teacher(settings: StructureSettings) -> ModelSource:
    assert settings.teacher is not None
    return ModelSource(settings.teacher, "teacher", settings.teacher_revision)


def _task(source: ModelSource) -> Task:
    """Masked language models answer at the mask, classifiers with a class, decoders with the next token."""
    task = task_of(source)
    if task.name not in ("masked-lm", "sequence-classification", "causal-lm"):
        sentence = f"{source.name!r} is a {task.noun}; give a masked language model, a sequence classifier or a decoder"
        raise Refusal(source.field, sentence)
    return find_task(task.name)


Answers = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By split: what a model answers to its rows, and what is right."""


@torch.no_grad()
def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, generated: Generated, settings: StructureSettings
) -> Answers:
    answering, found = Answering(model, tokenizer), {}
    with eval_mode(model):
        for split in settings.splits:
            source = SourceSection(path=str(generated.split(split, field="splits")), label="answer")
            rows = list(read_examples([source], field="data"))
            ids, right = answering.ids([row.text for row in rows]), answering.answers([row.label for row in rows])
            last, best = answering.layered.depth - 1, []
            for start in range(0, len(ids), settings.batch):
                part = ids[start : start + settings.batch]
                _, states = answering.layered.states({"input_ids": part}, [last])
                best.append(answering.best(answering.layered.final(states[last]), part))
            found[split] = (torch.cat(best), right)
    return found


def _measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generated: Generated,
    settings: StructureSettings,
    own: Answers,
    teachers: Sequence[Answers],
) -> dict[str, Any]:
    sites = all_sites(model, tokenizer, generated, batch=settings.batch)
    told_of = _told_of(settings, generated)
    wanted = [site for site in sites if told_of is None or (site.variable, site.positions) == told_of]
    agreement = {
        split: float((best == teacher[split][0]).float().mean()) for teacher in teachers for split, (best, _) in own.items()
    }
    return {
        "accuracy": {split: float((best == right).float().mean()) for split, (best, right) in own.items()},
        "agreement": agreement,
        "site": best_site(wanted, depth=Layered(model).depth).as_json(),
        "sites": [site.as_json() for site in sites],
    }
