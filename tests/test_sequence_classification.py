"""Sequence classification and regression: the laws of the method, what the data may look like, and what is refused."""

from __future__ import annotations

import json
import math

import classifiers
import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, PrinterCallback, pipeline

from diito import Alignment, DistillationObjective
from diito.corpus.examples import choose
from diito.evaluation.held_out.interchange import interchange_accuracy
from diito.method.slots import with_slots
from diito.models.layered import Layered
from diito.models.student import build_student
from diito.refusal import Refusal
from diito.run.distill import distill
from diito.run.parts import prepare
from diito.tasks.labels import class_numbers
from diito.tasks.sequence_classification import Answering
from diito.training.arguments import training_arguments

EVERY = {"task": 0.3, "ce": 0.2, "cos": 0.5, "causal_ce": 0.7, "causal_cos": 0.4}
IGNORED = -100
families = pytest.mark.parametrize("family", classifiers.FAMILIES)


def batch_of(seed=0, lengths=(9, 7, 8, 5), labels=(0, 2, IGNORED, 1)):
    """Rows within [CLS] and [SEP], padded with 0 on the right, with a class each as transformers has them."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, classifiers.VOCABULARY, (len(lengths), max(lengths)), generator=draws)
    columns, ends = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    ids[:, 0] = 2
    ids = ids.masked_fill(columns == ends - 1, 3).masked_fill(columns >= ends, 0)
    return {"input_ids": ids, "attention_mask": (columns < ends).long(), "labels": torch.tensor(labels)}


def make(student, teacher, alignment=None, **options):
    depths = (Layered(teacher).depth, Layered(student).depth)
    return DistillationObjective(
        student, teacher, alignment or Alignment.full(*depths), **{"weights": EVERY, "special_ids": [0, 2, 3]} | options
    )


def parts_of(recipe):
    return prepare(recipe, training_arguments(recipe, output_dir=recipe.output))


# ------------------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    "family",
    [each if each in ("bert", "gpt2") else pytest.param(each, marks=pytest.mark.soak) for each in classifiers.FAMILIES],
)
def test_a_recipe_gives_a_student_that_its_auto_class_loads_and_a_pipeline_runs(family, tmp_path):
    recipe = classifiers.recipe(tmp_path, {"training.steps": "2"}, family=family)
    assert distill(recipe) == 0
    folder = tmp_path / "tiny"
    student = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert Layered(student).depth == 2
    assert tuple(student.config.id2label.values()) == classifiers.CLASSES
    answers = pipeline("text-classification", model=str(folder / "student"))(["w1 w2 w3", "w4"])
    assert {answer["label"] for answer in answers} <= set(classifiers.CLASSES)
    results = json.loads((folder / "results.json").read_text())
    assert {"accuracy", "f1", "matthews", "ece"} <= results["teacher"].keys()
    assert {"accuracy", "agreement", "iia", "counterfactual_kl"} <= results["after"].keys()
    card = (folder / "student" / "README.md").read_text()
    assert "sequence classifier" in card and "pipeline_tag: text-classification" in card


CASES = {
    "pairs from independent sources": ({"intervention.pairing": "independent"}, {"pair": True}),
    "pairs": ({}, {"pair": True, "family": "roberta"}),
    "token swap in a decoder": ({"intervention.control": "token-swap"}, {"family": "gpt2"}),
}


@pytest.mark.parametrize("case", [next(iter(CASES)), *(pytest.param(case, marks=pytest.mark.soak) for case in [*CASES][1:])])
def test_a_run_that_is_stopped_and_resumed_gives_the_same_bits(case, tmp_path, monkeypatch):
    from test_resume import stop_at

    overrides, options = CASES[case]
    overrides = {"training.steps": "null", "training.epochs": "1.5", "evaluation.sources": "[]", **overrides}
    stop_at(monkeypatch, None)
    assert distill(classifiers.recipe(tmp_path / "straight", overrides, **options)) == 0
    recipe = classifiers.recipe(tmp_path / "stopped", overrides, **options)
    stop_at(monkeypatch, 7)
    assert distill(recipe) == 143
    stop_at(monkeypatch, None)
    assert distill(recipe, resume=True) == 0
    weights = [tiny.weights(tmp_path / name / "tiny" / "student") for name in ("straight", "stopped")]
    assert tiny.same(*weights)


def test_micro_batches_that_are_accumulated_give_the_gradient_of_their_mean(tmp_path):
    from test_trainer import Gradients, by_hand

    overrides = {"training.accumulation": "3", "training.steps": "1", "training.clip": "0", "training.learning_rate": "1e-30"}
    trainers = [
        tiny.parts_and_trainer(classifiers.recipe(tmp_path / name, overrides, pair=True))[1] for name in ("trainer", "hand")
    ]
    gradients = Gradients()
    trainers[0].add_callback(gradients)
    trainers[0].remove_callback(PrinterCallback)
    trainers[0].train()
    for name, value in by_hand(trainers[1], 0, 3).items():
        torch.testing.assert_close(gradients.steps[0][name], value, rtol=1e-5, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------- the laws


@families
def test_a_student_that_is_its_teacher_has_no_loss_but_the_labels(family):
    teacher = classifiers.build(family, 2)
    student = build_student(teacher, 2, dropout=0.0).eval()
    losses = make(student, teacher, Alignment.full(2, 2))(batch_of(), step=0)
    for name in ("ce", "cos", "causal_ce", "causal_cos"):
        assert losses[name].item() == pytest.approx(0, abs=1e-6), name
    assert losses["task"] > 0


def test_a_model_with_itself_has_an_interchange_accuracy_of_one(tmp_path):
    parts = parts_of(classifiers.recipe(tmp_path, family="gpt2"))
    layers = Layered(parts.teacher).depth
    numbers = interchange_accuracy(
        parts.teacher, parts.teacher, Alignment.full(layers, layers), parts.held_out, special_ids=[0, 2, 3]
    )
    assert numbers["iia"] == numbers["swapped_iia"] == 1
    assert numbers["counterfactual_kl"] == pytest.approx(0, abs=1e-6)
    assert numbers["efficacy"] > 0


@families
def test_the_losses_are_those_of_the_models_own_forward(family):
    teacher, student = classifiers.build(family, 4, seed=1), classifiers.build(family, 2, seed=2)
    batch = batch_of()
    losses = make(student, teacher)(batch, step=3)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    said, told = (model(**inputs).logits for model in (student, teacher))
    torch.testing.assert_close(losses["task"], F.cross_entropy(said, batch["labels"]))
    smooth = F.kl_div(F.log_softmax(said / 2, -1), F.softmax(told / 2, -1), reduction="batchmean") * 4
    torch.testing.assert_close(losses["ce"], smooth)
    read = [Layered(model) for model in (student, teacher)]
    finals = [each.final(each.states(inputs, [each.depth - 1])[1][each.depth - 1]) for each in read]
    last = batch["attention_mask"].sum(1) - 1
    place = last if family in classifiers.DECODERS else torch.zeros_like(last)
    ours, theirs = (final[torch.arange(4), place] for final in finals)
    torch.testing.assert_close(losses["cos"], (1 - F.cosine_similarity(ours, theirs)).mean())


def test_without_causal_weights_nothing_is_swapped_and_the_bits_are_those_of_plain_distillation():
    teacher, student = classifiers.build(layers=4, seed=1), classifiers.build(layers=2, seed=2)
    plain = {"task": 0.3, "ce": 0.2, "cos": 0.5}
    objectives = [make(student, teacher, weights=weights) for weights in (plain, {**plain, "causal_ce": 0.0})]
    objectives[1].draw_swap = None  # a call would fail
    first, second = (objective(batch_of(), step=1) for objective in objectives)
    assert first.keys() == second.keys() == {*plain, "loss"}
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_causal_loss_is_that_of_the_two_interchanges():
    from diito import interchange

    teacher, student = classifiers.build("gpt2", 4, seed=1), classifiers.build("gpt2", 2, seed=2)
    batch = batch_of()
    objective = make(student, teacher, Alignment.middle(4, 2), share=1.0)
    losses = objective(batch, step=5)
    swap = objective.draw_swap({**with_slots(Layered(student), batch)}, step=5)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    source = {name: value[swap.rows] for name, value in inputs.items()}
    said = interchange(student, inputs, source, [1], swap.positions)
    told = interchange(teacher, inputs, source, [2], swap.positions)
    smooth = F.kl_div(F.log_softmax(said / 2, -1), F.softmax(told / 2, -1), reduction="batchmean") * 4
    torch.testing.assert_close(losses["causal_ce"], smooth)


def test_rows_without_a_label_teach_by_the_teacher_alone():
    teacher, student = classifiers.build(layers=4, seed=1), classifiers.build(layers=2, seed=2)
    labelled, none = batch_of(), batch_of(labels=(IGNORED,) * 4)
    losses = {name: make(student, teacher)(batch, step=0) for name, batch in (("some", labelled), ("none", none))}
    assert losses["none"]["task"].item() == 0
    for name in ("ce", "cos", "causal_ce"):
        assert torch.equal(losses["some"][name], losses["none"][name])
    losses["none"]["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters() if parameter.grad is not None)


def test_a_regression_learns_by_squared_errors():
    teacher, student = (classifiers.build(layers=layers, labels=("score",), seed=layers) for layers in (4, 2))
    batch = batch_of() | {"labels": torch.tensor([0.5, math.nan, 2.0, -1.0])}
    losses = make(student, teacher)(batch, step=0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    said, told = (model(**inputs).logits[:, 0] for model in (student, teacher))
    known = torch.tensor([0, 2, 3])
    torch.testing.assert_close(losses["task"], F.mse_loss(said[known], batch["labels"][known]))
    torch.testing.assert_close(losses["ce"], F.mse_loss(said, told))
    losses["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters() if parameter.grad is not None)


def test_several_classes_at_once_are_learnt_each_on_its_own():
    several = {"problem_type": "multi_label_classification"}
    teacher, student = (classifiers.build(layers=layers, seed=layers, **several) for layers in (4, 2))
    batch = batch_of() | {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [math.nan] * 3, [0, 1, 1]])}
    losses = make(student, teacher)(batch, step=0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    said, told = (model(**inputs).logits for model in (student, teacher))
    known = torch.tensor([0, 1, 3])
    torch.testing.assert_close(losses["task"], F.binary_cross_entropy_with_logits(said[known], batch["labels"][known]))
    soft = (told / 2).sigmoid()
    divergence = F.binary_cross_entropy_with_logits(said / 2, soft) - F.binary_cross_entropy(soft, soft)
    torch.testing.assert_close(losses["ce"], 4 * divergence)


def test_a_head_that_reads_all_tokens_is_compared_at_their_mean():
    teacher = classifiers.build("modernbert", 2, classifier_pooling="mean")
    layered, batch = Layered(teacher), batch_of()
    assert layered.parts.reads == "all"
    assert torch.equal(layered.read_positions(batch), batch["attention_mask"].bool())
    losses = make(build_student(teacher, 2, dropout=0.0).eval(), teacher, Alignment.full(2, 2))(batch, step=0)
    assert losses["causal_cos"].item() == pytest.approx(0, abs=1e-6)


@families
def test_the_slot_is_the_token_that_the_head_reads(family, tmp_path):
    parts = parts_of(classifiers.recipe(tmp_path, family=family))
    batch = parts.held_out.batch_of([0, 1, 2, 3], device=torch.device("cpu"))
    last = batch["attention_mask"].sum(1, keepdim=True) - 1
    assert torch.equal(batch["slots"], last if family in classifiers.DECODERS else torch.zeros_like(last))
    assert batch["labels"].shape == batch["slots"].shape


# --------------------------------------------------------------------------------------------------------- two texts


def test_a_swap_stays_within_one_of_two_texts_unless_told_otherwise(tmp_path):
    parts = parts_of(classifiers.recipe(tmp_path, pair=True))
    rows = parts.held_out.corpus.__getitems__(list(range(20)))
    lengths = [len(row["input_ids"]) for row in rows]
    texts = torch.nn.utils.rnn.pad_sequence([row["texts"] for row in rows], batch_first=True)
    batch = parts.held_out.batch_of(list(range(20)), device=torch.device("cpu"))
    assert batch["input_ids"].shape == texts.shape and max(lengths) == texts.shape[1]
    objective = make(classifiers.build(layers=2), parts.teacher, share=1.0)
    chosen = set()
    for row, positions in enumerate(objective.draw_swap(batch, step=0).positions):
        numbers = set(texts[row][positions].tolist())
        assert len(numbers) <= 1 and 0 not in numbers
        chosen |= numbers
    assert chosen == {1, 2}
    rows = {"input_ids": batch["input_ids"], "texts": texts, "labels": batch["labels"][:, 0]}
    assert "swappable" not in Answering(0, across_texts=True).batch(rows, generator=torch.Generator())


def test_each_token_of_two_texts_is_as_likely_to_be_swappable():
    texts = torch.tensor([[0, 1, 1, 1, 0, 2, 0]]).expand(4000, -1)
    rows = {"input_ids": torch.full_like(texts, 7), "texts": texts, "labels": torch.zeros(4000, dtype=torch.long)}
    swappable = Answering(0).batch(rows, generator=torch.Generator().manual_seed(1))["swappable"]
    assert abs(float(swappable[:, 5].float().mean()) - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)


# ---------------------------------------------------------------------------------------------------------- the data


@pytest.mark.parametrize(
    ("values", "given", "numbers"),
    [
        (["positive", "Negative", None], None, [2, 0, IGNORED]),
        (["0", "2", "-1"], None, [0, 2, IGNORED]),
        ([1, 0, -1, None], None, [1, 0, IGNORED, IGNORED]),
        ([0, 1], ["positive", "negative"], [2, 0]),
        ([2.0, 1.0], None, [2, 1]),
    ],
)
def test_labels_are_found_by_name_or_number(values, given, numbers):
    assert class_numbers(values, classifiers.CLASSES, given=given, field="label") == numbers


def test_numbers_of_named_data_are_those_of_a_teacher_without_names():
    assert class_numbers([1, 0], ["LABEL_0", "LABEL_1"], given=["bad", "good"], field="label") == [1, 0]


@pytest.mark.parametrize(
    ("values", "given"), [(["good", "bad"], None), ([0, 3], None), ([0, 1], ["bad", "good"]), (["1.5"], None)]
)
def test_labels_that_do_not_fit_are_refused_with_both_lists(values, given):
    with pytest.raises(
        Refusal, match=r"^label: the classes of the data \(.*\) are neither the teacher's \(negative, neutral, p"
    ):
        class_numbers(values, classifiers.CLASSES, given=given, field="label")


def test_few_examples_are_as_many_of_each_class_and_a_function_of_the_seed():
    classes = [0] * 50 + [1] * 4 + [2] * 30 + [None] * 20
    chosen = choose(classes, 24, seed=1, field="corpus.examples")
    assert [sum(classes[index] == each for index in chosen) for each in (0, 1, 2)] == [10, 4, 10]
    assert chosen == choose(classes, 24, seed=1, field="corpus.examples") == sorted(chosen)
    assert chosen != choose(classes, 24, seed=2, field="corpus.examples")
    assert len(choose([None] * 9, 3, seed=1, field="corpus.examples")) == 3
    with pytest.raises(Refusal, match=r"corpus\.examples: 85 of 84 examples with a label; give at most as many"):
        choose(classes, 85, seed=1, field="corpus.examples")


def test_what_is_cut_what_is_empty_and_what_has_no_label_is_said(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"sentence": "w1 " * 30, "label": 0}, {"sentence": " ", "label": 1}, {"sentence": "w2 w3"}, {"sentence": "w4 w5"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2), encoding="utf-8")
    recipe = classifiers.recipe(
        tmp_path, {"corpus.sources": json.dumps([classifiers.source(str(path))]), "corpus.length": "16"}
    )
    parts = parts_of(recipe)
    said = parts.corpus.statistics.describe()
    assert "2 rows without text, 2 ends of examples longer than 16 tokens" in said
    assert "labels: 2 negative, 4 without one" in said
    assert int(parts.corpus.lengths.max()) == 16


def test_examples_of_the_corpus_are_held_out_where_the_recipe_names_none(tmp_path):
    overrides = {"evaluation.sources": "null", "corpus.sources": json.dumps([classifiers.source(classifiers.table(120))])}
    parts = parts_of(classifiers.recipe(tmp_path, overrides))
    held_out = {tuple(row["input_ids"].tolist()) for row in parts.held_out.corpus.__getitems__(list(range(2)))}
    trained = {tuple(row["input_ids"].tolist()) for row in parts.corpus.__getitems__(list(range(len(parts.corpus))))}
    assert len(parts.corpus) + len(parts.held_out.corpus) == 120
    assert not held_out & trained


REFUSED = {
    "labels": ({"corpus.sources": lambda: [classifiers.source(classifiers.table(labels=("good", "bad")))]}, "neither the tea"),
    "no label": (
        {"corpus.sources": lambda: [classifiers.source(classifiers.table(ending=".jsonl"), label="gold")]},
        "no row has",
    ),
    "column": ({"corpus.sources": lambda: [{"path": classifiers.table(), "column": "text"}]}, "has no column 'text'"),
    "plain text": ({"corpus.sources": lambda: [{"path": tiny.corpus(), "label": "label"}]}, "plain text without columns label"),
    "head": ({"teacher.model": lambda: tiny.teacher("bert")}, "has no sequence-classifier head"),
    "all tokens": ({"objective.tokens": "all"}, "objective.tokens: must be masked"),
    "rule": ({"intervention.positions": "masked"}, "intervention.positions: masked swaps masked tokens"),
    "documents": ({"corpus.document_boundaries": "true"}, "corpus.document_boundaries: is of causal-lm"),
    "examples": ({"corpus.examples": "100"}, "corpus.examples: 100 of 48 examples with a label"),
    "long": ({"corpus.length": "65"}, "corpus.length: 65 tokens, but the teacher has positions for 64"),
    "another task": (
        {"task": "masked-lm", "teacher.model": lambda: tiny.teacher()},
        r"sources\[0\].label: belongs to tasks with",
    ),
    "masking": ({"masking.rate": "0.2"}, "masking: belongs to another task"),
    "numbers": (
        {"teacher.model": lambda: classifiers.teacher(labels=("score",))},
        r"corpus.sources\[0\].label: .*line 2: the label '\w+' is no number",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_classified_is_refused_with_its_field(case, tmp_path):
    overrides, sentence = REFUSED[case]
    made = {name: value() if callable(value) else value for name, value in overrides.items()}
    made = {name: value if isinstance(value, str) else json.dumps(value) for name, value in made.items()}
    with pytest.raises(ValueError, match=sentence):
        parts_of(classifiers.recipe(tmp_path, made))


def test_a_decoder_without_a_padding_token_is_refused(tmp_path):
    model = classifiers.build("gpt2", 2, pad_token_id=None)
    model.save_pretrained(tmp_path / "teacher")
    classifiers.decoders.tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"teacher\.model: .*set pad_token_id in its configuration"):
        parts_of(classifiers.recipe(tmp_path, {"teacher.model": str(tmp_path / "teacher")}))
