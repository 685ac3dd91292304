"""Dropout for the CPU: the rate and the scale, gradients against numerical differentiation, and models left as they were."""

import math

import pytest
import torch
import torch.nn.functional as F
from models import build, families, text
from torch import nn

from diito.speed import dropout
from diito.speed.dropout import FastDropout, attention_with_dropout, keep_masks, use_fast_dropout

RATES = (0.1, 0.5, 0.003)


def attention(query, key, value, mask=None, rate=0.1, scaling=None, seed=None):
    """[batch heads tokens width], with the draws of ``seed``."""
    if seed is not None:
        torch.manual_seed(seed)
    module = nn.Module()
    module.is_causal = False
    return attention_with_dropout(module, query, key, value, mask, dropout=rate, scaling=scaling)[0].transpose(1, 2)


def drawn(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------------------- elements


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_rate_is_that_asked_for_and_what_stays_is_scaled_by_it(rate, dtype):
    torch.manual_seed(1)
    ones = torch.ones(1000, 1001, dtype=dtype)
    out = FastDropout(rate).train()(ones)
    kept = out != 0
    deviation = math.sqrt(rate * (1 - rate) / ones.numel())
    assert abs((~kept).double().mean().item() - rate) < 5 * deviation + 2**-17  # five sigma, and the rounding of the rate
    expected = torch.full_like(out[kept], 1 / (1 - rate))
    torch.testing.assert_close(out[kept], expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0)


def test_rows_columns_and_calls_are_independent():
    torch.manual_seed(2)
    first, second = (keep_masks((512, 513), 0.5, torch.float32).double() + 0.5 for _ in range(2))
    noise = 5 / math.sqrt(first.numel())
    for other in (second, first.roll(1, 0), first.roll(1, 1), first.roll(4, 1), first.roll(2, 1)):
        assert abs(4 * (first * other).mean().item()) < noise


def test_the_gradient_has_the_mask_and_the_scale_of_the_output():
    torch.manual_seed(3)
    values = drawn(7, 33).requires_grad_()
    out = FastDropout(0.4).train()(values)
    upstream = drawn(7, 33, seed=1)
    out.backward(upstream)
    torch.testing.assert_close(values.grad, upstream * out.detach() / values.detach())


def test_the_same_seed_draws_the_same_and_one_number_of_the_generator():
    layer, values = FastDropout(0.3).train(), drawn(5, 5)
    torch.manual_seed(4)
    one, after = layer(values), torch.rand(())
    torch.manual_seed(4)
    assert torch.equal(layer(values), one)
    torch.manual_seed(4)
    torch.randint(2**63 - 1, ())
    assert torch.equal(torch.rand(()), after)


@pytest.mark.parametrize("values", [torch.zeros(0, 3), torch.tensor(2.0)], ids=["empty", "scalar"])
def test_what_has_no_elements_or_no_dimension(values):
    assert FastDropout(0.5).train()(values).shape == values.shape


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_beyond_its_levels_is_left_to_torch(rate):
    values = drawn(5, 5)
    assert torch.equal(FastDropout(rate).train()(values), F.dropout(values, round(rate), training=True))


def test_eval_mode_and_strided_inputs():
    values = drawn(6, 4).t()
    assert FastDropout(0.5).eval()(values) is values
    torch.manual_seed(5)
    out = FastDropout(0.5).train()(values)
    assert set(out[out != 0].div(values[out != 0]).round(decimals=3).tolist()) == {2.0}


# ------------------------------------------------------------------------------------------------------------ attention


def masks_of(shape):
    padding = torch.ones(shape[0], 1, 1, shape[2], dtype=torch.bool)
    padding[0, ..., -2:] = False
    return {"all": None, "padding": padding, "square": padding.expand(shape[0], 1, shape[2], shape[2])}


@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
@pytest.mark.parametrize("mask", ["all", "padding", "square"])
def test_attention_is_the_formula_with_the_mask_that_was_drawn(mask, chunk, monkeypatch):
    """Values of one-hot rows show the dropped-out probabilities themselves; the same seed then gives any other values."""
    monkeypatch.setattr(dropout, "CHUNK", chunk)
    shape = (3, 2, 6, 8)
    query, key, value = (drawn(*shape, seed=seed) for seed in range(3))
    allowed = masks_of(shape)[mask]
    one_hot = torch.eye(6).expand(3, 2, 6, 6)
    shown = attention(query, key, one_hot, allowed, rate=0.3, scaling=8**-0.5, seed=6)
    scores = query @ key.transpose(2, 3) / math.sqrt(8)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    probabilities = scores.softmax(-1)
    expected = torch.where(shown != 0, probabilities / 0.7, 0.0)
    torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-6)
    assert 0 < (shown == 0).sum() - (probabilities == 0).sum() < 0.5 * shown.numel()
    out = attention(query, key, value, allowed, rate=0.3, seed=6)
    torch.testing.assert_close(out, shown @ value)


@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("mask", ["all", "padding"])
def test_gradients_of_attention_against_numerical_differentiation(mask, chunk, monkeypatch):
    monkeypatch.setattr(dropout, "CHUNK", chunk)
    shape = (2, 2, 5, 3)
    inputs = [drawn(*shape, dtype=torch.float64, seed=seed).requires_grad_() for seed in range(3)]
    allowed = masks_of(shape)[mask]
    assert torch.autograd.gradcheck(lambda *given: attention(*given, allowed, rate=0.3, seed=7), inputs)


def test_in_bf16_attention_is_as_near_to_double_precision_as_torchs_own():
    """At a rate of 0, so that both compute the same."""
    inputs = [drawn(2, 4, 64, 16, seed=seed) for seed in range(3)]
    upstream = drawn(2, 4, 64, 16, seed=3)

    def run(function, dtype):
        leaves = [each.to(torch.bfloat16).to(dtype).requires_grad_() for each in inputs]
        out = function(*leaves)
        out.backward(upstream.to(torch.bfloat16).to(dtype))
        return [out.detach().double(), *(leaf.grad.double() for leaf in leaves)]

    exact = run(F.scaled_dot_product_attention, torch.float64)
    torchs = run(F.scaled_dot_product_attention, torch.bfloat16)
    ours = run(lambda *given: dropout._Attention.apply(*given, None, 0.0, 0.25), torch.bfloat16)
    for reference, theirs, own in zip(exact, torchs, ours, strict=True):
        assert (own - reference).norm() < 2 * (theirs - reference).norm()


def test_a_token_that_attends_to_nothing_gets_nothing():
    query, key, value = (drawn(2, 3, 4, 5, seed=seed).requires_grad_() for seed in range(3))
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    mask[1, 0, 2] = False
    out = attention(query, key, value, mask, seed=1)
    assert not out[1, :, 2].any() and out[1, :, 1].any()
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() for tensor in (query, key, value)) and not query.grad[1, :, 2].any()


@pytest.mark.parametrize("kind", ["heads that share keys", "a query of another precision"])
def test_what_only_torch_can_go_to_torch(kind, monkeypatch):
    monkeypatch.setattr(dropout, "keep_masks", None)
    query, key, value = drawn(2, 4, 3, 8), drawn(2, 4, 3, 8, seed=1), drawn(2, 4, 3, 8, seed=2)
    if kind == "heads that share keys":
        key, value = key[:, :2], value[:, :2]
        module = nn.Module()
        module.num_key_value_groups, module.is_causal = 2, False
        out = attention_with_dropout(module, query, key, value, None, dropout=0.1)[0]
    else:
        with torch.autocast("cpu", torch.bfloat16):  # which torch's attention heeds
            out = attention(query, key, value.bfloat16()).transpose(1, 2)
    assert out.shape == (2, 3, 4, 8) and out.isfinite().all()


def test_causal_attention_and_other_masks_go_to_torch():
    query, key, value = (drawn(2, 2, 5, 4, seed=seed) for seed in range(3))
    causal = nn.Module()
    causal.is_causal = True
    torch.manual_seed(8)
    ours = attention_with_dropout(causal, query, key, value, None, dropout=0.2)[0].transpose(1, 2)
    torch.manual_seed(8)
    assert torch.equal(ours, F.scaled_dot_product_attention(query, key, value, dropout_p=0.2, is_causal=True))
    added = drawn(2, 1, 5, 5, seed=4)
    torch.manual_seed(8)
    ours = attention(query, key, value, added, rate=0.2)
    torch.manual_seed(8)
    assert torch.equal(ours, F.scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=0.2))


# --------------------------------------------------------------------------------------------------------------- models


@families
def test_a_model_keeps_its_weights_and_its_eval_mode_and_drops_out_in_training(family, tmp_path):
    model, inputs = build(family), text(0, [9, 6])
    before = model.eval()(**inputs).logits
    names = list(model.state_dict())
    use_fast_dropout(model)
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert list(model.state_dict()) == names
    assert torch.equal(model(**inputs).logits, before)
    torch.manual_seed(9)
    one = model.train()(**inputs).logits
    assert not torch.equal(model(**inputs).logits, one)
    torch.manual_seed(9)
    assert torch.equal(model(**inputs).logits, one)
    model.save_pretrained(tmp_path)
    assert dropout.ATTENTION not in (tmp_path / "config.json").read_text()
    assert torch.equal(type(model).from_pretrained(tmp_path).eval()(**inputs).logits, before)


def test_on_average_a_model_in_training_does_what_torchs_dropout_does():
    """Means over draws of both, within five standard errors of their difference at every logit but a few."""
    model, inputs = build(), text(0, [9, 6])

    def logits(count):
        with torch.no_grad():
            return torch.stack([model.train()(**inputs).logits for _ in range(count)]).double()

    torch.manual_seed(10)
    torchs = logits(400)
    use_fast_dropout(model)
    ours = logits(400)
    error = ((torchs.var(0) + ours.var(0)) / 400).sqrt()
    assert ((torchs.mean(0) - ours.mean(0)).abs() / error).max() < 5.5
    torch.testing.assert_close(ours.var(0).mean(), torchs.var(0).mean(), rtol=0.1, atol=0)
