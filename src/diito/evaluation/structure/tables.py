"""What was measured on generated data, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diito.evaluation.results import Measurement
from diito.evaluation.settings import StructureSettings
from diito.tables import Table, number


def structure_tables(settings: StructureSettings, measurements: Sequence[Measurement]) -> list[Table]:
    """Accuracy by split, and for the first model the effective accuracy of every variable and span, a column a layer."""
    tables = []
    for each in measurements:
        models = each.result["models"]
        tables += [_accuracy(models, settings.splits), _sites(next(iter(models.values())))]
    return tables


def _accuracy(models: dict[str, Any], splits: Sequence[str]) -> Table:
    header = ("model", *splits, *(f"{split}, as the teacher" for split in splits))
    rows: list[Sequence[str]] = [
        (name, *(number(numbers[what].get(split), 3) for what in ("accuracy", "agreement") for split in splits))
        for name, numbers in models.items()
    ]
    return Table("accuracy", "Share of rows answered rightly", "", header, [("", rows)])


def _sites(numbers: dict[str, Any]) -> Table:
    sites, best = numbers["sites"], numbers["site"]
    layers = sorted({site["layer"] for site in sites})
    spans = list(dict.fromkeys((site["variable"], site["carrier"], tuple(site["positions"])) for site in sites))
    by_place = {(site["variable"], site["carrier"], site["layer"]): site["effective_iia"] for site in sites}
    rows: list[Sequence[str]] = [
        (variable, f"{carrier} {_named(positions)}", *(number(by_place[variable, carrier, layer], 3) for layer in layers))
        for variable, carrier, positions in spans
    ]
    note = (
        "Of the pairs in which the causal model's answer changes, the share in which the model gives the new one, with that "
        "span of that layer's output swapped.\n"
        f"told of: {best['variable']} at {_named(best['positions'])}, layer {best['layer']}: {best['effective_iia']:.3f}, "
        f"{number(best['effective_iia_new'], 3)} where the swap makes a held-out combination"
    )
    header = ("variable", "span", *(f"layer {layer}" for layer in layers))
    return Table("sites", "Where the values are carried", note, header, [("", rows)], texts=(0, 1))


def _named(span: Sequence[int] | Sequence[str]) -> str:
    """Positions as they are; of words the first and the last."""
    return f"{span[0]} to {span[-1]}" if isinstance(span[0], str) else str(list(span))
