"""Training from Python: any dataset, with our trainer and with the stock one."""

from __future__ import annotations

import datasets
import decoders
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import diito
from diito.method.reach import reach_of_a_decoder
from diito.tasks.causal_lm import NextTokens

LENGTHS = [5, 9, 7, 12, 6, 8, 11, 10]


def objective(**options):
    """An objective on the tiny teacher, its student of two layers."""
    torch.manual_seed(0)
    teacher = AutoModelForMaskedLM.from_pretrained(tiny.teacher())
    student = diito.build_student(teacher, layers=2)
    return diito.DistillationObjective(student, teacher, diito.Alignment.full(teacher_layers=4, student_layers=2), **options)


def arguments(output, **options):
    fields = {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return TrainingArguments(str(output), **{**fields, "save_strategy": "no", "learning_rate": 1e-2, **options})


def sequences(lengths=LENGTHS):
    """Token ids [CLS] w... [SEP], a list for each length."""
    draws = torch.Generator().manual_seed(3)
    return [[2, *torch.randint(5, 60, (length - 2,), generator=draws).tolist(), 3] for length in lengths]


class Rows(torch.utils.data.Dataset):
    """A map-style dataset of torch, with a column that is no tensor."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"input_ids": self.rows[index], "name": f"row {index}"}


class Batches(TrainerCallback):
    """The batches that the objective was given, and the student's weights at the end."""

    def __init__(self, trainer):
        self.seen = []
        stock = trainer.objective.forward
        trainer.objective.forward = lambda batch, **options: self.seen.append(batch) or stock(batch, **options)


def train(output, dataset, **options):
    """The trainer after its steps, and the batches it saw."""
    trainer = diito.DistillationTrainer(
        objective(),
        arguments(output, **options),
        train_dataset=dataset,
        processing_class=tiny.tokenizer(),
    )
    batches = Batches(trainer)
    trainer.train()
    return trainer, batches.seen


# Our trainer


@pytest.mark.parametrize("kind", ["datasets", "torch"])
def test_rows_of_any_dataset_are_padded_masked_and_learned_from(kind, tmp_path):
    rows = sequences()
    data = Rows(rows) if kind == "torch" else datasets.Dataset.from_dict({"input_ids": rows, "text": ["other"] * len(rows)})
    trainer, batches = train(tmp_path, data)
    assert len(batches) == 2
    for batch in batches:
        assert batch["attention_mask"].sum(1).tolist() == (batch["input_ids"] != 0).sum(1).tolist()
        used = batch["slots"] >= 0
        assert used.any(1).all() and batch["attention_mask"].gather(1, batch["slots"].clamp(min=0))[used].all()
        original = batch["input_ids"].clone()
        for row, slots in enumerate(batch["slots"]):
            original[row, slots[used[row]]] = batch["labels"][row, used[row]]
        for row, mask in zip(original, batch["attention_mask"], strict=True):
            assert row[mask.bool()].tolist() in rows
    fresh = objective().student.state_dict()
    assert not tiny.same(fresh, trainer.student().state_dict())


def test_rows_of_a_micro_batch_have_similar_lengths_and_the_order_is_that_of_the_seed(tmp_path):
    rows = sequences([6, 20] * 8)
    _, first = train(tmp_path, Rows(rows), max_steps=4)
    _, again = train(tmp_path, Rows(rows), max_steps=4)
    assert all("attention_mask" not in batch for batch in first)  # equal lengths: no padding
    assert sorted(batch["input_ids"].shape[1] for batch in first) == [6, 6, 20, 20]
    assert all(torch.equal(one["input_ids"], other["input_ids"]) for one, other in zip(first, again, strict=True))


def test_padding_that_a_dataset_brings_is_taken_off_before_batches_are_made(tmp_path):
    rows = sequences()
    text = [" ".join(tiny.tokenizer().convert_ids_to_tokens(row[1:-1])) for row in rows]
    encoded = datasets.Dataset.from_dict(dict(tiny.tokenizer()(text, padding="max_length", max_length=30)))
    plain = datasets.Dataset.from_dict({"input_ids": rows})
    one, _ = train(tmp_path, encoded)
    other, _ = train(tmp_path, plain)
    assert tiny.same(one.student().state_dict(), other.student().state_dict())


def test_the_student_and_its_tokenizer_are_saved_as_an_ordinary_model(tmp_path):
    trainer, _ = train(tmp_path / "run", Rows(sequences()))
    trainer.save_model(str(tmp_path / "student"))
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    assert tiny.same(loaded.state_dict(), trainer.student().state_dict())
    assert AutoTokenizer.from_pretrained(tmp_path / "student").mask_token == "[MASK]"


def test_a_run_on_a_dataset_of_ones_own_resumes_to_the_same_bits(tmp_path):
    """Also inside a later epoch: two micro-batches are one."""
    data = datasets.Dataset.from_dict({"input_ids": sequences()})
    fields = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    straight, _ = train(tmp_path / "straight", data, **fields)
    resumed = diito.DistillationTrainer(
        objective(), arguments(tmp_path / "resumed", **fields), train_dataset=data, processing_class=tiny.tokenizer()
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert tiny.same(straight.student().state_dict(), resumed.student().state_dict())


REFUSED = {
    "no input_ids": (
        lambda: datasets.Dataset.from_dict({"text": ["a b"] * 8}),
        "train_dataset: it has no column input_ids, only text",
    ),
    "a stream": (lambda: datasets.Dataset.from_dict({"input_ids": [[1]]}).to_iterable_dataset(), "train_dataset: a stream"),
    "no rows": (lambda: Rows([]), "train_dataset: it has no rows"),
    "an empty row": (lambda: Rows([[2, 9, 3]] * 7 + [[]]), "train_dataset: row 7 has no token"),
    "fewer rows than a batch": (lambda: Rows([[2, 9, 3]] * 3), "train_dataset: 3 rows are fewer than one micro-batch of 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_dataset_that_cannot_be_trained_with_is_refused_in_one_sentence(case, tmp_path):
    make, said = REFUSED[case]
    with pytest.raises(diito.Refusal) as refusal:
        train(tmp_path, make())
    assert str(refusal.value).startswith(said) and "\n" not in str(refusal.value)


def test_without_a_tokenizer_a_masking_is_asked_for(tmp_path):
    with pytest.raises(diito.Refusal, match=r"^processing_class: give the tokenizer"):
        diito.DistillationTrainer(objective(), arguments(tmp_path), train_dataset=Rows(sequences()))


@pytest.mark.parametrize("token", ["mask", "padding"])
def test_a_tokenizer_without_a_token_that_is_needed_is_refused(token, tmp_path):
    tokenizer = tiny.tokenizer()
    setattr(tokenizer, {"mask": "mask_token", "padding": "pad_token"}[token], None)
    with pytest.raises(diito.Refusal, match=rf"^processing_class: .*{token} token"):
        diito.DistillationTrainer(objective(), arguments(tmp_path), train_dataset=Rows(sequences()), processing_class=tokenizer)


@pytest.mark.parametrize(
    "field, value",
    [
        ("neftune_noise_alpha", 5.0),
        ("use_liger_kernel", True),
        ("label_smoothing_factor", 0.1),
        ("auto_find_batch_size", True),
        ("include_num_input_tokens_seen", True),
    ],
)
def test_arguments_that_cannot_work_with_the_method_are_refused_by_name(field, value, tmp_path):
    with pytest.raises(diito.Refusal, match=rf"^args\.{field}: does not work with distillation"):
        train(tmp_path, Rows(sequences()), **{field: value})


# The stock trainer


def collated():
    """A batch of the stock collator."""
    collator = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm_probability=0.3, seed=1)
    return collator([{"input_ids": row} for row in sequences()[:4]])


def test_the_objective_takes_a_batch_as_keywords():
    batch = collated()
    assert {"input_ids", "attention_mask", "labels"} <= set(batch)
    named, positional = objective().eval()(**batch), objective().eval()(dict(batch))
    assert named.keys() == positional.keys() and all(torch.equal(named[name], positional[name]) for name in named)


def test_the_stock_trainer_trains_the_student_and_leaves_the_teacher(tmp_path):
    module = objective()
    before = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    told = {name: value.clone() for name, value in module.teacher.state_dict().items()}
    data = datasets.Dataset.from_dict({"input_ids": sequences(), "text": ["other"] * len(LENGTHS)})
    collator = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm_probability=0.3)
    trainer = Trainer(module, arguments(tmp_path), train_dataset=data, data_collator=collator)
    assert trainer.train().training_loss > 0
    assert not tiny.same(before, {name: module.state_dict()[name] for name in before})
    assert tiny.same(told, module.teacher.state_dict()) and not module.teacher.training


def test_what_the_stock_trainer_saves_holds_the_student_alone(tmp_path):
    module = objective()
    trainer = Trainer(module, arguments(tmp_path))
    trainer.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert {name.partition(".")[0] for name in saved} <= {"student", "_extra_state"}
    other = objective()
    with torch.no_grad():
        for parameter in other.student.parameters():
            parameter.zero_()
    other.load_state_dict(saved)
    assert tiny.same(other.student.state_dict(), module.student.state_dict())
    assert other.student.get_output_embeddings().weight is other.student.get_input_embeddings().weight


def test_the_student_of_an_objective_saves_as_an_ordinary_model(tmp_path):
    module = objective()
    module.student.save_pretrained(tmp_path)
    assert tiny.same(AutoModelForMaskedLM.from_pretrained(tmp_path).state_dict(), module.student.state_dict())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoder_reads_the_labels_of_transformers_collator_as_the_next_tokens(family):
    """Each token is its own label there; the same as the task's slots, and a swap is felt behind it alone."""
    teacher = decoders.build(family, layers=4)
    made = diito.DistillationObjective(
        diito.build_student(teacher, layers=2),
        teacher,
        diito.Alignment.full(teacher_layers=4, student_layers=2),
        special_ids=[],
    ).eval()
    ids = torch.tensor([[5, 9, 7, 30, 31, 8], [6, 5, 44, 9, 12, 13]])
    given = made({"input_ids": ids, "labels": ids.clone()}, step=0)
    batch = NextTokens(pad_token_id=0).batch({"input_ids": ids}, generator=torch.Generator())
    slots = {name: batch[name] for name in ("input_ids", "slots", "labels")}
    assert made(slots, step=0)["task"].item() == pytest.approx(given["task"].item(), abs=1e-6)
    assert given["causal_ce"].item() == pytest.approx(made(slots, step=0)["causal_ce"].item(), abs=1e-6)
    assert made.reach is reach_of_a_decoder
    at_the_slots = torch.where(torch.arange(6) < 5, ids.roll(-1, 1), -100)  # those of the slots stay where they are
    assert made({"input_ids": ids, "labels": at_the_slots}, step=0)["task"].item() == given["task"].item()


def test_the_trainer_gives_a_decoder_the_next_tokens_though_its_tokenizer_has_a_mask(tmp_path):
    teacher = decoders.build("llama", layers=4)
    made = diito.DistillationObjective(
        diito.build_student(teacher, layers=2), teacher, diito.Alignment.full(teacher_layers=4, student_layers=2)
    )
    rows = datasets.Dataset.from_dict({"input_ids": sequences()})
    trainer = diito.DistillationTrainer(
        made, arguments(tmp_path), train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(tiny.teacher())
    )
    assert isinstance(trainer.batching, NextTokens)
