"""The command line: one sentence and exit code 2 for what a user can change, and no torch before a recipe is right."""

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from diito import cli
from diito.recipe.file import known_keys, read, write_value
from diito.refusal import Refusal

RECIPE = str(Path(__file__).parent.parent / "recipes" / "quickstart.yaml")
GRID = str(Path(__file__).parent.parent / "grids" / "smoke.yaml")


@pytest.fixture
def calls(monkeypatch):
    """What reached ``diito.run.distill.distill``, which is replaced; it returns or raises ``calls.answer``."""
    seen = types.SimpleNamespace(recipe=None, options=None, answer=0)

    def distill(recipe, **options):
        seen.recipe, seen.options = recipe, options
        if isinstance(seen.answer, BaseException):
            raise seen.answer
        return seen.answer

    module = types.ModuleType("diito.run.distill")
    module.distill = distill
    monkeypatch.setitem(sys.modules, "diito.run.distill", module)
    return seen


def refusal(capsys, *argv):
    """The sentence with which the command refuses these arguments."""
    assert cli.main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("diito: ") and captured.err.count("\n") == 1
    return captured.err.removeprefix("diito: ").removesuffix("\n")


def test_a_recipe_and_overrides_reach_distill(calls):
    overrides = ["--name", "x", "--output=out", "--seed", "1", "--student.layers", "[0,2,4]", "--training.steps", "2"]
    assert cli.main(["distill", RECIPE, *overrides, "--corpus.sources", "[{path: my.txt}]"]) == 0
    recipe = calls.recipe
    assert (recipe.name, recipe.output, recipe.seed, recipe.training.steps) == ("x", "out", 1, 2)
    assert recipe.student.layers == [0, 2, 4] and recipe.corpus.sources[0].path == "my.txt"
    assert calls.options == {"resume": False, "overwrite": False, "plan_only": False}


def test_flags_before_and_after_the_recipe(calls):
    for flag, option in {"--resume": "resume", "--overwrite": "overwrite", "--plan": "plan_only"}.items():
        for argv in (["distill", flag, RECIPE], ["distill", RECIPE, flag]):
            assert cli.main(argv) == 0
            assert [name for name, value in calls.options.items() if value] == [option]


def test_every_field_can_be_set_by_its_flag(calls):
    wanted = read(Path(RECIPE).with_name("diito-full-cos.yaml"))
    argv = ["distill", RECIPE]
    for key, kind in known_keys().items():
        if not dataclasses.is_dataclass(kind):
            argv += [f"--{key}", write_value(functools.reduce(getattr, key.split("."), wanted))]
    assert cli.main(argv) == 0
    assert calls.recipe == wanted


def test_a_section_can_be_set_by_its_flag(calls):
    assert cli.main(["distill", RECIPE, "--objective.weights", "{mlm: 1, ce: 0, cos: 0, causal_ce: 0}"]) == 0
    assert (calls.recipe.objective.weights.mlm, calls.recipe.objective.weights.ce) == (1, 0)


@pytest.mark.parametrize("code", [0, 1, 130, 143])
def test_exit_codes_of_distill_are_passed_on(calls, code):
    calls.answer = code
    assert cli.main(["distill", RECIPE]) == code


def test_what_the_user_must_change_is_one_sentence(calls, capsys):
    calls.answer = Refusal("teacher.model", "there is\n no such model")
    assert refusal(capsys, "distill", RECIPE) == "teacher.model: there is no such model"


def test_other_errors_keep_their_traceback(calls):
    calls.answer = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["distill", RECIPE])


def test_an_interruption_before_training(calls, capsys):
    calls.answer = KeyboardInterrupt()
    assert cli.main(["distill", RECIPE]) == 130
    assert capsys.readouterr().err == "diito: interrupted; the same command again goes on with what is not done\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["distil"], "'distil' is not a command; did you mean distill?"),
        (
            ["zzz"],
            "'zzz' is not a command; the commands are distill, cache, evaluate, check, align, explore, generate, "
            "pretrain, reproduce, report, init, schema",
        ),
        (["--verson"], "--verson: unknown flag; did you mean --version?"),
        (["distill"], "the following arguments are required: RECIPE"),
        (["distill", RECIPE, "--resum"], "--resum: unknown flag; did you mean --resume?"),
        (
            ["distill", RECIPE, "--resume", "--overwrite"],
            "--resume continues a run and --overwrite replaces it; give one of them",
        ),
        (["distill", RECIPE, "--student.layer", "3"], "student.layer: unknown key; did you mean student.layers?"),
        (["distill", "--student.layer=3", RECIPE], "student.layer: unknown key; did you mean student.layers?"),
        (["distill", "--student.layer", "3", RECIPE], "student.layer: unknown key; did you mean student.layers?"),
        (
            ["distill", RECIPE, "--objective.temprature", "3"],
            "objective.temprature: unknown key; did you mean objective.temperature?",
        ),
        (["distill", RECIPE, "--clip", "3"], "clip: unknown key; did you mean training.clip?"),
        (["distill", RECIPE, "--student.layers", "0", "2"], "unexpected argument '2'; a list is written '[0,2,4]'"),
        (["distill", RECIPE, "--student.layers"], "--student.layers: expected one argument"),
        (
            ["distill", RECIPE, "--alignment.kind", "ful"],
            "alignment.kind: 'ful' is not one of full, middle, late, late-released, custom, learned",
        ),
        (["distill", RECIPE, "--corpus.share", "2"], "corpus.share: 2.0 must be above 0 and at most 1"),
        (["distill", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
        (["distill", "quickstart"], "there is no recipe quickstart; did you mean recipe:quickstart?"),
        (["reproduce", GRID, "--dryrun"], "--dryrun: unknown flag; did you mean --dry-run?"),
        (["reproduce", GRID, "--onli", "[a]"], "--onli: unknown flag; did you mean --only?"),
        (["reproduce", GRID, "--training.stepz", "3"], "training.stepz: unknown key; did you mean training.steps?"),
        (["reproduce", GRID, "--training.precision", "bf16"], "training.precision: unknown key; did you mean speed.precision?"),
        (["reproduce", GRID, "--seed", "3"], "seed: unknown key; did you mean seeds?"),
        (["align", "a", "b", "--map", "true"], "--map: unknown flag; see --help"),
        (["report", "x", "--frobnicate", "y"], "--frobnicate: unknown flag; see --help"),
        (["reproduce", GRID, "--sedes", "[3]"], "sedes: unknown key; did you mean seeds?"),
        (["reproduce", GRID, "--only", "{}"], "--only: a section is not a list of texts or null"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(calls, capsys, argv, sentence):
    assert refusal(capsys, *argv) == sentence
    assert calls.options is None


def test_help_shows_every_field_with_its_documentation(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", "--help"])
    assert stop.value.code == 0
    page = " ".join(capsys.readouterr().out.split())
    for key in ("--name", "--objective.weights.causal_ce", "--training.arguments", "--evaluation.blocks"):
        assert f" {key} VALUE " in page
    assert "Share of a row's maskable tokens that is predicted. (a number; default: 0.15)" in page


def test_no_command_prints_help_and_version_a_version(capsys):
    assert cli.main([]) == 0
    assert "usage: diito" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("diito ")


def test_help_and_mistakes_load_no_torch():
    """In a process of its own, as the others have loaded torch long ago."""
    program = (
        "import sys\n"
        "from diito.cli import main\n"
        f"codes = [main([]), main(['distill', {RECIPE!r}, '--masking.rate', '3']), main(['distill', 'nowhere.yaml'])]\n"
        "try:\n    main(['distill', '--help'])\n"
        "except SystemExit as stop:\n    codes.append(stop.code)\n"
        "heavy = [name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules]\n"
        "print(codes, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 2, 2, 0] []"


def test_python_m_diito_answers_with_the_exit_code():
    done = subprocess.run([sys.executable, "-m", "diito", "distill", "nowhere.yaml"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "diito: there is no recipe nowhere.yaml\n")


def test_evaluate_names_the_package_that_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "seqeval" else name)
    sentence = refusal(capsys, "evaluate", "ner", "x")
    assert sentence == "seqeval is not installed; install it with: pip install 'diito[evaluation]'"


@pytest.mark.parametrize(
    ("kind", "package"), [("perplexity", "scipy"), ("ner", "seqeval"), ("squad", "torchmetrics"), ("glue", "sklearn")]
)
def test_a_kind_of_evaluation_asks_for_its_own_packages_only(capsys, monkeypatch, kind, package):
    needed = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: needed.append(name) or (None if name == package else name))
    assert refusal(capsys, "evaluate", kind, "x").startswith(f"{package} is not installed")
    assert "matplotlib" not in needed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else name)
    assert refusal(capsys, "evaluate", "interchange", "x", "--map").startswith("matplotlib is not installed")


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["--speed.compile", "Yes"], True),
        (["--speed.compile", "off"], False),
        (["--speed.compile"], True),
        (["--speed.compile", "true"], True),
        (["--speed.compile=false"], False),
        ([], False),
    ],
)
def test_a_switch_needs_no_value(calls, flags, value):
    assert cli.main(["distill", *flags, RECIPE]) == 0
    assert calls.recipe.speed.compile is value


def test_fields_by_their_older_names_and_those_of_others(calls):
    own = ["--training.batch", "4", "--training.lr_scheduler_type", "cosine", "--objective.losses", "own:huber"]
    assert cli.main(["distill", "recipe:quickstart", *own, "--objective.weights.huber", "0.5"]) == 0
    assert calls.recipe.training.per_device_train_batch_size == 4
    assert calls.recipe.training.arguments == {"lr_scheduler_type": "cosine"}
    assert calls.recipe.objective.weights.as_dict()["huber"] == 0.5


def test_all_refusals_of_a_recipe_are_said_at_once(calls, capsys):
    assert cli.main(["distill", RECIPE, "--masking.rate", "2", "--training.steps", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "diito: masking.rate: 2.0 must be above 0 and at most 1",
        "diito: training.steps: 0 must be at least 1",
    ]


def test_init_writes_a_recipe_and_overwrites_none(calls, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init"]) == 0
    assert capsys.readouterr().out == "written    my-distillation.yaml  (diito distill my-distillation.yaml)\n"
    assert cli.main(["distill", "my-distillation.yaml"]) == 0 and calls.recipe.name == "my-distillation"
    assert refusal(capsys, "init") == "--output: my-distillation.yaml exists; give another file"
    assert cli.main(["init", "masked-lm", "--output", "other.yaml"]) == 0
    capsys.readouterr()
    assert refusal(capsys, "init", "masked-ml").startswith("TASK: 'masked-ml' is not known; did you mean masked-lm")


def test_schema_is_json(capsys):
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["training"]


def test_help_takes_no_time():
    """Of the processor, the best of three: others use the machine too."""
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'diito', '--help'], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    seconds = [float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.3


def test_a_value_error_of_a_library_is_a_fault_of_the_program(calls):
    calls.answer = ValueError("not enough values to unpack")
    with pytest.raises(ValueError, match="not enough values"):
        cli.main(["distill", RECIPE])
