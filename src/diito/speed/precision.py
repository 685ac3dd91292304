"""What makes a run faster and changes nothing that the method speaks of; each has its switch in the recipe's ``speed``.

Precision is chosen from the device, and the models are prepared for it: dropout for the CPU, compiled layers. (The remaining
switch, memory that is kept for the next step, is in ``process``.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel

from diito.models.layered import Layered
from diito.recipe import SpeedSection
from diito.speed.dropout import use_fast_dropout

COMPILED_VARIANTS = 64
"""Entries of the cache for the code that all layers share."""


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """``auto`` is bf16 where ``device`` multiplies bf16 matrices itself, else fp32."""
    if wanted != "auto":
        return wanted
    return "bf16" if _multiplies_bf16(device) else "fp32"


def prepare_models(student: PreTrainedModel, teacher: PreTrainedModel, section: SpeedSection, *, device: torch.device) -> None:
    """Put in place what ``section`` asks for on ``device``. Weights and their names stay as they are."""
    if section.compile:
        compile_layers([student, teacher])
    elif section.fast_dropout and device.type == "cpu":
        use_fast_dropout(student)


def compile_layers(models: Sequence[PreTrainedModel]) -> None:
    """Compile each layer in place. Never a whole model: a run is resumed at many depths, and each would be compiled again.

    All layers share one compiler cache, with an entry for each mode, precision, kind of mask and shape that occurs; it is
    given room for them, since beyond its limit layers would run uncompiled.
    """
    from torch._dynamo import config  # seconds to import

    config.recompile_limit = max(config.recompile_limit, COMPILED_VARIANTS)
    for model in models:
        for layer in Layered(model).layers:
            layer.compile()


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":  # public in torch 2.10 (torch.cpu.get_capabilities)
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
