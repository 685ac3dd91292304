"""The command ``diito reproduce``: a grid to jobs, jobs to finished folders, on Ray.

1. what it prepares, such as data and teachers, is made first, by jobs of their own (``preparations.py``); then
   the grid is expanded and every job is known by its hash (``jobs.py``); all refusals happen here;
2. ``<output>/<grid>/grid.json`` says which job makes which cell of the report;
3. jobs that are not done yet are handed to Ray, each evaluation after its student; Ray places them and starts failed ones
   again;
4. the screen shows what is done, running, waiting and failed, from the jobs' folders;
5. what failed is listed with the end of its log, and the exit code is 1.

What it needs to resume: nothing but the same command. Finished jobs stay; a job that was interrupted goes on from its
checkpoint.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diito.evaluation.evaluate import quieten
from diito.experiments.estimate import estimate
from diito.experiments.expansion import check_unprepared, distillations, evaluations
from diito.experiments.folders import JobFolder
from diito.experiments.grid import Grid, ReproduceSettings
from diito.experiments.jobs import Job, make_jobs, make_preparations
from diito.experiments.manifest import prepare_folder, row_of, write_index
from diito.experiments.preparations import Preparation, Prepared, preparations
from diito.experiments.screen import Screen
from diito.experiments.work import JobFailed, Order, work
from diito.faults import reason
from diito.files import check_writable
from diito.paths import expand
from diito.refusal import Refusal

_PATIENCE = 120
"""Seconds that running jobs have to save when the command is stopped."""


def reproduce(grid: Grid, settings: ReproduceSettings, *, dry_run: bool = False) -> int:
    """Run what the grid asks for and is not done yet; the exit code. Raises ValueError for what the user must change."""
    quieten()
    _check_address(settings.address)
    wanted = _wanted(grid, settings.only)
    output = expand(grid.output, field="--output").absolute()
    check_writable(output / grid.name / "grid.json", "--output")
    first = [(job, JobFolder(output / "jobs" / job.hash)) for job in make_preparations(preparations(grid.prepare, grid.seeds))]
    missing = [job for job, folder in first if not folder.is_done]
    if missing:
        check_unprepared(grid)
    if missing and dry_run:
        print("\n".join(f"to prepare {job.planned.title}" for job in missing))
        print("the students can be planned once this is done: run the same command without --dry-run")
        return 0
    if missing:
        _prepare_folders(first, output, grid)
        try:
            failed = _run([job for job, _ in first], grid, output, settings.address)
        except Stopped as stopped:
            return 128 + stopped.number
        if failed:
            _tell_failed(missing, failed)
            return 1
    prepared = _prepared(first)
    students = distillations(grid, prepared)
    measurements = evaluations(grid, students, prepared)
    print(f"{grid.name}: {len(students):,} distillations and {len(measurements):,} evaluations", flush=True)
    jobs = make_jobs(students, measurements, resources=grid.resources)
    chosen = [job for job in jobs if row_of(job).name in wanted]
    if dry_run:
        print(estimate(chosen, output, grid.resources))
        return 0
    unique = list({job.hash: job for job in chosen}.values())
    for job in unique:
        prepare_folder(job, output, grid)
    write_index(grid, jobs, output)
    folders = [JobFolder(output / "jobs" / job.hash) for job in unique]
    failed = {}
    if not all(folder.is_done for folder in folders):
        try:
            failed = _run(unique, grid, output, settings.address)
        except Stopped as stopped:
            return 128 + stopped.number
    _tell_failed(unique, failed)
    done = sum(folder.is_done for folder in folders)
    print(f"{done} of {len(unique)} jobs are done, {len(failed)} failed; the report: diito report {output / grid.name}")
    return int(bool(failed))


def _prepare_folders(jobs: Sequence[tuple[Job, JobFolder]], output: Path, grid: Grid) -> None:
    """What the processes of the grid's preparations read."""
    earlier: dict[int, dict[str, str]] = {}
    for job, folder in jobs:
        assert isinstance(job.planned, Preparation)
        names = earlier.setdefault(job.planned.seed, {})
        prepare_folder(job, output, grid, names)
        names[job.planned.name] = str(folder.made)


def _prepared(done: Sequence[tuple[Job, JobFolder]]) -> list[Prepared]:
    """What stands behind the names of each seed."""
    folders: dict[int, dict[str, Path]] = {}
    for job, folder in done:
        assert isinstance(job.planned, Preparation)
        folders.setdefault(job.planned.seed, {})[job.planned.name] = folder.made
    return [Prepared(seed, named) for seed, named in folders.items()]


def _tell_failed(jobs: Iterable[Job], failed: Mapping[str, str]) -> None:
    for job in jobs:
        if job.hash in failed:
            print(f"\ndiito: {job.planned.title}: {failed[job.hash]}", file=sys.stderr)


class Stopped(KeyboardInterrupt):
    """A signal came; what was running has saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _run(jobs: Sequence[Job], grid: Grid, output: Path, address: str | None) -> dict[str, str]:
    """Run the jobs that are not done: why each failed that did, by hash. Raises :class:`Stopped`."""
    ray = _start_ray(address)
    screen = Screen(jobs, output)
    failed: dict[str, str] = {}
    waiting: dict[Any, Job] = {}
    stopped_by: int = signal.SIGINT  # kept here, since Ray turns what the handler raises into a KeyboardInterrupt of its own

    def stop(number: int, _: object) -> NoReturn:
        nonlocal stopped_by
        stopped_by = number
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        _check_resources(ray, grid)
        waiting = _submit(ray, grid, screen)
        with screen:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=1)
                for reference in ready:
                    job = waiting.pop(reference)
                    problem = _problem(ray, reference)
                    if problem is not None:
                        before = "student" if job.student else "preparation"
                        failed[job.hash] = f"not run, since its {before} failed" if job.waits_for in failed else problem
                    screen.ended(job, failed.get(job.hash))
                screen.show()
    except KeyboardInterrupt:
        print("\ndiito: stopping; what is running saves first. Go on with the same command", file=sys.stderr, flush=True)
        for reference in waiting:
            ray.cancel(reference)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)
        raise Stopped(stopped_by) from None
    finally:
        ray.shutdown()
    return failed


def _check_address(address: str | None) -> None:
    """Refuse (ValueError) an address at which nothing answers; Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise Refusal(
            "--address",
            f"nothing answers at {address} ({error}); start a cluster with: ray start --head, or leave the flag out "
            "for this machine",
        ) from error


def _wanted(grid: Grid, only: Sequence[str] | None) -> list[str]:
    """The names of the rows that are run now."""
    known = [row.name for row in grid.rows]
    for name in only or ():
        if name not in known:
            raise Refusal("--only", f"{name!r} is no condition of the grid; it has {', '.join(known)}")
    return known if only is None else list(only)


def _start_ray(address: str | None) -> Any:
    """Ray: a cluster's, or one of this process on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")  # they end by themselves, and save (child.py)
    import ray

    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise Refusal("--address", f"there is no Ray cluster at {address}; start one with: ray start --head") from error
    except Exception as error:  # Ray raises it bare where its processes do not come up
        raise Refusal("Ray", f"did not start ({reason(error)}); run the same command again, jobs that are done stay") from error
    return ray


def _check_resources(ray: Any, grid: Grid) -> None:
    """Refuse (ValueError) jobs for which no machine of the cluster is large enough; they would wait for ever."""
    machines = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    for name, share in vars(grid.resources).items():
        if not any(cpus >= share.cpus and gpus >= share.gpus for cpus, gpus in machines):
            have = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in machines)
            raise Refusal(
                f"resources.{name}",
                f"a job takes {share.cpus:g} CPUs and {share.gpus:g} GPUs, and no machine has them (there is "
                f"one with {have}); give less",
            )


def _submit(ray: Any, grid: Grid, screen: Screen) -> dict[Any, Job]:
    """Hand the jobs that are not done to Ray, evaluations with what they wait for: Ray's reference -> job."""
    task = ray.remote(work)  # one function, so that jobs start in this order
    submitted: dict[str, Any] = {}
    waiting = {}
    for job in screen.jobs:
        if job.hash in screen.done:
            continue
        share = grid.resources.distil if job.kind == "distil" else grid.resources.evaluate
        options = {
            "name": job.planned.title,
            "num_cpus": share.cpus,
            "num_gpus": share.gpus,
            "max_retries": grid.retries,
            "retry_exceptions": [JobFailed],
        }
        threads = max(1, int(share.cpus) // share.processes)
        order = Order(str(screen.folders[job.hash].path), screen.driver, os.getcwd(), threads)
        submitted[job.hash] = task.options(**options).remote(order, submitted.get(job.waits_for or ""))
        waiting[submitted[job.hash]] = job
    return waiting


def _problem(ray: Any, reference: Any) -> str | None:
    """Why a task that has ended failed, if it did."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return str(error.cause) or type(error.cause).__name__
    except ray.exceptions.RayError as error:  # the worker or its machine is gone
        return next(iter(str(error).splitlines()), type(error).__name__)
    return None
