"""What a Ray worker does with one job: run it in a process of its own (``child`` watches over it), and say what came of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from diito.experiments.folders import JobFolder
from diito.files import write_json


class JobFailed(RuntimeError):
    """The job's process ended with an error; another try may help."""


class JobRefused(RuntimeError):
    """The job's process said that the user must change something (exit code 2): another try would not help."""


@dataclass(frozen=True)
class Order:
    """All that a worker needs to know about a job; its folder has the rest."""

    folder: str
    driver: str
    """Which run of ``diito reproduce`` asks, so that it can tell its own workers' statuses from older ones."""
    directory: str
    """Where relative paths begin."""
    threads: int
    """Of one process."""


def work(order: Order, after: Any = None) -> None:
    """Run a job. ``after``: what it waited for.

    Raises :class:`JobFailed` or :class:`JobRefused`.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script started the driver with &
    folder = JobFolder(order.folder)
    write_json(
        folder.status,
        {"driver": order.driver, "since": time.time(), "host": socket.gethostname(), "process": os.getpid()},
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(order.threads), "PYTHONUNBUFFERED": "1"}
    with folder.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "diito.experiments.child", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=order.directory,
            start_new_session=True,  # Ray and the terminal signal the group they know; one signal is enough
        )
        code = _wait(process)
    if code != 0:
        kind = JobRefused if code == 2 else JobFailed
        raise kind(f"exit code {code}; {folder.log} ends with:\n{folder.log_end()}")


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process; when the driver cancels this task, tell it, and wait until it has saved."""
    while True:
        try:
            return process.wait(timeout=1)  # Ray's interrupt comes between two waits
        except subprocess.TimeoutExpired:
            continue
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
