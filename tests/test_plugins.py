"""Parts of the user's own: by import path from a file beside the recipe, by entry point, or refused with the nearest name."""

import sys
from importlib.metadata import EntryPoint

import pytest
import tiny

from diito import plugins
from diito.cli import main
from diito.refusal import Refusal

KNOWN = {"consecutive": 1, "random": 2}
RULES = '''
from diito.method.positions import swap_counts


def last(eligible, masked, share, generator):
    """The last eligible positions of each row."""
    return eligible & (eligible.flip(1).cumsum(1).flip(1) <= swap_counts(eligible, share))


def neighbour(rows, generator):
    """The next row, round the batch."""
    import torch

    return torch.arange(rows, device=generator.device).roll(-1)
'''


def load(reference):
    return plugins.load(reference, field="intervention.positions", group="diito.positions", known=KNOWN)


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The current directory, with a module of the user's own in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rules.py").write_text(RULES, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("own_rules", None)


def test_a_known_name_an_entry_point_and_an_import_path(beside, monkeypatch):
    entry = EntryPoint("first", "own_rules:neighbour", "diito.positions")
    chosen = {"diito.positions": [entry]}
    monkeypatch.setattr(plugins, "entry_points", lambda group, name=None: [e for e in chosen[group] if name in (None, e.name)])
    assert load("random") == 2
    assert load("own_rules:last").__doc__ == "The last eligible positions of each row."
    assert load("first") is load("own_rules:neighbour")


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("randm", "'randm' is not known; did you mean random? (or an import path, such as my_package.module:name)"),
        ("zzz", "'zzz' is not known; give one of consecutive, random (or an import path, such as my_package.module:name)"),
        ("own_rules:lost", "own_rules has no lost; did you mean own_rules:last?"),
        ("no_such_module:x", "no_such_module:x cannot be imported: No module named 'no_such_module'"),
    ],
)
def test_what_there_is_not_is_refused(reference, sentence, beside):
    with pytest.raises(Refusal) as refusal:
        load(reference)
    assert (refusal.value.field, refusal.value.sentence) == ("intervention.positions", sentence)


def test_a_rule_and_a_pairing_of_the_users_own_file_train(beside, capfd):
    own = ["--intervention.positions", "own_rules:last", "--intervention.pairing", "own_rules:neighbour"]
    assert main(["distill", tiny.recipe_file(), "--training.steps", "1", *own]) == 0
    assert main(["distill", tiny.recipe_file(), "--name", "other", "--intervention.pairing", "own_rules:nighbour"]) == 2
    assert "intervention.pairing: own_rules has no nighbour; did you mean own_rules:neighbour?" in capfd.readouterr().err
    assert not (beside / "runs" / "other").exists()
