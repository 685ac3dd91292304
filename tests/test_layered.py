"""Law 1: the layered view gives the bits of the Hugging Face forward, from wherever it is taken up."""

import pytest
import torch
from models import LONGEST, VOCABULARY, WIDTH, build, config, counted, families, text

from diito.models.layered import Layered, longest_sequence

attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])
paddings = pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 6, 3]], ids=["full", "padded"])


@families
@attentions
@paddings
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_hidden_state_and_the_logits_are_transformers_own(family, attention, lengths, training):
    model, inputs = build(family, attention=attention).train(training), text(1, lengths)
    assert model.config._attn_implementation == attention
    torch.manual_seed(5)
    reference = model(**inputs, output_hidden_states=True)
    torch.manual_seed(5)
    layered = Layered(model)
    run, states = layered.states(inputs, range(layered.depth))
    ours = [run.embedded, *states.values()]
    assert (layered.depth, layered.width) == (3, WIDTH)
    assert len(ours) == len(reference.hidden_states) == 4
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, reference.hidden_states, strict=True))
    final = layered.final(states[2])
    assert torch.equal(final, reference.hidden_states[-1])
    assert torch.equal(layered.head(final), reference.logits)
    assert training == (not torch.equal(reference.logits, model.eval()(**inputs).logits)), "dropout is at work in train mode"


@families
@attentions
@paddings
def test_resuming_from_every_layer_gives_the_same_bits(family, attention, lengths):
    model, inputs = build(family, layers=4, attention=attention), text(2, lengths)
    layered = Layered(model)
    run, states = layered.states(inputs, range(4))
    logits = model(**inputs).logits
    for start in range(-1, 4):
        hidden = run.embedded if start < 0 else states[start]
        for layer in range(start + 1, 4):
            hidden = layered.advance(run, hidden, layer)
            assert torch.equal(hidden, states[layer])
        assert torch.equal(layered.head(layered.final(hidden)), logits)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@paddings
def test_token_type_ids_are_honoured(family, lengths):
    model, inputs = build(family), text(3, lengths)
    typed = inputs | {"token_type_ids": (torch.arange(9) > 3).long().expand(3, 9)}
    layered = Layered(model)
    logits = layered.head(layered.final(layered.states(typed, [2])[1][2]))
    assert torch.equal(logits, model(**typed).logits)
    assert not torch.allclose(logits, model(**inputs).logits)


@families
def test_gradients_are_those_of_the_forward(family):
    model, inputs = build(family), text(4, [8, 5])
    layered = Layered(model)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(layered.head(layered.final(layered.states(inputs, [2])[1][2])).square().sum(), parameters)
    theirs = torch.autograd.grad(model(**inputs).logits.square().sum(), parameters)
    assert all(torch.equal(mine, reference) for mine, reference in zip(ours, theirs, strict=True))


@families
def test_a_run_stops_at_the_highest_layer_asked_for_and_keeps_only_those(family):
    model, inputs = build(family, layers=4), text(5, [7, 7])
    layered = Layered(model)
    with counted(model) as calls:
        _, states = layered.states(inputs, [2, 0])
    assert calls == {"layers": [1, 1, 1, 0], "head": []}
    assert sorted(states) == [0, 2]
    with counted(model) as calls:
        run, states = layered.states(inputs, [])
    assert calls == {"layers": [0] * 4, "head": []} and states == {} and run.embedded.shape == (2, 7, WIDTH)


@families
def test_the_head_gives_the_same_logits_for_some_tokens_as_for_all(family):
    model, inputs = build(family), text(6, [7, 7])
    layered = Layered(model)
    final = layered.states(inputs, [2])[1][2]
    chosen = final[[0, 1, 1], [3, 0, 6]]
    torch.testing.assert_close(layered.head(chosen), model(**inputs).logits[[0, 1, 1], [3, 0, 6]])


@families
def test_the_longest_sequence_of_a_family_runs_and_one_token_more_does_not(family):
    longest = longest_sequence(config(family, 1))
    assert longest == (LONGEST - PAD_OFFSET if family == "roberta" else LONGEST)
    model = build(family, layers=1)
    layered = Layered(model)
    assert layered.head(layered.states(text(7, [longest]), [0])[1][0]).shape == (1, longest, VOCABULARY)
    with pytest.raises((IndexError, RuntimeError)):
        layered.states(text(7, [longest + 1]), [0])


PAD_OFFSET = 1  # RoBERTa counts positions from its padding id (0 here) on
