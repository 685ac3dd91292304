"""The oracle against facts worked by hand and against torch's own losses, and `benchmarks/literal.py` against it."""

import copy
import importlib.util
import math
from pathlib import Path

import oracle
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

VOCABULARY, WIDTH, SPECIAL_IDS = 40, 16, {0, 1, 2}


def build(family="bert", layers=3, seed=0, **changes):
    """A tiny random model in eval mode; wide weights, so that a wrong token shows."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes
    if family == "modernbert":
        sizes |= {"cls_token_id": 1, "sep_token_id": 2}
    if family == "distilbert":  # its config translates the other names
        model = DistilBertForMaskedLM(DistilBertConfig(n_layers=layers, dim=WIDTH, n_heads=2, hidden_dim=24, **sizes))
    elif family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(**sizes))
    else:
        config, kind = {
            "bert": (BertConfig, BertForMaskedLM),
            "roberta": (RobertaConfig, RobertaForMaskedLM),
            "modernbert": (ModernBertConfig, ModernBertForMaskedLM),
            "llama": (LlamaConfig, LlamaForCausalLM),
        }[family]
        model = kind(config(**sizes))
    return model.eval()


def text(seed, rows=3, length=7, lengths=None):
    """Random ids [rows, length] without specials, with a right-padding mask when `lengths` says how many are real."""
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    if lengths is None:
        return {"input_ids": ids}
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def choose(*rows, length=7):
    """Bool[len(rows), length], True at the positions listed for each row."""
    result = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, positions in enumerate(rows):
        result[row, positions] = True
    return result


NOWHERE = choose([], [], [])
SOME = choose([1, 2], [4], [])
FAMILIES = ("bert", "distilbert", "gpt2", "llama", "modernbert", "roberta")
families = pytest.mark.parametrize("family", FAMILIES)


# ---------------------------------------------------------------------------------------------- running a model


@families
@pytest.mark.parametrize("lengths", [None, [7, 5, 3]])
def test_hidden_states_are_those_of_transformers(family, lengths):
    model, base = build(family), text(1, lengths=lengths)
    reference = model(**base, output_hidden_states=True)
    logits, outputs, last_hidden = oracle.run(model, base)
    assert torch.equal(logits, reference.logits)
    assert torch.equal(last_hidden, reference.hidden_states[-1])
    assert len(outputs) == len(oracle.layer_modules(model)) == 3
    below_the_top = zip(outputs[:-1], reference.hidden_states[1:-1], strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in below_the_top)


def test_no_hook_stays_behind():
    model = build()
    with pytest.raises(IndexError):
        oracle.run(model, text(1), {0: lambda output: output[99]})
    oracle.interchange(model, text(1), text(2), [0, 2], SOME)
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------- interchange


@families
@pytest.mark.parametrize("layers", [[0], [1], [2], [0, 1, 2]])
def test_no_positions_gives_the_base_and_all_give_the_source(family, layers):
    model, base, source = build(family), text(1), text(2)
    for positions, expected in ((NOWHERE, base), (~NOWHERE, source)):
        logits, last_hidden = oracle.interchange(model, base, source, layers, positions)
        reference_logits, _, reference_hidden = oracle.run(model, expected)
        assert torch.equal(logits, reference_logits)
        assert torch.equal(last_hidden, reference_hidden)


@families
def test_swapping_a_text_with_itself_changes_nothing(family):
    model, base = build(family), text(1, lengths=[7, 5, 3])
    logits, _ = oracle.interchange(model, base, base, [0, 1], SOME)
    assert torch.equal(logits, model(**base).logits)


@pytest.mark.parametrize("layers", [[0], [1], [2], [0, 2], [1, 2]])
def test_interchange_equals_an_explicit_loop_over_the_layers(layers):
    model, base, source = build(), text(1), text(2)
    source_values = oracle.hidden_states(model, source)
    hidden = model.bert.embeddings(input_ids=base["input_ids"])
    for index, layer in enumerate(model.bert.encoder.layer):
        hidden = layer(hidden)
        if index in layers:
            hidden = hidden.clone()
            hidden[SOME] = source_values[index][SOME]
    logits, last_hidden = oracle.interchange(model, base, source, layers, SOME)
    assert torch.equal(last_hidden, hidden)
    assert torch.equal(logits, model.cls(hidden))


def test_only_the_chosen_tokens_and_dimensions_change():
    model, base, source = build(), text(1), text(2)
    _, last_hidden = oracle.interchange(model, base, source, [2], SOME, dimensions=[(1, 4), (9, 10)])
    unchanged, given = oracle.hidden_states(model, base)[2], oracle.hidden_states(model, source)[2]
    for row in range(3):
        for position in range(7):
            for dimension in range(WIDTH):
                swapped = (row, position) in {(0, 1), (0, 2), (1, 4)} and dimension in {1, 2, 3, 9}
                expected = (given if swapped else unchanged)[row, position, dimension]
                assert last_hidden[row, position, dimension] == expected


def test_source_positions_are_matched_in_ascending_order_across_lengths():
    model, base, source = build(), text(1), text(2, length=9)
    elsewhere = choose([0, 8], [5], [], length=9)
    _, last_hidden = oracle.interchange(model, base, source, [2], SOME, source_positions=elsewhere)
    expected, given = oracle.hidden_states(model, base)[2].clone(), oracle.hidden_states(model, source)[2]
    expected[0, 1], expected[0, 2], expected[1, 4] = given[0, 0], given[0, 8], given[1, 5]
    assert torch.equal(last_hidden, expected)


def test_padding_is_neither_read_nor_written():
    model = build()
    base, source = text(1, lengths=[7, 5, 3]), text(2, lengths=[5, 7, 4])
    logits, _ = oracle.interchange(model, base, source, [0, 1], SOME)
    noisy_base = base | {"input_ids": torch.where(base["attention_mask"] == 1, base["input_ids"], 33)}
    noisy_source = source | {"input_ids": torch.where(source["attention_mask"] == 1, source["input_ids"], 34)}
    noisy_logits, _ = oracle.interchange(model, noisy_base, noisy_source, [0, 1], SOME)
    real = base["attention_mask"] == 1
    assert torch.equal(logits[real], noisy_logits[real])
    short = {name: value[:1, :5] for name, value in source.items()}  # row 0's source, without its padding
    one_row, _ = oracle.interchange(model, {n: v[:1] for n, v in base.items()}, short, [0, 1], SOME[:1])
    torch.testing.assert_close(one_row, logits[:1])


def test_token_type_ids_are_used():
    model, base, source = build(), text(1), text(2)
    typed = source | {"token_type_ids": torch.ones_like(source["input_ids"])}
    logits, _ = oracle.interchange(model, base, typed, [1], ~NOWHERE)
    assert torch.equal(logits, model(**typed).logits)
    assert not torch.allclose(logits, model(**source).logits)


@pytest.mark.parametrize(
    ("positions", "source_positions", "complaint"),
    [
        (choose([1], [5], []), None, "row 1.*base's padding"),
        (choose([5], [1], []), None, "row 0.*source's padding"),
        (SOME, choose([1], [4], []), "row 0: 2 base positions, 1 source"),
    ],
)
def test_impossible_positions_are_refused(positions, source_positions, complaint):
    base, source = text(1, lengths=[7, 5, 3]), text(2, lengths=[5, 7, 4])
    with pytest.raises(ValueError, match=complaint):
        oracle.interchange(build(), base, source, [0], positions, source_positions=source_positions)
    with pytest.raises(ValueError, match="beyond"):
        oracle.interchange(build(), base, text(2, length=5), [0], choose([6], [], []))


def test_gradients_flow_through_base_and_source():
    """Central differences in float64 see both paths from a weight below the swap; autograd must agree."""
    model, base, source = build().double(), text(1), text(2)
    pattern = torch.randn(3, 7, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weight = model.bert.encoder.layer[0].output.dense.weight

    def value():
        return (oracle.interchange(model, base, source, [1], SOME)[0] * pattern).sum()

    gradient = torch.autograd.grad(value(), weight)[0]
    for entry in ((0, 0), (5, 11), (15, 23)):
        with torch.no_grad():
            original = weight[entry].item()
            weight[entry] = original + 1e-5
            above = value()
            weight[entry] = original - 1e-5
            below = value()
            weight[entry] = original
        assert ((above - below) / 2e-5).item() == pytest.approx(gradient[entry].item(), rel=1e-6, abs=1e-6)


def test_the_source_alone_gets_a_gradient_where_everything_is_swapped():
    model, base, source = build(), text(1), text(2)
    base_only = set(base["input_ids"].flatten().tolist()) - set(source["input_ids"].flatten().tolist())
    _, last_hidden = oracle.interchange(model, base, source, [0], ~NOWHERE)
    embeddings = model.bert.embeddings.word_embeddings.weight
    gradient = torch.autograd.grad((last_hidden**3).sum(), embeddings)[0]
    assert all(gradient[token].abs().sum() == 0 for token in base_only)
    assert base_only
    assert all(gradient[token].abs().sum() > 0 for token in source["input_ids"].flatten().tolist())


def test_eligible():
    base = {"input_ids": torch.tensor([[1, 5, 6, 7, 2, 0], [1, 5, 2, 7, 8, 2]])}
    base["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    source = {"input_ids": torch.tensor([[1, 9, 2, 0, 0], [1, 9, 9, 9, 9]])}
    source["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    expected = [[False, True, False, False, False, False], [False, True, False, True, True, False]]
    assert oracle.eligible(base, source, SPECIAL_IDS).tolist() == expected


# ------------------------------------------------------------------------------------------------------ losses


def test_losses_worked_by_hand():
    token = [(0, 0)]
    quarter = torch.zeros(1, 1, 4)
    assert oracle.mlm(quarter, torch.tensor([[2]]), token).item() == pytest.approx(math.log(4))
    student, teacher = torch.zeros(1, 1, 2), torch.tensor([[[0.0, 2 * math.log(3)]]])  # at tau 2: 1/4, 3/4
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert oracle.ce(student, teacher, token, 2.0).item() == pytest.approx(4 * divergence)
    right, diagonal = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 3.0]]])
    assert oracle.cos(right, diagonal, token).item() == pytest.approx(1 - math.sqrt(0.5))
    assert oracle.mse(torch.tensor([[[1.0, 2.0]]]), torch.zeros(1, 1, 2), token).item() == pytest.approx(5)


def test_losses_equal_torchs_own_on_the_subset():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 5, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    labels = torch.randint(0, 9, (2, 5), generator=generator)
    tokens = [(0, 1), (0, 4), (1, 0)]
    rows, columns = torch.tensor(tokens).T
    s, t, tau = student[rows, columns], teacher[rows, columns], 2.0
    divergence = nn.KLDivLoss(reduction="batchmean")((s / tau).log_softmax(-1), (t / tau).softmax(-1)) * tau**2
    torch.testing.assert_close(oracle.ce(student, teacher, tokens, tau), divergence)
    cosine = nn.CosineEmbeddingLoss()(s, t, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(oracle.cos(student, teacher, tokens), cosine)
    cross_entropy = nn.functional.cross_entropy(s, labels[rows, columns])
    torch.testing.assert_close(oracle.mlm(student, labels, tokens), cross_entropy)
    squared = nn.MSELoss(reduction="sum")(s, t) / 3
    torch.testing.assert_close(oracle.mse(student, teacher, tokens), squared)


def test_a_loss_of_no_token_is_zero():
    anything, labels = torch.randn(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)
    losses = [oracle.mlm(anything, labels, []), oracle.ce(anything, anything, [], 2.0)]
    losses += [oracle.cos(anything, anything, []), oracle.mse(anything, anything, [])]
    assert all(loss.item() == 0 for loss in losses)


# --------------------------------------------------------------------------------------------------- Algorithm 1

EQUAL = dict.fromkeys(("task", "ce", "cos", "causal_ce", "causal_cos"), 0.2)


def labelled(base, *rows):
    """The batch with labels at the listed positions of each row and -100 elsewhere."""
    chosen = choose(*rows, length=base["input_ids"].shape[1])
    return base | {"labels": torch.where(chosen, base["input_ids"], -100)}


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    teacher, batch = build(), labelled(text(1, lengths=[7, 5, 3]), [1, 3], [2], [0])
    losses = oracle.objective(copy.deepcopy(teacher), teacher, [1], [1], batch, text(2), SOME, EQUAL)
    assert all(losses[name].abs() < 1e-12 for name in ("ce", "cos", "causal_ce", "causal_cos", "mse"))
    assert losses["loss"].item() == pytest.approx(0.2 * losses["task"].item())


def test_rows_without_a_swap_are_out_of_the_causal_losses():
    student, teacher = build(layers=2, seed=1), build(layers=4)
    base, source = text(1), text(2)
    batch = labelled(base, [1, 3], [2], [0, 6])
    losses = oracle.objective(student, teacher, [1], [2, 3], batch, source, SOME, EQUAL)
    first_two = {name: value[:2] for name, value in batch.items()}
    part = oracle.objective(student, teacher, [1], [2, 3], first_two, text(2), SOME[:2], EQUAL)
    for name in ("causal_ce", "causal_cos"):
        torch.testing.assert_close(losses[name], part[name])
    assert losses["ce"] != part["ce"]
    none = oracle.objective(student, teacher, [1], [2, 3], batch, source, NOWHERE, EQUAL)
    assert none["causal_ce"] == none["causal_cos"] == 0


def test_which_tokens_count():
    student, teacher, source = build(layers=2, seed=1), build(layers=4), text(2)
    base = text(1, lengths=[7, 5, 3])
    everything = labelled(base, list(range(7)), list(range(5)), list(range(3)))
    masked = oracle.objective(student, teacher, [0], [0, 1], everything, source, SOME, EQUAL, tokens="masked")
    some = oracle.objective(student, teacher, [0], [0, 1], labelled(base, [1], [], []), source, SOME, EQUAL)
    every = oracle.objective(student, teacher, [0], [0, 1], labelled(base, [1], [], []), source, SOME, EQUAL, tokens="all")
    for name in ("ce", "cos", "causal_ce", "causal_cos", "mse"):  # every real token labelled: masked is all
        assert torch.equal(masked[name], every[name])
        assert some[name] != every[name]
    assert torch.equal(some["task"], every["task"])
    nothing = oracle.objective(student, teacher, [0], [0, 1], labelled(base, [], [], []), source, SOME, EQUAL)
    assert all(loss.item() == 0 for loss in nothing.values())


def test_weights_are_used_as_given_and_only_the_student_gets_gradients():
    student, teacher, batch = build(layers=2, seed=1), build(layers=4), labelled(text(1), [1, 3], [2], [0, 6])
    losses = oracle.objective(student, teacher, [0], [0, 1], batch, text(2), SOME, {"task": 2.0, "causal_ce": 3.0})
    torch.testing.assert_close(losses["loss"], 2 * losses["task"] + 3 * losses["causal_ce"])
    losses["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    with pytest.raises(ValueError, match="causal"):
        oracle.objective(student, teacher, [0], [0], batch, text(2), SOME, {"causal": 1.0})


# -------------------------------------------------------------------------------------- the benchmark's slow side


def load_literal():
    path = Path(__file__).parents[1] / "benchmarks" / "literal.py"
    specification = importlib.util.spec_from_file_location("literal", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@families
@pytest.mark.parametrize("lengths", [None, [7, 6, 5]])
def test_the_literal_step_equals_the_oracle(family, lengths):
    """The same loss and gradients, with dropout off and every row swapped; six forward passes, no hook left."""
    student, teacher = build(family, layers=2, seed=1), build(family, layers=4)
    batch, source = labelled(text(1, lengths=lengths), [1, 3], [2], [0, 4]), text(2, lengths=lengths)
    positions, weights = choose([1, 2], [4], [3]), EQUAL | {"mse": 0.01}
    expected = oracle.objective(student, teacher, [0], [0, 1], batch, source, positions, weights, 2.0, "all")["loss"]
    expected_gradients = torch.autograd.grad(expected, list(student.parameters()))

    step = load_literal().LiteralStep(student, teacher, temperature=2.0, weights=weights)
    assert student.training
    assert not teacher.training
    student.eval()
    passes = []
    counters = [model.register_forward_hook(lambda *_: passes.append(1)) for model in (student, teacher)]
    loss = step(batch, source, [0], [0, 1], positions)
    for counter in counters:
        counter.remove()
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    torch.testing.assert_close(loss.double(), expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-3, atol=1e-5)
    assert len(passes) == 6
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())
