"""``python -m diito.experiments.child FOLDER``: one job, in a process of its own.

1. it ends with its parent (Linux): when the worker or the driver above it dies, it gets SIGTERM, as from Ctrl-C, so a
   distillation finishes its step and saves;
2. it waits for the job's lock and keeps it until its last process ends, so no job ever has two writers, even where a driver
   was killed and started again at once;
3. it becomes ``diito`` with the arguments in ``job.json``: a distillation that was begun is resumed.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
from collections.abc import Sequence

from diito.experiments.folders import JobFolder

_PR_SET_PDEATHSIG = 1


def main(path: str) -> None:
    """Become the job of that folder."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before it was asked for
            sys.exit(143)
    folder = JobFolder(path)
    lock = os.open(folder.lock, os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)  # the lock is held until the last process that has it ends
    fcntl.flock(lock, fcntl.LOCK_EX)
    if folder.is_done:  # by whoever had the lock
        return
    job = json.loads(folder.job.read_text(encoding="utf-8"))
    command = command_of(folder, job["arguments"], job["processes"])
    print("$", *command[1:], flush=True)
    os.execv(command[0], command)


def command_of(folder: JobFolder, arguments: Sequence[str], processes: int) -> list[str]:
    """The command line, under torchrun where it takes several processes."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    begun = (folder.run / "recipe.yaml").is_file()
    how = [] if arguments[0] != "distill" else ["--resume"] if begun else ["--overwrite"]
    return [*start, "diito", *arguments, *how]


if __name__ == "__main__":
    main(sys.argv[1])
