"""Students with other sizes than their teacher: configuration, weights by seed, and what a cut keeps, against oracles."""

from __future__ import annotations

import copy

import classifiers
import decoders
import models
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

import diito
from diito.models.importance import measure
from diito.models.layered import Layered
from diito.models.student import make_student
from diito.recipe import StudentSection

WIDER = {"hidden_size": 32, "num_attention_heads": 4}
HALF = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 10}
FAMILIES = ("bert", "gpt2", "llama")
MORE = ("distilbert", "modernbert", "roberta", "deberta-v2", "qwen3", "gpt_neox")
DOWN = {
    "distilbert": "ffn.lin2",
    "modernbert": "mlp.Wo",
    "gpt2": "mlp.c_proj",
    "llama": "mlp.down_proj",
    "qwen3": "mlp.down_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
}
"""The second matrix of the feed-forward block, where it is not BERT's output.dense."""


def teacher_of(family, **changes):
    if family in models.FAMILIES:
        return models.build(family, 4, **WIDER, **changes), models.text(1, [8, 5])
    sizes = {"hidden_size": 32, "n_embd": 32, "n_head": 4} if family == "gpt2" else WIDER
    if family in decoders.FAMILIES:
        return decoders.build(family, 4, **sizes, **changes), decoders.text(1, [8, 5])
    return classifiers.build(family, 4, **sizes, **changes), models.text(1, [8, 5])


def cut(teacher, inputs, config):
    return make_student(teacher, StudentSection(layers=None, config=config, initial="cut"), calibration=[inputs])


@pytest.mark.parametrize("family", [*FAMILIES, *(pytest.param(family, marks=pytest.mark.soak) for family in MORE)])
def test_a_cut_that_keeps_everything_is_the_teacher_and_one_of_neurons_is_the_teacher_without_the_others(family):
    teacher, inputs = teacher_of(family)
    whole, kept = cut(teacher, inputs, {"num_hidden_layers": 4})
    assert torch.equal(whole.eval()(**inputs).logits, teacher(**inputs).logits)
    assert kept.layers == list(range(4)) and kept.dimensions == list(range(32))
    student, kept = cut(teacher, inputs, {"intermediate_size": 10})
    without = copy.deepcopy(teacher)
    for layer, neurons in zip(Layered(without).layers, kept.neurons, strict=True):
        weight = layer.get_submodule(DOWN.get(family, "output.dense")).weight.data
        weight = weight.T if family == "gpt2" else weight
        weight[:, [neuron for neuron in range(weight.shape[1]) if neuron not in neurons]] = 0
        assert len(neurons) == 10
    assert torch.allclose(student.eval()(**inputs).logits, without(**inputs).logits, atol=1e-4)
    student, _ = cut(teacher, inputs, {**HALF, "num_key_value_heads": 1} if family == "qwen3" else HALF)
    assert (Layered(student).depth, Layered(student).width) == (2, 16)
    assert student.eval()(**inputs).logits.shape == without(**inputs).logits.shape


def test_a_cut_passes_by_norms_that_stand_over_no_hidden_states():
    relative = {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_buckets": 4, "position_biased_input": False}
    teacher, inputs = teacher_of("deberta-v2", **relative)
    assert torch.equal(cut(teacher, inputs, {"num_hidden_layers": 4})[0].eval()(**inputs).logits, teacher(**inputs).logits)
    student, kept = cut(teacher, inputs, HALF)
    chosen = teacher.get_submodule("deberta.encoder.LayerNorm").weight[kept.dimensions]
    assert torch.equal(student.get_submodule("deberta.encoder.LayerNorm").weight, chosen)


@pytest.mark.parametrize(("heads", "groups"), [(2, 2), (2, 1), pytest.param(1, 1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.soak)])
def test_a_cut_of_heads_is_the_teacher_with_the_output_of_the_other_heads_at_zero(family, heads, groups):
    teacher, inputs = teacher_of(family)
    student, kept = cut(teacher, inputs, {"num_attention_heads": heads, "num_key_value_heads": groups})
    without = copy.deepcopy(teacher)
    for layer, chosen, of in zip(Layered(without).layers, kept.heads, kept.groups, strict=True):
        assert [head // 2 for head in chosen] == [group for group in of for _ in range(heads // groups)]
        weight = layer.self_attn.o_proj.weight.data.unflatten(1, (4, 8))
        weight[:, [head for head in range(4) if head not in chosen]] = 0
    assert torch.allclose(student.eval()(**inputs).logits, without(**inputs).logits, atol=1e-4)


def test_what_is_kept_is_what_is_most_active_by_an_oracle_of_hooks():
    teacher, inputs = teacher_of("bert")
    real, seen = inputs["attention_mask"].bool(), {}

    def remember(name, what):
        def hook(module, arguments, output):
            seen[name] = (arguments[0] if what == "input" else output)[real].detach()

        return hook

    hooks = [
        module.register_forward_hook(remember(name, "output" if "LayerNorm" in name else "input"))
        for name, module in teacher.bert.named_modules()
        if name.endswith(("LayerNorm", "output.dense"))
    ]
    with torch.no_grad():
        teacher(**inputs)
    for hook in hooks:
        hook.remove()
    _, kept = cut(teacher, inputs, HALF)
    assert kept.layers == [0, 2]

    def best(scores, count):
        return sorted(scores.argsort(descending=True)[:count].tolist())

    for place, layer in enumerate(kept.layers):
        heads = sum(
            seen[f"encoder.layer.{layer}.attention.output.dense"][:, 8 * h : 8 * h + 8].norm(dim=1).sum() * e
            for h, e in enumerate(torch.eye(4))
        )
        assert kept.heads[place] == kept.groups[place] == best(heads, 2)
        assert kept.neurons[place] == best(seen[f"encoder.layer.{layer}.output.dense"].abs().sum(0), 10)
    norms = [values.abs().sum(0) for name, values in seen.items() if "LayerNorm" in name]
    assert len(norms) == 9 and kept.dimensions == best(sum(norms), 16)


def test_a_cut_takes_rows_and_columns_of_the_teachers_weights():
    teacher, inputs = teacher_of("bert")
    student, kept = cut(teacher, inputs, HALF)
    ours, theirs, width = student.state_dict(), teacher.state_dict(), kept.dimensions
    rows = [8 * head + place for head in kept.heads[1] for place in range(8)]
    layer, of = "bert.encoder.layer.1.", "bert.encoder.layer.2."
    assert torch.equal(
        ours["bert.embeddings.word_embeddings.weight"], theirs["bert.embeddings.word_embeddings.weight"][:, width]
    )
    assert torch.equal(ours[f"{layer}attention.self.key.weight"], theirs[f"{of}attention.self.key.weight"][rows][:, width])
    assert torch.equal(ours[f"{layer}attention.self.value.bias"], theirs[f"{of}attention.self.value.bias"][rows])
    assert torch.equal(
        ours[f"{layer}attention.output.dense.weight"], theirs[f"{of}attention.output.dense.weight"][width][:, rows]
    )
    assert torch.equal(
        ours[f"{layer}intermediate.dense.weight"], theirs[f"{of}intermediate.dense.weight"][kept.neurons[1]][:, width]
    )
    assert torch.equal(ours["cls.predictions.bias"], theirs["cls.predictions.bias"])
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_building_leaves_random_state_and_modes_and_is_decided_by_its_seed():
    teacher, inputs = teacher_of("bert")
    teacher.train()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, kept = cut(teacher, inputs, HALF)
    drawn = [diito.build_student(teacher, config=HALF, seed=seed).state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in teacher.modules())
    torch.manual_seed(4)
    again, same = cut(teacher, inputs, HALF)
    assert same == kept and all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(drawn[0][name], drawn[1][name]) and not torch.equal(drawn[0][name], drawn[2][name])
    random = diito.build_student(teacher, layers=2, initial="random")
    assert random.config.num_hidden_layers == 2 and random.training
    assert not torch.equal(random.get_input_embeddings().weight, teacher.get_input_embeddings().weight)


def test_lists_with_an_entry_a_layer_are_cut_along_or_stretched_and_some_fields_follow_others():
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    teacher = decoders.build("qwen3", 4, layer_types=types, sliding_window=4, use_sliding_window=True)
    for depth, expected in ((2, types[:1] + types[2:3]), (8, [each for each in types for _ in range(2)])):
        student = diito.build_student(teacher, config={"num_hidden_layers": depth})
        assert student.config.layer_types == expected and len(Layered(student).layers) == depth
    llama = decoders.build("llama", 2, num_attention_heads=4, num_key_value_heads=4)
    assert diito.build_student(llama, config={"num_attention_heads": 2}).config.num_key_value_heads == 2
    factorised = diito.build_student(models.build("distilbert", 2), config={"intermediate_size": 12, "num_hidden_layers": 1})
    assert (factorised.config.hidden_dim, factorised.config.n_layers) == (12, 1)


@pytest.mark.parametrize(
    ("config", "initial", "sentence"),
    [
        ({"hiden_size": 8}, "random", "has no hiden_size; did you mean hidden_size?"),
        ({}, "random", "is empty"),
        ({"vocab_size": 8}, "random", "vocab_size is the teacher's to say"),
        ({"pad_token_id": 1}, "random", "pad_token_id is the teacher's to say"),
        ({"hidden_size": 0}, "random", "hidden_size: 0 must be a whole number of at least 1"),
        ({"hidden_size": "wide"}, "random", "hidden_size: 'wide' must be a whole number"),
        ({"hidden_act": 3}, "random", "hidden_act: 3 is not like the teacher's, 'gelu'"),
        ({"hidden_act": "jelu"}, "random", "no bert can be built with these sizes"),
        ({"num_attention_heads": 3}, "random", "3 attention heads do not divide a hidden size of 32"),
        ({"hidden_size": 64}, "cut", "hidden_size: 64 is more than the teacher's 32"),
        (
            {"num_attention_heads": 2},
            "cut",
            "a cut keeps heads whole, of 8 dimensions, and these would have 16; give num_attention_heads 4",
        ),
        ({"hidden_size": 20, "num_attention_heads": 2}, "cut", "give a hidden_size that 8 divides"),
        ({"max_position_embeddings": 20}, "cut", "is not known; take initial: random"),
    ],
)
def test_sizes_that_make_no_student_are_refused(config, initial, sentence):
    teacher, inputs = teacher_of("bert")
    with pytest.raises(diito.Refusal) as refusal:
        diito.build_student(teacher, config=config, initial=initial, calibration=[inputs])
    assert refusal.value.field == "student.config" and sentence in refusal.value.sentence


@pytest.mark.parametrize(
    ("arguments", "field", "sentence"),
    [
        ({"layers": 2, "config": HALF}, "student.layers", "another way to make a student than student.config"),
        ({"layers": 2, "initial": "cut"}, "student.initial", "cut makes a student narrower"),
        ({"config": HALF, "initial": "teacher"}, "student.initial", "teacher copies whole layers"),
        ({"config": HALF, "initial": "cut"}, "student.initial", "cut needs calibration"),
    ],
)
def test_ways_to_make_a_student_that_do_not_go_together_are_refused(arguments, field, sentence):
    with pytest.raises(diito.Refusal) as refusal:
        diito.build_student(models.build("bert", 2), **arguments)
    assert refusal.value.field == field and sentence in refusal.value.sentence


def test_a_family_whose_names_say_nothing_is_not_cut_but_drawn():
    sizes = {"vocab_size": 60, "embedding_size": 8, "intermediate_size": 24, "num_hidden_layers": 2, **WIDER}
    teacher = AutoModelForMaskedLM.from_config(AutoConfig.for_model("albert", **sizes)).eval()
    config = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 10}
    with pytest.raises(diito.Refusal, match="how its neurons would be cut is not known"):
        cut(teacher, models.text(1, [8, 5]), config)
    student = diito.build_student(teacher, config={**config, "embedding_size": 4})
    assert (Layered(student).width, student.get_input_embeddings().weight.shape[1]) == (16, 4)


def test_padding_in_a_block_of_documents_is_not_measured():
    """Where documents are kept apart nothing but their numbers says what is padding."""
    original = Layered(decoders.build("gpt2"))
    ids = torch.arange(1, 13).view(2, 6)
    documents = torch.tensor([[0, 0, 0, 0, -1, -1]] * 2)
    padded = measure(original, [{"input_ids": ids, "documents": documents}], head_width=4)
    alone = measure(original, [{"input_ids": ids[:, :4]}], head_width=4)
    torch.testing.assert_close(padded.dimensions, alone.dimensions)
    for layer, expected in alone.heads.items():
        torch.testing.assert_close(padded.heads[layer], expected)
