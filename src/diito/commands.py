"""What each command does with its arguments: read and check them, then import the part that does the work and hand over.

The text of a command is its help.
torch comes with those parts, so help and mistakes answer at once.
"""

from __future__ import annotations

import importlib.util
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diito import plugins
from diito.evaluation.kinds import GROUP, KINDS, check_packages, find, refusals_under
from diito.evaluation.settings import AlignSettings, EvaluateSettings
from diito.explorer.settings import ExploreSettings
from diito.files import check_writable
from diito.paths import expand
from diito.recipe import Recipe
from diito.recipe.checks import check as check_recipe
from diito.recipe.file import read
from diito.recipe.flags import Parser, filled, given
from diito.refusal import Refusal
from diito.speed.process import keep_freed_memory, limit_spinning
from diito.structured.settings import GenerateSettings, PretrainSettings
from diito.tasks import TASKS, check_task


def distill(arguments: Namespace) -> int:
    """Distil a student from a teacher as a recipe says, into <output>/<name>/.

    Any field of the recipe can be set on the command line; lists and sections are written as in YAML:
      diito distill recipes/diito-full.yaml --student.layers 3 --corpus.share 0.15
      diito distill recipe:quickstart --corpus.sources my-text.txt --training.max_steps 500
    """
    recipe = read(arguments.recipe, given(arguments, Recipe))
    check_recipe(recipe)
    if arguments.resume and arguments.overwrite:
        raise Refusal("", "--resume continues a run and --overwrite replaces it; give one of them")
    limit_spinning()
    from diito.run.distill import distill

    return distill(recipe, resume=arguments.resume, overwrite=arguments.overwrite, plan_only=arguments.plan)


def cache(arguments: Namespace) -> int:
    """Run the teacher of a recipe once over all its steps, counterfactual runs too, and keep its answers.

    Students of the same text, seed and interventions then train without running it, to the same bits:
      diito cache recipe:quickstart --to caches/quickstart
      diito distill recipe:quickstart --teacher.cache caches/quickstart
    """
    recipe = read(arguments.recipe, given(arguments, Recipe) | {"teacher.cache": None})
    check_recipe(recipe)
    folder = expand(arguments.to, field="--to") if arguments.to else Path("caches") / recipe.name
    check_writable(folder / "rank-0.json", "--to")
    limit_spinning()
    from diito.run.cache import cache

    return cache(recipe, folder)


def evaluate(arguments: Namespace) -> int:
    """Measure any Hugging Face model: print a table, and write the figures with all they come from as JSON.

    diito evaluate perplexity runs/quickstart/student --against google-bert/bert-base-uncased
    diito evaluate interchange runs/quickstart/student --teacher embedded:teacher-minilm-mlm --map
    diito evaluate glue distilbert/distilbert-base-uncased --tasks '[rte, stsb]' --seeds '[1, 2, 3]'
    """
    kind = find(arguments.kind)
    settings: Any = filled(kind.settings, arguments)
    run = filled(EvaluateSettings, arguments)
    with refusals_under("--", settings):
        check_packages(kind, settings)
    limit_spinning()
    keep_freed_memory()
    from diito.evaluation.evaluate import evaluate

    return evaluate(arguments.kind, arguments.model, settings, run)


def check(arguments: Namespace) -> int:
    """Look at a model as the other commands do before they use it: configuration, tokenizer, weights, and the run in layers.

    diito check google-bert/bert-base-uncased
    diito check my-model --tokenizer my-tokenizer
    """
    if arguments.task:
        check_task(arguments.task, field="--task")
    from diito.models.findings import check
    from diito.models.load import ModelSource
    from diito.tasks import find_task, task_of

    tokenizer = ModelSource(arguments.tokenizer, "--tokenizer") if arguments.tokenizer else None
    source = ModelSource(arguments.model, "MODEL", arguments.revision)
    task = find_task(arguments.task) if arguments.task else task_of(source)
    flags = [] if task.name == Recipe.task else ["--task", task.name]
    flags += ["--teacher.model", arguments.model]
    return check(source, tokenizer, head=task.head, noun=task.noun, needed=task.needed_tokens, flags=flags)


def align(arguments: Namespace) -> int:
    """Find the best alignment of a student's layers with a teacher's, from the map of all pairs; or, in the teacher alone, the
    sub-spaces of its layers that carry what a swap changes.

    diito align google-bert/bert-base-uncased runs/my-student/student
    diito align embedded:teacher-minilm-mlm --rotation.dimensions 64 --rotation.sources '[embedded:wikitext-2/train.txt.gz]' \\
      --sources '[embedded:wikitext-2/valid.txt.gz]'
    """
    settings, run = filled(AlignSettings, arguments), filled(EvaluateSettings, arguments)
    finds_rotation = settings.rotation.dimensions is not None
    if finds_rotation and arguments.student is not None:
        raise Refusal("STUDENT", "a rotation is found in the teacher alone; leave it out, or --rotation.dimensions")
    if not finds_rotation and settings.rotation != type(settings.rotation)():
        raise Refusal("--rotation.dimensions", "say how many are to be found in each layer")
    if not finds_rotation and arguments.student is None:
        raise Refusal("STUDENT", "give the student to align, or --rotation.dimensions to find a rotation in the teacher alone")
    limit_spinning()
    keep_freed_memory()
    if finds_rotation:
        from diito.evaluation.rotation import find_rotation

        return find_rotation(arguments.teacher, settings, run)
    from diito.evaluation.align import align

    return align(arguments.teacher, arguments.student, settings, run)


def explore(arguments: Namespace) -> int:
    """Open a page on which one sees what interchange interventions do to a teacher and to its student.

    diito explore runs/quickstart/student --teacher embedded:teacher-minilm-mlm --against undistilled
    """
    settings = filled(ExploreSettings, arguments)
    _need("explorer", ("gradio", "matplotlib"))
    limit_spinning()
    keep_freed_memory()
    from diito.explorer.command import explore

    return explore(arguments.student, settings)


def reproduce(arguments: Namespace) -> int:
    """Run every condition, seed and evaluation of a grid on Ray; what is done already is not run again.

      diito reproduce grids/smoke.yaml
      diito reproduce grids/paper.yaml --dry-run
      diito reproduce grids/paper.yaml --address auto --only '[standard-6, full-6]' --speed.precision bf16
    Any field of the recipes can be set for all conditions, as in diito distill.
    """
    from diito.experiments import grid as grids

    grid = grids.read(arguments.grid, given(arguments, grids.Grid), given(arguments, Recipe))
    settings = filled(grids.ReproduceSettings, arguments)
    _need("experiments", ("ray", "rich"))
    limit_spinning()
    from diito.experiments.reproduce import reproduce

    return reproduce(grid, settings, dry_run=arguments.dry_run)


def report(arguments: Namespace) -> int:
    """Make the tables and figures of runs, or of what a grid has measured, beside the paper's numbers; reads JSON only.

      diito report runs/quickstart
      diito report runs/standard runs/full --output compared --pdf
      diito report experiments/small
    A run may still go on: it is shown as far as it has come.
    """
    _need("evaluation", ("matplotlib", "scipy"))
    from diito.experiments import gather
    from diito.report.report import report, report_runs
    from diito.report.runs import is_run, read_runs

    sources = [expand(each, field="MEASURED") for each in arguments.measured]
    output = expand(arguments.output, field="--output") if arguments.output else None
    if all(map(is_run, sources)):
        beside = sources[0] if len(sources) == 1 else sources[0].parent
        return report_runs(read_runs(sources), output or beside / "report", pdf=arguments.pdf)
    if len(sources) > 1:
        other = next(source for source in sources if not is_run(source))
        raise Refusal("MEASURED", f"{other} is no folder of a run, and several together must be; a grid stands alone")
    beside = sources[0] if sources[0].is_dir() else sources[0].parent
    return report(gather.read(sources[0]), output or beside / "report", pdf=arguments.pdf)


def generate(arguments: Namespace) -> int:
    """Write rows of a known causal structure, with their causal model, into a folder: what the small teachers of diito pretrain
    learn, and what shows whether a student copies how its teacher computes.

      diito generate tables --seed 1 --rows 200
      diito generate circuit --size 4 --output data/circuit
    """
    from diito.structured.folder import generate

    print(f"written    {generate(arguments.structure, filled(GenerateSettings, arguments))}")
    return 0


def pretrain(arguments: Namespace) -> int:
    """Train a small teacher on generated data, from nothing, until it answers all rows.

    diito pretrain data/tables-1
    diito pretrain data/tables-1 --config '{num_hidden_layers: 6, hidden_size: 128}' --output models/deeper
    """
    settings = filled(PretrainSettings, arguments)
    limit_spinning()
    keep_freed_memory()
    from diito.evaluation.evaluate import quieten
    from diito.run.pretrain import pretrain

    quieten()
    print(f"written    {pretrain(arguments.data, settings)}")
    return 0


def schema(arguments: Namespace) -> int:
    """Print the JSON Schema of a recipe, which editors complete and check recipes with."""
    from diito.recipe.schema import recipe_schema

    print(recipe_schema())
    return 0


def init(arguments: Namespace) -> int:
    """Write a commented recipe to start from, which runs as it stands: my-distillation.yaml, or --output."""
    from diito.recipe.schema import starting_recipe

    path = expand(arguments.output, field="--output")
    task = arguments.task or Recipe.task
    check_task(task, field="TASK")
    text = starting_recipe(task, name=path.stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Refusal("--output", f"{path} exists; give another file") from None
    except OSError as error:
        raise Refusal("--output", f"cannot write {path}: {error.strerror}") from None
    print(f"written    {path}  (diito distill {path})")
    return 0


def add_distill(parser: Parser) -> None:
    """The flags of ``distill``."""
    parser.add_argument("--resume", action="store_true", help="continue the run from its newest complete checkpoint")
    parser.add_argument("--overwrite", action="store_true", help="replace the run's folder if there is one")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.add_section(Recipe, "the run")


def add_cache(parser: Parser) -> None:
    """The flags of ``cache``."""
    parser.add_argument("--to", metavar="FOLDER", help="where the answers are kept (default: caches/<name of the recipe>)")
    parser.add_section(Recipe, "the run")


def add_evaluate(parser: Parser) -> None:
    """A parser for every kind of evaluation."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    asked = parser.words[0] if parser.words else ""
    if asked and not asked.startswith("-"):
        find(asked)  # refuses one that there is not, naming the nearest
    own = [asked] if ":" in asked else []  # a kind of the user's own, by its import path
    installed = [] if asked in KINDS else sorted(plugins.installed(GROUP))
    for kind in [*KINDS, *installed, *own]:
        try:
            settings = find(kind).settings
        except Refusal as refusal:
            if kind == asked:
                raise
            print(f"diito: left out: {refusal}", file=sys.stderr)
            continue
        text = " ".join((settings.__doc__ or "").replace("``", "").split())
        one = kinds.add_parser(kind, help=text, description=text)
        one.add_argument("model", metavar="MODEL", help="hub id or folder, such as runs/quickstart/student")
        one.set_defaults(parser=one)
        one.add_section(settings, "what is measured", in_files=False)
        one.add_settings(EvaluateSettings)


def add_check(parser: Parser) -> None:
    """The flags of ``check``."""
    parser.add_argument("--tokenizer", metavar="VALUE", help="hub id or folder of another tokenizer than the model's")
    parser.add_argument("--revision", metavar="VALUE", help="hub revision (branch, tag or commit) of the model")
    parser.add_argument(
        "--task", metavar="VALUE", help=f"one of {', '.join(TASKS)}, or your own (default: that of the model's head)"
    )


def add_align(parser: Parser) -> None:
    """The flags of ``align``."""
    parser.add_section(AlignSettings, "what is measured", without=("teacher", "map"), in_files=False)
    parser.add_settings(EvaluateSettings)


def add_explore(parser: Parser) -> None:
    """The flags of ``explore``."""
    parser.add_section(ExploreSettings, "what is looked at", in_files=False)


def add_reproduce(parser: Parser) -> None:
    """The flags of ``reproduce``: the grid's, and those of all its recipes."""
    from diito.experiments.grid import Grid, ReproduceSettings
    from diito.recipe.keys import hints

    parser.add_argument("--dry-run", action="store_true", help="list the jobs with tokens, FLOPs and hours, and stop")
    parser.add_settings(ReproduceSettings, "this run")
    parser.add_section(Grid, "the grid")
    parser.add_section(Recipe, "every recipe", without=[*hints(Grid), "seed"])


def add_report(parser: Parser) -> None:
    """The flags of ``report``."""
    parser.add_argument("--pdf", action="store_true", help="write the figures as PDF, too")
    parser.add_argument(
        "--output",
        metavar="VALUE",
        help="folder of the report (default: report/ in the folder of the run or grid, or beside several)",
    )


def add_generate(parser: Parser) -> None:
    """The flags of ``generate``."""
    parser.add_settings(GenerateSettings)


def add_pretrain(parser: Parser) -> None:
    """The flags of ``pretrain``."""
    parser.add_settings(PretrainSettings)


def add_init(parser: Parser) -> None:
    """The flag of ``init``."""
    parser.add_argument("--output", metavar="VALUE", default="my-distillation.yaml", help="the file (default: %(default)s)")


def _need(extra: str, packages: Iterable[str]) -> None:
    """Refuse to start without packages that would be missed at the end."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise Refusal("", f"{package} is not installed; install it with: pip install 'diito[{extra}]'")
