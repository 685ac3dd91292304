"""A student is some of its teacher's layers, its embeddings and its head, copied: nothing else and nothing shared."""

import pytest
import torch
from models import build, config, families, text
from transformers import AutoModel, AutoModelForMaskedLM

import diito
from diito.models.layered import Layered
from diito.models.student import RELEASED_LAYERS, student_layers


@pytest.mark.parametrize(
    ("layers", "teacher", "expected"),
    [
        (6, 12, [0, 2, 4, 6, 8, 10]),
        (3, 12, [0, 4, 8]),
        (9, 12, [0, 1, 2, 4, 5, 6, 8, 9, 10]),
        (1, 12, [0]),
        (12, 12, list(range(12))),
        (4, 6, [0, 1, 3, 4]),
        ("released-3", 12, [0, 2, 4]),
        ("released-6", 12, [0, 2, 4, 7, 9, 11]),
        ("released-9", 12, [0, 2, 3, 4, 7, 8, 9, 10, 11]),
        ([1, 5], 6, [1, 5]),
        ((0,), 1, [0]),
    ],
)
def test_the_layers_a_student_is_made_of(layers, teacher, expected):
    assert student_layers(layers, teacher) == expected


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (0, "0 layers of a teacher of 4; give 1 to 4"),
        (5, "5 layers of a teacher of 4"),
        (-1, "-1 layers"),
        ([], "must be a list of increasing teacher layers"),
        ([1, 0], "must be a list of increasing"),
        ([1, 1], "must be a list of increasing"),
        ([0, 4], "are not all among the teacher's layers 0 to 3"),
        ([-1, 2], "are not all among"),
        ("released-6", "are not all among the teacher's layers 0 to 3"),
        ("distilbert", "'distilbert' is not one of released-3, released-6, released-9"),
    ],
)
def test_layers_that_make_no_student_are_refused(layers, complaint):
    with pytest.raises(ValueError, match=f"^student.layers: .*{complaint}"):
        diito.build_student(build(layers=4), layers=layers)


def test_a_teacher_that_cannot_be_run_layer_by_layer_is_refused():
    with pytest.raises(ValueError, match=r"^teacher\.model: 'BertModel' cannot be run layer by layer: it has no list"):
        diito.build_student(AutoModel.from_config(config("bert", 2)), layers=1)


LAYERS = {"bert": "bert.encoder.layer.", "roberta": "roberta.encoder.layer.", "distilbert": "distilbert.transformer.layer."}


def layers_prefix(model):
    return LAYERS[model.config.model_type]


def expected_state(teacher, chosen):
    """What the student's weights are, name by name."""
    prefix, state = layers_prefix(teacher), {}
    for name, value in teacher.state_dict().items():
        if not name.startswith(prefix):
            state[name] = value
    for index, layer in enumerate(chosen):
        for name, value in Layered(teacher).layers[layer].state_dict().items():
            state[f"{prefix}{index}.{name}"] = value
    return state


@families
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("layers", [2, [0, 3], [1, 2, 3]], ids=str)
def test_weights_are_copied_exactly_and_share_no_storage(family, tied, layers):
    teacher = build(family, 4, tie_word_embeddings=tied)
    student = diito.build_student(teacher, layers=layers)
    expected = expected_state(teacher, student_layers(layers, 4))
    state = student.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    owned = {tensor.data_ptr() for tensor in [*teacher.parameters(), *teacher.buffers()]}
    assert not owned & {tensor.data_ptr() for tensor in [*student.parameters(), *student.buffers()]}
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@families
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_are_tied_where_the_teachers_are(family, tied):
    teacher = build(family, 4, tie_word_embeddings=tied)
    student = diito.build_student(teacher, layers=2)
    words, output = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    assert (words is output) == (words.data_ptr() == output.data_ptr()) == tied
    assert student.config.tie_word_embeddings == tied
    assert len(list(student.parameters())) == len(list(diito.build_student(teacher, layers=4).parameters())) - 2 * 16


def test_weights_are_tied_as_they_are_and_not_as_the_configuration_says():
    teacher = build("bert", 4)
    output = teacher.get_output_embeddings()
    output.weight = torch.nn.Parameter(output.weight.detach().clone() + 1)
    assert teacher.config.tie_word_embeddings
    student = diito.build_student(teacher, layers=4).eval()
    assert torch.equal(student(**text(1, [6])).logits, teacher(**text(1, [6])).logits)
    assert not torch.equal(student.get_output_embeddings().weight, student.get_input_embeddings().weight)


@families
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_student_with_every_layer_answers_as_its_teacher(family, attention):
    teacher = build(family, 3, attention=attention)
    student = diito.build_student(teacher, layers=3).eval()
    assert type(student) is type(teacher)
    assert student.config._attn_implementation == attention
    assert torch.equal(student(**text(1, [8, 5])).logits, teacher(**text(1, [8, 5])).logits)


@families
def test_the_student_runs_the_chosen_layers_in_order(family):
    teacher = build(family, 4)
    layered, inputs = Layered(teacher), text(1, [8, 5])
    student = diito.build_student(teacher, layers=[1, 3]).eval()
    run = layered.embed(inputs)
    expected = layered.head(layered.advance(run, layered.advance(run, run.embedded, 1), 3))
    assert torch.equal(student(**inputs).logits, expected)


@families
def test_the_configuration_is_the_teachers_with_fewer_layers(family):
    teacher = build(family, 4)
    student = diito.build_student(teacher, layers=2)
    assert student.config.num_hidden_layers == 2 and teacher.config.num_hidden_layers == 4
    ours, theirs = student.config.to_dict(), teacher.config.to_dict()
    depth = "n_layers" if family == "distilbert" else "num_hidden_layers"
    ignored = {depth, "dtype", "architectures"}
    assert {name: value for name, value in ours.items() if name not in ignored} == {
        name: value for name, value in theirs.items() if name not in ignored
    }


@families
def test_dropout_is_the_teachers_unless_given(family):
    teacher = build(family, 2).train()

    def rates(model):
        return {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}

    student = diito.build_student(teacher, layers=1)
    assert rates(student) == {0.1}
    other = diito.build_student(teacher, layers=1, dropout=0.25)
    assert rates(other) == {0.25} and rates(teacher) == {0.1}
    none = diito.build_student(teacher, layers=1, dropout=0.0)
    assert torch.equal(none(**text(1, [6])).logits, none(**text(1, [6])).logits), "attention's too"


@families
def test_a_saved_student_is_loaded_by_transformers_and_answers_the_same(family, tmp_path):
    for tied in (True, False):
        student = diito.build_student(build(family, 4, tie_word_embeddings=tied), layers=2).eval()
        student.save_pretrained(tmp_path / str(tied))
        loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / str(tied)).eval()
        assert type(loaded) is type(student)
        assert torch.equal(loaded(**text(1, [8, 5])).logits, student(**text(1, [8, 5])).logits)


@families
def test_a_teacher_in_bf16_makes_a_student_in_fp32(family):
    teacher = build(family, 3).to(torch.bfloat16)
    student = diito.build_student(teacher, layers=[0, 2])
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight.float())
    assert student.config.dtype == torch.float32
    half = diito.build_student(teacher, layers=1, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("training", [False, True])
def test_a_student_is_in_train_mode_and_its_teacher_in_the_mode_it_was_in(training):
    teacher = build("bert", 2).train(training)
    assert all(module.training for module in diito.build_student(teacher, layers=1).modules())
    assert all(module.training == training for module in teacher.modules())


def test_building_depends_on_no_global_state_and_leaves_it():
    teacher = build("bert", 4)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = diito.build_student(teacher, layers=2).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    second = diito.build_student(teacher, layers=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_parameter_of_a_student_is_trained_though_the_teacher_is_frozen():
    teacher = build("bert", 2).requires_grad_(False)
    assert all(parameter.requires_grad for parameter in diito.build_student(teacher, layers=1).parameters())


def test_released_lists_are_of_their_lengths():
    assert {name: len(layers) for name, layers in RELEASED_LAYERS.items()} == {
        "released-3": 3,
        "released-6": 6,
        "released-9": 9,
    }
