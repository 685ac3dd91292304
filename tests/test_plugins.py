"""Parts of the user's own: by import path from a file beside the recipe, by entry point, or refused with the nearest name."""

import sys
from importlib.metadata import EntryPoint

import pytest
import tiny

from diito import plugins
from diito.cli import main
from diito.recipe.checks import check
from diito.refusal import Refusal
from diito.run.losses import own_losses as find_own_losses
from diito.run.parts import survey

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


LOSSES = """
from diito.method.losses import LOGITS, Loss


def gap(student, teacher, labels):
    return (student.logits - teacher.logits.float()).abs().mean(-1)


gap_loss = Loss(gap)
swapped = Loss(gap, counterfactual=True)
causal_gap = Loss(gap)
number = 3
"""


@pytest.fixture
def own_losses(tmp_path, monkeypatch):
    """A module of losses in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_gaps.py").write_text(LOSSES, encoding="utf-8")
    (tmp_path / "broken_part.py").write_text("1 / 0\n", encoding="utf-8")
    yield tmp_path
    sys.modules.pop("own_gaps", None)


def surveyed(folder, overrides):
    recipe = tiny.recipe(folder, overrides)
    check(recipe)
    return survey(recipe)


NO_CAUSAL = {"objective.weights.causal_ce": "0"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"objective.losses": "[own_gaps:gap_loss]"}, r"objective.losses\[0\]: 'gap_loss' has no weight"),
        (
            {"objective.losses": "[own_gaps:swapped, other:swapped]", "objective.weights.swapped": "1"},
            r"objective.losses\[1\]: 'swapped' is the name of own_gaps:swapped too",
        ),
        (
            {"objective.losses": "[own_gaps:causal_gap]", "objective.weights.causal_gap": "1"},
            "objective.weights.causal_gap: a name with causal_ in front",
        ),
        (
            {
                "objective.losses": "[own_gaps:gap_loss]",
                "objective.weights.gap_loss": "1",
                "intervention.control": "token-swap",
                **NO_CAUSAL,
            },
            "intervention.control: token-swap needs a weight of a loss",
        ),
        (
            {
                "objective.losses": "[own_gaps:swapped]",
                "objective.weights.swapped": "1",
                "training.batch": "1",
                **NO_CAUSAL,
            },
            "training.per_device_train_batch_size: in-batch pairing",
        ),
        (
            {"intervention.positions": "own_gaps:number"},
            "positions: own_gaps:number is a int; it must be a function",
        ),
        ({"intervention.pairing": "own_gaps:number"}, "pairing: own_gaps:number is a int; it must be a function"),
        ({"intervention.positions": "broken_part:x"}, "broken_part:x cannot be imported: ZeroDivisionError: division by zero"),
        ({"intervention.positions": ".broken:x"}, "intervention.positions: '.broken:x' is not known"),
    ],
)
def test_own_parts_that_do_not_fit_are_refused(overrides, sentence, own_losses):
    with pytest.raises(ValueError, match=sentence):
        surveyed(own_losses, overrides)


def test_a_row_decides_whether_counterfactual_runs_are_made(own_losses):
    overrides = {"objective.losses": "[own_gaps:swapped]", "objective.weights.swapped": "1", **NO_CAUSAL}
    recipe = surveyed(own_losses, overrides | {"intervention.control": "token-swap"}).recipe
    parts, _ = tiny.parts_and_trainer(recipe)
    assert parts.plan.has_counterfactual
    assert "none: no loss reads" not in str(parts.plan)


def test_an_installed_loss_with_a_weight_is_loaded_by_its_name(own_losses, monkeypatch):
    entry = EntryPoint("gap_loss", "own_gaps:gap_loss", "diito.losses")
    offered = {"diito.losses": [entry]}
    monkeypatch.setattr(
        plugins, "entry_points", lambda group, name=None: [e for e in offered.get(group, ()) if name in (None, e.name)]
    )
    recipe = surveyed(own_losses, {"objective.weights.causal_gap_loss": "0.5"}).recipe
    assert list(find_own_losses(recipe)) == ["gap_loss"]


def test_a_broken_kind_of_evaluation_of_a_package_leaves_the_others_alone(own_losses, monkeypatch, capsys):
    entry = EntryPoint("broken", "broken_part:kind", "diito.evaluations")
    monkeypatch.setattr(plugins, "entry_points", lambda group, name=None: [entry] if name in (None, "broken") else [])
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--help"])
    assert stopped.value.code == 0
    assert "diito: left out: KIND: broken cannot be imported: ZeroDivisionError" in capsys.readouterr().err


def test_the_longest_sequence_is_read_from_the_tokenizer_that_is_given(own_losses, monkeypatch):
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = 20
    tokenizer.save_pretrained(own_losses / "tokenizer")
    monkeypatch.setattr("diito.run.parts.longest_sequence", lambda config: None)
    overrides = {"teacher.tokenizer": str(own_losses / "tokenizer"), "corpus.length": "null"}
    assert surveyed(own_losses, overrides).recipe.corpus.length == 20
