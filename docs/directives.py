"""Directives of the site that write what the program says of itself, so that no page repeats it by hand.

``{recipe}``: every field of a recipe, section by section. ``{commands}``: every command with its arguments and flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from diito.cli import COMMANDS, make_parser
from diito.evaluation.kinds import KINDS
from diito.recipe.file import write_value
from diito.recipe.flags import default_of, field_documents
from diito.recipe.keys import describe, hints
from diito.recipe.sections import Recipe


class RecipeFields(SphinxDirective):
    """Every field of a recipe: name, type, default and documentation."""

    def run(self) -> list[nodes.Node]:
        """Headings for the sections, a definition for each field."""
        lines = ["## The run", "", words(inspect.getdoc(Recipe) or ""), "", *recipe_lines(Recipe, "")]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class Commands(SphinxDirective):
    """Every command: its description and its flags, but for those that are fields of a recipe."""

    def run(self) -> list[nodes.Node]:
        """Headings for the commands, a definition for each argument."""
        lines = [line for name in COMMANDS for line in command_lines(name)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def recipe_lines(section: type, prefix: str) -> Iterator[str]:
    """The Markdown of a section's fields, those that are sections of their own last."""
    documents, kinds = field_documents(section), hints(section)
    fields = [field for field in dataclasses.fields(section) if field.name != getattr(section, "REST", None)]
    for field in fields:
        if not dataclasses.is_dataclass(kinds[field.name]):
            yield from definition(
                f"`{prefix}{field.name}`", f"{documents[field.name]} ({describe(kinds[field.name])}{default(field)})"
            )
    for field in fields:
        kind: Any = kinds[field.name]
        if dataclasses.is_dataclass(kind) and dataclasses.fields(kind):
            yield from (f"## {prefix}{field.name}", "", words(inspect.getdoc(kind) or ""), "")
            yield from recipe_lines(kind, f"{prefix}{field.name}.")


def default(field: dataclasses.Field[Any]) -> str:
    """What a field is where it is not given, as a recipe would say it."""
    value = default_of(field)
    return "; must be given" if value is dataclasses.MISSING else f"; default: `{write_value(value)}`"


def command_lines(name: str) -> Iterator[str]:
    """The Markdown of a command; of ``evaluate`` also that of each kind."""
    command = subparser(make_parser([name]), name)
    summary, _, rest = (command.description or "").partition("\n\n")
    yield from (
        f"## diito {name}",
        "",
        words(summary),
        "",
        "```text",
        textwrap.dedent(rest).strip() or usage(command),
        "```",
        "",
    )
    if name == "evaluate":
        for kind in KINDS:
            one = subparser(subparser(make_parser([name, kind]), name), kind)
            yield from (f"### diito evaluate {kind}", "", words(one.description or ""), "", *argument_lines(one))
    else:
        yield from argument_lines(command)


def subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """The parser of a command among those of ``parser``."""
    choices = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    return choices[name]


def usage(parser: argparse.ArgumentParser) -> str:
    """``diito check MODEL``, without flags."""
    return " ".join([parser.prog, *(str(action.metavar) for action in parser._actions if not action.option_strings)])


def argument_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The Markdown of what a command takes."""
    has_recipe = False
    for action in parser._actions:
        if action.help in (None, argparse.SUPPRESS) or action.dest == "help":
            continue
        if action.dest.startswith(f"{Recipe.__name__}:"):
            has_recipe = True
            continue
        shown = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
        term = f"{', '.join(action.option_strings)}{shown}".strip()
        yield from definition(f"`{term}`", (action.help or "").replace("%%", "%"))
    if has_recipe:
        yield from ("Every field of a [recipe](recipe.md) is a flag too, such as `--student.layers 3`.", "")


def definition(term: str, text: str) -> Iterator[str]:
    """An entry of a definition list."""
    yield from (term, f": {words(text)}", "")


def words(text: str) -> str:
    """One line of Markdown."""
    return " ".join(text.replace("``", "`").replace("<", "&lt;").split())


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("recipe", RecipeFields)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
