"""Train and eval mode for a while: afterwards every module is in the one in which it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Whatever happens inside, each module is put back into its own mode, not into that of the whole model."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """The models are in eval mode inside."""
    with modes_kept(*models):
        for model in models:
            model.eval()
        yield
