"""What a library raises while it reads a model that the user named, as one sentence with the part that helps.

Errors are told apart by what happened, not by which of them came out last: the whole chain of causes is looked at, and the
first line of a message is never taken by rule.
"""

from __future__ import annotations

import errno
import json
import pickle
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from diito.faults import causes, is_full, reason

HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
"""Of the client that huggingface_hub goes through, which it has changed more than once."""
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_PACKAGE = re.compile(
    r"(?:need(?:s)? to (?:have|install)|requires(?: the)?|pip install(?: -U)?) `?([A-Za-z][\w-]*(?:(?:, | or )[A-Za-z][\w-]*)*)"
    r"(?:`|:|[<>=]| librar| package| installed| to use|$)"
)
_HEAD = 512  # bytes in which a file shows what it is


class Failure(NamedTuple):
    """Why something could not be read."""

    reason: str
    says_all: bool = True
    """Whether it says what to do too, so that another name would not help."""


def explain(error: BaseException) -> Failure:
    """Why a model could not be read."""
    chain = list(causes(error))
    for rule in _RULES:
        for each in chain:
            if sentence := rule(each):
                return Failure(sentence, says_all=rule not in (_name, _family))
    return Failure(reason(error), says_all=False)


def strange_file(folder: Path) -> str | None:
    """What is wrong with a file of a checkpoint that holds something else than its name says; None where nothing is."""
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".json", ".txt", ".model", ".safetensors", ".bin", ".spm") or not path.is_file():
            continue
        with path.open("rb") as stream:
            head = stream.read(_HEAD).lstrip().lower()
        if head.startswith(b"version https://git-lfs"):
            return f"{path.name} is a pointer of git LFS, not the file itself; fetch it with: git lfs pull"
        if head.startswith((b"<!doctype html", b"<html")):
            return f"{path.name} is a web page, not the file itself; download it again, with: hf download"
        if not head and path.suffix in (".safetensors", ".bin", ".model"):
            return f"{path.name} is empty; download it again"
    return None


def _disk(error: BaseException) -> str | None:
    return "the disk is full; free some space" if is_full(error) else None


def _cache(error: BaseException) -> str | None:
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE or not isinstance(error.filename, str):
        return None
    if Path(error.filename).is_relative_to(constants.HF_HOME) or Path(error.filename).is_relative_to(constants.HF_HUB_CACHE):
        cache = constants.HF_HUB_CACHE
        return f"the cache {cache} cannot be written; set HF_HOME to a folder that can"
    return f"{error.filename} cannot be read: {error.strerror}"


def _name(error: BaseException) -> str | None:
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision of it"
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE):
        return "it is neither a folder here nor in the cache, and HF_HUB_OFFLINE keeps the hub from being asked"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return "the hub has none of this name that is open to you"
    if isinstance(error, HFValidationError):
        return "it is neither a folder here nor the id of a model on the hub"
    return None


def _busy(error: BaseException) -> str | None:
    """Before :func:`_hub`, as the client says of it that nothing is in the cache."""
    code = getattr(error.response, "status_code", None) or 0 if isinstance(error, HfHubHTTPError) else 0
    return f"the hub answers {code}; try again later" if code == 429 or code >= 500 else None


def _hub(error: BaseException) -> str | None:
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to those who have asked for it; ask on its page, then log in with: hf auth login"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return None
    if isinstance(error, HfHubHTTPError):
        return reason(error)
    if isinstance(error, (HTTPError, LocalEntryNotFoundError, ConnectionError)):
        return "it is neither a folder here nor in the cache, and the hub cannot be reached; check the network"
    return None


def _package(error: BaseException) -> str | None:
    match = _PACKAGE.search(str(error))
    if isinstance(error, ImportError):
        name = error.name or (match and match[1])
        return f"it needs the package {name}, which is not installed: pip install {name}" if name else reason(error)
    if match and "install" in str(error):
        return f"it needs the package {match[1]}, which is not installed"
    return None


def _own_code(error: BaseException) -> str | None:
    if "trust_remote_code" in str(error):
        return "it needs code that comes with it, which diito never runs; give a model of an architecture that transformers has"
    return None


def _pickle(error: BaseException) -> str | None:
    if isinstance(error, pickle.UnpicklingError):
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        held = f"an object of {match[1]}" if match else "something else"
        return f"its weights are a pickle that holds {held}, not tensors alone, and is not read; save them as safetensors"
    if "PytorchStreamReader" in str(error):
        return "its file of weights is cut short or damaged; download it again"
    return None


def _safetensors(error: BaseException) -> str | None:
    if isinstance(error, SafetensorError):
        return f"its file of weights is cut short or damaged; download it again: {reason(error)}"
    return None


def _tokenizer_json(error: BaseException) -> str | None:
    if "untagged enum" in str(error) or "unknown variant" in str(error):
        return (
            f"its tokenizer.json has a form that tokenizers {version('tokenizers')} does not read, mostly a newer one; "
            "update the package tokenizers, or save the tokenizer again with this version"
        )
    return None


def _json(error: BaseException) -> str | None:
    if isinstance(error, RecursionError):
        return "a JSON file of it is nested too deep to be read"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return f"a JSON file of it is damaged: {reason(error)}"
    return None


def _family(error: BaseException) -> str | None:
    match = re.search(r"model type `([^`]+)` but Transformers does not recognize", str(error))
    if match:
        return f"transformers {version('transformers')} knows no model of the type {match[1]}"
    if "Should have a `model_type` key" in str(error) or "Unrecognized model in" in str(error):
        return "its config.json has no model_type that transformers knows"
    return None


_RULES: tuple[Callable[[BaseException], str | None], ...] = (
    _disk, _cache, _name, _busy, _hub, _own_code, _package, _pickle, _safetensors, _tokenizer_json, _json, _family,
)  # fmt: skip
