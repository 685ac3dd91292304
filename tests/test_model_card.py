"""The model card: what the hub understands of it, and what it takes from the teacher's own card."""

import dataclasses
import functools
import shutil

import pytest
import tiny
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError

from diito.models import card
from diito.models.card import card_of
from diito.models.load import ModelSource
from diito.recipe import SourceSection
from diito.run.model_card import model_card

RESULTS = {key: {"perplexity": 5.0, "iia": 0.5} for key in ("teacher", "before", "after")}
SAID = "---\nlicense: other\nlicense_name: own\nlanguage: en\ntags: [a]\n---\n# A teacher\n"


@functools.cache
def plan():
    return tiny.parts_and_trainer(tiny.recipe(tiny.FOLDER / "card"))[0].plan


def made(results=RESULTS, **sections):
    """The card of the tiny plan, with other fields of its recipe: ``teacher={"model": ...}``."""
    recipe = plan().recipe
    changed = {name: dataclasses.replace(getattr(recipe, name), **fields) for name, fields in sections.items()}
    other = dataclasses.replace(plan(), recipe=dataclasses.replace(recipe, **changed))
    return ModelCard(model_card(other, results, kind="model", pipeline="fill-mask", head="AutoModelForMaskedLM"))


def test_of_a_teacher_on_the_hub_the_licence_and_languages_are_kept(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(SAID)
    asked = []

    def download(*arguments, **keywords):
        asked.append((arguments, keywords))
        return str(tmp_path / "README.md")

    monkeypatch.setattr(card, "hf_hub_download", download)
    held_out = SourceSection(dataset="org/text", config="small", split="validation")
    said = made(teacher={"model": "org/teacher", "revision": "v2"}, evaluation={"sources": [held_out]}).data
    assert asked == [(("org/teacher", "README.md"), {"revision": "v2"})]
    assert (said.license, said.license_name, said.language) == ("other", "own", ["en"])
    assert (said.base_model, said.base_model_relation) == ("org/teacher", "finetune")
    figure = next(each for each in said.eval_results if each.metric_type == "iia")
    assert (figure.metric_value, figure.dataset_type, figure.dataset_split) == (0.5, "org/text", "validation")
    adapter = made(teacher={"model": "org/teacher"}, student={"lora": {"r": 2, "merge": False}}).data
    assert (adapter.base_model_relation, adapter.library_name) == ("adapter", "peft")


def test_where_there_is_no_card_the_licence_is_said_not_to_be_known(monkeypatch):
    def download(*arguments, **keywords):
        raise EntryNotFoundError("none")

    monkeypatch.setattr(card, "hf_hub_download", download)
    without = made(teacher={"model": "org/teacher"})
    assert without.data.license is None and "The licence: the teacher's card names none" in without.text
    assert "no text was held out" in made({}).text and "random donor" not in made({}).text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SAID, {"license": "other", "license_name": "own", "language": ["en"]}),
        ("---\nlicense: [a, b]\nlanguage: [en, no]\n---\n", {}),  # YAML reads Norwegian as false
        ("---\nlicense: mit\nlanguage: [en, de]\n---\n", {"license": "mit", "language": ["en", "de"]}),
        ("---\nlicense: {\n---\n", {}),
        ("---\n- a list\n---\n", {}),
        ("no metadata", {}),
        (None, {}),
    ],
)
def test_what_a_local_teachers_card_says(text, said, tmp_path):
    folder = tmp_path / "teacher"
    shutil.copytree(tiny.teacher(), folder)
    if text is not None:
        (folder / "README.md").write_text(text)
    assert card_of(ModelSource(str(folder))) == said


def test_no_alignment_where_nothing_is_swapped():
    recipe = tiny.recipe(tiny.FOLDER / "plain", {"objective.weights": "{task: 1, ce: 1, cos: 0, causal_ce: 0}"})
    plain = tiny.parts_and_trainer(recipe)[0].plan
    assert "## Alignment" in made().text
    assert "## Alignment" not in model_card(plain, RESULTS, kind="model", pipeline="fill-mask")
