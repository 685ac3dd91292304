"""Recipes: every one in recipes/ is sound, files and overrides are read strictly, and check() names what is wrong."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from diito.recipe import AlignedPairSection, Recipe, SourceSection, TeacherSection, TrainingSection
from diito.recipe.checks import check
from diito.recipe.file import dump, known_keys, read
from diito.recipe.flags import field_documents
from diito.recipe.keys import hints
from diito.recipe.schema import recipe_schema, starting_recipe
from diito.recipe.training import transformers_arguments
from diito.refusal import Refusal, Refusals
from diito.tasks import check_task

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
DIITO_ROWS = ["diito-middle", "diito-late", "diito-full", "diito-full-random", "diito-full-masked", "diito-full-cos"]
ROWS = ["standard", *DIITO_ROWS]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def with_values(values: dict[str, object]) -> Recipe:
    """The default recipe with some fields set, past all reading."""
    recipe = Recipe()
    for key, value in values.items():
        *sections, name = key.split(".")
        section = recipe
        for each in sections:
            section = getattr(section, each)
        assert hasattr(section, name), key
        setattr(section, name, value)
    return recipe


FURTHER = {"diito-token-swap", "diito-full-blocks", "quickstart", "losses", "swaps", "decoder", "classifier", "structured"}
STUDENTS = {f"student-{form}" for form in ("cut", "random", "model", "frozen", "lora")}


def test_recipes_are_those_of_the_paper_and_a_few_more():
    assert {path.stem for path in RECIPES} == {*ROWS, *STUDENTS, *FURTHER}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_sound_and_reads_back_equal(path, tmp_path):
    recipe = read(path)
    check(recipe)
    assert recipe.name == path.stem
    assert path.read_text().startswith("# ")
    assert read(written(tmp_path, dump(recipe))) == recipe


@pytest.mark.parametrize("name", ROWS)
def test_paper_recipes_hold_the_papers_settings(name):
    recipe = read(RECIPES[0].parent / f"{name}.yaml")
    training = recipe.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    assert (rows, training.num_train_epochs, training.learning_rate) == (240, 3.0, 5e-4)
    assert (training.adam_beta1, training.adam_beta2, training.adam_epsilon) == (0.9, 0.98, 1e-6)
    assert (training.warmup_ratio, training.max_grad_norm) == (0.05, 5.0)
    assert recipe.student.layers == [0, 2, 4, 7, 9, 11]
    assert (recipe.corpus.layout, recipe.corpus.length, recipe.masking.smoothing) == ("lines", 512, 0.7)
    weights = [weight for weight in recipe.objective.weights.as_dict().values() if weight]
    assert sum(weights) == pytest.approx(1) and len(set(weights)) == 1
    assert len(weights) == {"standard": 3, "diito-full-cos": 5}.get(name, 4)
    assert recipe.evaluation.sources[0].split == "validation"


def test_every_field_has_its_documentation():
    sections = {Recipe, SourceSection, AlignedPairSection, *filter(dataclasses.is_dataclass, known_keys().values())}
    for section in sections:
        leaves = {name for name, kind in hints(section).items() if not dataclasses.is_dataclass(kind)}
        assert leaves <= set(field_documents(section)), section


def test_round_trip_keeps_what_looks_like_something_else(tmp_path):
    recipe = with_values(
        {
            "name": "1e5",
            "teacher.revision": "1234567",
            "teacher.tokenizer": "null",
            "output": "ängström: #1",
            "student.layers": [0, 2],
            "corpus.sources": ["no", SourceSection(path="a.txt"), SourceSection(dataset="me/it", config="2024-01-01")],
            "alignment.kind": "custom",
            "alignment.pairs": [AlignedPairSection([1], [2, 3], [(0, 16)], None)],
            "training.learning_rate": 1e-7,
            "training.arguments": {"hub_token": "5e-4", "neftune_noise_alpha": 5e-4, "fsdp_config": {"a": [1, None, "1"]}},
        }
    )
    assert read(written(tmp_path, dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("student.layers", "3", 3),
        ("student.layers", "[0,2,4]", [0, 2, 4]),
        ("student.layers", "released-6", "released-6"),
        ("student.dropout", "null", None),
        ("corpus.share", "0.15", 0.15),
        ("corpus.share", "1", 1.0),
        ("corpus.sources", "[my.txt]", ["my.txt"]),
        ("corpus.sources", "[{path: my.txt}]", [SourceSection(path="my.txt")]),
        ("corpus.sources", [SourceSection(path="my.txt"), "b"], [SourceSection(path="my.txt"), "b"]),
        (
            "alignment.pairs",
            "[{student: [1], teacher: [2,3], student_dimensions: [[0,16]]}]",
            [AlignedPairSection(student=[1], teacher=[2, 3], student_dimensions=[(0, 16)])],
        ),
        ("objective.weights.causal_ce", "0", 0.0),
        ("training.steps", "2", 2),
        ("training.steps", 2, 2),
        ("training.learning_rate", "5e-4", 5e-4),
        ("speed.compile", "true", True),
        ("training.arguments", "{push_to_hub: true}", {"push_to_hub": True}),
        ("name", "3", "3"),
        ("teacher.revision", "12345e6", "12345e6"),
        ("output", "a: [b", "a: [b"),
        ("teacher", "{model: m}", TeacherSection(model="m")),
    ],
)
def test_overrides_win_over_the_file(key, text, value):
    recipe = read(RECIPES[0].parent / "diito-full.yaml", {key: text})
    for name in key.split("."):
        recipe = getattr(recipe, name)
    assert recipe == value and type(recipe) is type(value)


def test_an_override_deep_in_an_overridden_section_wins():
    recipe = read(RECIPES[0], {"objective.weights.ce": "3", "objective.weights": "{mlm: 2}"})
    assert (recipe.objective.weights.mlm, recipe.objective.weights.ce, recipe.objective.weights.cos) == (2, 3, None)


def test_absent_and_empty_sections_keep_their_defaults(tmp_path):
    assert read(written(tmp_path, "name: x\nteacher:\ncorpus: {share: 0.5}\n")).teacher == Recipe().teacher


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("objective:\n  temprature: 3\n", 2, "objective.temprature: unknown key; did you mean objective.temperature?"),
        ("temperature: 3\n", 1, "temperature: unknown key; did you mean objective.temperature?"),
        ("trainig: {}\n", 1, "trainig: unknown key; did you mean training?"),
        (
            "corpus:\n  sources:\n    - pth: a\n",
            3,
            "corpus.sources[0].pth: unknown key; did you mean corpus.sources[0].path?",
        ),
        ("masking: {zzz: 1}\n", 1, "masking.zzz: unknown key; masking has rate, smoothing"),
        ("seed: 1\nname: a\nseed: 2\n", 3, "seed: given twice, first in line 1"),
        ("training:\n  batch: 1\n  batch: 2\n", 3, "training.batch: given twice, first in line 2"),
        ("training:\n  arguments: {f: [{a: 1, a: 2}]}\n", 2, "training.arguments.f[0].a: given twice, first in line 2"),
        ("training:\n  arguments: {a: 1, a: 2}\n", 2, "training.arguments.a: given twice, first in line 2"),
        (
            "alignment:\n  kind: ful\n",
            2,
            "alignment.kind: 'ful' is not one of full, middle, late, late-released, custom, learned",
        ),
        ("training: {batch: x}\n", 1, "training.batch: 'x' is not a whole number"),
        ("training: {batch: 2.0}\n", 1, "training.batch: '2.0' is not a whole number"),
        ("training: {batch: true}\n", 1, "training.batch: 'true' is not a whole number"),
        ("speed: {compile: maybe}\n", 1, "speed.compile: 'maybe' is not true or false"),
        ("training: {clip: null}\n", 1, "training.clip: null is not a number"),
        ("training: {betas: [0.9]}\n", 1, "training.betas: a list is not a list of 2 numbers"),
        ("student: {layers: [0, a]}\n", 1, "student.layers[1]: 'a' is not a whole number"),
        (
            "student: {layers: {a: 1}}\n",
            1,
            "student.layers: a section is not a whole number or a list of whole numbers or text or null",
        ),
        ("student: 3\n", 1, "student: '3' is not a section of keys with values"),
        ("name: [a]\n", 1, "name: a list is not text"),
        (
            "alignment:\n  pairs:\n    - student: [0]\n",
            3,
            "alignment.pairs[0].teacher: missing; a list of whole numbers is needed",
        ),
        (
            "alignment: {pairs: [{student: [0], teacher: [1], teacher_dimensions: [[1]]}]}\n",
            1,
            "alignment.pairs[0].teacher_dimensions[0]: a list is not a list of 2 whole numbers",
        ),
        ("training: {arguments: {a: !!int b}}\n", 1, "training.arguments.a: 'b' is not a value that YAML can hold"),
        ("- 1\n", 1, "the recipe: a list is not a section of keys with values"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(text, line, sentence, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as refusal:
        read(path)
    assert str(refusal.value) == f"{sentence} ({path}, line {line})"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# nothing\n", "FILE: the recipe is empty; diito init writes one to start from"),
        (
            "name: a\n---\nname: b\n",
            "FILE, line 2: not valid YAML: expected a single document in the stream, but found another document",
        ),
        ("name: a\nseed: [\n", "FILE, line 3: not valid YAML: expected the node content, but found '<stream end>'"),
        ("name: a\nseed: \x07\n", "FILE, line 2: not valid YAML: a character that YAML does not allow"),
        (b"name: a\noutput: caf\xe9\n", "FILE, line 2: a recipe must be UTF-8 text, and this byte is not"),
    ],
)
def test_what_is_no_recipe_is_refused(text, sentence, tmp_path):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as refusal:
        read(path)
    assert str(refusal.value).replace(str(path), "FILE") == sentence


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"training.bath": "1"}, "training.bath: unknown key; did you mean training.batch?"),
        ({"batch": "1"}, "batch: unknown key; did you mean training.batch?"),
        ({"objective.weight.ce": "1"}, "objective.weight.ce: unknown key; did you mean objective.weights.ce?"),
        ({"training.batch": "x"}, "training.batch: 'x' is not a whole number"),
        ({"training.batch": ""}, "training.batch: null is not a whole number"),
        ({"corpus.sources": "[{pth: a}]"}, "corpus.sources[0].pth: unknown key; did you mean corpus.sources[0].path?"),
        ({"student.layers": "}"}, "student.layers, line 1: not valid YAML: expected the node content, but found '}'"),
    ],
)
def test_a_bad_override_is_refused_in_one_sentence(overrides, sentence):
    with pytest.raises(ValueError) as refusal:
        read(RECIPES[0], overrides)
    assert str(refusal.value) == sentence


def test_a_recipe_that_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe .*nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="is a folder; a recipe is a YAML file"):
        read(tmp_path)


def test_the_default_recipe_is_sound():
    check(Recipe())


PAIR = AlignedPairSection([0], [1])
CUSTOM = {"alignment.kind": "custom"}
BAD = [({"name": name}, "name") for name in ("", ".", "..", "a/b", "a\\b", " a")] + [
    ({"output": " "}, "output"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"teacher.model": ""}, "teacher.model"),
    ({"student.layers": 0}, "student.layers"),
    ({"student.layers": []}, "student.layers"),
    ({"student.layers": [0, 0]}, "student.layers"),
    ({"student.layers": [2, 1]}, "student.layers"),
    ({"student.layers": [-1, 1]}, "student.layers"),
    ({"student.layers": "released6"}, "student.layers: .*; did you mean released-6?"),
    ({"student.dropout": 1.0}, "student.dropout"),
    ({"corpus.sources": []}, "corpus.sources"),
    ({"corpus.sources": ["a", ""]}, r"corpus.sources\[1\]"),
    ({"corpus.sources": [SourceSection()]}, r"corpus.sources\[0\]"),
    ({"corpus.sources": [SourceSection(path="a", dataset="b")]}, r"corpus.sources\[0\]"),
    ({"corpus.sources": [SourceSection(path="a", config="b")]}, r"corpus.sources\[0\].config"),
    ({"corpus.sources": [SourceSection(path="a", revision="b")]}, r"corpus.sources\[0\].revision"),
    ({"corpus.length": 2}, "corpus.length"),
    ({"corpus.share": 0.0}, "corpus.share"),
    ({"corpus.share": 1.01}, "corpus.share"),
    ({"corpus.share": float("nan")}, "corpus.share"),
    ({"corpus.minimum_tokens": -1}, "corpus.minimum_tokens"),
    ({"corpus.minimum_tokens": 600, "corpus.length": 512, "corpus.layout": "lines"}, "corpus.minimum_tokens"),
    ({"corpus.maximum_unknown": 0.0}, "corpus.maximum_unknown"),
    ({"corpus.workers": 0}, "corpus.workers"),
    ({"masking.rate": 0.0}, "masking.rate"),
    ({"masking.rate": 1.5}, "masking.rate"),
    ({"masking.smoothing": -0.1}, "masking.smoothing"),
    (CUSTOM, "alignment.kind: custom needs exactly one of alignment.pairs and alignment.file"),
    ({**CUSTOM, "alignment.pairs": [PAIR], "alignment.file": "a.nm"}, "alignment.kind: custom needs exactly one"),
    ({**CUSTOM, "alignment.file": "nowhere.nm"}, "alignment.file"),
    ({**CUSTOM, "alignment.pairs": []}, "alignment.pairs"),
    ({**CUSTOM, "alignment.pairs": [PAIR, AlignedPairSection([], [1])]}, r"alignment.pairs\[1\].student"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([0], [2, 2])]}, r"alignment.pairs\[0\].teacher"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([0], [-1])]}, r"alignment.pairs\[0\].teacher"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([6], [1])]}, r"alignment.pairs\[0\].student: .* 0 to 5"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([0], [1], [])]}, r"alignment.pairs\[0\].student_dimensions"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([0], [1], [(2, 2)])]}, r"pairs\[0\].student_dimensions"),
    ({**CUSTOM, "alignment.pairs": [AlignedPairSection([0], [1], None, [(-1, 2)])]}, r"pairs\[0\].teacher_dimensions"),
    ({"alignment.pairs": [PAIR]}, "alignment.pairs: belongs to alignment.kind custom"),
    ({"alignment.file": "a.nm"}, "alignment.file: belongs to alignment.kind custom"),
    ({"alignment.kind": "late-released", "student.layers": 2}, "alignment.kind: late-released needs at least 3"),
    ({"alignment.kind": "late", "student.layers": [3]}, "alignment.kind: late needs at least 2"),
    ({"alignment.top": False, "student.layers": 1}, "alignment.top"),
    ({"alignment.top": False, "alignment.kind": "middle", "student.layers": 2}, "alignment.top"),
    ({"intervention.share": 0.0}, "intervention.share"),
    ({"intervention.share": 1.1}, "intervention.share"),
    ({"intervention.control": "token-swap", "objective.weights.causal_ce": 0.0}, "intervention.control"),
    ({"intervention.control": "token-swap", "alignment.shuffled": True}, "alignment.shuffled"),
    ({"objective.weights.ce": -1.0}, "objective.weights.ce"),
    ({"objective.weights.mse": float("inf")}, "objective.weights.mse"),
    ({f"objective.weights.{name}": 0.0 for name in ("task", "ce", "cos", "causal_ce")}, "objective.weights: all"),
    ({"objective.temperature": 0.0}, "objective.temperature"),
    ({"training.num_train_epochs": 0.0}, "training.num_train_epochs"),
    ({"training.max_steps": 0}, "training.max_steps"),
    ({"training.per_device_train_batch_size": 0}, "training.per_device_train_batch_size"),
    (
        {"training.per_device_train_batch_size": 1},
        "training.per_device_train_batch_size: in-batch pairing needs at least 2 rows",
    ),
    ({"training.gradient_accumulation_steps": 0}, "training.gradient_accumulation_steps"),
    ({"training.logging_steps": 0}, "training.logging_steps"),
    ({"training.save_steps": 0}, "training.save_steps"),
    ({"training.save_total_limit": 0}, "training.save_total_limit"),
    ({"training.eval_steps": -1}, "training.eval_steps"),
    ({"training.learning_rate": 0.0}, "training.learning_rate"),
    ({"training.adam_beta2": 1.0}, "training.adam_beta2"),
    ({"training.adam_epsilon": 0.0}, "training.adam_epsilon"),
    ({"training.weight_decay": -0.1}, "training.weight_decay"),
    ({"training.warmup_ratio": 1.0}, "training.warmup_ratio"),
    ({"training.max_grad_norm": -1.0}, "training.max_grad_norm"),
    ({"training.arguments": {"bf16": True}}, "training.bf16: .* use speed.precision instead"),
    ({"training.arguments": {"remove_unused_columns": True}}, "training.remove_unused_columns"),
    ({"evaluation.sources": [SourceSection()]}, r"evaluation.sources\[0\]"),
    ({"evaluation.length": 1}, "evaluation.length"),
    ({"evaluation.blocks": 0}, "evaluation.blocks"),
    ({"evaluation.batch": 0}, "evaluation.batch"),
]


@pytest.mark.parametrize(("values", "field"), BAD, ids=lambda value: str(value)[:60] if isinstance(value, dict) else "")
def test_check_names_the_field(values, field):
    with pytest.raises(ValueError, match=field) as refusal:
        check(with_values(values))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "values",
    [
        {"training.per_device_train_batch_size": 1, "intervention.pairing": "independent"},
        {"training.per_device_train_batch_size": 1, "objective.weights.causal_ce": 0.0},
        {"evaluation.sources": []},
        {"student.layers": "released-3", "alignment.kind": "late-released"},
        {"alignment.kind": "custom", "alignment.file": __file__},
        {"intervention.control": "token-swap"},
        {"training.arguments": {"push_to_hub": True}},
        {"corpus.share": 1.0, "masking.rate": 1.0, "masking.smoothing": 0.0, "intervention.share": 1.0},
    ],
)
def test_check_leaves_the_edges_alone(values):
    assert check(with_values(values)) is None


def test_names_of_others_are_up_to_date():
    """The names of the section's own fields are fields of TrainingArguments; test_arguments has the others."""
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert known == set(transformers_arguments())
    own = {field.name for field in dataclasses.fields(TrainingSection)} - {"arguments", "warmup_ratio"}
    assert own <= known


def test_all_that_is_wrong_is_refused_at_once(tmp_path):
    path = written(tmp_path, "name: a/b\ntraining: {batch: 0, learnig_rate: 3}\ncorpus: {share: 7, layout: [x]}\n")
    with pytest.raises(Refusals) as refusals:
        read(path, {"masking.rate": "0"})
    told = {each.field: each.sentence for each in refusals.value.refusals}
    assert set(told) == {"name", "training.batch", "training.learnig_rate", "corpus.share", "corpus.layout", "masking.rate"}
    assert told["training.batch"] == f"0 must be at least 1 ({path}, line 2)"
    assert told["masking.rate"] == "0.0 must be above 0 and at most 1"
    assert str(refusals.value).count("\n") == 5
    with pytest.raises(Refusals, match=r"corpus.sources\[0\]: give exactly one(.|\n)*objective.weights: all"):
        weights = {f"objective.weights.{name}": 0.0 for name in ("task", "ce", "cos", "causal_ce")}
        check(with_values({"corpus.sources": [SourceSection()], **weights}))


OLDER = {
    "epochs: 2": ("num_train_epochs", 2.0),
    "steps: 7": ("max_steps", 7),
    "batch: 3": ("per_device_train_batch_size", 3),
    "accumulation: 2": ("gradient_accumulation_steps", 2),
    "betas: [0.8, 0.7]": ("adam_beta2", 0.7),
    "epsilon: 1e-7": ("adam_epsilon", 1e-7),
    "warmup: 0.5": ("warmup_ratio", 0.5),
    "clip: 0": ("max_grad_norm", 0.0),
    "device: cpu": ("use_cpu", True),
    "log_every: 3": ("logging_steps", 3),
    "save_every: 3": ("save_steps", 3),
    "keep: 3": ("save_total_limit", 3),
    "evaluate_every: 3": ("eval_steps", 3),
}


@pytest.mark.parametrize("line", OLDER)
def test_the_names_of_0_1_0_go_on_working(line, tmp_path):
    field, value = OLDER[line]
    assert getattr(read(written(tmp_path, f"training: {{{line}}}")).training, field) == value
    name, _, text = line.partition(": ")
    assert getattr(read(RECIPES[0], {f"training.{name}": text}).training, field) == value
    assert set(TrainingSection.ALIASES) == {line.partition(":")[0] for line in OLDER}


def test_any_argument_of_transformers_stands_in_training(tmp_path):
    text = "training: {warmup_steps: 9, lr_scheduler_type: cosine, arguments: {optim: sgd}}\n"
    recipe = read(written(tmp_path, text), {"training.dataloader_num_workers": "2"})
    assert recipe.training.warmup_steps == 9
    assert recipe.training.arguments == {"lr_scheduler_type": "cosine", "optim": "sgd", "dataloader_num_workers": 2}
    check(recipe)
    assert "  lr_scheduler_type: cosine" in dump(recipe) and read(written(tmp_path, dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("batch: 1, per_device_train_batch_size: 2", "training.per_device_train_batch_size: the same as training.batch"),
        ("optim: sgd, arguments: {optim: sgd}", "training.optim: the same as training.arguments.optim; give one"),
        ("device: gpu", "training.device: 'gpu' is not one of auto, cpu"),
        ("betas: [0.9, 1]", r"training.betas\[1\]: 1.0 must be at least 0 and below 1"),
        ("lr_schedular_type: x", "training.lr_schedular_type: unknown key; did you mean training.lr_scheduler_type"),
    ],
)
def test_other_names_are_refused_as_they_were_written(text, sentence, tmp_path):
    with pytest.raises(Refusal, match=f"^{sentence}"):
        read(written(tmp_path, f"training: {{{text}}}"))
    with pytest.raises(Refusal, match=r"training.max_steps: the same as training.steps; give one of them"):
        read(RECIPES[0], {"training.steps": "1", "training.max_steps": "1"})


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("corpus: {sources: my.txt}", "corpus.sources", ["my.txt"]),
        ("corpus: {sources: {path: my.txt}}", "corpus.sources", [SourceSection(path="my.txt")]),
        ("training: {report_to: wandb}", "training.report_to", ["wandb"]),
        ("objective: {losses: a.b:c}", "objective.losses", ["a.b:c"]),
        ("student: {layers: 3}", "student.layers", 3),
        ("evaluation: {sources: null}", "evaluation.sources", None),
        ("evaluation: {sources: []}", "evaluation.sources", []),
    ],
)
def test_one_item_is_a_list_of_it(line, key, value, tmp_path):
    recipe = read(written(tmp_path, line))
    assert functools.reduce(getattr, key.split("."), recipe) == value
    assert read(written(tmp_path, dump(recipe))) == recipe


def test_weights_name_the_tasks_loss_and_the_users_own(tmp_path):
    recipe = read(written(tmp_path, "objective: {losses: own:huber, weights: {mlm: 1, huber: 2, causal_huber: 3}}"))
    weights = {name: weight for name, weight in recipe.objective.weights.as_dict().items() if weight}
    assert weights == {"task": 1, "ce": 0.25, "cos": 0.25, "causal_ce": 0.25, "huber": 2, "causal_huber": 3}
    check(recipe)
    assert read(written(tmp_path, dump(recipe))) == recipe
    with pytest.raises(Refusal, match=r"objective.weights.task: the same as objective.weights.mlm; give one of them"):
        read(written(tmp_path, "objective: {weights: {mlm: 1, task: 2}}"))
    with pytest.raises(Refusal, match=r"objective.weights.huber: 'x' is not a number"):
        read(written(tmp_path, "objective: {weights: {huber: x}}"))
    with pytest.raises(Refusal, match=r"objective.weights.causal_cs: no loss has that name; did you mean .*causal_cos"):
        check(read(written(tmp_path, "objective: {weights: {causal_cs: 1}}")))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"intervention.positions": "maskd"}, "intervention.positions: 'maskd' is not known; did you mean masked"),
        ({"intervention.pairing": "x"}, "intervention.pairing: 'x' is not known; give one of in-batch, independent"),
    ],
)
def test_parts_that_there_are_not(overrides, sentence):
    with pytest.raises(Refusal, match=sentence):
        check(read(RECIPES[0], overrides))
    check(read(RECIPES[0], {key: "my_package.parts:mine" for key in overrides}))


def test_a_task_that_there_is_not():
    with pytest.raises(Refusal, match="task: 'masked' is not known; did you mean masked-lm"):
        check_task("masked")
    check_task("my_package.tasks:Mine")


def test_recipes_that_come_with_diito_are_read_by_their_names():
    assert read("recipe:quickstart") == read(RECIPES[0].parent / "quickstart.yaml")
    with pytest.raises(Refusal, match=r"diito has no recipe of the name quickstat; did you mean recipe:quickstart"):
        read("recipe:quickstat")


def test_the_schema_accepts_what_the_reader_accepts():
    validator = jsonschema.Draft202012Validator(json.loads(recipe_schema()))
    validator.check_schema(validator.schema)
    accepted = [yaml.safe_load(re.sub(r" (\d)e-", r" \1.0e-", path.read_text(encoding="utf-8"))) for path in RECIPES]
    accepted += [yaml.safe_load(starting_recipe("masked-lm", name="x")), {"corpus": {"sources": "a.txt"}, "teacher": None}]
    accepted += [{"training": {"betas": [0.9, 0.9], "device": "cpu", "optim": "sgd"}, "objective": {"weights": {"own": 1}}}]
    for content in accepted:
        assert not [error.message for error in validator.iter_errors(content)]
    for content in ({"corpus": {"share": 2}}, {"training": {"bath": 3}}, {"seed": "x"}, {"alignment": {"kind": "ful"}}):
        assert [*validator.iter_errors(content)]
    rate = validator.schema["$defs"]["MaskingSection"]["properties"]["rate"]
    assert rate["description"] == "Share of a row's maskable tokens that is predicted."
    assert (rate["default"], rate["exclusiveMinimum"], rate["maximum"]) == (0.15, 0, 1)


def test_a_starting_recipe_has_every_field_and_its_comments_are_the_defaults(tmp_path):
    text = starting_recipe("masked-lm", name="mine")
    recipe = read(written(tmp_path, text))
    check(recipe)
    assert (recipe.name, recipe.task, recipe.teacher.model) == ("mine", "masked-lm", "embedded:teacher-minilm-mlm")
    commented = re.sub(r"^( *)# (\w+: )", r"\1\2", text, flags=re.MULTILINE)  # the fields that stand in comments
    fields = {key.rpartition(".")[2] for key in known_keys()} - {"arguments", "further"}
    assert fields <= set(re.findall(r"^ *(\w+):", commented, flags=re.MULTILINE))


def test_the_names_of_0_1_0_are_read_and_set_in_python():
    training = TrainingSection()
    training.betas, training.device, training.clip = (0.5, 0.6), "cpu", 2.0
    assert (training.adam_beta1, training.adam_beta2, training.use_cpu, training.max_grad_norm) == (0.5, 0.6, True, 2.0)
    assert (training.betas, training.device, training.keep) == ((0.5, 0.6), "cpu", training.save_total_limit)


def test_a_path_set_in_python_is_text():
    recipe = Recipe()
    recipe.corpus.cache = Path("here")
    check(recipe)
    assert "cache: here" in dump(recipe)
