"""The model card of a student: what it is, where it comes from, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from diito.embedded import resolve
from diito.method.alignment import AlignedPair, Alignment
from diito.models.adapter import is_merged
from diito.models.card import card_of
from diito.models.load import ModelSource
from diito.recipe import Recipe
from diito.recipe.file import dump
from diito.run.plan import Plan
from diito.tables import MISSING, markdown_code, markdown_text
from diito.version import __version__

REFERENCE = "Wu et al., *Causal Distillation for Language Models*, NAACL 2022 (https://aclanthology.org/2022.naacl-main.318)"
Columns = Mapping[str, tuple[str, str]]
"""Title and format of figures by name."""
_CITATION = """\
@inproceedings{wu-etal-2022-causal-distillation,
  title = {Causal Distillation for Language Models},
  author = {Wu, Zhengxuan and Geiger, Atticus and Rozner, Joshua and Kreiss, Elisa and Lu, Hanson and Icard, Thomas and
            Potts, Christopher and Goodman, Noah},
  booktitle = {Proceedings of the 2022 Conference of the North American Chapter of the Association for Computational
               Linguistics: Human Language Technologies},
  year = {2022},
  pages = {4288--4295},
  url = {https://aclanthology.org/2022.naacl-main.318},
}"""
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
    head: str = "AutoModel",
) -> str:
    """The card as Markdown with the hub's metadata.

    ``results``: what ``results.json`` holds. The task's own words: ``kind`` of model, the hub's name of its ``pipeline``, and
    the tokens at which accuracy under interventions is ``measured``, the ``figures`` of its metric, and the Auto class of its
    ``head``.
    """
    recipe = plan.recipe
    columns = {**figures, **_INTERCHANGE}
    hub = [source.dataset for source in recipe.corpus.sources if not isinstance(source, str) and source.dataset]
    is_adapter = recipe.student.lora is not None and not is_merged(recipe.student.lora)
    bases = _bases(recipe)
    teacher = card_of(ModelSource(recipe.teacher.model, "teacher.model", recipe.teacher.revision))
    data = ModelCardData(
        model_name=recipe.name,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag=pipeline,
        tags=["diito", "distillation", pipeline],
        base_model=bases or None,
        base_model_relation=("adapter" if is_adapter else "finetune") if bases else None,
        datasets=hub or None,
        eval_results=_eval_results(plan, results, pipeline, columns) or None,
        **teacher,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {markdown_text(recipe.name)}",
        f"A {kind} distilled with diito {__version__} ({REFERENCE}).",
        markdown_code(str(plan), "text"),
        "## Use",
        markdown_code(_use(head), "python"),
        *_alignment(plan, results),
        *_measured(results, measured, columns),
        "## Not measured",
        _not_measured(results, teacher),
        "## Recipe",
        markdown_code(dump(recipe), "yaml"),
        "## Cite",
        markdown_code(_CITATION, "bibtex"),
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
            **_held_out_data(plan),
            metric_type=name,
            metric_name=title,
            metric_value=results["after"][name],
        )
        for name, (title, _) in columns.items()
        if name in results.get("after", {})
    ]


def _held_out_data(plan: Plan) -> dict[str, Any]:
    """The held-out text as the hub names data: with type, configuration and split where it is one data set of the hub."""
    name, sources = _held_out_name(plan), plan.recipe.evaluation.sources or []
    if len(sources) == 1 and not isinstance(source := sources[0], str) and source.dataset:
        place = {"dataset_type": source.dataset, "dataset_config": source.config, "dataset_split": source.split}
        return {"dataset_name": name, **place, "dataset_revision": source.revision}
    return {"dataset_name": name, "dataset_type": "text"}


def _held_out_name(plan: Plan) -> str:
    """The held-out text, by the hub ids and file names of its sources."""
    sources = plan.recipe.evaluation.sources
    if sources is None:
        return "documents of the corpus that were held out"
    paths = [source if isinstance(source, str) else source.dataset or source.path or "" for source in sources]
    return ", ".join(path.rpartition("/")[2] if Path(path).is_absolute() else path for path in paths)


def _use(head: str) -> str:
    return (
        f"from transformers import {head}, AutoTokenizer\n\n"
        'place = "student"  # this folder, or where it lies on the hub\n'
        f"model = {head}.from_pretrained(place)\n"
        "tokenizer = AutoTokenizer.from_pretrained(place)"
    )


def _alignment(plan: Plan, results: dict[str, Any]) -> list[str]:
    """Which layers answered to which, at the end of training; nothing where no loss reads a counterfactual run."""
    if not plan.has_counterfactual:
        return []
    alignment, said = plan.alignment, "Layers are counted from 0."
    if "alignment" in results:
        alignment = Alignment(AlignedPair(**pair) for pair in results["alignment"]["pairs"])
        step = results["alignment"]["chosen_at"]
        chosen = "as at the beginning" if step is None else f"chosen at step {step}"
        said = f"At the end of training ({chosen}): {alignment}. {said}"
    rows = [f"| {_layers(pair.student)} | {_layers(pair.teacher)} |" for pair in alignment.pairs]
    return ["## Alignment", "\n".join(["| student layers | teacher layers |", "|---|---|", *rows]), said]


def _layers(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


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


def _not_measured(results: dict[str, Any], teacher: Mapping[str, Any]) -> str:
    """What nobody should take for granted."""
    sentences = ["Biases, toxicity and factual errors, which a student takes over from its teacher and its text."]
    if "after" in results:
        sentences.insert(0, "Other text than that above, and tasks to fine-tune on (`diito evaluate` measures both).")
    else:
        sentences.insert(0, "Anything: no text was held out, or the run is not at its end (`diito evaluate` measures).")
    if "iia" in results.get("after", {}):
        sentences.append("IIA against its references, without the swap and with a random donor (`diito evaluate interchange`).")
    if "license" not in teacher:
        sentences.append("The licence: the teacher's card names none that was found; its own terms hold.")
    return "\n".join(f"* {sentence}" for sentence in sentences)
