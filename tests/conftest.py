"""Shapes in signatures are checked while the tests run: jaxtyping's annotations, enforced by beartype."""

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typechecker

typechecker.install("diito")


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped where there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
