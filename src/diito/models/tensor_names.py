"""The names of a checkpoint's tensors against those of the model: what a loading report says, in words and numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What DDP, torch.compile, FSDP, checkpointing and DeepSpeed put into names."""
_HOLDERS = (*_WRAPPERS, "model", "auto_model", "backbone", "net", "network", "student", "0")
"""What people call the attribute of their own class that holds the model."""
_QUANTISED = re.compile(r"\.(SCB|qweight|qzeros|g_idx|weight_scale|weight_format|absmax|quant_map|quant_state\b.*)$")
_UNREAD = re.compile(
    r"(^|\.)(pooler\.|position_ids$|token_type_ids$|rotary_emb\.inv_freq$|masked_bias$|attn\.bias$|attention\.bias$|relative_position_index$)"
)
"""Tensors that change nothing: a pooler, which no head for words reads, and tables that the model makes for itself now."""


class Renaming(NamedTuple):
    """A pattern in the names of a file, what stands for it in the model, and that in words."""

    pattern: str
    replacement: str
    note: str


def renaming(missing: Collection[str], unexpected: Collection[str], *, prefix: str) -> Renaming | None:
    """What turns names of the file into those that the model lacks; None where nothing does.

    ``prefix``: what the model calls its body. Only what cannot change a meaning: parts that a wrapper has put in, one prefix
    before all names, and another name of a whole head. A body of another family is left alone.
    """
    wrappers = "|".join(map(re.escape, _WRAPPERS))
    if any(re.search(rf"\.({wrappers})\.", name) for name in unexpected):
        # Anywhere in a name; the look-behind keeps a part that only ends so.
        return Renaming(rf"(?<![^.])(?:{wrappers})\.", "", "what a wrapper has put into the names of its weights is left out")
    body = {name for name in missing if name.startswith(f"{prefix}.")}
    lacking = sorted(body or missing)
    for old, new in _candidates(lacking, unexpected):
        if not all(_replace(name, new, old) in unexpected for name in lacking):
            continue
        if new == "" or (new == prefix and all(part in _HOLDERS for part in old.split("."))):
            return Renaming(rf"^{re.escape(old)}\.", "", f"the prefix {old}. of the names of its weights is left out")
        if not body and new:
            return Renaming(rf"^{re.escape(old)}\.", f"{new}.", f"its head is called {old} and is read as {new}")
    return None


def _candidates(missing: list[str], unexpected: Iterable[str]) -> list[tuple[str, str]]:
    """Prefixes in the file and in the model that would make a name of one the other's, those that change least first."""
    found: set[tuple[str, str]] = set()
    for name in missing[:1]:
        parts = name.split(".")
        for other in unexpected:
            others = other.split(".")
            same = 0
            while same < min(len(parts), len(others)) and parts[-1 - same] == others[-1 - same]:
                same += 1
            for kept in range(1, same + 1):
                found.add((".".join(others[:-kept]), ".".join(parts[:-kept])))
    return sorted((each for each in found if each[0]), key=lambda each: (len(each[1]), len(each[0]), each))


def _replace(name: str, start: str, other: str) -> str:
    """``name`` with the parts ``other`` in place of ``start``."""
    rest = name.removeprefix(f"{start}.") if start else name
    return f"{other}.{rest}" if rest != name or not start else name


def frequent_prefix(names: Collection[str]) -> str:
    """The first part that most of the names have."""
    ((first, _),) = Counter(name.split(".")[0] for name in names).most_common(1) or [("nothing", 0)]
    return first


def of_body(name: str, *, prefix: str, children: Collection[str]) -> bool:
    """Whether a tensor of the file belongs to the body: by its prefix, or, in the file of a bare body, by its first part."""
    return name.startswith(f"{prefix}.") or name.split(".")[0] in children


def unread(names: Iterable[str]) -> list[str]:
    """Those of the names whose tensors change what a model computes."""
    return sorted(name for name in names if not _UNREAD.search(name))


def are_quantised(names: Iterable[str]) -> bool:
    """Whether tensors are the scales and packed weights of a quantised model."""
    return any(_QUANTISED.search(name) for name in names)


def layers_held(names: Collection[str], depth: int, *, missing: bool) -> int | None:
    """How many layers a file holds, where the names that do not fit are exactly those of whole layers; None otherwise.

    ``missing``: whether the names are those that the file lacks, not those that it has beyond the configuration's ``depth``.
    """
    numbers = []
    for name in names:
        match = re.search(r"\.(\d+)\.", name)
        if match is None:
            return None
        numbers.append(int(match[1]))
    if not numbers:
        return None
    if missing:
        return min(numbers) if set(numbers) == set(range(min(numbers), depth)) else None
    return max(numbers) + 1 if min(numbers) == depth else None


def some(names: Collection[str]) -> str:
    """Up to three names, and how many more there are."""
    first = sorted(names)[:3]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
