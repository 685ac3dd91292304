"""What the sections say, for editors and beginners: the JSON Schema of a recipe, and a commented recipe to start from."""

from __future__ import annotations

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from diito.recipe.file import adapter, write_value
from diito.recipe.flags import default_of, field_documents
from diito.recipe.keys import aliases, hints, sections_in
from diito.recipe.sections import Recipe
from diito.recipe.training import TrainingSection, transformers_arguments

_TEXT: dict[str, Any] = {
    "corpus.sources": [{"path": "embedded:wikitext-2/train.txt.gz"}],
    "corpus.length": 128,
    "training.max_steps": 120,
    "training.per_device_train_batch_size": 16,
    "training.gradient_accumulation_steps": 1,
    "evaluation.sources": [{"path": "embedded:wikitext-2/valid.txt.gz"}],
    "evaluation.length": 128,
    "evaluation.blocks": 60,
}
_EXAMPLES: dict[str, Any] = {
    "corpus.length": 128,
    "training.num_train_epochs": 3.0,
    "training.per_device_train_batch_size": 32,
    "training.gradient_accumulation_steps": 1,
    "training.learning_rate": 1e-4,
    "evaluation.length": 128,
}
START: dict[str, dict[str, Any]] = {
    "masked-lm": {
        **_TEXT,
        "teacher.model": "embedded:teacher-minilm-mlm",
        "student.layers": 3,
        "masking.smoothing": 0.0,
    },
    "causal-lm": {
        **_TEXT,
        "teacher.model": "HuggingFaceTB/SmolLM2-135M",
        "student.layers": 15,
        "training.per_device_train_batch_size": 8,
        "training.learning_rate": 2e-4,
    },
    "sequence-classification": {
        **_EXAMPLES,
        "teacher.model": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        "student.layers": 3,
        "corpus.sources": [{"dataset": "stanfordnlp/sst2", "column": "sentence", "label": "label"}],
        "evaluation.sources": [{"dataset": "stanfordnlp/sst2", "split": "validation", "column": "sentence", "label": "label"}],
    },
    "token-classification": {
        **_EXAMPLES,
        "teacher.model": "dslim/bert-base-NER",
        "student.layers": 6,
        "corpus.sources": [{"dataset": "lhoestq/conll2003", "column": "tokens", "label": "ner_tags"}],
        "evaluation.sources": [
            {"dataset": "lhoestq/conll2003", "split": "validation", "column": "tokens", "label": "ner_tags"}
        ],
    },
    "cloze": {
        **_EXAMPLES,
        "teacher.model": "models/tables-1",
        "student.layers": [0, 2],
        "corpus.length": 30,
        "evaluation.length": 30,
        "corpus.sources": [{"path": "data/tables-1/train.jsonl", "label": "answer"}],
        "evaluation.sources": [{"path": "data/tables-1/test.jsonl", "label": "answer"}],
    },
}
"""What a starting recipe sets, by its task (those of the user's own: as the first): a first run, with no model hub where diito
has a teacher for the task."""
_OF_DECODERS = ("corpus.document_boundaries", "corpus.assistant_only_loss", "evaluation.continuations")
_OF_EXAMPLES = ("masking", "corpus.layout", "corpus.minimum_tokens", "corpus.maximum_unknown", *_OF_DECODERS)
_OF_OTHERS: dict[str, tuple[str, ...]] = {
    "causal-lm": ("masking", "corpus.examples", "intervention.across_texts"),
    "sequence-classification": _OF_EXAMPLES,
    "token-classification": (*_OF_EXAMPLES, "intervention.across_texts"),
    "cloze": (*_OF_EXAMPLES, "intervention.across_texts"),
}
"""Sections and fields that a task has no use for."""
_WIDTH = 100


def recipe_schema() -> str:
    """The JSON Schema of a recipe: types, ranges, defaults, documentation and older names."""
    definitions = adapter(Recipe).json_schema()["$defs"]
    sections = {section.__name__: section for section in sections_in(Recipe)}
    for name, definition in definitions.items():
        _complete(definition, sections[name])
        for field in definition["properties"].values():
            if "$ref" in field:  # a section may stand empty
                definitions[field["$ref"].rpartition("/")[2]]["type"] = ["object", "null"]
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", **definitions.pop("Recipe"), "$defs": definitions}
    return json.dumps(root, indent=2, ensure_ascii=False).replace("``", "`")


def starting_recipe(task: str, *, name: str) -> str:
    """A commented recipe with every field, which runs as it stands on the text that comes with diito."""
    start = START.get(task, START["masked-lm"]) | {"name": name, "task": task}
    embedded = start["teacher.model"].startswith("embedded:")
    path = str(start["corpus.sources"][0].get("path", ""))
    own = path.startswith("embedded:")
    on = (
        "what diito generate tables and diito pretrain data/tables-1 make"
        if path and not own
        else "the teacher and the text that come with diito"
        if embedded
        else f"a teacher of the hub and {'the text that comes with diito' if own else 'data of the hub'}"
    )
    heading = (
        f"A recipe for: diito distill {name}.yaml. It runs as it stands, on {on}. "
        "Every field is here; those in comments stand at their defaults. For completion and checks in an editor: "
        "diito schema > recipe.schema.json, and then, as the first line of this file, "
        "yaml-language-server: $schema=recipe.schema.json after a # sign."
    )
    lines = [*_comment(heading, ""), *_fields(Recipe, start, "", without=_OF_OTHERS.get(task, ()))]
    return "\n".join(lines) + "\n"


def _fields(section: type, start: dict[str, Any], prefix: str, *, without: Collection[str] = ()) -> Iterator[str]:
    """The fields of a section, each under its documentation; sections come last, with their own."""
    indent, documents = "  " * prefix.count("."), field_documents(section)
    fields = [field for field in dataclasses.fields(section) if field.name != getattr(section, "REST", None)]
    for field in sorted(fields, key=lambda field: dataclasses.is_dataclass(hints(section)[field.name])):
        kind, key = hints(section)[field.name], prefix + field.name
        if key in without:
            continue
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from ("", *_comment(inspect.getdoc(kind) or "", indent), f"{indent}{field.name}:")
            yield from _fields(kind, start, f"{key}.")
        else:
            yield from _comment(documents[field.name], indent)
            mark = "" if key in start else "# "
            yield f"{indent}{mark}{field.name}: {write_value(start.get(key, default_of(field)))}"


def _comment(text: str, indent: str) -> list[str]:
    words = " ".join(text.replace("``", "").split())
    return textwrap.wrap(words, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_long_words=False)


def _complete(definition: dict[str, Any], section: Any) -> None:
    """What the reader accepts and pydantic does not know of: one item instead of a list, empty sections, other names."""
    properties = definition["properties"]
    rest = getattr(section, "REST", None)
    for field in dataclasses.fields(section):
        own = properties[field.name]
        own.pop("title", None)
        if "default" not in own and "$ref" not in own and default_of(field) is not dataclasses.MISSING:
            own["default"] = default_of(field)
        properties[field.name] = _or_one_item(own)
    for name, alias in aliases(section).items():
        only = properties[alias.fields[0]]
        like = {key: value for key, value in only.items() if key not in ("default", "description")}
        if alias.values:
            like = {"enum": list(alias.values)}
        if len(alias.fields) > 1:
            like = {"type": "array", "items": like, "minItems": len(alias.fields), "maxItems": len(alias.fields)}
        older = {"deprecated": True} if alias.is_older else {}
        properties[name] = {**like, **older, "description": f"Another name of {' and '.join(alias.fields)}."}
    if section is TrainingSection:
        for name in transformers_arguments():
            properties.setdefault(name, {"description": f"As in transformers.TrainingArguments({name}=...)."})
    elif rest:
        definition["additionalProperties"] = properties.pop(rest)["additionalProperties"]


def _or_one_item(schema: dict[str, Any]) -> dict[str, Any]:
    """A list may be written as its only item."""
    choices = schema.get("anyOf", [schema])
    items = [choice["items"] for choice in choices if choice.get("type") == "array" and "items" in choice]
    if not items or any(choice.get("type") in ("integer", "string") for choice in choices):
        return schema
    outer: dict[str, Any] = {key: schema[key] for key in ("default", "description") if key in schema}
    inner = [{key: choice[key] for key in choice if key not in outer} for choice in choices]
    return {"anyOf": [*inner, *items], **outer}
