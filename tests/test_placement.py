"""Where the teacher stands, and in which precision."""

import pytest
import torch
from models import build, families, text
from transformers import AutoModelForMaskedLM, ModernBertConfig, TrainingArguments

import diito
from diito.training.placement import place_teacher


@pytest.fixture
def bf16(tmp_path):
    """Arguments of a run that computes in bf16."""
    return TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, bf16=True)


@pytest.fixture
def rotary(tmp_path):
    """A folder with a tiny model that has rotary tables."""
    sizes = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    specials = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    AutoModelForMaskedLM.from_config(ModernBertConfig(**sizes, **specials)).save_pretrained(tmp_path)
    return tmp_path


def test_a_teacher_held_in_bf16_is_what_transformers_loads_in_bf16(rotary, bf16):
    loaded = AutoModelForMaskedLM.from_pretrained(rotary, dtype=torch.bfloat16).eval()
    placed = AutoModelForMaskedLM.from_pretrained(rotary, dtype=torch.float32).eval()
    place_teacher(placed, bf16)
    assert {each.dtype for each in placed.parameters()} == {torch.bfloat16}
    tables = dict(loaded.named_buffers())
    assert any(table.dtype == torch.float32 for table in tables.values())
    assert all(torch.equal(each, tables[name]) for name, each in placed.named_buffers())
    assert torch.equal(placed(**text(1, [8, 5])).logits, loaded(**text(1, [8, 5])).logits)


@families
def test_a_teacher_without_tables_is_cast_as_a_whole(family, bf16):
    placed, cast = build(family), build(family).to(torch.bfloat16)
    place_teacher(placed, bf16)
    assert torch.equal(placed(**text(1, [8, 5])).logits, cast(**text(1, [8, 5])).logits)


def test_a_teacher_loaded_in_bf16_makes_a_student(rotary):
    teacher = AutoModelForMaskedLM.from_pretrained(rotary, dtype=torch.bfloat16)
    assert diito.build_student(teacher, layers=[0, 2]).dtype == torch.float32
