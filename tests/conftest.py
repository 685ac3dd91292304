"""Shapes in signatures are checked while the tests run: jaxtyping's annotations, enforced by beartype."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Not the trainer: Trainer's own attributes are looser than their annotations.
CHECKED = (
    "positions",
    "swaps",
    "layered",
    "layered_learn",
    "layered_steps",
    "intervention",
    "losses",
    "objective",
    "student",
    "masking",
)
install_import_hook([f"diito.{name}" for name in CHECKED], "typechecker.typechecked")


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped where there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
