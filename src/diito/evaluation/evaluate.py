"""The command ``diito evaluate``: settings to jobs, jobs to measurements, measurements to tables.

1. everything that can be refused is refused, and the jobs are listed;
2. a job whose measurement is in the results file already is not run again;
3. each measurement goes into the results file as soon as it is made;
4. the tables are printed.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import datasets
import transformers

from diito.environment import environment
from diito.evaluation.kinds import Job, Kind, check_packages, find, parts_of, refusals_under
from diito.evaluation.results import Measurement, ResultsFile, slug
from diito.evaluation.settings import EvaluateSettings
from diito.models.load import ModelSource
from diito.progress import bars


def evaluate(kind: str | Kind, model: str, settings: Any, run: EvaluateSettings) -> int:
    """Measure ``model`` as ``settings`` say; the exit code. ``kind``: a row, or what :func:`diito.evaluation.kinds.find` takes.

    Raises ValueError for what the user must change.
    """
    quieten()
    row = find(kind)
    with refusals_under("--", settings):
        check_packages(row, settings)
        results = open_results(model, run)
        return _evaluate(row, ModelSource(model, "MODEL", run.revision), settings, run, results)


def _evaluate(kind: Kind, source: ModelSource, settings: Any, run: EvaluateSettings, results: ResultsFile) -> int:
    planned = []
    for prefix, part, part_settings in parts_of(kind, settings):
        with refusals_under(prefix, part_settings):
            planned.append((part, part_settings, part.jobs(part_settings, source, device=run.device, results=results)))
    failed = False
    for part, part_settings, jobs in planned:
        measured = []
        for job in jobs:
            try:
                measured.append(measure(job, results, again=run.again))
            except FloatingPointError as error:  # the other measurements do not suffer from it
                failed = True
                print(f"diito: {job.title}: {error}", file=sys.stderr, flush=True)
        if not measured:
            continue
        print(f"\n{part.name}: {source.name}")
        print("\n\n".join(table.text() for table in part.tables(part_settings, measured)), flush=True)
        for path in part.files(part_settings, measured, results.path):
            print(f"written    {path}")
    print(f"results    {results.path}", flush=True)
    return int(failed)


def open_results(model: str, run: EvaluateSettings) -> ResultsFile:
    """The results file of a model."""
    return ResultsFile(run.output or Path("evaluations") / f"{slug(model)}.json")


def measure(job: Job, results: ResultsFile, *, again: bool) -> Measurement:
    """The measurement of a job, from the results file if it is there."""
    if not again and (job.leaves is None or job.leaves.is_dir()) and (known := results.find(job.identity)):
        print(f"{job.title}: in {results.path} already", file=sys.stderr, flush=True)
        return dataclasses.replace(known, model=job.model)  # the same model may have had another name
    print(f"{job.title}: measuring", file=sys.stderr, flush=True)
    with bars():
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
