"""The model card of a student: what it is, where it comes from, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diito.embedded import resolve
from diito.method.alignment import AlignedPair, Alignment
from diito.models.adapter import is_merged
from diito.recipe import Recipe
from diito.recipe.file import dump
from diito.run.plan import Plan
from diito.tables import MISSING, markdown_code, markdown_text
from diito.version import __version__

REFERENCE = "Wu et al., *Causal Distillation for Language Models*, NAACL 2022 (https://aclanthology.org/2022.naacl-main.318)"
Columns = Mapping[str, tuple[str, str]]
"""Title and format of figures by name."""
_PERPLEXITY = {"perplexity": ("perplexity", ".2f")}
_INTERCHANGE = {
    "iia": ("IIA", ".3f"),
    "effective_iia": ("effective IIA", ".3f"),
    "counterfactual_kl": ("counterfactual KL", ".3f"),
}


def model_card(
    plan: Plan,
    results: dict[str, Any],
    *,
    kind: str,
    pipeline: str,
    measured: str = "unswapped masked tokens",
    figures: Columns = _PERPLEXITY,
) -> str:
    """The card as Markdown with the hub's metadata.

    ``results``: what ``results.json`` holds. The task's own words: ``kind`` of model, the hub's name of its ``pipeline``, and
    the tokens at which accuracy under interventions is ``measured``, and the ``figures`` of its metric.
    """
    recipe = plan.recipe
    columns = {**figures, **_INTERCHANGE}
    hub = [source.dataset for source in recipe.corpus.sources if not isinstance(source, str) and source.dataset]
    data = ModelCardData(
        model_name=recipe.name,
        library_name="transformers" if recipe.student.lora is None or is_merged(recipe.student.lora) else "peft",
        pipeline_tag=pipeline,
        tags=["diito", "distillation", pipeline],
        base_model=_bases(recipe) or None,
        datasets=hub or None,
        eval_results=_eval_results(plan, results, pipeline, columns) or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {markdown_text(recipe.name)}",
        f"A {kind} distilled with diito {__version__} ({REFERENCE}).",
        markdown_code(str(plan), "text"),
        *_learned(results),
        *_measured(results, measured, columns),
        "## Recipe",
        markdown_code(dump(recipe), "yaml"),
    ]
    return str(ModelCard("\n\n".join(sections) + "\n"))


def _bases(recipe: Recipe) -> str | list[str]:
    """The hub ids of what the student was made from: a checkpoint of its own, and the teacher."""
    named = [name for name in (recipe.student.model, recipe.teacher.model) if name is not None]
    ids = [name for name in named if not Path(resolve(name)).exists()]
    return ids[0] if len(ids) == 1 else ids


def _eval_results(plan: Plan, results: dict[str, Any], pipeline: str, columns: Columns) -> list[EvalResult]:
    """The student's figures as the hub lists them."""
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type="text",
            dataset_name=_held_out_name(plan),
            metric_type=name,
            metric_name=title,
            metric_value=results["after"][name],
        )
        for name, (title, _) in columns.items()
        if name in results.get("after", {})
    ]


def _held_out_name(plan: Plan) -> str:
    """The held-out text, by the hub ids and file names of its sources."""
    sources = plan.recipe.evaluation.sources
    if sources is None:
        return "documents of the corpus that were held out"
    paths = [source if isinstance(source, str) else source.dataset or source.path or "" for source in sources]
    return ", ".join(path.rpartition("/")[2] if Path(path).is_absolute() else path for path in paths)


def _learned(results: dict[str, Any]) -> list[str]:
    """The alignment at the end of training, where it was chosen on the way."""
    if "alignment" not in results:
        return []
    alignment, step = (results["alignment"][name] for name in ("pairs", "chosen_at"))
    pairs = Alignment(AlignedPair(**pair) for pair in alignment)
    chosen = "as at the beginning" if step is None else f"chosen at step {step}"
    return ["## Alignment", f"At the end of training ({chosen}): {pairs}"]


def _measured(results: dict[str, Any], tokens: str, columns: Columns) -> list[str]:
    if "after" not in results:
        return []
    lines = [f"| held-out | {' | '.join(title for title, _ in columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for key in ("teacher", "before", "after"):
        numbers = results[key]
        cells = [f"{numbers[name]:{form}}" if name in numbers else MISSING for name, (_, form) in columns.items()]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    note = f"IIA: interchange-intervention accuracy at {tokens}, against the teacher."
    return ["## Measured on held-out text", "\n".join(lines), note]
