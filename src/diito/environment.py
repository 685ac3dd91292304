"""What a result may depend on besides its settings: versions, commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from diito.version import __version__

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")
_EXTRAS = ("scikit-learn", "scipy", "seqeval", "torchmetrics")


def environment() -> dict[str, Any]:
    """Versions, commit and machine of this process, as JSON holds them."""
    packages = {name: _version(name) for name in (*_PACKAGES, *_EXTRAS)}
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return {
        "diito": __version__,
        "commit": _commit(),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: number for name, number in packages.items() if number is not None},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "accelerator": None if device is None else _device_name(device),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type


def _commit() -> str | None:
    """The commit of diito's own source tree, with a plus where files differ from it; None where it is no checkout."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
