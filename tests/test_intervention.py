"""Laws 2 to 4 for the operators: interchange against the oracle, no-ops and boundaries bit by bit, gradients, refusals."""

from itertools import product

import oracle
import pytest
import torch
from models import VOCABULARY, WIDTH, build, choose, families, gradients, text

import diito
from diito.method.intervention import _check_positions, set_values

DEPTH = 3
LAYERS = [[0], [1], [2], [0, 2], [0, 1, 2]]
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def typed(inputs, after):
    return inputs | {
        "token_type_ids": (torch.arange(inputs["input_ids"].shape[1]) > after).long().expand_as(inputs["input_ids"])
    }


def noisy(inputs, token):
    """Other ids on the padding."""
    return inputs | {"input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], token)}


# ---------------------------------------------------------------------------------------------------- law 2: the oracle

CASES = {
    "same length": ([8, 8, 8], [8, 8, 8], choose([1, 2], [4], [], width=8), None),
    "padded": ([8, 6, 4], [5, 8, 8], choose([1, 2], [4, 5], [0, 3], width=8), None),
    "shorter source": ([8, 8, 8], [5, 4, 5], choose([1, 4], [3], [2, 3], width=8), None),
    "longer source": ([5, 4, 5], [8, 8, 8], choose([1, 4], [3], [2, 3], width=5), None),
    "source positions": ([8, 8, 8], [8, 8, 8], choose([1, 2], [4], [], width=8), choose([0, 7], [1], [], width=8)),
    "source positions beyond": ([5, 5, 4], [8, 6, 8], choose([1, 2], [4], [], width=5), choose([3, 7], [5], [], width=8)),
}


@families
@pytest.mark.parametrize("case", CASES)
def test_interchange_equals_the_oracle(family, case):
    base_lengths, source_lengths, positions, elsewhere = CASES[case]
    model, base, source = build(family, DEPTH), text(1, base_lengths), text(2, source_lengths)
    for layers, dimensions in product(LAYERS, (None, [(2, 5)], [(9, 12), (0, 3)])):
        options = {"source_positions": elsewhere, "dimensions": dimensions}
        ours = diito.interchange(model, base, source, layers, positions, **options)
        theirs, _ = oracle.interchange(model, base, source, layers, positions, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours, model(**base).logits, atol=1e-3), "the swap shows"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_token_type_ids_of_base_and_source_are_honoured(family):
    model, positions = build(family, DEPTH), choose([1, 2], [4], width=7)
    base, source = typed(text(1, [7, 6]), 2), typed(text(2, [7, 7]), 4)
    ours = diito.interchange(model, base, source, [1], positions)
    torch.testing.assert_close(ours, oracle.interchange(model, base, source, [1], positions)[0], rtol=1e-5, atol=1e-5)
    for changed in ((base | {"token_type_ids": source["token_type_ids"]}, source), (base, text(2, [7, 7]))):
        assert not torch.allclose(ours, diito.interchange(model, *changed, [1], positions), atol=1e-3)


@families
@attentions
@pytest.mark.parametrize("lengths", [[8, 8], [8, 5]], ids=["full", "padded"])
def test_get_values_are_the_outputs_of_the_layers(family, attention, lengths):
    model, inputs = build(family, DEPTH, attention=attention), text(3, lengths)
    reference = oracle.hidden_states(model, inputs)
    for layers in LAYERS:
        values = diito.get_values(model, inputs, layers)
        assert sorted(values) == layers
        assert all(torch.equal(values[layer], reference[layer]) for layer in layers)


@pytest.mark.parametrize(
    "dimensions", [(2, 5), slice(2, 5), range(2, 5), [(2, 5)], [(2, 3), (3, 5)], [(4, 5), (2, 4)]], ids=str
)
def test_every_way_of_writing_dimensions_means_the_same(dimensions):
    model, base, source = build(), text(1, [7, 7]), text(2, [7, 7])
    positions = choose([1, 2], [4], width=7)
    expected, _ = oracle.interchange(model, base, source, [1], positions, dimensions=[(2, 5)])
    torch.testing.assert_close(diito.interchange(model, base, source, [1], positions, dimensions=dimensions), expected)


# ------------------------------------------------------------------------------------------------- law 3: bit by bit


@families
@attentions
@pytest.mark.parametrize("lengths", [[8, 8, 8], [8, 5, 3]], ids=["full", "padded"])
def test_swapping_a_text_with_itself_changes_no_bit(family, attention, lengths):
    model, base = build(family, DEPTH, attention=attention), text(1, lengths)
    for layers, dimensions in product(LAYERS, (None, [(3, 7)])):
        swapped = diito.interchange(model, base, base, layers, choose([1, 2], [3], [0], width=8), dimensions=dimensions)
        assert torch.equal(swapped, model(**base).logits)


@families
@attentions
@pytest.mark.parametrize("lengths", [[8, 8, 8], [8, 5, 3]], ids=["full", "padded"])
def test_swapping_every_position_is_the_sources_own_upper_run(family, attention, lengths):
    model, base, source = build(family, DEPTH, attention=attention), text(1, lengths), text(2, lengths)
    real = torch.arange(8) < torch.tensor(lengths)[:, None]
    for layers in LAYERS:
        swapped = diito.interchange(model, base, source, layers, real)
        assert torch.equal(swapped[real], model(**source).logits[real])
        assert torch.equal(diito.interchange(model, base, source, layers, ~real & False), model(**base).logits)


@families
@attentions
def test_padding_is_never_read_nor_written(family, attention):
    model = build(family, DEPTH, attention=attention)
    base, source = text(1, [8, 5, 3]), text(2, [5, 8, 4])
    positions = choose([1, 4], [2, 3], [0, 2], width=8)
    real = base["attention_mask"] == 1
    for layers in LAYERS:
        clean = diito.interchange(model, base, source, layers, positions)
        dirty = diito.interchange(model, noisy(base, 33), noisy(source, 44), layers, positions)
        assert torch.equal(clean[real], dirty[real])
        assert not torch.equal(clean[~real], dirty[~real]), "the padding did change"
    clean, untouched = diito.interchange(model, base, source, [2], positions), model(**base).logits
    assert torch.equal(clean[~positions], untouched[~positions]), "at the top only the swapped positions change"


def test_set_values_changes_only_the_chosen_positions_and_dimensions():
    hidden, values = torch.zeros(2, 5, 8), torch.ones(2, 5, 8)
    positions = choose([1, 2], [4], width=5)
    for dimensions, inside in ((None, range(8)), ([(1, 3)], [1, 2]), ([(6, 8), (0, 1), (3, 4)], [0, 3, 6, 7])):
        result = set_values(hidden, values, positions, dimensions=dimensions)
        for row in range(2):
            for token in range(5):
                for dimension in range(8):
                    expected = 1 if positions[row, token] and dimension in inside else 0
                    assert result[row, token, dimension] == expected
    assert (hidden == 0).all() and (values == 1).all()


@families
def test_the_same_layer_is_read_and_written(family):
    """At the top layer the swapped tokens' logits are the source's own: the output was read and the output written."""
    model, base, source = build(family, 2), text(1, [7, 7]), text(2, [7, 7])
    positions = choose([1, 5], [3], width=7)
    swapped = diito.interchange(model, base, source, [1], positions)
    assert torch.equal(swapped[positions], model(**source).logits[positions])


# ------------------------------------------------------------------------------------------------ law 4: gradients


@families
def test_gradients_equal_the_oracles_through_base_and_source(family):
    model, base, source = build(family, DEPTH), text(1, [7, 5]), text(2, [6, 7])
    positions, elsewhere = choose([1, 2], [4], width=7), choose([2, 5], [6], width=7)
    pattern = torch.randn(2, 7, VOCABULARY, generator=torch.Generator().manual_seed(3))
    options = {"source_positions": elsewhere, "dimensions": [(1, 9)]}
    for layers in LAYERS:
        ours = diito.interchange(model, base, source, layers, positions, **options)
        theirs, _ = oracle.interchange(model, base, source, layers, positions, **options)
        expected = gradients((theirs * pattern).sum(), model)
        torch.testing.assert_close(gradients((ours * pattern).sum(), model), expected, rtol=1e-4, atol=1e-4)


@families
def test_the_source_alone_gets_a_gradient_where_everything_is_swapped(family):
    model = build(family, DEPTH, tie_word_embeddings=False)
    base, source = text(1, [7, 7], low=4, high=30), text(2, [7, 7], low=30)
    for layer in range(DEPTH):
        swapped = diito.interchange(model, base, source, [layer], torch.ones(2, 7, dtype=torch.bool))
        gradient = torch.autograd.grad(swapped.square().sum(), model.get_input_embeddings().weight)[0].abs().sum(1)
        assert (gradient[4:30] == 0).all()
        assert (gradient[source["input_ids"].flatten()] > 0).all()


def test_no_gradient_is_made_where_the_caller_wants_none():
    model, base = build(), text(1, [7, 7])
    with torch.no_grad():
        assert not diito.interchange(model, base, base, [0], choose([1], [2], width=7)).requires_grad
    assert diito.interchange(model, base, base, [0], choose([1], [2], width=7)).requires_grad


def test_the_callers_mode_and_the_model_are_left_alone():
    model, base, source = build().train(), text(1, [7, 7]), text(2, [7, 7])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    first = diito.interchange(model, base, source, [1], choose([1], [2], width=7))
    second = diito.interchange(model, base, source, [1], choose([1], [2], width=7))
    assert model.training and not torch.equal(first, second), "dropout is drawn in train mode"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# -------------------------------------------------------------------------------------------------------- refusals

BASE, SOURCE = text(1, [8, 5, 3]), text(2, [5, 8, 6])
GOOD = choose([1, 4], [2], [0], width=8)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"positions": choose([], [5], [], width=8)}, "positions: a position is on the base's padding"),
        ({"positions": choose([5], [], [], width=8)}, "positions: a position is beyond the source or on its padding"),
        ({"positions": choose([7], [], [], width=8), "source": text(2, [6, 6, 6])}, "beyond the source"),
        ({"positions": GOOD[:, :7]}, r"positions: need Bool\[3, 8\], the base's shape"),
        ({"source": text(2, [8, 8])}, "source: 2 rows for 3 rows of the base"),
        ({"source_positions": choose([1], [2], [0], width=8)}, "each row needs as many positions"),
        ({"source_positions": choose([1, 2, 3], [2], [0], width=8)}, "each row needs as many positions"),
        ({"source_positions": choose([1, 5], [2], [0], width=8)}, "source_positions: a position is on the source's padding"),
        ({"source_positions": GOOD[:, :7]}, r"source_positions: need Bool\[3, 8\], the source's shape"),
        ({"layers": [3]}, r"layers: \[3\] are not among the model's layers 0 to 2"),
        ({"layers": [-1, 0]}, "are not among the model's layers"),
        ({"layers": []}, "are not among the model's layers"),
        ({"dimensions": (0, WIDTH + 1)}, f"do not lie in the model's width of {WIDTH}"),
        ({"dimensions": (4, 4)}, r"dimensions: \[4, 4\) is empty or negative"),
        ({"dimensions": (-2, 3)}, "is empty or negative"),
        ({"dimensions": slice(0, 8, 2)}, "step 1"),
        ({"dimensions": slice(3, None)}, "must have a stop"),
        ({"dimensions": []}, "dimensions"),
        ({"dimensions": [(0, 4), (2, 6)]}, "dimensions.*overlap"),
    ],
)
def test_what_is_not_defined_is_refused(changes, complaint):
    arguments = {"base": BASE, "source": SOURCE, "layers": [1], "positions": GOOD} | changes
    with pytest.raises(ValueError, match=complaint):
        diito.interchange(build(), **arguments)


def test_positions_that_are_not_boolean_are_refused():
    """Asked of the check itself, since the tests' type checker would answer first."""
    with pytest.raises(ValueError, match=r"^positions: need Bool\[3, 8\], the base's shape, not torch\.int64\[3, 8\]"):
        _check_positions(BASE, SOURCE, GOOD.long(), None)
    with pytest.raises(ValueError, match=r"^source_positions: need Bool\[3, 8\], the source's shape"):
        _check_positions(BASE, SOURCE, GOOD, GOOD.int())


@pytest.mark.parametrize("layers", [[], [3], [-1]])
def test_values_of_a_layer_the_model_lacks_are_refused(layers):
    with pytest.raises(ValueError, match="are not among the model's layers 0 to 2"):
        diito.get_values(build(), BASE, layers)
