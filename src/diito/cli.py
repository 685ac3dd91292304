"""The command ``diito``: reads the arguments, hands over to the part that does the work, and answers with an exit code.

Every field of a recipe is a flag, ``--section.key value``, and its documentation is the text under the field. Nothing
heavy is imported before a recipe has been read and checked, so help and mistakes answer at once.

Exit codes: 0 done; 2 the user must change something (``diito: one sentence`` on stderr); 130 and 143 interrupted, with
``--resume`` to continue; 1 anything else, with its traceback.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diito.evaluation.settings import KINDS, AlignSettings, EvaluateSettings
from diito.experiments import grid as grids
from diito.recipe import Recipe
from diito.recipe.checks import check
from diito.recipe.file import Section, describe, from_flags, known_keys, read, unknown_key, write_value
from diito.speed.process import keep_freed_memory, limit_spinning
from diito.version import __version__

DISTILL = """Distil a student from a teacher as a recipe says, into <output>/<name>/.

Any field of the recipe can be set on the command line; lists and sections are written as in YAML:
  diito distill recipes/diito-full.yaml --student.layers 3 --corpus.share 0.15
  diito distill recipes/quickstart.yaml --corpus.sources '[my-text.txt]' --training.steps 500
"""


EVALUATE = """Measure any Hugging Face model: print a table, and write the figures with all they were made from as JSON.

  diito evaluate perplexity runs/quickstart/student --against google-bert/bert-base-uncased
  diito evaluate interchange runs/quickstart/student --teacher embedded:teacher-minilm-mlm --map true
  diito evaluate glue distilbert/distilbert-base-uncased --tasks '[rte, stsb]' --seeds '[1, 2, 3]'
"""

REPRODUCE = """Run every condition, seed and evaluation of a grid on Ray; what is done already is not run again.

  diito reproduce grids/smoke.yaml
  diito reproduce grids/paper.yaml --dry-run
  diito reproduce grids/paper.yaml --address auto --only '[standard-6, full-6]' --speed.precision bf16
Any field of the recipes can be set for all conditions, as in diito distill.
"""


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one sentence instead of the usage (a ValueError, which :func:`main` prints)."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))

    def flags(self) -> list[str]:
        """The names of its flags."""
        return [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (those of the process by default) and return its exit code."""
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        print("diito:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diito: interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    parser = _Parser(prog="diito", description="Causal distillation of language models.", allow_abbrev=False)
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.set_defaults(parser=parser, settings=[])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_distill(commands)
    _add_evaluate(commands)
    _add_align(commands)
    _add_reproduce(commands)
    _add_report(commands)
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        raise ValueError(f"{argv[0]!r} is not a command{_nearest(argv[0], commands.choices)}")
    arguments, rest = parser.parse_known_args(argv)
    if rest:
        raise ValueError(_unexpected(rest, arguments.parser, arguments.settings))
    if arguments.version:
        print("diito", __version__)
        return 0
    if arguments.command is None:
        parser.print_help()
        return 0
    code: int = arguments.run(arguments)
    return code


def _distill(arguments: argparse.Namespace) -> int:
    """The sub-command ``distill``: read, check, hand over."""
    keys = known_keys()
    recipe = read(arguments.recipe, {key: value for key, value in vars(arguments).items() if key in keys})
    check(recipe)
    if arguments.resume and arguments.overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it; give one of them")

    limit_spinning()
    from diito.run.distill import distill  # torch comes with it

    return distill(recipe, resume=arguments.resume, overwrite=arguments.overwrite, plan_only=arguments.plan)


def _evaluate(arguments: argparse.Namespace) -> int:
    """The sub-command ``evaluate``: read the flags, hand over."""
    settings, where = _settings(arguments)
    limit_spinning()
    keep_freed_memory()
    from diito.evaluation.evaluate import evaluate

    return evaluate(arguments.kind, arguments.model, settings, where)


def _align(arguments: argparse.Namespace) -> int:
    """The sub-command ``align``: read the flags, hand over."""
    settings, where = _settings(arguments)
    limit_spinning()
    keep_freed_memory()
    from diito.evaluation.align import align

    return align(arguments.teacher_model, arguments.student_model, settings, where)


def _reproduce(arguments: argparse.Namespace) -> int:
    """The sub-command ``reproduce``: read grid and flags, hand over."""
    given = {key: value for key, value in vars(arguments).items() if key in known_keys(grids.Grid)}
    recipes = {key: value for key, value in vars(arguments).items() if key in known_keys() and key not in given}
    grid = grids.read(arguments.grid, given, recipes)
    settings = _filled(grids.ReproduceSettings, arguments)
    _check_extra("experiments", ("matplotlib", "ray", "rich", "scipy", "seqeval", "sklearn", "torchmetrics"))
    limit_spinning()
    from diito.experiments.reproduce import reproduce

    return reproduce(grid, settings, dry_run=arguments.dry_run)


def _report(arguments: argparse.Namespace) -> int:
    """The sub-command ``report``: hand over."""
    _check_extra("evaluation", ("matplotlib", "scipy"))
    from diito.experiments import gather
    from diito.report.report import report

    source = Path(arguments.measured).expanduser()
    beside = (source if source.is_dir() else source.parent) / "report"
    return report(gather.read(source), Path(arguments.output).expanduser() if arguments.output else beside)


def _settings(arguments: argparse.Namespace) -> tuple[Any, EvaluateSettings]:
    """The flags as the settings of a kind of evaluation and the settings of all kinds."""
    return _filled(arguments.settings[0], arguments), _filled(EvaluateSettings, arguments)


def _filled(section: type[Section], arguments: argparse.Namespace) -> Section:
    """A dataclass from the flags that are its fields."""
    try:
        return from_flags(section, {key: value for key, value in vars(arguments).items() if key in known_keys(section)})
    except ValueError as error:
        hint = "; a list is written '[a, b]'" if " is not a list " in str(error) else ""
        raise ValueError(f"--{error}{hint}") from error


def _check_extra(extra: str, modules: Sequence[str]) -> None:
    """Refuse (ValueError) to start without the packages that would be missed at the end."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{module} is not installed; install it with: pip install 'diito[{extra}]'")


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure any model: perplexity, interchange, GLUE, NER, SQuAD",
        description=EVALUATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, settings in KINDS.items():
        text = " ".join((inspect.getdoc(settings) or "").replace("``", "").split())
        one = kinds.add_parser(kind, help=text, description=text, allow_abbrev=False)
        one.add_argument("model", metavar="MODEL", help="hub id or folder, such as runs/quickstart/student")
        one.set_defaults(run=_evaluate, parser=one, settings=[settings])
        _add_fields(one, settings, "", title="what is measured")
        _add_fields(one, EvaluateSettings, "", title="the run")


def _add_align(commands: Any) -> None:
    text = "find the best alignment of a student's layers with a teacher's, from the map of all pairs"
    parser = commands.add_parser("align", help=text, description=text, allow_abbrev=False)
    parser.add_argument("teacher_model", metavar="TEACHER", help="hub id or folder")
    parser.add_argument("student_model", metavar="STUDENT", help="hub id or folder, such as runs/quickstart/student")
    parser.set_defaults(run=_align, parser=parser, settings=[AlignSettings])
    _add_fields(parser, AlignSettings, "", title="what is measured", without=("teacher", "map", "alignment"))
    _add_fields(parser, EvaluateSettings, "", title="the run")


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="run a grid of distillations and evaluations, from a laptop to a cluster",
        usage="diito reproduce GRID [--dry-run] [--only '[CONDITION, ...]'] [--address ADDRESS] [--key VALUE ...]",
        description=REPRODUCE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("grid", metavar="GRID", help="a YAML file, such as grids/small.yaml")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs with tokens, FLOPs and hours, and stop")
    parser.set_defaults(run=_reproduce, parser=parser, settings=[grids.Grid, Recipe])
    _add_fields(parser, grids.ReproduceSettings, "", title="this run")
    _add_fields(parser, grids.Grid, "", title="the grid")
    _add_fields(parser, Recipe, "", without=[name for name in known_keys() if name in known_keys(grids.Grid)] + ["seed"])


def _add_report(commands: Any) -> None:
    text = "make the tables and figures of what a grid has measured, beside the paper's numbers; reads JSON only"
    parser = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
    parser.add_argument(
        "measured", metavar="MEASURED", help="a grid's folder, such as experiments/small, or a measurements.json"
    )
    parser.add_argument("--output", metavar="VALUE", help="folder of the report (default: report/ beside what is read)")
    parser.set_defaults(run=_report, parser=parser, settings=[])


def _add_distill(commands: Any) -> None:
    parser = commands.add_parser(
        "distill",
        help="distil a student from a teacher as a recipe says",
        usage="diito distill RECIPE [--resume | --overwrite] [--plan] [--section.key VALUE ...]",
        description=DISTILL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, such as recipes/quickstart.yaml")
    parser.add_argument("--resume", action="store_true", help="continue the run from its newest complete checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace the run's folder if there is one")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.set_defaults(run=_distill, parser=parser, settings=[Recipe])
    _add_fields(parser, Recipe, "")


def _add_fields(
    parser: argparse.ArgumentParser, section: type, prefix: str, *, title: str = "the run", without: Collection[str] = ()
) -> None:
    """A flag for every field; a section is a group in the help, and can itself be given as YAML."""
    group = parser.add_argument_group(prefix.removesuffix(".") or title, (inspect.getdoc(section) or "").replace("``", ""))
    kinds, documents = known_keys(section), field_documents(section)
    for field in dataclasses.fields(section):
        if field.name in without:
            continue
        kind, key = kinds[field.name], prefix + field.name
        is_section = dataclasses.is_dataclass(kind)
        text = argparse.SUPPRESS if is_section else _help(documents[field.name], kind, field)
        group.add_argument(f"--{key}", dest=key, metavar="VALUE", default=argparse.SUPPRESS, help=text)
        if is_section:
            _add_fields(parser, kind, f"{key}.")


def field_documents(section: type) -> dict[str, str]:
    """The text under each field of a dataclass (and of those it extends), which Python itself drops, from its source."""
    documents = {}
    for base in reversed([base for base in section.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                documents[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return documents


def _help(document: str, kind: Any, field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return f"{document} ({describe(kind)})".replace("%", "%%").replace("``", "")
    default = field.default_factory() if callable(field.default_factory) else field.default
    if isinstance(default, list):  # of sources, whose many nulls say nothing
        default = [_without_nulls(item) if dataclasses.is_dataclass(item) else item for item in default]
    return f"{document} ({describe(kind)}; default: {write_value(default)})".replace("%", "%%").replace("``", "")


def _without_nulls(section: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(section).items() if value is not None}


def _unexpected(rest: list[str], parser: _Parser, settings: Sequence[type]) -> str:
    """The sentence about arguments that the parser does not know: first the flags among them, since their values tag along.

    ``settings``: the dataclasses whose fields are the command's flags, but for a few.
    """
    flag = next((argument for argument in rest if argument.startswith("--")), None)
    if flag is None:
        return f"unexpected argument {rest[0]!r}; a list is written '[0,2,4]'"
    name = flag[2:].partition("=")[0]
    own = [flag for flag in parser.flags() if not any(flag in known_keys(section) for section in settings)]
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.75)
    if near:
        return f"--{name}: unknown flag; did you mean --{near[0]}?"
    top = name.partition(".")[0]
    of_that_name = [section for section in settings if "." in name and top in known_keys(section)]
    section = next(iter([*of_that_name, *settings]), None)
    if section is None or name in known_keys(section):
        return f"--{name}: unknown flag; see --help"
    return unknown_key(name, section)


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; the commands are {', '.join(known)}"
