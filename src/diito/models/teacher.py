"""The teacher of a recipe with its tokenizer, and refusing what cannot teach."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.models import load as models
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.recipe import TeacherSection


def load_config(section: TeacherSection) -> Any:
    """The teacher's configuration.

    Raises ValueError naming ``teacher.model`` where there is no such model or it has no masked-language-model head.
    """
    models.check_masked_language_model(_source(section))
    return models.load_configuration(_source(section))


def load_tokenizer(section: TeacherSection, config: Any) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, or ``teacher.tokenizer``.

    Raises ValueError where it cannot be loaded, knows words that the teacher does not, or lacks a special token that masked
    language modelling needs.
    """
    source = ModelSource(section.tokenizer, "teacher.tokenizer") if section.tokenizer else _source(section)
    tokenizer = models.load_tokenizer(source)
    check_tokenizer(tokenizer, source, vocabulary=config.vocab_size, field="teacher.tokenizer")
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: ModelSource, *, vocabulary: int, field: str) -> None:
    """Refuse (ValueError) a tokenizer with more words than the model, or without what masked language modelling needs."""
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"{field}: {source.name!r} has {len(tokenizer):,} words, but the model's vocabulary {vocabulary:,}; "
            "give the tokenizer that the model was trained with"
        )
    for token in ("cls_token", "sep_token", "pad_token", "mask_token"):
        if getattr(tokenizer, token) is None:
            raise ValueError(
                f"{source.field}: the tokenizer of {source.name!r} has no {token}; give one of a masked language model"
            )


def load_teacher(section: TeacherSection) -> PreTrainedModel:
    """The teacher in fp32 and eval mode.

    Raises ValueError where the checkpoint has no masked-language-model head or the model cannot be run layer by layer.
    """
    model = models.load_masked_language_model(_source(section))
    learn(model, field="teacher.model")
    return model


def special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that are never swapped: [CLS], [SEP] and padding."""
    return [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id]


def _source(section: TeacherSection) -> ModelSource:
    return ModelSource(section.model, "teacher.model", section.revision)
