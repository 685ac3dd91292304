"""Loading a teacher with its tokenizer, and refusing what cannot teach."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from diito.embedded import resolve
from diito.layered import family_of
from diito.recipe import TeacherSection


def load_config(section: TeacherSection) -> Any:
    """The teacher's configuration.

    Raises ValueError naming ``teacher.model`` where there is no such model or its family is not supported. No code of the
    model's own is ever run.
    """
    try:
        config = AutoConfig.from_pretrained(resolve(section.model), revision=section.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"teacher.model: {section.model!r} cannot be loaded; {_NEEDED} ({_first_line(error)})") from error
    family_of(config.model_type)
    return config


def load_tokenizer(section: TeacherSection, config: Any) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, or ``teacher.tokenizer``.

    Raises ValueError where it cannot be loaded, knows words that the teacher does not, or lacks a special token that masked
    language modelling needs.
    """
    field = "teacher.tokenizer" if section.tokenizer else "teacher.model"
    name = section.tokenizer or section.model
    revision = None if section.tokenizer else section.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{field}: {name!r} has no tokenizer that can be loaded ({_first_line(error)})") from error
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"teacher.tokenizer: {name!r} has {len(tokenizer):,} words, but the teacher's vocabulary {config.vocab_size:,}; "
            "give the tokenizer that the teacher was trained with"
        )
    for token in ("cls_token", "sep_token", "pad_token", "mask_token"):
        if getattr(tokenizer, token) is None:
            raise ValueError(f"{field}: the tokenizer of {name!r} has no {token}; give one of a masked language model")
    return tokenizer


def load_teacher(section: TeacherSection) -> PreTrainedModel:
    """The teacher in fp32 and eval mode. Raises ValueError where the checkpoint has no masked-language-model head."""
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            resolve(section.model),
            revision=section.revision,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"teacher.model: {section.model!r} cannot be loaded; {_NEEDED} ({_first_line(error)})") from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"teacher.model: {section.model!r} has no masked-language-model head (it lacks {missing[0]}); {_NEEDED}"
        )
    return model.eval()


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that are never swapped: [CLS], [SEP] and padding."""
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]


_NEEDED = "give a hub id or a local folder of a masked language model with safetensors weights"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
