"""``python -m diito.experiments.child FOLDER``: watches over the process of one job.

1. it waits for the job's lock and keeps it until the job's process (under torchrun the launcher) has ended too, so no job
   has two writers, even where a driver was killed and started again at once;
2. it runs ``diito`` with the arguments in ``job.json``: a distillation that was begun is resumed;
3. when the worker above it is gone, because the driver or the machine's Ray was stopped or killed, it sends SIGTERM, once,
   so that a distillation finishes its step and saves.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from diito.experiments.folders import JobFolder
from diito.files import read_json_lines, write_json

_LOOK_EVERY = 0.5
"""Seconds."""


def main(path: str) -> int:
    """Run the job of that folder; its exit code."""
    worker = os.getppid()
    folder = JobFolder(path)
    with folder.lock.open("w") as lock:
        while not _locked(lock.fileno()):
            if os.getppid() != worker:
                return 128 + signal.SIGTERM
            time.sleep(_LOOK_EVERY)
        if folder.is_done:  # by whoever had the lock
            return 0
        job = json.loads(folder.job.read_text(encoding="utf-8"))
        command = command_of(folder, job["arguments"], job["processes"])
        print("$", *command[1:], flush=True)
        began = time.time()
        with subprocess.Popen(command, pass_fds=[lock.fileno()]) as process:
            code = _watch(process, worker)
        folder.add_attempt({"began": began, "seconds": time.time() - began, "code": code})
        if code == 0:
            finish(folder)
        return code


def command_of(folder: JobFolder, arguments: Sequence[str], processes: int) -> list[str]:
    """The command line, under torchrun where it takes several processes."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    options = [] if arguments[0] != "distill" else ["--resume"] if folder.is_begun else ["--overwrite"]
    return [*start, "diito", *arguments, *options]


def finish(folder: JobFolder) -> None:
    """Say that the job is done, and then remove what only an unfinished one needs."""
    seconds = sum(attempt["seconds"] for attempt in read_json_lines(folder.attempts))
    write_json(folder.done, {"finished": time.time(), "seconds": seconds})
    shutil.rmtree(folder.run / "checkpoints", ignore_errors=True)


def _watch(process: subprocess.Popen[bytes], worker: int) -> int:
    """Wait for the process, and tell it when the worker is gone or when we are told to stop."""
    told = False

    def tell(*_: object) -> None:
        nonlocal told
        if not told:  # a second signal would stop it before it has saved
            told = True
            process.terminate()

    signal.signal(signal.SIGTERM, tell)
    while True:
        try:
            code = process.wait(timeout=_LOOK_EVERY)
            return code if code >= 0 else 128 - code
        except subprocess.TimeoutExpired:
            if os.getppid() != worker:
                tell()


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
