"""Pictures for Trainer's loggers (``training.report_to``), which take numbers and texts by themselves."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOGGERS = (TensorBoardCallback, WandbCallback, MLflowCallback)
"""Those that take pictures."""


def loggers_among(callbacks: Iterable[TrainerCallback]) -> list[TrainerCallback]:
    """The loggers of a trainer that take pictures; none where matplotlib is not there to draw them, which is said."""
    loggers = [callback for callback in callbacks if isinstance(callback, _LOGGERS)]
    if loggers and importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed, so loggers get no pictures; pip install 'diito[evaluation]'", flush=True)
        return []
    return loggers


def log_figure(loggers: Sequence[TrainerCallback], name: str, figure: Figure, step: int) -> None:
    """Give each logger that is at work a figure of matplotlib, under ``name``, of the step ``step``."""
    for logger in loggers:
        any_logger: Any = logger
        if isinstance(logger, TensorBoardCallback) and any_logger.tb_writer is not None:
            any_logger.tb_writer.add_figure(name, figure, step)
        elif isinstance(logger, WandbCallback) and any_logger._initialized:
            any_logger._wandb.log({name: any_logger._wandb.Image(figure), "train/global_step": step})
        elif isinstance(logger, MLflowCallback) and any_logger._initialized:
            any_logger._ml_flow.log_figure(figure, f"{name}-{step}.png")
