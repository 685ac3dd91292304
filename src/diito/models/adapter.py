"""Students of which only an adapter is trained (LoRA), by peft: put into a model, saved alone or merged, read back.

peft is an extra; nothing here imports it before a recipe asks for an adapter. The modules of the adapter stand in the model
itself, which stays an ordinary model that runs layer by layer.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from diito.refusal import Refusal

FIELD = "student.lora"
WEIGHTS = "adapter_model.safetensors"
_MERGE = "merge"
_OURS = ("base_model_name_or_path", "revision", "peft_type", "task_type", "auto_mapping", "inference_mode", "peft_version")
"""Fields that follow from what the adapter is put into."""


def configure(settings: Mapping[str, Any]) -> Any:
    """The ``peft.LoraConfig`` that a recipe describes.

    Raises Refusal, naming ``student.lora``, where peft is not installed, for a field that it does not have, and for values
    that it refuses.
    """
    if importlib.util.find_spec("peft") is None:
        raise Refusal(FIELD, "peft is not installed; install it with: pip install 'diito[peft]'")
    from peft import LoraConfig

    if not isinstance(settings.get(_MERGE, True), bool):
        raise Refusal(FIELD, f"merge: {settings[_MERGE]!r} must be true or false")
    given = {name: value for name, value in settings.items() if name != _MERGE}
    names = [field.name for field in dataclasses.fields(LoraConfig) if field.init and field.name not in _OURS]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, [*names, _MERGE], n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join([*names, _MERGE])}"
            raise Refusal(FIELD, f"peft.LoraConfig has no {name}; {hint}")
    try:
        return LoraConfig(**given)
    except (ValueError, TypeError) as error:
        raise Refusal(FIELD, " ".join(str(error).split())) from error


def is_merged(settings: Mapping[str, Any]) -> bool:
    """Whether the student is saved with the adapter in its weights."""
    return bool(settings.get(_MERGE, True))


def add_adapter(model: PreTrainedModel, settings: Mapping[str, Any], *, seed: int) -> None:
    """Put an adapter into ``model``, with first weights by ``seed``; nothing else of it is trained from now on.

    Raises Refusal, naming ``student.lora``, where it does not fit the model.
    """
    config = configure(settings)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.add_adapter(config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise Refusal(FIELD, " ".join(str(error).split())) from error
    config.auto_mapping = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    base = Path(model.name_or_path)
    config.base_model_name_or_path = str(base.absolute()) if base.is_dir() else model.name_or_path


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether an adapter stands in ``model``."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``model`` with the adapter in its weights and no trace of it elsewhere."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
        elif isinstance(module, AuxiliaryTrainingWrapper):
            plain.set_submodule(name, module.modules_to_save["default"])
    del plain.peft_config
    plain._hf_peft_config_loaded = False
    return plain.requires_grad_(True)


def load_adapter(model: PreTrainedModel, folder: str | Path) -> None:
    """Put the adapter's weights that a folder holds into the adapter of ``model``."""
    from peft import set_peft_model_state_dict

    saved = load_file(Path(folder) / WEIGHTS)
    set_peft_model_state_dict(model, {name.removeprefix("base_model.model."): value for name, value in saved.items()})
