"""Loading models by name, a hub id or a folder, with the head that a task needs; and refusing what cannot be loaded.

Errors are ValueErrors of one sentence that begin with what the user calls the model: a recipe's field or an argument. What is
harmless in a checkpoint is set right, and said on stderr once (``checkpoint``). Code that comes with a model is never run, and
of pickles only tensors are read.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import extract_commit_hash

from diito.embedded import resolve
from diito.faults import quiet_hub
from diito.models import checkpoint, layered
from diito.models.failures import explain, strange_file
from diito.refusal import Refusal

_WEIGHTS = (".safetensors", ".bin")
_OTHER_WEIGHTS = (".h5", ".msgpack", ".gguf", ".onnx", ".pt", ".pth", ".ckpt")
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
_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@dataclass(frozen=True)
class ModelSource:
    """A model by name."""

    name: str
    """Hub id, local folder, or ``embedded:teacher-minilm-mlm``."""
    field: str = "MODEL"
    """What errors call it."""
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """Where its files are: the local folder, or that of the hub's cache; None where they are not here."""
        folder = Path(resolve(self.name))
        if folder.is_dir():
            return folder
        try:
            cached = try_to_load_from_cache(self.name, "config.json", revision=self.revision)
        except HFValidationError:
            return None
        return Path(cached).parent if isinstance(cached, str) else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of every ``from_pretrained``."""
        return {
            "pretrained_model_name_or_path": resolve(self.name, field=self.field),
            "revision": self.revision,
            "trust_remote_code": False,
        }


def load_configuration(source: ModelSource, *, noun: str = MASKED, right: str | None = None, **changes: Any) -> Any:
    """The configuration, with ``changes``.

    Raises ValueError, saying what is ``right`` (a ``noun``), where there is no such model, and where the configuration alone
    shows that it cannot be run.
    """
    folder = Path(resolve(source.name))
    if folder.is_dir() and not any(folder.glob("*.json")) and not strange_file(folder):
        inner = sorted(path.parent for path in folder.glob("*/config.json"))
        hint = f"did you mean {str(inner[0])!r}?" if len(inner) == 1 else "give the folder that holds the model's files"
        raise Refusal(source.field, f"the folder {source.name!r} has no config.json; {hint}")
    with _reading(source, right or _needed(noun)):
        config = AutoConfig.from_pretrained(**source.arguments, **changes)
    if fault := checkpoint.configuration_fault(config):
        raise Refusal(source.field, f"{source.name!r} {fault}")
    return config


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


def load_tokenizer(source: ModelSource, *, config: Any = None) -> PreTrainedTokenizerBase:
    """The tokenizer. ``config``: the model's, where it is another than the source's. Raises ValueError where there is none, and
    where it gives token types that the model does not know."""
    with _reading(source, None, lacking="has no tokenizer that can be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):  # transformers 5 makes an empty one where the files lack
        missing = f"{source.name!r} has no tokenizer that can be loaded"
        raise Refusal(source.field, f"{missing} (it has no words); save the tokenizer beside the model")
    config = config or load_configuration(source)
    try:
        notes = checkpoint.set_token_types_right(tokenizer, config)
    except checkpoint.Unfit as unfit:
        raise Refusal(source.field, f"the tokenizer of {source.name!r} {unfit}") from unfit
    if fault := checkpoint.padding_fault(tokenizer, config):
        raise Refusal(source.field, f"the tokenizer of {source.name!r} {fault}")
    _say(source, notes)
    return tokenizer


def load_trained(source: ModelSource, head: Any, *, noun: str, **changes: Any) -> PreTrainedModel:
    """The model with a head that it was trained with, in fp32 and eval mode.

    ``head``: an Auto class; ``noun``: the head in words; ``changes``: of its configuration. Raises ValueError for a checkpoint
    without that head.
    """
    model, missing = _load(source, head, _needed(noun), trained=True, **changes)
    if missing:
        raise _headless(source, noun, f"it lacks {missing[0]}")
    return model.eval()


def check_trained(source: ModelSource, head: Any, *, noun: str) -> None:
    """Refuse (ValueError), from the configuration alone, a model that was saved without the head of an Auto class."""
    config = load_configuration(source, noun=noun)
    if config.architectures and not has_head(config, head):
        raise _headless(source, noun, f"it is a {config.architectures[0]}")


def has_head(config: Any, head: Any) -> bool:
    """Whether a model was saved with the head of an Auto class, as its configuration says."""
    saved = config.architectures or ()
    kind = head.__name__.removeprefix("AutoModel")
    # GPT2LMHeadModel is what AutoModelForCausalLM loads.
    return any(name.endswith((kind, "ForPreTraining")) for name in saved) or bool(_class_names(head, config) & set(saved))


def can_have(config: Any, head: Any) -> bool:
    """Whether models of this configuration come with the head of an Auto class."""
    return bool(_class_names(head, config))


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
    right = f"give a hub id or a local folder of a model that {head.__name__} can load"
    return _load(source, head, right, trained=False, **arguments)[0]


def _load(source: ModelSource, head: Any, right: str, *, trained: bool, **changes: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model, its body checked against the checkpoint, and the names that its head lacks there."""
    config = load_configuration(source, right=right, **changes)
    notes = checkpoint.set_right(config, head, trained=trained)
    renamed: dict[str, str] = {}
    state = torch.get_rng_state()
    while True:
        torch.set_rng_state(state)  # a new head is drawn once, however often the model is loaded
        with _reading(source, right):
            model, report = head.from_pretrained(
                **source.arguments,
                config=config,
                dtype=torch.float32,
                weights_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report, with both sizes
                key_mapping=renamed or None,
            )
        other = checkpoint.other_names(model, report, trained=trained)
        if other is None or other.pattern in renamed:
            break
        renamed[other.pattern] = other.replacement
        notes.append(other.note)
    if renamed:
        _keep_names(model, renamed)
    notes += checkpoint.tie_biases(model, report) + checkpoint.note_untied(model)
    for fault in (checkpoint.report_fault(model, report, trained=trained), checkpoint.weights_fault(model)):
        if fault:
            raise Refusal(source.field, f"{source.name!r} {fault}")
    if head is AutoModelForSequenceClassification and not can_have(config, AutoModelForMaskedLM):
        with suppress(Refusal):  # it has no tokenizer of its own: the one that is given beside it is not known here
            notes += checkpoint.set_padding_right(model, load_tokenizer(source, config=config))
    if (folder := source.folder) and not any(folder.glob("*.safetensors")):
        notes.append("its weights are a pickle, of which only tensors are read; safetensors would be safer")
    _say(source, notes)
    return model, sorted(report["missing_keys"])


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
            f"but the task needs {needed} from {head.__name__}; give a model that is not "
            "fine-tuned yet, or measure this one as it is with: diito evaluate classification",
        )


def check_files(source: ModelSource) -> None:
    """Refuse (ValueError) a model without configuration or tokenizer, or a folder without weights, before any work."""
    load_configuration(source)
    load_tokenizer(source)
    folder = Path(resolve(source.name, field=source.field))
    if folder.is_dir() and not any(path.suffix in _WEIGHTS and path.stem != "training_args" for path in folder.iterdir()):
        others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
        only = f", only {', '.join(others)}" if others else ""
        raise Refusal(source.field, f"{source.name!r} has no weights (model.safetensors or pytorch_model.bin){only}")


def longest_sequence(source: ModelSource) -> int | None:
    """Tokens for which the model has positions, special tokens included; None where it has no limit."""
    configuration = load_configuration(source)
    limit = layered.longest_sequence(configuration)
    if limit is None:
        limit = load_tokenizer(source).model_max_length  # a huge number where the tokenizer does not know
    return limit if limit < 10**9 else None


def digest(source: ModelSource) -> str:
    """What the model is, whatever it is called: the commit of a hub model, a hash of a folder's files."""
    load_configuration(source)  # so that it is here, or refused
    folder = source.folder
    assert folder is not None
    if commit := extract_commit_hash(str(folder / "config.json"), None):
        return commit
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
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


@contextmanager
def _reading(source: ModelSource, right: str | None, *, lacking: str = "cannot be loaded") -> Iterator[None]:
    """Around a library's reading of what the user named, and nothing else: whatever it raises there is one sentence.

    ``right``: what would be right, where another name would help.
    """
    folder = Path(resolve(source.name))
    if folder.is_file():
        raise Refusal(source.field, f"{source.name!r} is a file; give the folder that holds the model's files, or a hub id")
    if folder.is_dir():
        _check_folder(source, folder)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # its report of what it loaded is read, not printed
    try:
        with quiet_hub():
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if source.folder is not None:
            _check_folder(source, source.folder)
        failure = explain(error)
        hint = "" if right is None or failure.says_all else f"; {right}"
        reason = f": {failure.reason}" if failure.says_all else f"{hint} ({failure.reason})"
        raise Refusal(source.field, f"{source.name!r} {lacking}{reason}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)


def _check_folder(source: ModelSource, folder: Path) -> None:
    """Refuse files that hold something else than they say, and weights that are only a part of a model."""
    if strange := strange_file(folder):
        raise Refusal(source.field, f"{source.name!r} cannot be loaded: {strange}")
    if (folder / "adapter_config.json").is_file():
        raise Refusal(
            source.field,
            f"{source.name!r} is an adapter; merge it into its model (merge_and_unload of peft, or a recipe's student.lora "
            "with merge: true) and give the merged model",
        )


def _keep_names(model: PreTrainedModel, renamed: Iterable[str]) -> None:
    """Have ``model`` saved under its own names: transformers would put back what was read without."""
    given = set(renamed)
    conversions = getattr(model, "_weight_conversions", None) or []
    model._weight_conversions = [each for each in conversions if not given.intersection(each.source_patterns)]


@contextmanager
def noted() -> Iterator[list[str]]:
    """Gathers what is set right inside, instead of saying it on stderr."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def _say(source: ModelSource, notes: Iterable[str]) -> None:
    gathered = _NOTES.get()
    for note in notes:
        if gathered is None:
            _say_once(f"diito: {source.name}: {note}")
        elif note not in gathered:
            gathered.append(note)


@functools.cache
def _say_once(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)
