"""The command ``diito align TEACHER --rotation.dimensions N``: sub-spaces of its layers, found, measured and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diito.environment import environment
from diito.evaluation.evaluate import measure, open_results, quieten
from diito.evaluation.held_out.jobs import interchange_text, positions_as_data
from diito.evaluation.held_out.planning import PlannedText, device_of, load_model
from diito.evaluation.held_out.rotations import CONTROLS, FOUND, Search, find_bases, measure_bases, rotation_numbers
from diito.evaluation.kind import Job, Result
from diito.evaluation.kinds import check_packages, find, refusals_under
from diito.evaluation.settings import AlignSettings, EvaluateSettings
from diito.files import check_writable
from diito.method.rotation_files import read_rotation, write_rotation
from diito.models import load as models
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.paths import expand
from diito.progress import bars
from diito.refusal import Refusal
from diito.tables import Table, interval, number
from diito.tasks.rules import find_rule


def find_rotation(teacher: str, settings: AlignSettings, run: EvaluateSettings) -> int:
    """Find the sub-spaces, measure them on held-out text, write them and print what was measured; the exit code.

    Raises ValueError for what the user must change.
    """
    quieten()
    check_packages(find("interchange"), settings)
    with refusals_under("--", settings):
        source = ModelSource(teacher, "TEACHER", run.revision)
        path = expand(settings.rotation.file, field="rotation.file")
        _check_file(path)
        results = open_results(teacher, run)
        job = _job(settings, source, path, run.device)
        measured = measure(job, results, again=run.again or not _is_there(path, job))
    print("\n" + _table(measured.result["layers"], teacher).text() + "\n")
    for name, text in CONTROLS.items():
        print(f"{name:<10} {text}")
    print(f"results    {results.path}")
    print(f"written    {path}  (diito distill RECIPE --alignment.rotation.path {path})")
    return 0


def _job(settings: AlignSettings, source: ModelSource, path: Path, device: str) -> Job:
    """The search and what is measured of it, after everything that can be refused."""
    rotation = settings.rotation
    _check_settings(settings)
    text = interchange_text(settings, source)
    training = _training_text(settings, source)
    if training.identity["text"] == text.identity["text"]:
        raise Refusal("rotation.sources", "the text that what is found is measured on (sources); give another")
    depth, width, _ = models.sizes_of(models.load_configuration(source), field=source.field)
    layers = list(range(depth)) if rotation.layers is None else rotation.layers
    if layers[-1] >= depth:
        raise Refusal("rotation.layers", f"{layers} are not among the teacher's layers 0 to {depth - 1}")
    assert rotation.dimensions is not None
    if rotation.dimensions > width:
        raise Refusal("rotation.dimensions", f"{rotation.dimensions} do not lie in the teacher's width of {width}")
    identity = {
        "kind": "rotation",
        "model": models.digest(source),
        **text.identity,
        "found_on": training.identity["text"],
        "positions": positions_as_data(settings),
        "share": settings.share,
        "layers": layers,
        **{name: getattr(rotation, name) for name in ("dimensions", "steps", "batch", "learning_rate")},
    }

    def find_and_measure() -> Result:
        model = load_model(source, text.task).to(device_of(device)).requires_grad_(False)
        learn(model, field=source.field)
        search = Search(
            dimensions=rotation.dimensions or 0,
            steps=rotation.steps,
            batch=rotation.batch,
            learning_rate=rotation.learning_rate,
            rule=find_rule(settings.positions, text.task, text.tokenizer, field="positions"),
            share=settings.share,
            special_ids=text.task.special_ids(text.tokenizer),
            seed=settings.seed,
        )
        with bars():
            bases = find_bases(model, layers, training.examples, search)
            counts = measure_bases(model, bases, text.examples, search)
        numbers = rotation_numbers(counts)
        facts = {"teacher": source.name, "teacher_digest": identity["model"], "identity": identity, "measured": numbers}
        write_rotation(path, bases, {**facts, "environment": environment()})
        return {"teacher": source.name, "layers": numbers}, {name: each.as_json() for name, each in counts.items()}

    return Job(identity, dataclasses.asdict(settings), f"rotation of {source.name}", source.name, find_and_measure)


def _check_settings(settings: AlignSettings) -> None:
    if settings.share == 1:
        raise Refusal("share", "1 leaves no token unswapped, and what is found is measured at unswapped tokens; give less")
    if not settings.rotation.sources:
        raise Refusal("rotation.sources", "name the text to find it on, such as '[embedded:wikitext-2/train.txt.gz]'")


def _training_text(settings: AlignSettings, source: ModelSource) -> PlannedText:
    own = dataclasses.replace(settings, sources=settings.rotation.sources, limit=settings.rotation.limit)
    try:
        return interchange_text(own, source)
    except Refusal as refusal:
        raise refusal.under("rotation.") if refusal.field.startswith(("sources", "limit")) else refusal from refusal


def _check_file(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise Refusal("rotation.file", f"{path} must end in .safetensors")
    check_writable(path, "rotation.file")
    if path.exists():
        try:
            read_rotation(path)
        except Refusal as error:
            raise Refusal("rotation.file", f"{path} exists and holds no rotation; give another file") from error


def _is_there(path: Path, job: Job) -> bool:
    """Whether the file holds what the job finds."""
    return path.exists() and read_rotation(path).facts.get("identity") == job.identity


def _table(layers: Sequence[dict[str, Any]], teacher: str) -> Table:
    header = ("layer", "tokens", "swapped in", "KL", "95 %", "less by the found one", "IIA", "effective")
    rows: list[Sequence[str]] = []
    for entry in layers:
        for side in ("unswapped", "swapped"):
            for name in (FOUND, *CONTROLS):
                numbers = entry[side][name]
                less = entry[side][FOUND]["less_than"].get(name, {})
                rows.append(
                    (
                        str(entry["layer"]),
                        side,
                        name,
                        number(numbers.get("counterfactual_kl"), 4),
                        interval(numbers["counterfactual_kl_interval"], 4),
                        interval(less.get("interval"), 4, sign="+") if less else "",
                        number(numbers.get("iia"), 3),
                        number(numbers.get("effective_iia"), 3),
                    )
                )
    title = f"{teacher}: swaps in sub-spaces against swaps of whole states"
    return Table("rotation", title, "", header, [("", rows)], texts=(0, 1, 2))
