"""Golden trajectories of classifiers and taggers, in ``golden/classifiers.json``, as ``golden.py`` has those of others.

``python tests/golden_classifiers.py`` writes them anew, under the same rule: other numbers need another version.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import golden

FILE = golden.FOLDER / "classifiers.json"
WEIGHTS = {"task": 0.3, "ce": 0.2, "cos": 0.5, "causal_ce": 0.7, "causal_cos": 0.4, "mse": 0.01}
CASES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "an encoder, two texts": ("recipe", {}, {"pair": True}),
    "a decoder, independent sources": ("recipe", {"intervention.pairing": "independent"}, {"family": "gpt2"}),
    "a tagger, random positions": ("tagging_recipe", {"intervention.positions": "random"}, {}),
    "a tagger, token swap": ("tagging_recipe", {"intervention.control": "token-swap"}, {"family": "roberta"}),
}
"""Which recipe, overrides, and options of each run."""


def trajectory(case: str, output: Path) -> dict[str, list[float]]:
    """The named losses of each micro-batch of a run."""
    import classifiers
    import tiny
    from transformers import PrinterCallback

    make, overrides, options = CASES[case]
    given = {
        "training.steps": golden.STEPS,
        "training.accumulation": golden.ACCUMULATION,
        "training.learning_rate": "1e-3",
        "training.device": "cpu",
        "evaluation.sources": "[]",
        **{f"objective.weights.{name}": str(weight) for name, weight in WEIGHTS.items()},
    }
    _, trainer = tiny.parts_and_trainer(getattr(classifiers, make)(output, given | overrides, **options))
    trainer.remove_callback(PrinterCallback)
    losses: list[dict[str, float]] = []
    trainer.objective.register_forward_hook(
        lambda module, arguments, named: losses.append({name: float(f"{named[name]:.8g}") for name in named})
    )
    trainer.train()
    return {name: [each[name] for each in losses] for name in losses[0]}


def read() -> dict[str, dict[str, list[float]]]:
    """The committed runs by name."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def name_and_digest(version: int) -> tuple[str, str]:
    """What ``versions.json`` calls these trajectories, and what they are."""
    return f"{version}, classification", hashlib.sha256(FILE.read_bytes()).hexdigest()


def write(version: int) -> None:
    """Make every trajectory anew. Raises ValueError where they change and ``version`` does not."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {case: trajectory(case, Path(folder) / str(index)) for index, case in enumerate(CASES)}
    FILE.write_text(json.dumps(runs) + "\n", encoding="utf-8")
    known, (name, digest) = golden.versions(), name_and_digest(version)
    if known.setdefault(name, digest) != digest:
        raise ValueError(f"the trajectories changed and version {version} did not: raise VERSIONS['distil'], or put them back")
    (golden.FOLDER / "versions.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from diito.experiments.jobs import VERSIONS

    torch.set_num_threads(1)
    write(VERSIONS["distil"])
