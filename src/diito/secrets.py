"""Tokens, passwords and signatures stay out of what a run writes and says: in their place stands ``REDACTED``.

Used where files are written (``files``), where a sentence for the user is made (``refusal``), and by the command for what
libraries log and for tracebacks, so that nobody has to think of it. No torch here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

REDACTED = "REDACTED"
_NAMES = r"(?:hub|access|auth|security|hf)[_-]?token|api[_-]?key|password|passwd|secret(?:[_-]?(?:access[_-]?)?key)?"
_QUERY = r"x-(?:amz|goog)-[\w-]+|signature|sig|token|key|key-pair-id|policy|credential|auth|secret"
_PATTERNS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Tokens by their form: the hub's, those of common hosts, and signed ones (JWT).
        (r"\b(?:hf|api_org)_[A-Za-z0-9]{24,}\b|\bhf_(?:oauth|jwt)_[\w.-]{20,}", REDACTED),
        (r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[bp]-)[\w-]{20,}", REDACTED),
        (r"\bsk-[\w-]{32,}|\bA(?:KI|SI)A[0-9A-Z]{16}\b", REDACTED),
        (r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+", REDACTED),
        (r"(?i)\b(bearer|basic) [\w.~+/-]{16,}=*", rf"\1 {REDACTED}"),
        # Addresses: who one is, and what signs them.
        (r"(?<=://)[^\s/@\"'<>]+(?=@)", REDACTED),
        (rf"(?i)([?&;](?:{_QUERY}|{_NAMES})=)[^&\s\"'<>#]+", rf"\1{REDACTED}"),
        # Values by their name: JSON, YAML, and NAME=value.
        (rf"(?i)(\"[\w.-]*(?:{_NAMES})\"\s*:\s*\")[^\"\\]+(?=\")", rf"\1{REDACTED}"),
        (
            rf"(?im)^([ \t]*(?:- )?[\w.-]*(?:{_NAMES}):[ \t]+)(?!null\s*$|~\s*$|\"\"|'')('[^']*'|\"[^\"]*\"|\S+)[ \t]*$",
            rf"\1{REDACTED}",
        ),
        (rf"(?i)\b([\w.-]*(?:{_NAMES})=)[^\s,;\"'&)]+", rf"\1{REDACTED}"),
    )
]
_VARIABLE = re.compile(r"(?i)(?:token|key|password|secret)$")
_SHORTEST = 12  # characters of a variable's value: what is shorter may stand in any text


def redact(text: str) -> str:
    """The text without secrets: those that show by their form, and the values of variables such as ``WANDB_API_KEY``."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    for name, value in os.environ.items():
        if _VARIABLE.search(name) and len(value) >= _SHORTEST and value in text and not os.path.exists(value):
            text = text.replace(value, REDACTED)
    return text


def guard_output() -> None:
    """From now on, what libraries log and the traceback that ends the process are redacted too."""
    if logging.getLogRecordFactory() is not _redacted_record:
        logging.setLogRecordFactory(_redacted_record)
        sys.excepthook = _print_redacted


_make_record = logging.getLogRecordFactory()


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    message = record.getMessage()
    if (redacted := redact(message)) != message:
        record.msg, record.args = redacted, None
    return record


def _print_redacted(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, where))))
