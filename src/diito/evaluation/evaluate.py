"""The command ``diito evaluate``: settings to jobs, jobs to measurements, measurements to tables.

1. everything that can be refused is refused, and the jobs are listed;
2. a job whose measurement is in the results file already is not run again;
3. each measurement goes into the results file as soon as it is made;
4. the tables are printed.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import transformers

from diito.evaluation.jobs import Job, fine_tuning_jobs, missing_glue_tasks
from diito.evaluation.results import Measurement, ResultsFile
from diito.evaluation.settings import AllSettings, EvaluateSettings, GlueSettings
from diito.evaluation.tables import fine_tuning_table
from diito.models import ModelSource
from diito.run_folder import environment


def evaluate(kind: str, model: str, settings: Any, where: EvaluateSettings) -> int:
    """Measure ``model`` as ``settings`` say; the exit code. Raises ValueError for what the user must change."""
    quieten()
    source = ModelSource(model, "MODEL", where.revision)
    results = ResultsFile(where.output or Path("evaluations") / f"{slug(model)}.json")
    parts = (
        {name: getattr(settings, name) for name in settings.parts} if isinstance(settings, AllSettings) else {kind: settings}
    )
    planned = {name: fine_tuning_jobs(name, part, source, device=where.device) for name, part in parts.items()}
    for name, jobs in planned.items():
        measured = [measure(job, results, again=where.again) for job in jobs]
        missing = missing_glue_tasks(parts[name]) if isinstance(parts[name], GlueSettings) else []
        print(f"\n{name}: {model}\n{fine_tuning_table(measured, missing=missing)}")
        if name == "squad":
            write_predictions(measured, results.path)
    print(f"\nresults    {results.path}", flush=True)
    return 0


def measure(job: Job, results: ResultsFile, *, again: bool) -> Measurement:
    """The measurement of a job, from the results file where it is there."""
    if not again and (found := results.find(job.identity)):
        print(f"{job.title}: in {results.path} already", file=sys.stderr, flush=True)
        return found
    print(f"{job.title}: measuring", file=sys.stderr, flush=True)
    result, examples = job.run()
    measurement = Measurement(job.identity, job.model, result, examples, environment())
    results.add(measurement)
    return measurement


def write_predictions(measurements: Sequence[Measurement], results: Path) -> None:
    """SQuAD's predictions in the official format (id to text), a file a seed beside the results."""
    for measurement in measurements:
        path = results.with_name(f"{results.stem}-squad-{measurement.identity['seed']}.json")
        path.write_text(json.dumps(measurement.examples["predictions"]["dev"], ensure_ascii=False), encoding="utf-8")
        print(f"predictions  {path}")


def slug(model: str) -> str:
    """A file name for a model: ``runs/quickstart/student`` is runs-quickstart-student."""
    return "-".join(part for part in model.replace(":", "/").split("/") if part not in ("", ".", ".."))


def quieten() -> None:
    """The screen is ours; warnings stay, but for what a new head always causes."""
    warnings.filterwarnings("ignore", message=".broadcast_buffers. is deprecated", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
