"""``diito`` in a process that is forked from this one: it has torch already, so it can be killed hundreds of times."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState

from diito.cli import main


def fork(argv: list[str], log: Path, environment: Mapping[str, str] | None = None) -> int:
    """Start the command; the number of its process, which leads a group of its own. What it prints goes into ``log``."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(each, "w", buffering=1, closefd=False) for each in (1, 2))
        os.environ.update(environment or {})
        for state in (AcceleratorState, PartialState, GradientState):
            state._shared_state.clear()
        code = main(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def code_of(process: int, seconds: float = 120) -> int:
    """Wait for the process; its exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"not ended within {seconds} seconds")


def kill_after(process: int, seconds: float) -> int:
    """``code_of`` a process that is killed after so many seconds, where it has not ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)  # itself alone: its workers must notice
    return code_of(process)
