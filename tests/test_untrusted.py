"""Nothing runs and nothing leaves its folder: names, labels and tokens that a user or the hub wrote as they like."""

import dataclasses
import functools
import html.parser
import json
import re

import pytest
import tiny
from huggingface_hub import ModelCard

from diito import cli
from diito.experiments import grid as grids
from diito.recipe.file import dump
from diito.run.distill import distill
from diito.run.model_card import model_card
from diito.tables import Table, markdown_code, markdown_text

NASTY = [
    "<script>alert(1)</script>",
    "a | b \\| c",
    "`code` ```fence",
    "line\nbreak\r\n\u2028| next |",
    "---\nlicense: stolen\n---",
    "[click](javascript:alert)",
    "![x](y) & &lt;b&gt;",
    "'\" onload=x",
]
nasty = pytest.mark.parametrize("text", NASTY)


class _Page(html.parser.HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.attributes = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def table(text):
    return Table(text, text, text, [text, text], [(text, [[text, text]])])


@nasty
def test_a_table_shows_any_text_as_text(text):
    plain, made = _Page(table("plain").html()), _Page(table(text).html())
    assert made.tags == plain.tags and len(made.attributes) == len(plain.attributes)
    assert sum(text in each for each in made.texts) == 7
    lines, expected = table(text).markdown().splitlines(), table("plain").markdown().splitlines()
    assert [_cells(line) for line in lines[2:6]] == [_cells(line) for line in expected[2:6]] == [2] * 4
    assert not re.search(r"<[a-z/]|(?<!\\)`|\]\(", "\n".join(lines))


def _cells(line):
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


@nasty
def test_code_ends_where_it_should(text):
    fence, *inside, last = markdown_code(f"{text}\n````\n", "text").split("\n")
    assert fence == "`````text" and last == "`````" and last not in inside
    assert len(markdown_text(text).splitlines()) <= 1


@functools.cache
def _plan():
    return tiny.parts_and_trainer(tiny.recipe(tiny.FOLDER / "untrusted"))[0].plan


@pytest.mark.parametrize("name", [text for text in NASTY if "/" not in text and "\\" not in text] + ["true", "5e-4", "- a: b"])
def test_a_model_card_says_of_any_name_what_it_is_and_nothing_else(name):
    plan = _plan()
    made = dataclasses.replace(plan.recipe, name=name)
    results = {key: {"perplexity": 5.0} for key in ("teacher", "before", "after")}
    card = ModelCard(model_card(dataclasses.replace(plan, recipe=made), results, kind="model", pipeline="fill-mask"))
    assert card.data.model_name == made.name == name
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags", "model-index"}
    assert card.text.strip().startswith(f"# {markdown_text(name)}\n")
    outside = re.sub(r"^(`{3,})\w+\n.*?\n\1$", "", card.text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside and "stolen" not in outside.replace(markdown_text(name), "")
    assert dump(made).rstrip() in card.text


@pytest.mark.parametrize("name", ["../../x", "..", ".", "/x", "a/b", "a\\b", "", " a", "a\0b"])
def test_a_run_stays_in_its_folder(name, tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    code = cli.main(["distill", tiny.recipe_file(), "--output", str(tmp_path / "runs"), f"--name={name}"])
    assert code == 2 and capsys.readouterr().err.startswith("diito: name: ")
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


@pytest.mark.parametrize("name", ["../../x", "..", ".", "/x", "a/b", "", "a\nb", "a\0b"])
@pytest.mark.parametrize("field", ["name", "condition", "reference"])
def test_a_grid_stays_in_its_folder(field, name, tmp_path):
    names = {"name": "g", "condition": "c", "reference": "r", field: name}
    content = {
        "name": names["name"],
        "recipe": tiny.recipe_file(),
        "output": str(tmp_path / "experiments"),
        "conditions": [{"name": names["condition"], "method": "full"}],
        "references": [{"name": names["reference"], "model": tiny.teacher()}],
    }
    path = tmp_path / "grid.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"name|condition"):
        grids.read(path, {}, {})


def test_a_report_of_measurements_from_elsewhere_stays_in_its_folder_and_shows_text(tmp_path):
    score = {"iia": 0.5, "effective_iia": 0.2, "counterfactual_kl": 1.0, "efficacy": 0.1}
    pairs = [{"student": [0], "teacher": [layer], "unswapped": score} for layer in range(2)]
    name = "../../<script>"
    row = {"name": name, "label": NASTY[0], "group": NASTY[1], "paper": None, "method": "full", "layers": 2, "share": 1.0}
    evaluation = {"row": name, "kind": "map", "seed": 1, "task": None, "fine_tuning_seed": None, "done": True}
    evaluation |= {"result": {"pairs": pairs}, "environment": {}, "seconds": 1.0}
    perplexity = evaluation | {"kind": "perplexity", "result": {"perplexity": 5.0}}
    content = {"format": 1, "name": NASTY[0], "rows": [row], "students": [], "evaluations": [evaluation, perplexity]}
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    (inside / "measurements.json").write_text(json.dumps(content))
    assert cli.main(["report", str(inside / "measurements.json")]) == 0
    assert all(path.is_relative_to(inside / "report") for path in tmp_path.rglob("*.*") if path.name != "measurements.json")
    for page in ("report.html", "report.md"):
        assert "<script" not in (inside / "report" / page).read_text()


def test_a_recipe_runs_no_yaml_tag(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir [{tmp_path / 'ran'}]\n")
    assert cli.main(["distill", str(path)]) == 2
    assert capsys.readouterr().err.startswith("diito: ") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["model", "tokenizer"])
def test_code_that_comes_with_a_model_is_not_run(place, tmp_path, capsys):
    folder = tmp_path / "m"
    model, _ = tiny.parts_and_trainer(tiny.recipe(tmp_path))
    model.student.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    name = "config.json" if place == "model" else "tokenizer_config.json"
    content = json.loads((folder / name).read_text())
    own = {"AutoConfig": "own.Own", "AutoModelForMaskedLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    kind = {"model_type": "own-kind"} if place == "model" else {"tokenizer_class": "Own"}
    (folder / name).write_text(json.dumps(content | {"auto_map": own} | kind))
    cli.main(["distill", tiny.recipe_file(), "--teacher.model", str(folder), "--output", str(tmp_path), "--plan"])
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    import pickle

    import torch

    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    changes = {"training.steps": 2, "training.save_every": 1}
    folder = tiny.run(tmp_path, changes)
    (folder / "results.json").unlink()
    checkpoint = folder / "checkpoints" / "checkpoint-2"
    (checkpoint / "checksums.json").unlink()
    (folder / "manifest.json").unlink()  # as of 0.1.0, which wrote neither: so there is nothing to compare with
    torch.save({"state": Runs()}, checkpoint / "optimizer.pt")
    with pytest.raises((pickle.UnpicklingError, RuntimeError, ValueError)):
        distill(tiny.recipe(tmp_path, changes | {"training.steps": 2}), resume=True)
    assert not (tmp_path / "ran").exists()
