"""Loading models by name, a hub id or a folder, with the head that a task needs; and refusing what cannot be loaded.

Errors are ValueErrors of one sentence that begin with what the user calls the model: a recipe's field or an argument. Code
that comes with a model is never run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from diito.embedded import resolve
from diito.models import layered
from diito.refusal import Refusal

_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
_WEIGHTS = (".safetensors", ".bin")
_CONTENT = (
    "added_tokens.json",
    "config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
MASKED = "masked language model"


@dataclass(frozen=True)
class ModelSource:
    """A model by name."""

    name: str
    """Hub id, local folder, or ``embedded:teacher-minilm-mlm``."""
    field: str = "MODEL"
    """What errors call it."""
    revision: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of every ``from_pretrained``."""
        return {
            "pretrained_model_name_or_path": resolve(self.name, field=self.field),
            "revision": self.revision,
            "trust_remote_code": False,
        }


def load_configuration(source: ModelSource, *, noun: str = MASKED) -> Any:
    """The configuration. Raises ValueError, saying that a ``noun`` is needed, where there is no such model."""
    try:
        return AutoConfig.from_pretrained(**source.arguments)
    except _ERRORS as error:
        raise _unloadable(source, _needed(noun), error) from error


class Sizes(NamedTuple):
    """The numbers of a model that its configuration tells."""

    depth: int
    """Number of layers."""
    width: int
    """Size of a hidden state."""
    words: int
    """Size of the vocabulary."""


def sizes_of(configuration: Any, *, field: str) -> Sizes:
    """The sizes of a model, or of the part that reads text. Raises Refusal, naming ``field``, where it has none."""
    text = configuration.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    for name in names:
        if not isinstance(getattr(text, name, None), int):
            raise Refusal(field, f"the configuration of a {configuration.model_type} has no {name}; give another model")
    return Sizes(*(getattr(text, name) for name in names))


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer. Raises ValueError where there is none."""
    missing = f"{source.name!r} has no tokenizer that can be loaded"
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
    except _ERRORS as error:
        raise Refusal(source.field, f"{missing} ({_first_line(error)})") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # transformers 5 makes an empty one where the files lack
        raise Refusal(source.field, f"{missing} (it has no words); save the tokenizer beside the model")
    return tokenizer


def load_trained(source: ModelSource, head: Any, *, noun: str) -> PreTrainedModel:
    """The model with a head that it was trained with, in fp32 and eval mode.

    ``head``: an Auto class; ``noun``: the head in words. Raises ValueError for a checkpoint without that head.
    """
    try:
        model, report = head.from_pretrained(**source.arguments, dtype=torch.float32, output_loading_info=True)
    except _ERRORS as error:
        raise _unloadable(source, _needed(noun), error) from error
    if missing := sorted(report["missing_keys"]):
        raise _headless(source, noun, f"it lacks {missing[0]}")
    return model.eval()


def check_trained(source: ModelSource, head: Any, *, noun: str) -> None:
    """Refuse (ValueError), from the configuration alone, a model that was saved without the head of an Auto class."""
    kind = head.__name__.removeprefix("AutoModel")
    config = load_configuration(source, noun=noun)
    saved = config.architectures or ()
    if not saved or any(name.endswith((kind, "ForPreTraining")) for name in saved):
        return
    if not _class_names(head, config).intersection(saved):  # GPT2LMHeadModel is what AutoModelForCausalLM loads
        raise _headless(source, noun, f"it is a {saved[0]}")


def load_masked_language_model(source: ModelSource) -> PreTrainedModel:
    """:func:`load_trained` with a masked-language-model head."""
    return load_trained(source, AutoModelForMaskedLM, noun=MASKED)


def check_masked_language_model(source: ModelSource) -> None:
    """:func:`check_trained` of a masked-language-model head."""
    check_trained(source, AutoModelForMaskedLM, noun=MASKED)


def load_head(source: ModelSource, head: Any, labels: Sequence[str] | None, **arguments: Any) -> PreTrainedModel:
    """The model in fp32 with a task's head; one that it does not have yet is drawn from the global random state.

    ``head``: an Auto class. Raises ValueError where the model cannot take it.
    """
    if labels is not None:
        names = dict(enumerate(labels))
        numbers = {name: index for index, name in names.items()}
        arguments = {"num_labels": len(labels), "id2label": names, "label2id": numbers} | arguments
    try:
        return head.from_pretrained(**source.arguments, dtype=torch.float32, **arguments)
    except _ERRORS as error:
        right = f"give a hub id or a local folder of a model that {head.__name__} can load"
        raise _unloadable(source, right, error) from error


def check_head(source: ModelSource, head: Any, outputs: int | None, labels: Sequence[str] | None = None) -> None:
    """Refuse (ValueError) a model that has been fine-tuned already, with a head that is not this one.

    ``outputs``: labels of the task, 1 for a number; None for heads whose size is fixed. ``labels``: their names, if any.
    """
    if outputs is None:
        return
    configuration = load_configuration(source)
    kinds = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice")  # their weights have one name
    trained = [name for name in configuration.architectures or () if name.endswith(kinds)]
    if not trained:
        return
    right = trained[0].endswith(head.__name__.removeprefix("AutoModel")) and configuration.num_labels == outputs
    names = [configuration.id2label[index] for index in range(configuration.num_labels)]
    if labels is not None and not names[0].startswith("LABEL_"):
        right = right and names == list(labels)
    if not right:
        needed = f"{outputs} ({', '.join(labels)})" if labels is not None else f"{outputs}"
        raise Refusal(
            source.field,
            f"{source.name!r} is a {trained[0]} with {configuration.num_labels} labels ({', '.join(names)}), "
            f"but the task needs {needed} from {head.__name__}; give a model that is not fine-tuned yet",
        )


def check_files(source: ModelSource) -> None:
    """Refuse (ValueError) a model without configuration or tokenizer, or a folder without weights, before any work."""
    load_configuration(source)
    load_tokenizer(source)
    folder = Path(resolve(source.name, field=source.field))
    if folder.is_dir() and not any(path.suffix in _WEIGHTS and path.stem != "training_args" for path in folder.iterdir()):
        raise Refusal(source.field, f"{source.name!r} has no weights (model.safetensors or pytorch_model.bin)")


def longest_sequence(source: ModelSource) -> int | None:
    """Tokens for which the model has positions, special tokens included; None where it has no limit."""
    configuration = load_configuration(source)
    limit = layered.longest_sequence(configuration)
    if limit is None:
        limit = load_tokenizer(source).model_max_length  # a huge number where the tokenizer does not know
    return limit if limit < 10**9 else None


def digest(source: ModelSource) -> str:
    """What the model is, whatever it is called: the commit of a hub model, a hash of a folder's files."""
    if commit := getattr(load_configuration(source), "_commit_hash", None):
        return str(commit)
    total = hashlib.sha256()
    for path in sorted(Path(resolve(source.name, field=source.field)).iterdir()):
        if (path.suffix in (*_WEIGHTS, ".model") and path.stem != "training_args") or path.name in _CONTENT:
            with path.open("rb") as stream:
                total.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:40]


def _class_names(head: Any, config: Any) -> set[str]:
    """The names of the classes with which an Auto class loads a model of this configuration."""
    classes = head._model_mapping.get(type(config), ())
    return {each.__name__ for each in (classes if isinstance(classes, tuple) else (classes,))}


def _needed(noun: str) -> str:
    return f"give a hub id or a local folder of a {noun}"


def _headless(source: ModelSource, noun: str, reason: str) -> Refusal:
    return Refusal(source.field, f"{source.name!r} has no {noun.replace(' ', '-')} head ({reason}); {_needed(noun)}")


def _unloadable(source: ModelSource, right: str, error: Exception) -> Refusal:
    return Refusal(source.field, f"{source.name!r} cannot be loaded; {right} ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
