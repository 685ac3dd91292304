"""Colours that the colour-blind can tell apart: Okabe and Ito's for the models, matplotlib's cividis for a scale."""

from __future__ import annotations

MODELS = {"teacher": "#0072B2", "student": "#D55E00", "against": "#009E73"}
SWAP = "#CC79A7"
_CIVIDIS = ((255, 255, 255), (253, 234, 69), (200, 184, 102), (147, 140, 119), (102, 105, 112), (44, 78, 108), (0, 34, 78))
"""From nothing, which is white, to much, which is dark blue; light falls all the way."""


def scale(share: float) -> str:
    """The colour of a share of the largest value."""
    red, green, blue = _mixed(share)
    return f"rgb({red},{green},{blue})"


def readable(share: float) -> str:
    """Black or white, whichever can be read on that colour."""
    red, green, blue = _mixed(share)
    return "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#fff"


def _mixed(share: float) -> tuple[int, ...]:
    at = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    low = min(int(at), len(_CIVIDIS) - 2)
    return tuple(
        round(first + (at - low) * (second - first)) for first, second in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True)
    )


def fraction(share: float) -> tuple[float, ...]:
    """The same with red, green and blue from 0 to 1."""
    return tuple(part / 255 for part in _mixed(share))
