"""The command ``diito evaluate``: settings to jobs, jobs to measurements, measurements to tables.

1. everything that can be refused is refused, and the jobs are listed;
2. a job whose measurement is in the results file already is not run again;
3. each measurement goes into the results file as soon as it is made;
4. the tables are printed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers

from diito.environment import environment
from diito.evaluation.fine_tuning.jobs import Job, fine_tuning_jobs, missing_glue_tasks, slug
from diito.evaluation.held_out.jobs import interchange_job, perplexity_jobs
from diito.evaluation.held_out.maps import draw_heat_map
from diito.evaluation.results import Measurement, ResultsFile
from diito.evaluation.settings import AllSettings, EvaluateSettings, GlueSettings, InterchangeSettings
from diito.evaluation.tables import fine_tuning_table, interchange_table, perplexity_table
from diito.models.load import ModelSource


def evaluate(kind: str, model: str, settings: Any, where: EvaluateSettings) -> int:
    """Measure ``model`` as ``settings`` say; the exit code. Raises ValueError for what the user must change."""
    quieten()
    source = ModelSource(model, "MODEL", where.revision)
    results = open_results(model, where)
    parts = {kind: settings} if kind != "all" else {name: getattr(settings, name) for name in _parts(settings)}
    planned = {name: _jobs(name, part, source, results, where, suite=kind == "all") for name, part in parts.items()}
    failed = False
    for name, jobs in planned.items():
        measured = []
        for job in jobs:
            try:
                measured.append(measure(job, results, again=where.again))
            except FloatingPointError as error:  # the other measurements do not suffer from it
                failed = True
                print(f"diito: {job.title}: {error}", file=sys.stderr, flush=True)
        if measured:
            print(f"\n{name}: {model}\n{_table(name, parts[name], measured)}", flush=True)
        for path in _files(name, parts[name], measured, results.path):
            print(f"written    {path}")
    print(f"results    {results.path}", flush=True)
    return int(failed)


def _parts(settings: AllSettings) -> list[str]:
    known = [field.name for field in dataclasses.fields(AllSettings) if field.name != "parts"]
    for name in settings.parts:
        if name not in known:
            raise ValueError(f"--parts: {name!r} is not one of {', '.join(known)}")
    if not settings.parts:
        raise ValueError(f"--parts: the list is empty; give some of {', '.join(known)}")
    return [name for name in known if name in settings.parts]


def _jobs(
    name: str, settings: Any, source: ModelSource, results: ResultsFile, where: EvaluateSettings, *, suite: bool
) -> list[Job]:
    try:
        if name == "perplexity":
            return perplexity_jobs(settings, source, device=where.device, results=results)
        if name == "interchange":
            return [interchange_job(settings, source, device=where.device)]
        return fine_tuning_jobs(name, settings, source, device=where.device)
    except ValueError as error:
        if suite and str(error).startswith("--"):
            raise ValueError(f"--{name}.{str(error)[2:]}") from error  # there the flags have the part in front
        raise


def _table(name: str, settings: Any, measured: Sequence[Measurement]) -> str:
    if name == "perplexity":
        return perplexity_table(measured)
    if name == "interchange":
        return interchange_table(measured[0])
    everything = isinstance(settings, GlueSettings) and settings.tasks is None
    missing = missing_glue_tasks(settings) if everything else []
    return fine_tuning_table(measured, missing=missing)


def _files(name: str, settings: Any, measured: Sequence[Measurement], results: Path) -> Iterator[Path]:
    """What is written beside the results: SQuAD's predictions in the official format (id to text), the heat map."""
    if name == "squad":
        for measurement in measured:
            path = results.with_name(f"{slug(measurement.model)}-squad-{measurement.identity['seed']}.json")
            path.write_text(json.dumps(measurement.examples["predictions"]["dev"], ensure_ascii=False), encoding="utf-8")
            yield path
    if name == "interchange" and settings.map:
        yield write_map(measured[0], settings, results)


def open_results(model: str, where: EvaluateSettings) -> ResultsFile:
    """The results file of a model."""
    return ResultsFile(where.output or Path("evaluations") / f"{slug(model)}.json")


def write_map(measured: Measurement, settings: InterchangeSettings, results: Path) -> Path:
    """Draw the heat map of a measured map; the path of the figure."""
    path = Path(settings.figure or results.with_name(f"{slug(measured.model)}-map.png")).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{measured.model} under the interventions of {settings.teacher}"
    draw_heat_map(measured.result["models"]["student"]["pairs"], path, title=title)
    return path


def measure(job: Job, results: ResultsFile, *, again: bool) -> Measurement:
    """The measurement of a job, from the results file where it is there."""
    if not again and (job.leaves is None or job.leaves.is_dir()) and (found := results.find(job.identity)):
        print(f"{job.title}: in {results.path} already", file=sys.stderr, flush=True)
        return dataclasses.replace(found, model=job.model)  # the same model may have had another name
    print(f"{job.title}: measuring", file=sys.stderr, flush=True)
    result, examples = job.run()
    measurement = Measurement(job.identity, job.settings, job.model, result, examples, environment())
    results.add(measurement)
    return measurement


def quieten() -> None:
    """The screen is ours; warnings stay, but for what a new head always causes."""
    warnings.filterwarnings("ignore", message=".broadcast_buffers. is deprecated", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
