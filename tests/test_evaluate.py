"""``diito evaluate`` and ``diito align`` as a user types them, on tiny models: every kind, reuse, interruption, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

import grids
from diito import Alignment, build_student, cli
from diito.evaluation import evaluate as evaluate_module
from diito.evaluation.held_out import perplexity as perplexity_module
from diito.evaluation.kinds import find
from diito.evaluation.results import slug
from diito.method.alignment_files import build_alignment
from diito.models.steps import CannotRun
from diito.recipe import AlignmentSection
from diito.recipe.file import read_section


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    """A student of two layers, its weights moved a little so that it is no copy."""
    folder = tmp_path_factory.mktemp("student") / "student"
    model = build_student(AutoModelForMaskedLM.from_pretrained(tiny.teacher()), 2)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def glue_folder(tmp_path_factory) -> Path:
    """RTE and STS-B with made-up sentences."""
    return grids.glue_folder(tmp_path_factory.mktemp("data") / "glue")


@pytest.fixture(scope="module")
def conll_folder(tmp_path_factory) -> Path:
    """Sentences of four words, of which one is a person."""
    folder = tmp_path_factory.mktemp("conll")
    sentence = "w1 NN O O\nw2 NN O I-PER\nw3 NN O O\nw4 NN O I-LOC\n\n"
    (folder / "train.txt").write_text("-DOCSTART- -X- O O\n\n" + sentence * 12)
    (folder / "valid.txt").write_text("-DOCSTART- -X- O O\n\n" + sentence * 4)
    return folder


@pytest.fixture(scope="module")
def squad_folder(tmp_path_factory) -> Path:
    """Questions whose answer is the third word of the context."""
    folder = tmp_path_factory.mktemp("squad")
    for name, count in (("train", 12), ("dev", 4)):
        questions = []
        for number in range(count):
            context = f"w1 w2 w{number + 3} w4 w5"
            answers = [{"text": f"w{number + 3}", "answer_start": 6}]
            qas = [{"id": f"{name}{number}", "question": "w7 w8 ?", "answers": answers}]
            questions.append({"context": context, "qas": qas})
        content = {"version": "1.1", "data": [{"title": "t", "paragraphs": questions}]}
        (folder / f"{name}-v1.1.json").write_text(json.dumps(content))
    return folder


def text_flags() -> list[str]:
    cache = str(tiny.FOLDER / "cache")
    return ["--sources", f"[{tiny.corpus(40)}]", "--length", "16", "--batch", "4", "--workers", "1", "--cache", cache]


def short_teacher(folder: Path) -> str:
    """The tiny teacher with 12 positions."""
    model = AutoModelForMaskedLM.from_pretrained(tiny.teacher())
    model.config.max_position_embeddings = 12
    type(model)(model.config).save_pretrained(folder / "short")
    tiny.tokenizer().save_pretrained(folder / "short")
    return str(folder / "short")


def measurements(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["measurements"]


def refusal(capsys, *argv: str) -> str:
    """The sentence with which the command refuses these arguments."""
    assert cli.main(list(argv)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("diito: ")
    return error.removeprefix("diito: ")


# ------------------------------------------------------------------------------------------------------- held-out text


def test_perplexity_of_two_models(student, tmp_path, capsys):
    output = tmp_path / "deep" / "results.json"
    argv = [
        "evaluate",
        "perplexity",
        student,
        "--against",
        tiny.teacher(),
        "--output",
        str(output),
        *text_flags(),
        "--draws",
        "2",
    ]
    assert cli.main(argv) == 0
    screen = capsys.readouterr().out
    ours, other, difference = measurements(output)
    assert [entry["identity"]["kind"] for entry in (ours, other, difference)] == ["perplexity"] * 2 + ["perplexity difference"]
    assert ours["identity"]["text"] == other["identity"]["text"] and ours["identity"]["model"] != other["identity"]["model"]
    assert difference["result"]["difference"] == pytest.approx(
        ours["result"]["perplexity"] - other["result"]["perplexity"], rel=1e-5
    )
    assert ours["examples"]["tokens"] == other["examples"]["tokens"], "the same masks"
    low, high = difference["result"]["interval"]
    assert low < difference["result"]["difference"] < high
    assert f"{ours['result']['perplexity']:.2f}" in screen and "paired" in screen and str(output) in screen
    assert ours["environment"]["packages"]["torch"] == torch.__version__


def test_what_is_measured_already_is_not_measured_again(student, tmp_path, capsys, monkeypatch):
    argv = ["evaluate", "perplexity", student, "--output", str(tmp_path / "r.json"), *text_flags()]
    assert cli.main(argv) == 0
    first = capsys.readouterr().out
    before = (tmp_path / "r.json").read_bytes()
    monkeypatch.setattr("diito.evaluation.held_out.jobs.token_losses", None)  # a call would fail
    assert cli.main([*argv, "--batch", "2", "--device", "cpu"]) == 0, "neither changes a result"
    assert capsys.readouterr().out == first and (tmp_path / "r.json").read_bytes() == before
    for changed in (["--seed", "1"], ["--draws", "1"], ["--blocks", "5"], ["--length", "12"], ["--again", "true"]):
        with pytest.raises(TypeError, match="NoneType"):
            cli.main([*argv, *changed])
    assert (tmp_path / "r.json").read_bytes() == before, "a measurement that fails loses nothing"


def test_interchange_of_an_alignment_with_references(student, tmp_path, capsys):
    output = tmp_path / "results.json"
    argv = ["evaluate", "interchange", student, "--teacher", tiny.teacher(), "--output", str(output), *text_flags()]
    assert cli.main(argv) == 0
    screen = capsys.readouterr().out
    (entry,) = measurements(output)
    names = ["student", "no swap", "random donor", "undistilled"]
    assert list(entry["result"]["models"]) == names
    assert entry["identity"]["undistilled"] == [0, 2]
    assert [pair["teacher"] for pair in entry["examples"]["pairs"]] == [[0, 1], [2, 3]], "FULL"
    for name in names:
        assert (
            0 <= entry["result"]["models"][name]["unswapped"]["iia"] <= 1
            and entry["result"]["models"][name]["swapped"]["tokens"] > 0
        )
        assert f"  {name} " in screen
    sums = torch.tensor(entry["examples"]["sums"])  # names, pairs, examples, where, quantities
    assert sums[0, :, :, 0, 1].sum() / sums[0, :, :, 0, 0].sum() == pytest.approx(
        entry["result"]["models"]["student"]["unswapped"]["iia"]
    )


def test_a_teacher_agrees_with_itself(tmp_path):
    argv = ["evaluate", "interchange", tiny.teacher(), "--teacher", tiny.teacher(), *text_flags()]
    alignment = "{kind: custom, pairs: [{student: [0], teacher: [0]}, {student: [2], teacher: [2]}]}"
    assert cli.main([*argv, "--alignment", alignment, "--output", str(tmp_path / "r.json")]) == 0
    (entry,) = measurements(tmp_path / "r.json")
    for where in ("unswapped", "swapped"):
        numbers = entry["result"]["models"]["student"][where]
        assert numbers["iia"] == 1 and numbers["iia_interval"] == [1, 1] and abs(numbers["counterfactual_kl"]) < 1e-5
    assert (
        entry["result"]["models"]["no swap"]["swapped"]["iia"] < 1
        and entry["result"]["models"]["random donor"]["swapped"]["iia"] < 1
    )
    assert "undistilled" not in entry["result"]["models"], "it is no smaller than its teacher"


def test_a_map_becomes_a_figure_and_an_alignment_that_distill_takes(student, tmp_path, capsys):
    output, alignment = tmp_path / "r.json", tmp_path / "alignment.yaml"
    flags = ["--output", str(output), *text_flags()]
    assert cli.main(["evaluate", "interchange", student, "--teacher", tiny.teacher(), "--map", "true", *flags]) == 0
    assert (tmp_path / f"{slug(student)}-map.png").read_bytes().startswith(b"\x89PNG")
    (entry,) = measurements(output)
    assert len(entry["result"]["models"]["student"]["pairs"]) == 2 * 4
    assert "T3" in capsys.readouterr().out
    argv = ["align", tiny.teacher(), student, *flags, "--file", str(alignment), "--figure", str(tmp_path / "map.svg")]
    assert cli.main(argv) == 0
    kinds = [each["identity"]["kind"] for each in measurements(output)]
    assert kinds == ["interchange", "interchange", "alignment choice"], "the map is there already"
    assert (tmp_path / "map.svg").read_text().count("<svg") == 1
    section = read_section(AlignmentSection, alignment)
    teachers = [pair.teacher[0] for pair in section.pairs]
    assert [pair.student for pair in section.pairs] == [[0], [1]] and teachers == sorted(set(teachers))
    choice = measurements(output)[-1]["result"]
    assert choice["better"] == "chosen" and 0 < choice["interval"][0] < choice["difference"] < choice["interval"][1]
    assert teachers == choice["chosen"] and "undecided" not in capsys.readouterr().out
    overrides = {"alignment.kind": "custom", "alignment.file": str(alignment), "training.steps": "1"}
    assert tiny.run(tmp_path, overrides) and json.loads((tmp_path / "tiny" / "results.json").read_text())["after"]["iia"] >= 0


def test_an_alignment_that_is_not_seen_to_be_better_is_not_taken(tmp_path, capsys):
    lower = build_student(AutoModelForMaskedLM.from_pretrained(tiny.teacher()), [0, 1])
    lower.save_pretrained(tmp_path / "lower")
    tiny.tokenizer().save_pretrained(tmp_path / "lower")
    default = "{kind: custom, pairs: [{student: [0], teacher: [3]}, {student: [1], teacher: [0]}]}"
    file, output = tmp_path / "alignment.yaml", tmp_path / "r.json"
    argv = ["align", tiny.teacher(), str(tmp_path / "lower"), *text_flags(), "--file", str(file), "--output", str(output)]
    assert cli.main([*argv, "--alignment", default, "--score", "iia"]) == 0
    assert "undecided, the default is kept" in capsys.readouterr().out
    choice = measurements(output)[-1]["result"]
    assert choice["better"] == "undecided" and choice["interval"][0] <= 0 <= choice["interval"][1]
    assert [(pair.student, pair.teacher) for pair in read_section(AlignmentSection, file).pairs] == [([0], [3]), ([1], [0])]


def test_an_alignment_by_name_is_the_one_of_the_python_interface(student):
    from diito.evaluation.settings import InterchangeSettings
    from diito.models.load import ModelSource

    settings = InterchangeSettings(
        sources=[tiny.corpus(40)], length=16, teacher=tiny.teacher(), alignment=AlignmentSection(kind="middle")
    )
    identity = find("interchange").identity(settings, ModelSource(student))
    (pair,) = Alignment.middle(4, 2).pairs
    assert [(each["student"], each["teacher"]) for each in identity["pairs"]] == [(pair.student, pair.teacher)]


# --------------------------------------------------------------------------------------------------------- fine-tuning

QUICK = ["--epochs", "1", "--batch", "8", "--seeds", "[1, 2]"]


def test_glue_over_two_seeds(student, glue_folder, tmp_path, capsys):
    output = tmp_path / "r.json"
    argv = ["evaluate", "glue", student, "--data", str(glue_folder), *QUICK, "--length", "16", "--output", str(output)]
    assert cli.main([*argv, "--save", str(tmp_path / "tuned")]) == 0
    screen = capsys.readouterr().out
    assert [(entry["identity"]["task"], entry["identity"]["seed"]) for entry in measurements(output)] == [
        ("rte", 1),
        ("rte", 2),
        ("stsb", 1),
        ("stsb", 2),
    ]
    assert "mean of 2 (without cola, mnli, mrpc, qnli, qqp, sst2)" in screen and "not in the folder: cola, mnli" in screen
    assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == [
        f"{slug(student)}-{name}" for name in ("rte-1", "rte-2", "stsb-1", "stsb-2")
    ]
    assert len(measurements(output)[0]["examples"]["predictions"]["dev"]) == 8
    shutil.rmtree(tmp_path / "tuned" / f"{slug(student)}-rte-2")
    assert cli.main([*argv, "--save", str(tmp_path / "tuned")]) == 0
    assert capsys.readouterr().err.count(" already") == 3, "a model that is not there is made again"
    assert (tmp_path / "tuned" / f"{slug(student)}-rte-2").is_dir()


def test_ner(student, conll_folder, tmp_path, capsys):
    output = tmp_path / "r.json"
    assert (
        cli.main(["evaluate", "ner", student, "--data", str(conll_folder), *QUICK, "--length", "16", "--output", str(output)])
        == 0
    )
    (first, _) = measurements(output)
    assert first["result"]["scores"]["dev"].keys() >= {"accuracy", "f1", "f1_macro"}
    assert first["result"]["baseline"]["dev"]["accuracy"] == 50
    assert "IOB1" in capsys.readouterr().out


def test_squad_leaves_the_official_prediction_file(student, squad_folder, tmp_path):
    output = tmp_path / "r.json"
    argv = ["evaluate", "squad", student, "--data", str(squad_folder), *QUICK, "--length", "24", "--output", str(output)]
    assert cli.main(argv) == 0
    for seed in (1, 2):
        predictions = json.loads((tmp_path / f"{slug(student)}-squad-{seed}.json").read_text())
        assert predictions.keys() == {f"dev{number}" for number in range(4)}
        assert all(isinstance(text, str) for text in predictions.values())


def test_the_whole_suite_interrupted_and_resumed(
    student, glue_folder, conll_folder, squad_folder, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "r.json"
    argv = ["evaluate", "all", student, "--output", str(output), "--interchange.teacher", tiny.teacher()]
    for part in ("perplexity", "interchange"):
        argv += [f"--{part}.{flag[2:]}" if flag.startswith("--") else flag for flag in text_flags()]
    for part, folder, length in (("glue", glue_folder, 16), ("ner", conll_folder, 16), ("squad", squad_folder, 24)):
        argv += [
            f"--{part}.data",
            str(folder),
            f"--{part}.epochs",
            "1",
            f"--{part}.batch",
            "8",
            f"--{part}.length",
            str(length),
        ]

    real, calls = evaluate_module.measure, []

    def interrupted(job, results, *, again):
        calls.append(job.title)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(job, results, again=again)

    monkeypatch.setattr(evaluate_module, "measure", interrupted)
    assert cli.main(argv) == 130
    finished = measurements(output)
    assert len(finished) == 4
    monkeypatch.setattr(evaluate_module, "measure", real)
    capsys.readouterr()
    assert cli.main(argv) == 0
    assert capsys.readouterr().err.count(" already") == 4, "what was finished is not run again"
    assert measurements(output)[:4] == finished
    kinds = [entry["identity"]["kind"] for entry in measurements(output)]
    assert kinds == ["perplexity", "interchange", "glue", "glue", "ner", "squad"]
    assert cli.main([*argv, "--parts", "[ner]"]) == 0 and len(measurements(output)) == 6


# ----------------------------------------------------------------------------------------------------------- bad input


EMBEDDED = "embedded:teacher-minilm-mlm"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["evaluate", "glu", "x"], "KIND: 'glu' is not known; did you mean glue?"),
        (["evaluate", "glue"], "the following arguments are required: MODEL"),
        (["evaluate", "glue", "x", "--taks", "[rte]"], "--taks: unknown flag; did you mean --tasks?"),
        (["evaluate", "glue", "x", "--seeds", "three"], "--seeds: 'three' is not a whole number"),
        (["evaluate", "perplexity", "x", "--layout", "rows"], "--layout: 'rows' is not one of blocks, lines"),
        (["evaluate", "perplexity", EMBEDDED, "--sources", "[no.txt]"], "--sources: no file matches 'no.txt'"),
    ],
)
def test_flags_are_refused_in_one_sentence(capsys, argv, sentence):
    assert sentence in refusal(capsys, *argv)


def test_help_and_mistakes_load_no_torch():
    code = (
        "import sys; from diito import cli\n"
        "for argv in (['evaluate', 'glue', '--help'], ['evaluate', 'glue', 'x', '--batch', 'a'], ['align', '--help']):\n"
        "    try: cli.main(argv)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--learning_rate" in done.stdout and "--score" in done.stdout


def test_models_and_texts_that_do_not_fit(student, glue_folder, tmp_path, capsys):
    short, headless = short_teacher(tmp_path), tiny.teacher("bert without a head")
    diverged = shutil.copytree(tiny.teacher(), tmp_path / "diverged") / "model.safetensors"
    save_file({name: value / 0 for name, value in load_file(diverged).items()}, diverged, metadata={"format": "pt"})
    diverged = diverged.parent
    commands = {
        "perplexity": ["evaluate", "perplexity", student, *text_flags()],
        "interchange": ["evaluate", "interchange", student, *text_flags()],
        "taught": ["evaluate", "interchange", student, "--teacher", tiny.teacher(), *text_flags()],
        "align": ["align", tiny.teacher(), student, *text_flags()],
        "glue": ["evaluate", "glue", student, "--length", "16", "--data", str(glue_folder)],
        "all": ["evaluate", "all", student],
    }
    for command, flags, sentence in (
        ("perplexity", "--length 65", "--length: 65 tokens, but"),
        ("perplexity", "--draws 0", "--draws: 0 must be at least 1"),
        ("perplexity", f"--against {tiny.teacher(words=50)}", "reads the text with another vocabulary"),
        ("perplexity", f"--against {headless}", "has no masked-language-model head"),
        ("perplexity", f"--against {diverged}", "has weights that are not finite numbers"),
        ("perplexity", "--sources []", "--sources: the list is empty"),
        ("interchange", "", "--teacher: interchange compares a student with its teacher"),
        ("interchange", f"--teacher {tiny.teacher(words=50)}", "has another vocabulary than"),
        ("interchange", f"--teacher {tiny.teacher('gpt2')}", "has no masked-language-model head (it is a GPT2LMHeadModel)"),
        ("interchange", f"--teacher {headless}", "has no masked-language-model head"),
        ("interchange", f"--teacher {short}", f"--length: 16 tokens, but {short} has positions for 12"),
        ("taught", "--blocks 2", "--limit: interchange needs at least 3"),
        ("taught", "--share 0", "--share: 0.0 must be above 0"),
        ("taught", "--student_layers [0,1,2]", "--student_layers: [0, 1, 2] of the teacher do not make"),
        ("taught", "--student_layers [0,9]", "--student_layers: [0, 9] are not all among the teacher's layers 0 to 3"),
        (
            "taught",
            "--alignment.kind late-released",
            "late-released needs at least 3 student layers",
        ),
        ("taught", "--figure map.gif", "--figure: map.gif must end in .png"),
        ("taught", "--figure /proc/map.png", "--figure: cannot write in /proc"),
        ("align", f"--file {tiny.recipe_file()}", "tiny.yaml exists and holds no alignment"),
        ("align", "--file x.nm", "--file: x.nm must end in .yaml"),
        ("align", "--share 1", "--share: 1 leaves no token unswapped"),
        ("glue", f"--data {tmp_path}", f"--data: {tmp_path} holds no task of GLUE"),
        ("glue", "--tasks [cola]", "CoLA is not a folder; give the one with the task cola"),
        ("glue", "--tasks [rte,colla]", "--tasks: 'colla' is not one of cola"),
        ("glue", "--tasks [rte,rte]", "--tasks: rte, rte has a task twice"),
        ("glue", "--length 128", "--length: 128 tokens, but"),
        ("glue", "--seeds []", "--seeds: the list is empty"),
        ("glue", "--seeds [1,1]", "--seeds: [1, 1] has a seed twice"),
        ("glue", "--save /proc/x", "--save: cannot write in /proc"),
        ("all", "--parts [glue,nre]", "--parts: 'nre' is not one of"),
        ("all", "--parts []", "--parts: the list is empty"),
        ("all", "--parts [interchange]", "--interchange.teacher: interchange compares"),
    ):
        argv = [*commands[command], "--output", str(tmp_path / "r.json"), *flags.split()]
        answer = refusal(capsys, *argv)
        assert sentence in answer, (argv, answer)
    assert not (tmp_path / "r.json").exists()


def test_a_length_that_is_not_given_fits_the_models(tmp_path, capsys):
    """The teachers have 64 positions, and the shorter of two decides."""
    output, short = tmp_path / "r.json", short_teacher(tmp_path)
    for given, length in (([], 64), (["--against", short], 12)):
        argv = ["evaluate", "perplexity", tiny.teacher(), "--output", str(output), "--sources", tiny.corpus(), "--draws", "1"]
        assert cli.main([*argv, *given]) == 0
        assert f"length: {length} tokens" in capsys.readouterr().err
        assert measurements(output)[-1]["identity"]["length"] == length


def test_a_model_that_cannot_be_run_layer_by_layer_has_a_perplexity_too(tmp_path, monkeypatch):
    """The same weights run as a whole give the same figures."""
    output = str(tmp_path / "r.json")
    argv = ["evaluate", "perplexity", tiny.teacher(), "--output", output, *text_flags(), "--layout", "lines"]
    assert cli.main(argv) == 0
    first = measurements(Path(output))[0]["examples"]

    def refuse(model):
        raise CannotRun(model, "it has no list of layers below a head", field="MODEL")

    monkeypatch.setattr(perplexity_module, "Layered", refuse)
    assert cli.main([*argv, "--again", "true"]) == 0
    second = measurements(Path(output))[0]["examples"]
    assert second["tokens"] == first["tokens"]
    torch.testing.assert_close(torch.tensor(second["losses"]), torch.tensor(first["losses"]), rtol=1e-5, atol=1e-5)


def test_a_diverged_fine_tuning_leaves_the_others_alone(student, glue_folder, tmp_path, capsys, monkeypatch):
    real = evaluate_module.measure

    def diverging(job, results, *, again):
        if job.identity["seed"] == 1:
            raise FloatingPointError("the training loss is not finite; lower the learning rate")
        return real(job, results, again=again)

    monkeypatch.setattr(evaluate_module, "measure", diverging)
    output = tmp_path / "r.json"
    argv = ["evaluate", "glue", student, "--data", str(glue_folder), "--tasks", "[rte]", *QUICK, "--length", "16"]
    assert cli.main([*argv, "--output", str(output)]) == 1
    assert "rte, seed 1: the training loss is not finite" in capsys.readouterr().err
    assert [entry["identity"]["seed"] for entry in measurements(output)] == [2]


def test_the_recipe_beside_a_student_says_which_layers_it_was_made_of(tmp_path):
    run = tiny.run(tmp_path, {"student.layers": "[1, 3]", "training.steps": "1"})
    output = tmp_path / "r.json"
    argv = ["evaluate", "interchange", str(run / "student"), "--teacher", tiny.teacher(), "--output", str(output)]
    assert cli.main([*argv, *text_flags()]) == 0
    (entry,) = measurements(output)
    assert entry["result"]["undistilled_layers"] == entry["identity"]["undistilled"] == [1, 3]
    assert entry["settings"]["teacher"] == tiny.teacher()


@pytest.mark.parametrize("content", ["kind: full", "{kind: custom, file: other.nm}"])
def test_an_alignment_file_without_pairs_is_refused(tmp_path, content):
    file = tmp_path / "alignment.yaml"
    file.write_text(content)
    section = AlignmentSection(kind="custom", file=str(file))
    with pytest.raises(ValueError, match=r"^alignment\.file: .* must hold the pairs of an alignment of kind custom$"):
        build_alignment(section, teacher_layers=4, student_layers=2, seed=0)


@pytest.mark.parametrize("further", ["top: false", "shuffled: true", "pairs_per_batch: 2", "every: 5", "rotation: {path: r}"])
def test_what_an_alignment_file_says_beside_its_pairs_is_refused(tmp_path, further):
    file = tmp_path / "alignment.yaml"
    file.write_text(f"{{kind: custom, pairs: [[0, 1], [1, 3]], {further}}}")
    section = AlignmentSection(kind="custom", file=str(file))
    with pytest.raises(ValueError, match=rf"^alignment\.file: .* sets {further.partition(':')[0]}, and only its pairs"):
        build_alignment(section, teacher_layers=4, student_layers=2, seed=0)
