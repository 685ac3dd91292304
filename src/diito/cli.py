"""The command ``diito``: a table of commands. Each is a function of ``diito.commands``, imported when it is asked for.

Exit codes: 0 done; 2 the user must change something (``diito: one sentence`` on stderr for each thing); 130 and 143
interrupted, with ``--resume`` to continue; 1 anything else, with its traceback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from diito.faults import is_full, reason, remedy
from diito.files import CannotWrite
from diito.refusal import Refusal, Refusals, refusals_of
from diito.secrets import guard_output

if TYPE_CHECKING:
    from diito.recipe.flags import Parser


class Command(NamedTuple):
    """A row of the table; ``diito.commands`` has a function of the command's name."""

    help: str
    positionals: dict[str, str]
    flags: str | None = None
    """The function that adds its flags."""


COMMANDS = {
    "distill": Command(
        "distil a student from a teacher as a recipe says",
        {"recipe": "a YAML file, or one that comes with diito, such as recipe:quickstart"},
        "add_distill",
    ),
    "cache": Command(
        "run the teacher of a recipe once and keep its answers, for any number of students",
        {"recipe": "a YAML file, or one that comes with diito, such as recipe:quickstart"},
        "add_cache",
    ),
    "evaluate": Command("measure any model: perplexity, interchange, GLUE, NER, SQuAD", {}, "add_evaluate"),
    "check": Command(
        "say what a model is, what is set right in it, and what stands against distilling it",
        {"model": "hub id or folder"},
        "add_check",
    ),
    "align": Command(
        "find the best alignment of a student's layers with a teacher's, or a rotation of the teacher's layers",
        {
            "teacher": "hub id or folder",
            "student?": "hub id or folder, such as runs/quickstart/student; none to find a rotation",
        },
        "add_align",
    ),
    "explore": Command(
        "open a page that shows what swaps do to a teacher and to its student",
        {"student": "hub id or folder, such as runs/quickstart/student"},
        "add_explore",
    ),
    "generate": Command(
        "write data of a known causal structure, to learn from and to measure on",
        {"structure": "tables, scrambled, circuit, chain or carry"},
        "add_generate",
    ),
    "pretrain": Command(
        "train a small teacher on generated data, from nothing",
        {"data": "a folder that diito generate has written, such as data/tables-1"},
        "add_pretrain",
    ),
    "reproduce": Command(
        "run a grid of distillations and evaluations, from a laptop to a cluster",
        {"grid": "a YAML file, or one that comes with diito, such as grid:small"},
        "add_reproduce",
    ),
    "report": Command(
        "make the tables and figures of runs, or of what a grid has measured",
        {
            "measured+": "folders of runs, such as runs/quickstart; or a grid's folder, such as experiments/small, or a "
            "measurements.json"
        },
        "add_report",
    ),
    "init": Command(
        "write a commented recipe to start from",
        {"task?": "masked-lm (the default), causal-lm, sequence-classification, token-classification or cloze"},
        "add_init",
    ),
    "schema": Command("print the JSON Schema of a recipe, for editors", {}),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command with these arguments (those of the process by default) and return its exit code."""
    guard_output()
    try:
        return _run(sys.argv[1:] if argv is None else argv)
    except (Refusal, Refusals) as error:  # no other ValueError: that is a fault of the program or of a library
        for refusal in refusals_of(error):
            print("diito:", " ".join(str(refusal).split()), file=sys.stderr)
        return 2
    except CannotWrite as error:
        print(f"diito: {error}; {remedy(error)} and run the same command again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("diito: interrupted; the same command again goes on with what is not done", file=sys.stderr)
        return 130
    except Exception as error:  # a full disk shows anywhere, at the screen's own lines too, where these go into a file
        if not is_full(error):
            raise
        with contextlib.suppress(OSError):
            print(f"diito: the disk is full ({reason(error)}); free some space and run the same command again", file=sys.stderr)
        return 2


def make_parser(argv: Sequence[str]) -> Parser:
    """The parser of the command line ``argv``. The flags of its command alone are made, as they take imports."""
    from diito.recipe.flags import Parser

    parser = Parser(prog="diito", description="Causal distillation of language models.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    parser.set_defaults(parser=parser)
    rows = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        row = rows.add_parser(name, help=command.help)
        if argv[:1] == [name]:
            row.prepare(import_module("diito.commands"), name, command.positionals, command.flags, argv[1:])
    return parser


def _run(argv: list[str]) -> int:
    from diito.recipe.flags import check_command

    parser = make_parser(argv)
    if argv and not argv[0].startswith("-"):
        check_command(argv[0], COMMANDS)
    arguments = parser.parse_all(argv)
    if arguments.command:
        code: int = getattr(import_module("diito.commands"), arguments.command)(arguments)
        return code
    if arguments.version:
        from diito.version import __version__

        print("diito", __version__)
    else:
        parser.print_help()
    return 0
