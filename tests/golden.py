"""Golden trajectories (law 14): the losses of a run's first micro-batches, as a committed file that the code must follow.

``python tests/golden.py`` writes them anew, into ``tests/golden/``. A number that changes on purpose changes the student of a
finished job too, so ``VERSIONS["distil"]``, which names the folders of finished jobs, is raised first: ``versions.json`` keeps
the digest of the files of every version, and other files under the same version are refused.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"
STEPS, ACCUMULATION = 6, 2
WEIGHTS = {"mlm": 0.3, "ce": 0.2, "cos": 0.5, "causal_ce": 0.7, "causal_cos": 0.4, "mse": 0.01}
NAMES = {"task": "mlm"}
"""Names that losses had when the trajectories were made."""
TEACHERS = ("bert", "roberta", "embedded")
DECODERS = ("gpt2", "llama")
"""Teachers of causal-lm."""


def cases(teacher: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and overrides of each run of ``teacher``: every layout with every pairing, rule and control."""
    if teacher in DECODERS:
        yield from _cases_of_a_decoder()
        return
    rules = [("intervention.positions", rule) for rule in ("consecutive", "random", "masked")]
    for layout, pairing in itertools.product(("blocks", "lines"), ("in-batch", "independent")):
        for field, value in [*rules, ("intervention.control", "token-swap")]:
            yield f"{layout}, {pairing}, {value}", {"corpus.layout": layout, "intervention.pairing": pairing, field: value}


def _cases_of_a_decoder() -> Iterator[tuple[str, dict[str, str]]]:
    for layout, pairing, rule, control in (
        ("blocks", "in-batch", "consecutive", "none"),
        ("lines", "independent", "random", "none"),
        ("lines", "in-batch", "consecutive", "token-swap"),
    ):
        fields = {"positions": rule, "pairing": pairing, "control": control}
        name = f"{layout}, {pairing}, {rule if control == 'none' else control}"
        yield name, {"corpus.layout": layout, **{f"intervention.{field}": value for field, value in fields.items()}}


def trajectory(teacher: str, overrides: dict[str, str], output: Path) -> dict[str, Any]:
    """The named losses of each micro-batch of a run, and the student's perplexity after it."""
    import decoders
    import tiny
    from transformers import PrinterCallback

    from diito.evaluation.held_out.perplexity import perplexity

    # The embedded teacher's logits are so many that their squared error would drown the other losses.
    sizes = {"student.layers": "3", "objective.weights.mse": "1e-6"} if teacher == "embedded" else {"student.layers": "2"}
    model = (
        "embedded:teacher-minilm-mlm" if teacher == "embedded" else (decoders if teacher in DECODERS else tiny).teacher(teacher)
    )
    recipe = tiny.recipe(
        output,
        {
            "teacher.model": model,
            "task": "causal-lm" if teacher in DECODERS else "masked-lm",
            "training.steps": STEPS,
            "training.accumulation": ACCUMULATION,
            "training.learning_rate": "1e-3",
            "training.device": "cpu",
            **{f"objective.weights.{name}": str(weight) for name, weight in WEIGHTS.items()},
            "corpus.sources": f"[{tiny.corpus(80)}]",
            **sizes,
            **overrides,
        },
    )
    parts, trainer = tiny.parts_and_trainer(recipe)
    trainer.remove_callback(PrinterCallback)
    losses: list[dict[str, float]] = []
    trainer.objective.register_forward_hook(
        lambda module, arguments, named: losses.append({NAMES.get(name, name): float(f"{named[name]:.8g}") for name in named})
    )
    trainer.train()
    assert parts.held_out is not None
    return {
        "losses": {name: [each[name] for each in losses] for name in losses[0]},
        "perplexity": perplexity(parts.student, parts.held_out)["perplexity"],
    }


def read(teacher: str) -> dict[str, Any]:
    """The committed runs of a teacher by name: ``losses`` by name, a value a micro-batch, and ``perplexity``."""
    return json.loads((FOLDER / f"{teacher}.json").read_text(encoding="utf-8"))


def digest(teachers: Sequence[str] = TEACHERS) -> str:
    """What the committed trajectories are."""
    return hashlib.sha256(b"".join((FOLDER / f"{teacher}.json").read_bytes() for teacher in teachers)).hexdigest()


def digests(version: int) -> dict[str, str]:
    """The digests of all trajectories, by what ``versions.json`` calls them: those of masked-lm have the version's number."""
    return {str(version): digest(), f"{version}, causal-lm": digest(DECODERS)}


def versions() -> dict[str, str]:
    """The digest of the trajectories of each version."""
    return json.loads((FOLDER / "versions.json").read_text(encoding="utf-8"))


def write(version: int) -> None:
    """Make every trajectory anew. Raises ValueError where they change and ``version`` does not."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for teacher in (*TEACHERS, *DECODERS):
            runs = {name: trajectory(teacher, overrides, Path(folder)) for name, overrides in cases(teacher)}
            (FOLDER / f"{teacher}.json").write_text(json.dumps(runs) + "\n", encoding="utf-8")
    known = versions()
    for name, value in digests(version).items():
        if known.setdefault(name, value) != value:
            raise ValueError(f"the trajectories changed and version {name} did not: raise VERSIONS['distil'], or put them back")
    (FOLDER / "versions.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    from diito.run.manifest import VERSIONS

    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    write(VERSIONS["distil"])
