"""The kinds of evaluation as rows: one of the user's own, what a row needs, and ``--limit`` for all of them."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tiny

import grids
from diito import cli
from diito.evaluation import kinds
from diito.evaluation.kinds import KINDS, check_packages, find, refusals_under
from diito.evaluation.settings import AllSettings, InterchangeSettings, PerplexitySettings
from diito.models.load import ModelSource
from diito.recipe import AlignmentSection
from diito.recipe.file import from_flags
from diito.refusal import Refusal

OWN = '''
from dataclasses import asdict, dataclass

from diito.evaluation.kinds import Job, Kind
from diito.refusal import Refusal
from diito.tables import Table


@dataclass
class WordSettings:
    """How many words the model's tokenizer has."""

    longest: int = 3
    """Letters of the words that are counted."""


def identity(settings, source, *, depth=None):
    return {"kind": "words", "model": source.name, "longest": settings.longest}


def jobs(settings, source, *, device, results):
    if settings.longest < 1:
        raise Refusal("longest", f"{settings.longest} must be at least 1")

    def run():
        from diito.models.load import load_tokenizer

        words = [word for word in load_tokenizer(source).get_vocab() if len(word) <= settings.longest]
        return {"words": len(words)}, {"words": words}

    return [Job(identity(settings, source), asdict(settings), "words", source.name, run)]


def tables(settings, measurements):
    rows = [(each.model, str(each.result["words"])) for each in measurements]
    return [Table("words", "Words", "", ("model", "words"), [("", rows)])]


words = Kind("words", WordSettings, jobs, identity, tables)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_kinds.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_kinds", raising=False)
    return "my_kinds:words"


def test_a_kind_of_the_users_own_is_measured_by_its_import_path(own, tmp_path, capsys):
    output = tmp_path / "r.json"
    argv = ["evaluate", own, tiny.teacher(), "--longest", "2", "--output", str(output)]
    assert cli.main(argv) == 0
    (entry,) = json.loads(output.read_text())["measurements"]
    assert entry["identity"] == {"kind": "words", "model": tiny.teacher(), "longest": 2} and entry["result"]["words"] > 0
    assert f"words: {tiny.teacher()}" in capsys.readouterr().out
    assert cli.main([*argv[:3], "--longest", "0", "--output", str(output)]) == 2
    assert capsys.readouterr().err == "diito: --longest: 0 must be at least 1\n"


def test_what_is_no_kind_is_refused(own):
    for reference, sentence in (("glu", "did you mean glue"), ("my_kinds:OWN", "has no OWN"), ("my_kinds:jobs", "must be a")):
        with pytest.raises(Refusal, match=sentence) as caught:
            find(reference)
        assert caught.value.field == "KIND"


def test_the_table_loads_nothing_heavy():
    code = "import sys, diito.evaluation.kinds; assert not {'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_packages_are_asked_for_by_the_kind_that_needs_them(monkeypatch):
    real = kinds.importlib.util.find_spec
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    check_packages(find("perplexity"), PerplexitySettings())
    check_packages(find("interchange"), InterchangeSettings())
    check_packages(find("all"), AllSettings())
    with pytest.raises(Refusal, match=r"^matplotlib is not installed; install it with: pip install 'diito\[evaluation\]'$"):
        check_packages(find("interchange"), InterchangeSettings(map=True))


def test_every_part_of_all_is_a_kind_with_these_settings():
    for name in kinds.PARTS:
        assert isinstance(getattr(AllSettings(), name), KINDS[name].settings)


def test_a_refusal_names_the_field_as_the_user_writes_it():
    settings = InterchangeSettings(alignment=AlignmentSection(kind="custom"))
    for field, shown in (
        ("share", "--share"),
        ("alignment.kind", "--alignment.kind"),
        ("alignment.pairs[0].student", "--alignment.pairs[0].student"),
        ("teacher.model", "teacher.model"),  # a recipe's: the settings hold a name there, and no section
        ("MODEL", "MODEL"),
    ):
        with pytest.raises(Refusal) as caught, refusals_under("--", settings):
            raise Refusal(field, "is wrong")
        assert str(caught.value) == f"{shown}: is wrong"


# -------------------------------------------------------------------------------------------------------------- limit


def test_limit_has_the_name_blocks_too():
    assert PerplexitySettings(blocks=5) == PerplexitySettings(limit=5)
    assert InterchangeSettings(blocks=None).limit is None and InterchangeSettings().limit == 200
    assert dataclasses.replace(InterchangeSettings(blocks=5), limit=7).limit == 7


def test_limit_bounds_the_scored_rows_of_a_fine_tuning(tmp_path):
    kind, source = find("glue"), ModelSource(tiny.teacher())
    given = {"data": str(grids.glue_folder(tmp_path / "glue")), "tasks": ["rte"], "length": 16, "epochs": 1, "batch": 8}
    whole, same, part = (
        kind.jobs(kind.settings(**given, limit=limit), source, device="cpu", results=None)[0] for limit in (None, 8, 3)
    )
    assert whole.identity == same.identity, "the split has 8 rows"
    assert part.identity["data"]["train"] == whole.identity["data"]["train"]
    assert part.identity["data"]["dev"] != whole.identity["data"]["dev"]
    result, examples = part.run()
    assert result["scored_rows"] == {"dev": 3} and result["train_rows"] == 24
    assert len(examples["predictions"]["dev"]) == 3


def test_limit_and_blocks_together_are_refused():
    for flags in ({"blocks": "5", "limit": "7"},):
        with pytest.raises(ValueError, match="give one of them"):
            from_flags(PerplexitySettings, flags)
    with pytest.raises(ValueError, match="the same as limit"):
        PerplexitySettings(blocks=5, limit=7)
    with pytest.raises(ValueError, match="must be at least 1"):
        from_flags(PerplexitySettings, {"blocks": "0"})
