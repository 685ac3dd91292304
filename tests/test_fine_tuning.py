"""Fine-tuning of tiny models: what the seed determines, predictions against one example at a time, what makes a job another
job, and the refusals of models, settings and lengths."""

import dataclasses
import gzip
import json
import random
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)

from diito.evaluation.fine_tuning import train as fine_tuning
from diito.evaluation.fine_tuning.train import FineTuning, check_fit, chosen_rows, encode, fine_tune, predict
from diito.evaluation.kinds import find
from diito.evaluation.results import slug
from diito.evaluation.settings import GlueSettings
from diito.models.load import (
    ModelSource,
    check_files,
    check_head,
    check_masked_language_model,
    digest,
    load_configuration,
    load_head,
    load_masked_language_model,
    load_tokenizer,
    longest_sequence,
)
from diito.suites.glue import missing_tasks
from diito.suites.suite import Scores, Task

HOW = FineTuning(seed=1, learning_rate=1e-3, batch=8, epochs=2, length=16, examples=None, precision="fp32")


def texts(count, seed):
    """Rows of 2 to 12 words; in every second one w0 occurs, and the label says so."""
    draws = random.Random(seed)
    rows = {"text": [], "label": []}
    for number in range(count):
        words = [f"w{draws.randrange(1, 8)}" for _ in range(draws.randint(2, 12))]
        if number % 2:
            words[draws.randrange(len(words))] = "w0"
        rows["text"].append(" ".join(words))
        rows["label"].append(number % 2)
    return datasets.Dataset.from_dict(rows)


def sequence_encode(rows, tokenizer, length):
    return {**tokenizer(rows["text"], truncation=True, max_length=length), "labels": rows["label"]}


def token_encode(rows, tokenizer, length):
    encoded = tokenizer(rows["text"], truncation=True, max_length=length)
    return {**encoded, "labels": [[number % 3 for number, _ in enumerate(ids)] for ids in encoded["input_ids"]]}


def accuracy(labels, predictions):
    return {"accuracy": 100 * float(np.mean(np.asarray(labels) == np.asarray(predictions)))}


def score(rows, features, logits):
    predictions = np.stack(logits).argmax(1)
    return Scores(accuracy(rows["label"], predictions), predictions.tolist())


def raw(rows, features, logits):
    """The logits themselves, bit for bit."""
    return Scores({}, [values.tolist() for values in logits])


def task(train=24, dev=10, **changes):
    """Whether w0 occurs."""
    values = {
        "name": "w0",
        "head": AutoModelForSequenceClassification,
        "labels": ("no", "yes"),
        "splits": {"train": texts(train, 1), "dev": texts(dev, 2)},
        "encode": sequence_encode,
        "collator": DataCollatorWithPadding,
        "score": raw,
        "baseline": lambda train, scored: accuracy(scored["label"], [0] * len(scored)),
        "headline": "accuracy",
        "learning_rate": 1e-3,
        "batch": 8,
        "epochs": 2,
        "length": 16,
    }
    return Task(**values | changes)


def token_task():
    return task(
        head=AutoModelForTokenClassification,
        labels=("a", "b", "c"),
        encode=token_encode,
        collator=DataCollatorForTokenClassification,
    )


def tune(the_task=None, *, save=None, source=None, **changes):
    source = source or ModelSource(tiny.teacher())
    return fine_tune(the_task or task(), source, dataclasses.replace(HOW, **changes), device="cpu", save=save)


def refusal(function, *arguments, **keywords):
    with pytest.raises(ValueError) as caught:
        function(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def three_labels(tmp_path_factory):
    """A model that has been fine-tuned already, with three labels."""
    folder = tmp_path_factory.mktemp("three") / "model"
    with torch.random.fork_rng():
        BertForSequenceClassification(BertConfig.from_pretrained(tiny.teacher(), num_labels=3)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


# ------------------------------------------------------------------------------------------------------- fine-tuning


def test_the_seed_determines_everything_and_the_callers_random_state_stays():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = tune()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    again, other = tune(), tune(seed=2)
    assert one.scores == again.scores and one.train_loss == again.train_loss
    assert one.scores != other.scores and one.train_loss != other.train_loss
    assert (one.train_rows, one.steps) == (24, 6)
    assert one.baselines == {"dev": {"accuracy": 50.0}}
    assert list(one.scores) == ["dev"] and len(one.scores["dev"].predictions) == 10
    assert one.train_rows_per_second > 0 and one.predicted_features_per_second > 0


def test_a_token_task_on_a_part_of_the_rows_with_two_scored_splits():
    splits = {"train": texts(24, 1), "dev": texts(3, 2), "other": texts(5, 3)}
    tuned = tune(dataclasses.replace(token_task(), splits=splits), examples=9, epochs=1)
    assert (tuned.train_rows, tuned.steps) == (9, 2)
    for name, count in (("dev", 3), ("other", 5)):
        lengths = [len(text.split()) + 2 for text in splits[name]["text"]]
        assert [np.shape(logits) for logits in tuned.scores[name].predictions] == [(length, 3) for length in lengths]
        assert len(lengths) == count


def test_a_learnable_task_is_learned():
    """64 rows, 128 steps, with one of three seeds (so small a model fails with some); a constant answer has 50 %."""
    for seed in (1, 2, 3):
        tuned = tune(task(train=64, dev=40, score=score), learning_rate=5e-3, epochs=16, seed=seed)
        if tuned.scores["dev"].metrics["accuracy"] >= 80:
            break
    assert tuned.baselines["dev"]["accuracy"] == 50
    assert tuned.scores["dev"].metrics["accuracy"] >= 80
    assert accuracy(texts(40, 2)["label"], tuned.scores["dev"].predictions) == tuned.scores["dev"].metrics


def test_diverged_training_is_an_error_and_nothing_is_saved(tmp_path):
    with pytest.raises(FloatingPointError, match=r"^w0: .* not finite; lower the learning rate$"):
        tune(learning_rate=1e30, save=tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_saved_model_loads_and_predicts_the_same(tmp_path):
    folder = tmp_path / "models" / "w0-1"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    tuned = tune(save=folder)
    assert not (folder / "old").exists() and [path.name for path in folder.parent.iterdir()] == ["w0-1"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}
    for text, logits in zip(texts(10, 2)["text"], tuned.scores["dev"].predictions, strict=True):
        with torch.no_grad():
            own = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert own.tolist() == pytest.approx(logits, abs=1e-5)


def test_a_regression_has_one_logit():
    splits = {"train": datasets.Dataset.from_dict({"text": ["w1", "w2 w3"] * 4, "label": [0.5, 4.5] * 4}), "dev": texts(3, 2)}
    arguments = {"num_labels": 1, "problem_type": "regression"}
    tuned = tune(task(labels=None, head_arguments=arguments, splits=splits), epochs=1)
    assert np.shape(tuned.scores["dev"].predictions) == (3, 1)


def test_the_same_rows_are_chosen_for_every_seed_in_their_order():
    rows = datasets.Dataset.from_dict({"number": range(100)})
    torch.manual_seed(1)
    random.seed(1)
    chosen = chosen_rows(rows, 30)["number"][:]
    random.seed(2)
    assert chosen == chosen_rows(rows, 30)["number"][:] == sorted(set(chosen)) and len(chosen) == 30
    assert chosen != list(range(30)), "drawn, not the first ones"
    for count in (None, 100, 1000):
        assert chosen_rows(rows, count)["number"][:] == list(range(100))


# -------------------------------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module", params=["sequence", "token"])
def predicted(request):
    """A task with a model, ragged features, and the logits of each feature on its own."""
    the_task = task() if request.param == "sequence" else token_task()
    source = ModelSource(tiny.teacher())
    tokenizer = load_tokenizer(source)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = load_head(source, the_task.head, the_task.labels).train()
    features = encode(the_task, texts(11, 5), tokenizer, 10)
    assert len(set(features["length"])) > 4 and max(features["length"]) == 10
    alone = []
    model.eval()
    for ids in features["input_ids"]:
        with torch.no_grad():
            alone.append(model(input_ids=torch.tensor([ids])).logits[0].numpy())
    return the_task, model.train(), tokenizer, features, alone


@pytest.mark.parametrize("batch", [1, 2, 3, 10, 11, 64])
def test_predictions_are_those_of_each_feature_alone_in_their_order(predicted, batch):
    the_task, model, tokenizer, features, alone = predicted
    logits = predict(the_task, model.train(), features, tokenizer, batch=batch)
    assert len(logits) == len(alone)
    for own, expected in zip(logits, alone, strict=True):
        assert own.shape == expected.shape and own.dtype == np.float32
        assert np.abs(own - expected).max() < 1e-5


def test_predictions_that_are_not_finite_are_an_error(predicted):
    the_task, _, tokenizer, features, _ = predicted
    broken = load_head(ModelSource(tiny.teacher()), the_task.head, the_task.labels)
    with torch.no_grad():
        broken.classifier.bias[0] = float("nan")
    with pytest.raises(
        FloatingPointError, match=r"^w0: the fine-tuned model's logits are not finite; lower the learning rate$"
    ):
        predict(the_task, broken, features, tokenizer, batch=4)


# ---------------------------------------------------------------------------------------------- refused before any work


def test_a_length_beyond_the_models_positions_is_refused_before_anything_is_loaded(monkeypatch):
    source = ModelSource(tiny.teacher())
    assert longest_sequence(source) == 64

    def load(*arguments, **keywords):
        raise AssertionError("loaded")

    monkeypatch.setattr(fine_tuning, "load_head", load)
    monkeypatch.setattr(fine_tuning, "load_tokenizer", load)
    message = f"length: 65 tokens, but {tiny.teacher()} has positions for 64; give at most 64 for w0"
    assert refusal(tune, length=65) == refusal(check_fit, task(), source, 65) == message
    monkeypatch.undo()
    check_fit(task(), source, 64)


def test_a_model_that_is_fine_tuned_for_other_labels_is_refused(three_labels):
    message = (
        f"MODEL: {three_labels!r} is a BertForSequenceClassification with 3 labels (LABEL_0, LABEL_1, LABEL_2), "
        "but the task needs 2{} from AutoModelForSequenceClassification; give a model that is not fine-tuned yet, "
        "or measure this one as it is with: diito evaluate classification"
    )
    source = ModelSource(three_labels)
    assert refusal(tune, source=source) == message.format(" (no, yes)")
    assert refusal(check_head, source, AutoModelForSequenceClassification, 2) == message.format("")
    check_head(source, AutoModelForSequenceClassification, 3)
    check_head(ModelSource(tiny.teacher()), AutoModelForSequenceClassification, 2)


def test_a_classifier_is_refused_for_a_regression(three_labels):
    the_task = task(labels=None, head_arguments={"num_labels": 1, "problem_type": "regression"})
    assert "3 labels" in refusal(tune, the_task, source=ModelSource(three_labels))


def test_another_kind_of_head_is_refused(tmp_path):
    source = ModelSource(tiny.teacher())
    load_head(source, AutoModelForTokenClassification, ("a", "b", "c")).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert "3 labels" in refusal(tune, source=ModelSource(str(tmp_path)))


# ------------------------------------------------------------------------------------------------------------- jobs

RTE = [f"{number}\tw{number % 5} w1\tw2 w{number % 7}\t{('entailment', 'not_entailment')[number % 2]}" for number in range(12)]
SST2 = [f"w{number % 5} w{number % 3}\t{number % 2}" for number in range(12)]


@pytest.fixture
def glue(tmp_path):
    """A GLUE folder with RTE and SST-2."""
    folder = tmp_path / "glue"
    for name, header, lines in (("RTE", "index\tsentence1\tsentence2\tlabel", RTE), ("SST-2", "sentence\tlabel", SST2)):
        (folder / name).mkdir(parents=True)
        for file, chosen in (("train.tsv", lines), ("dev.tsv", lines[:4])):
            (folder / name / file).write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path):
    """A copy of the tiny teacher that may be changed."""
    return Path(shutil.copytree(tiny.teacher(), tmp_path / "model"))


def jobs(folder, model=None, *, device="cpu", kind="glue", **changes):
    values = {"length": 16, "tasks": ["rte"], "precision": "fp32"} | changes
    settings = GlueSettings(data=None if folder is None else str(folder), **values)
    return find(kind).jobs(settings, ModelSource(str(model or tiny.teacher())), device=device, results=None)


def identity(*arguments, **keywords):
    (job,) = jobs(*arguments, **keywords)
    assert json.loads(json.dumps(job.identity)) == job.identity
    return job.identity


def test_an_identity_says_all_that_determines_the_result(glue):
    assert identity(glue) == {
        "kind": "glue",
        "task": "rte",
        "model": digest(ModelSource(tiny.teacher())),
        "data": identity(glue)["data"],
        "seed": 42,
        "learning_rate": 2e-5,
        "batch": 32,
        "epochs": 25,
        "length": 16,
        "examples": None,
        "precision": "fp32",
    }
    assert list(identity(glue)["data"]) == ["train", "dev"]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [43]},
        {"epochs": 1},
        {"learning_rate": 1e-4},
        {"batch": 16},
        {"length": 17},
        {"examples": 5},
        {"precision": "bf16"},
        {"tasks": ["sst2"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_is_another_measurement(change, glue):
    (name,) = change
    name = {"seeds": "seed", "tasks": "task"}.get(name, name)
    before, after = identity(glue), identity(glue, **change)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == ({"task", "data", "epochs"} if name == "task" else {name})


@pytest.mark.parametrize("file", ["train.tsv", "dev.tsv"])
def test_changed_data_are_another_measurement(file, glue):
    before = identity(glue)
    path = glue / "RTE" / file
    path.write_text(path.read_text().replace("0\tw0 w1\t", "0\tw0 w3\t"))
    after = identity(glue)
    split = file.removesuffix(".tsv")
    assert {key for key in before if before[key] != after[key]} == {"data"}
    assert {key for key in before["data"] if before["data"][key] != after["data"][key]} == {split}


def test_changed_weights_are_another_measurement(glue, model):
    before = identity(glue, model)
    change_weights(model)
    after = identity(glue, model)
    assert {key for key in before if before[key] != after[key]} == {"model"}


def test_names_places_and_what_is_saved_are_no_part_of_the_identity(glue, model, tmp_path):
    before = identity(glue, model)
    assert before == identity(glue, model.rename(tmp_path / "renamed"))
    moved = glue.rename(tmp_path / "elsewhere")
    assert before == identity(moved) == identity(moved, device="auto") == identity(moved, save=str(tmp_path / "models"))
    assert before == identity(moved, examples=12) == identity(moved, examples=1000), "all of the rows"
    assert before == identity(moved, tasks=["rte"], learning_rate=2e-5, batch=32, epochs=25.0), "the task's own values"
    for path in (moved / "RTE").iterdir():
        with gzip.open(f"{path}.gz", "wb") as stream:
            stream.write(path.read_bytes())
        path.unlink()
    assert before == identity(moved), "a compressed file has the same rows"


def test_the_hubs_rows_have_the_identity_of_the_files(glue, monkeypatch):
    def load_dataset(dataset, config, split):
        rows = [line.split("\t") for line in (RTE if split == "train" else RTE[:4])]
        labels = datasets.ClassLabel(names=["entailment", "not_entailment"])
        features = {"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string"), "label": labels}
        columns = dict(zip(features, ([row[place] for row in rows] for place in (1, 2, 3)), strict=True))
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    local = identity(glue)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert identity(None) == local


def test_precision_auto_is_fp32_on_the_cpu(glue):
    assert identity(glue, precision="auto")["precision"] == "fp32"


def test_a_job_for_each_task_and_seed(glue, tmp_path):
    made = jobs(glue, tasks=None, seeds=[1, 2])
    assert [job.title for job in made] == ["rte, seed 1", "rte, seed 2", "sst2, seed 1", "sst2, seed 2"]
    assert {job.model for job in made} == {tiny.teacher()}
    assert [job.identity["task"] for job in jobs(glue, tasks=["sst2", "rte"])] == ["sst2", "rte"]


def test_a_job_runs_and_what_it_gives_is_json(glue, tmp_path):
    (job,) = jobs(glue, seeds=[3], epochs=1, batch=4, examples=8, save=str(tmp_path / "saved"))
    result, examples = job.run()
    assert json.loads(json.dumps([result, examples])) == [result, examples]
    assert result["headline"] == "accuracy" and result["notes"] == []
    assert result["baseline"] == {"dev": {"accuracy": 50.0}}
    assert (result["train_rows"], result["of_train_rows"], result["scored_rows"], result["steps"]) == (8, 12, {"dev": 4}, 2)
    predictions = examples["predictions"]["dev"]
    assert result["scores"] == {"dev": accuracy([0, 1, 0, 1], predictions)}
    assert [path.name for path in (tmp_path / "saved").iterdir()] == [f"{slug(tiny.teacher())}-rte-3"]


# --------------------------------------------------------------------------------------------- what a folder lacks


def test_tasks_that_the_folder_lacks_are_skipped_and_named(glue):
    (glue / "CoLA").mkdir()
    assert missing_tasks(str(glue)) == ["cola", "mnli", "mrpc", "qnli", "qqp", "stsb", "wnli"]
    assert [job.identity["task"] for job in jobs(glue, tasks=None)] == ["rte", "sst2"]
    assert missing_tasks(None) == []


def test_a_missing_task_that_is_asked_for_by_name_is_refused(glue):
    what = "the task {} in GLUE's own layout (gluebenchmark.com/tasks)"
    assert refusal(jobs, glue, tasks=["rte", "cola"]) == (
        f"{glue}/CoLA is not a folder; give the one with {what.format('cola')}"
    )
    (glue / "RTE" / "train.tsv").unlink()
    assert refusal(jobs, glue) == f"{glue}/RTE has no file train.tsv (also .gz or .xz): {what.format('rte')}"


def test_a_task_without_its_scored_split_is_refused_even_by_default(glue):
    (glue / "SST-2" / "dev.tsv").unlink()
    assert "SST-2 has no file dev.tsv" in refusal(jobs, glue, tasks=None)


def test_a_folder_without_any_task_and_no_folder(tmp_path):
    assert refusal(jobs, tmp_path, tasks=None) == (
        f"data: {tmp_path} holds no task of GLUE; its folders are CoLA, MNLI, MRPC and so on"
    )
    assert refusal(jobs, tmp_path / "none", tasks=None) == (
        f"data: {tmp_path}/none is not a folder; give the one that holds CoLA/, RTE/, SST-2/ and so on"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds: the list is empty; give at least one, such as [42]"),
        ({"epochs": 0}, "epochs: 0.0 must be a finite number above 0"),
        ({"epochs": -1.5}, "epochs: -1.5 must be a finite number above 0"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 must be a finite number above 0"),
        ({"batch": 0}, "batch: 0 must be at least 1"),
        ({"examples": 0}, "examples: 0 must be at least 1"),
        ({"limit": 0}, "limit: 0 must be at least 1"),
        ({"length": 7}, "length: 7 must be at least 8"),
        (
            {"tasks": ["RTE"]},
            "tasks: 'RTE' is not one of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli",
        ),
    ],
)
def test_bad_settings(change, message, glue):
    assert refusal(jobs, glue, **change) == message


def test_a_length_beyond_the_models_positions_makes_no_job(glue):
    expected = f"length: 128 tokens, but {tiny.teacher()} has positions for 64; give at most 64 for rte"
    assert refusal(jobs, glue, length=128) == expected
    assert identity(glue, length=None)["length"] == 64  # where none is given it fits the model


def test_an_empty_list_of_tasks_is_called_so(glue):
    assert refusal(jobs, glue, tasks=[]).startswith("tasks:")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_cannot_be_set_makes_no_job(seed, glue):
    assert refusal(jobs, glue, seeds=[seed]).startswith("seeds[0]:")


def test_a_model_fine_tuned_for_other_labels_makes_no_job(glue, three_labels):
    assert "3 labels" in refusal(jobs, glue, three_labels)


# ----------------------------------------------------------------------------------------------------------- models

NEEDED = "give a hub id or a local folder of a masked language model"


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("load", [check_files, load_configuration, load_masked_language_model, digest, longest_sequence])
def test_no_such_model(load, tmp_path):
    name, empty = str(tmp_path / "none"), tmp_path / "empty"
    assert refusal(load, ModelSource(name, "teacher.model")).startswith(f"teacher.model: {name!r} cannot be loaded; {NEEDED} (")
    empty.mkdir()
    right = "has no config.json; give the folder that holds the model's files"
    assert refusal(load, ModelSource(str(empty), "teacher.model")) == f"teacher.model: the folder {str(empty)!r} {right}"


def test_a_folder_without_weights(model):
    (model / "model.safetensors").unlink()
    (model / "training_args.bin").write_bytes(b"no weights")
    source = ModelSource(str(model))
    assert refusal(check_files, source) == f"MODEL: {str(model)!r} has no weights (model.safetensors or pytorch_model.bin)"
    assert refusal(load_masked_language_model, source).startswith(f"MODEL: {str(model)!r} cannot be loaded; {NEEDED} (")
    assert refusal(load_head, source, AutoModelForSequenceClassification, ("a", "b")).startswith(
        f"MODEL: {str(model)!r} cannot be loaded; "
        "give a hub id or a local folder of a model that AutoModelForSequenceClassification can load ("
    )


def test_damaged_weights(model):
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:100])
    assert refusal(load_masked_language_model, ModelSource(str(model))).startswith(
        f"MODEL: {str(model)!r} cannot be loaded: its file of weights is cut short or damaged"
    )


@pytest.mark.parametrize("load", [check_files, load_tokenizer])
def test_a_folder_without_a_tokenizer(load, model):
    for path in model.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(load, ModelSource(str(model)))


def test_a_damaged_tokenizer(model):
    (model / "tokenizer.json").write_text("{")
    assert refusal(load_tokenizer, ModelSource(str(model))).startswith(
        f"MODEL: {str(model)!r} has no tokenizer that can be loaded: a JSON file of it is damaged"
    )


def test_a_model_without_a_masked_language_model_head():
    name = tiny.teacher("bert without a head")
    assert re.fullmatch(
        rf"MODEL: '{name}' has no masked-language-model head \(it lacks cls\.predictions\.[\w.]+\); {NEEDED}",
        refusal(load_masked_language_model, ModelSource(name)),
    )
    check_files(ModelSource(name))


def test_a_family_that_is_no_masked_language_model():
    source = ModelSource(tiny.teacher("gpt2"))
    assert "cannot be loaded; give a hub id or a local folder of a masked language model" in refusal(
        load_masked_language_model, source
    )
    assert "has no masked-language-model head (it is a GPT2LMHeadModel)" in refusal(check_masked_language_model, source)
    check_files(source)


def test_a_model_that_loads_is_in_fp32_and_in_eval_mode():
    loaded = load_masked_language_model(ModelSource(tiny.teacher("distilbert")))
    assert not loaded.training and {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    head = load_head(ModelSource(tiny.teacher()), AutoModelForTokenClassification, ("O", "B-X"))
    assert head.config.id2label == {0: "O", 1: "B-X"} and head.config.label2id == {"O": 0, "B-X": 1}
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}


def test_a_new_head_is_drawn_from_the_global_random_state():
    weights = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loaded = load_head(ModelSource(tiny.teacher()), AutoModelForSequenceClassification, ("a", "b"))
        weights.append(loaded.classifier.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_digest_is_that_of_the_files(model, tmp_path):
    before = digest(ModelSource(str(model)))
    assert re.fullmatch("[0-9a-f]{40}", before)
    assert before == digest(ModelSource(tiny.teacher())) == digest(ModelSource(str(shutil.copytree(model, tmp_path / "copy"))))
    (model / "training_args.bin").write_bytes(b"when and where it was trained")
    (model / "README.md").write_text("a model card")
    (model / "checkpoint").mkdir()
    assert digest(ModelSource(str(model))) == before
    change_weights(model)
    changed = digest(ModelSource(str(model)))
    assert changed != before
    (model / "config.json").write_text((model / "config.json").read_text().replace('"gelu"', '"relu"'))
    assert digest(ModelSource(str(model))) not in (before, changed)


def test_positions_of_the_families(tmp_path):
    assert longest_sequence(ModelSource(tiny.teacher("distilbert"))) == 64
    assert longest_sequence(ModelSource(tiny.teacher("gpt2"))) == 64
    AutoConfig.for_model("roberta", max_position_embeddings=514, pad_token_id=1).save_pretrained(tmp_path)
    assert longest_sequence(ModelSource(str(tmp_path))) == 512


def test_a_head_with_other_names_of_its_labels_is_refused(tmp_path):
    """A model of sentiment has as many labels as RTE, and they are not RTE's."""
    source = ModelSource(tiny.teacher())
    load_head(source, AutoModelForSequenceClassification, ("negative", "positive")).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    tuned = ModelSource(str(tmp_path))
    check_head(tuned, AutoModelForSequenceClassification, 2, ("negative", "positive"))
    assert "2 labels (negative, positive), but the task needs 2 (entailment, not_entailment)" in refusal(
        check_head, tuned, AutoModelForSequenceClassification, 2, ("entailment", "not_entailment")
    )
