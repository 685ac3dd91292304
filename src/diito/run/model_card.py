"""The model card of a student: what it is, where it comes from, what was measured."""

from __future__ import annotations

from typing import Any

from diito.recipe.file import dump
from diito.run.plan import Plan
from diito.version import __version__

REFERENCE = "Wu et al., *Causal Distillation for Language Models*, NAACL 2022 (https://aclanthology.org/2022.naacl-main.318)"


def model_card(plan: Plan, results: dict[str, Any]) -> str:
    """The card as Markdown with the hub's metadata. ``results``: what ``results.json`` holds."""
    recipe = plan.recipe
    hub = [source.dataset for source in recipe.corpus.sources if not isinstance(source, str) and source.dataset]
    metadata = ["library_name: transformers", "pipeline_tag: fill-mask", "tags: [diito, distillation, fill-mask]"]
    if not recipe.teacher.model.startswith("embedded:"):
        metadata.append(f"base_model: {recipe.teacher.model}")
    if hub:
        metadata.append(f"datasets: [{', '.join(hub)}]")
    sections = [
        "---\n" + "\n".join(metadata) + "\n---",
        f"# {recipe.name}",
        f"A masked language model distilled with diito {__version__} ({REFERENCE}).",
        "```text\n" + str(plan) + "\n```",
        *_measured(results),
        "## Recipe",
        "```yaml\n" + dump(recipe) + "```",
    ]
    return "\n\n".join(sections) + "\n"


def _measured(results: dict[str, Any]) -> list[str]:
    if "after" not in results:
        return []
    lines = ["| held-out | perplexity | IIA | effective IIA | counterfactual KL |", "|---|---|---|---|---|"]
    for key in ("teacher", "before", "after"):
        numbers = results[key]
        cells = [f"{numbers[name]:.3f}" if name in numbers else "" for name in ("iia", "effective_iia", "counterfactual_kl")]
        lines.append(f"| {key} | {numbers['perplexity']:.2f} | {' | '.join(cells)} |")
    note = "IIA: interchange-intervention accuracy at unswapped masked tokens, against the teacher."
    return ["## Measured on held-out text", "\n".join(lines), note]
