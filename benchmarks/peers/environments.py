"""The peers' environments: made once of the pinned packages, and made again where the pins have changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.cases import Side

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent.parent / "src"
MARK = "installed.txt"
"""In the environment's folder: the pins that it was made of."""


class NotInstalled(Exception):
    """Why a set of packages cannot be installed here."""


def python_of(side: Side, folder: Path) -> Path:
    """The interpreter of a side's environment, which is made below ``folder`` where it is not there yet."""
    if side.pins is None:
        return Path(sys.executable)
    environment = folder / side.pins
    pins, mark = HERE / f"{side.pins}.txt", environment / MARK
    if not mark.exists() or mark.read_text(encoding="utf-8") != pins.read_text(encoding="utf-8"):
        print(f"making {environment}", flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        try:
            _make(environment, pins)
        except NotInstalled:
            shutil.rmtree(environment, ignore_errors=True)
            raise
        shutil.copyfile(pins, mark)
    return environment / "bin" / "python"


def _make(environment: Path, pins: Path) -> None:
    _run([sys.executable, "-m", "venv", str(environment)])
    install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    lines = pins.read_text(encoding="utf-8").splitlines()
    for repository in (line for line in lines if line.startswith("--editable")):  # soon known where there is no way to it
        _run([*install, "--no-deps", *repository.split()])
    # torch comes before all that depends on it, which would else bring a build of its own choice.
    _run([*install, next(line for line in lines if line.startswith("torch=="))])
    _run([*install, "--requirement", str(pins)])


def variables_of(side: Side, threads: int) -> dict[str, str]:
    """The environment variables of a side's process; only what needs diito finds it."""
    chosen = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    chosen |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    return {**chosen, "PYTHONPATH": str(SOURCES)} if side.pins is None else chosen


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalled(_reason(done.stderr))


def _reason(errors: str) -> str:
    """The line that says it: git's, pip's, or the first."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    said = [line for word in ("fatal:", "error:") for line in lines if line.lower().startswith(word)]
    return (said or lines or ["pip said nothing"])[0]
