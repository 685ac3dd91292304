"""The teacher of a recipe with its tokenizer, and refusing what cannot teach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from diito.corpus.framing import special_ids
from diito.models import checkpoint
from diito.models import load as models
from diito.models.learn import learn
from diito.models.load import ModelSource
from diito.recipe import TeacherSection
from diito.refusal import Refusal

__all__ = ["check_tokenizer", "load_config", "load_teacher", "load_tokenizer", "special_ids"]


def load_config(section: TeacherSection, *, head: Any = AutoModelForMaskedLM, noun: str = models.MASKED) -> Any:
    """The teacher's configuration.

    ``head``, ``noun``: the Auto class of the task and its model in words. Raises ValueError naming ``teacher.model`` where
    there is no such model or it was saved without that head.
    """
    models.check_trained(_source(section), head, noun=noun)
    return models.load_configuration(_source(section), noun=noun)


def load_tokenizer(section: TeacherSection, config: Any, *, needed: Sequence[str]) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer, or ``teacher.tokenizer``.

    Raises ValueError where it cannot be loaded, has ids that the teacher does not embed, or lacks a special token that the task
    needs (``needed``).
    """
    source = ModelSource(section.tokenizer, "teacher.tokenizer") if section.tokenizer else _source(section)
    tokenizer = models.load_tokenizer(source, config=config)
    check_tokenizer(
        tokenizer,
        source,
        vocabulary=models.sizes_of(config, field="teacher.model").words,
        field="teacher.tokenizer",
        needed=needed,
    )
    return tokenizer


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    source: ModelSource,
    *,
    vocabulary: int,
    field: str,
    needed: Sequence[str],
) -> None:
    """Refuse a tokenizer that does not fit the model.

    ``vocabulary``: rows of the model's embedding; ``needed``: the special tokens that the task cannot do without, as attributes
    of a tokenizer. Raises Refusal.
    """
    if fault := checkpoint.tokenizer_fault(tokenizer, words=vocabulary):
        raise Refusal(field, f"the tokenizer of {source.name!r} {fault}")
    for token in needed:
        if getattr(tokenizer, token) is None:
            raise Refusal(source.field, f"the tokenizer of {source.name!r} has no {token}; give one that has")


def load_teacher(section: TeacherSection, *, head: Any = AutoModelForMaskedLM, noun: str = models.MASKED) -> PreTrainedModel:
    """The teacher in fp32 and eval mode.

    Raises ValueError where the checkpoint lacks the head or the model cannot be run layer by layer.
    """
    model = models.load_trained(_source(section), head, noun=noun)
    learn(model, field="teacher.model")
    return model


def _source(section: TeacherSection) -> ModelSource:
    return ModelSource(section.model, "teacher.model", section.revision)
