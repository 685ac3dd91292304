"""Law 7: the losses against numbers worked by hand and torch's own; gradients against autograd's of the plain formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diito.method import losses
from diito.method.losses import (
    Loss,
    Predictions,
    by_chunks,
    cosine_distance,
    find_loss,
    masked_cross_entropy,
    paper_losses,
    smoothed_cross_entropy,
    squared_error,
    token_mean,
)
from diito.refusal import Refusal

TOKENS, WORDS = 11, 9


@pytest.fixture(params=[1, 3 * WORDS, 1 << 19], ids=["a token a chunk", "three tokens a chunk", "one chunk"])
def chunks(request, monkeypatch):
    """Every law of the losses holds whatever the size of a chunk; 11 tokens end in a smaller one."""
    monkeypatch.setattr(losses, "CHUNK", {"cpu": request.param})


def drawn(seed=0, tokens=TOKENS, words=WORDS, dtype=torch.float32):
    """Student's and teacher's logits and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(tokens, words, generator=generator) for _ in range(2))
    labels = torch.randint(0, words, (tokens,), generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), labels


# ------------------------------------------------------------------------------------------------- worked by hand


def test_losses_worked_by_hand(chunks):
    even = torch.zeros(2, 4)
    labels = torch.tensor([2, -100])
    assert masked_cross_entropy(even, labels).tolist() == pytest.approx([math.log(4), 0])
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2 * math.log(3)]])  # at τ = 2: 1/2, 1/2 and 1/4, 3/4
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert smoothed_cross_entropy(student, teacher, 2.0).tolist() == pytest.approx([4 * divergence])
    assert divergence == pytest.approx(0.130812, abs=1e-6)
    right, diagonal = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 3.0], [-2.0, 0.0]])
    assert cosine_distance(right, diagonal).tolist() == pytest.approx([1 - math.sqrt(0.5), 2])
    assert squared_error(torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[0.0, 0.0, 4.0]])).tolist() == [6]
    assert token_mean(torch.tensor([1.0, 5.0, 9.0]), torch.tensor([1.0, 0.0, 1.0])).item() == 5


def test_losses_equal_torchs_own(chunks):
    student, teacher, labels = drawn()
    for temperature in (1.0, 2.0, 5.0):
        log_student, target = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
        divergence = nn.KLDivLoss(reduction="batchmean")(log_student, target) * temperature**2
        torch.testing.assert_close(smoothed_cross_entropy(student, teacher, temperature).mean(), divergence)
    torch.testing.assert_close(masked_cross_entropy(student, labels).mean(), F.cross_entropy(student, labels))
    cosine = nn.CosineEmbeddingLoss()(student, teacher, torch.ones(TOKENS))
    torch.testing.assert_close(cosine_distance(student, teacher).mean(), cosine)
    torch.testing.assert_close(squared_error(student, teacher).mean(), nn.MSELoss(reduction="sum")(student, teacher) / TOKENS)


def test_the_smoothed_loss_is_the_cross_entropy_less_the_teachers_entropy(chunks):
    student, teacher, _ = drawn(1)
    target = (teacher / 2).softmax(-1)
    cross_entropy = 4 * F.cross_entropy(student / 2, target, reduction="none")
    entropy = -4 * (target * target.log()).sum(-1)
    torch.testing.assert_close(smoothed_cross_entropy(student, teacher, 2.0), cross_entropy - entropy)
    assert smoothed_cross_entropy(teacher, teacher, 2.0).abs().max() < 1e-6


def test_the_gradient_of_the_smoothed_loss_hardly_depends_on_the_temperature(chunks):
    """Hinton et al. (2015), section 2.1: with τ² it tends to (s - t) / words where the logits have mean 0."""
    student, teacher, _ = drawn(2)
    student = (student - student.mean(-1, keepdim=True)).detach().requires_grad_()
    teacher = teacher - teacher.mean(-1, keepdim=True)
    gradient = torch.autograd.grad(smoothed_cross_entropy(student, teacher, 1e3).sum(), student)[0]
    torch.testing.assert_close(gradient, (student - teacher) / WORDS, rtol=2e-2, atol=5e-3)


# ------------------------------------------------------------------------------------------- gradients and precision


def plain(name, student, teacher, labels):
    """The formula as torch would differentiate it, in fp32."""
    student, teacher = student.float(), teacher.float()
    if name == "task":
        return F.cross_entropy(student, labels, reduction="none")
    if name == "mse":
        return (student - teacher).pow(2).sum(-1)
    log_student, log_teacher = (student / 2).log_softmax(-1), (teacher / 2).log_softmax(-1)
    return 4 * F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)


def ours(name, student, teacher, labels):
    if name == "task":
        return masked_cross_entropy(student, labels)
    return squared_error(student, teacher) if name == "mse" else smoothed_cross_entropy(student, teacher, 2.0)


names = pytest.mark.parametrize("name", ["task", "ce", "mse"])


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_values_and_gradients_equal_autograds_of_the_plain_formula(name, dtype, chunks):
    student, teacher, labels = drawn(3, dtype=dtype)
    labels[4] = -100
    upstream = torch.linspace(-1, 2, TOKENS)
    mine, reference = ours(name, student, teacher, labels), plain(name, student, teacher, labels)
    assert mine.dtype == torch.float32 and mine.shape == (TOKENS,)
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad((mine * upstream).sum(), student)
    (expected,) = torch.autograd.grad((reference * upstream).sum(), student)
    assert gradient.dtype == dtype
    tolerance = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-5, 1e-6), torch.bfloat16: (1.6e-2, 1e-5)}[dtype]
    torch.testing.assert_close(gradient, expected, rtol=tolerance[0], atol=tolerance[1])


@names
def test_a_value_may_be_used_and_differentiated_twice(name, chunks):
    student, teacher, labels = drawn(4)
    values = ours(name, student, teacher, labels)
    (first,) = torch.autograd.grad(values.sum(), student, retain_graph=True)
    (second,) = torch.autograd.grad(values.sum(), student, retain_graph=True)
    (both,) = torch.autograd.grad(values.sum() + 2 * values.sum(), student)
    assert torch.equal(first, second)
    torch.testing.assert_close(both, 3 * first)


@names
def test_chunks_change_no_bit(name, monkeypatch):
    student, teacher, labels = drawn(5)
    results = []
    for size in (1, 4 * WORDS, 1 << 20):
        monkeypatch.setattr(losses, "CHUNK", {"cpu": size})
        values = ours(name, student, teacher, labels)
        results.append((values, torch.autograd.grad(values.mean(), student)[0]))
    assert all(torch.equal(*pair) for result in results[1:] for pair in zip(result, results[0], strict=True))


def test_a_function_sees_so_many_tokens_at_a_time_in_fp32(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", {"cpu": 4 * WORDS + 1})
    seen = []

    def function(logits, other):
        seen.append((tuple(logits.shape), logits.dtype, tuple(other.shape)))
        return logits.sum(-1)

    student, _, labels = drawn(6, dtype=torch.bfloat16)
    by_chunks(function, student, labels)
    assert seen == [((rows, WORDS), torch.float32, (rows,)) for rows in (4, 4, 3)]


@names
def test_no_token_at_all(name, chunks):
    student, teacher, labels = drawn(7, tokens=0)
    values = ours(name, student, teacher, labels)
    assert values.shape == (0,) and values.dtype == torch.float32
    loss = token_mean(values, torch.zeros(0))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss == 0 and gradient.shape == (0, WORDS)


@names
def test_the_teachers_logits_get_no_gradient_and_none_is_made_where_none_is_wanted(name, chunks):
    student, teacher, labels = drawn(8)
    teacher.requires_grad_()
    values = ours(name, student, teacher, labels)
    assert torch.autograd.grad(values.sum(), teacher, allow_unused=True, retain_graph=True) == (None,)
    with torch.no_grad():
        assert not ours(name, student, teacher, labels).requires_grad
    assert not ours(name, student.detach(), teacher.detach(), labels).requires_grad


@pytest.mark.parametrize("name", ["task", "ce", "mse", "cos"])
def test_autocast_and_low_precision_do_not_reach_the_losses(name, chunks):
    """bf16 logits give the losses of the same numbers in fp32, under autocast too."""
    student, teacher, labels = drawn(9, dtype=torch.bfloat16)

    def value(student, teacher):
        return cosine_distance(student, teacher) if name == "cos" else ours(name, student, teacher, labels)

    expected = value(student.detach().float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = value(student, teacher)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, expected, rtol=1e-6, atol=1e-6)


def test_a_function_of_ones_own_is_computed_in_fp32_under_autocast(chunks):
    student, teacher, _ = drawn(12)
    square = torch.randn(WORDS, WORDS, generator=torch.Generator().manual_seed(0))

    def function(logits, other):
        assert not torch.is_autocast_enabled("cpu")
        return ((logits - other) @ square).square().sum(-1)

    expected = by_chunks(function, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ((student - teacher) @ square).dtype == torch.bfloat16
        under = by_chunks(function, student, teacher)
    assert torch.equal(under, expected)


# ---------------------------------------------------------------------------------------------------------- means


def test_a_masked_loss_is_the_loss_of_the_subset(chunks):
    student, teacher, labels = drawn(10)
    chosen = torch.tensor([0, 3, 4, 10])
    weights = torch.zeros(TOKENS).index_fill(0, chosen, 1.0)
    for name in ("task", "ce", "mse"):
        whole = token_mean(ours(name, student, teacher, labels), weights)
        subset = ours(name, student[chosen], teacher[chosen], labels[chosen]).mean()
        torch.testing.assert_close(whole, subset)
        gradient, expected = (torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (whole, subset))
        torch.testing.assert_close(gradient, expected)
        assert (gradient[weights == 0] == 0).all()
    torch.testing.assert_close(
        token_mean(cosine_distance(student, teacher), weights), cosine_distance(student[chosen], teacher[chosen]).mean()
    )


def test_a_mean_of_nothing_is_zero_and_a_token_that_does_not_count_is_not_read():
    values = torch.tensor([1.0, float("nan"), 3.0, float("inf")], requires_grad=True)
    mean = token_mean(values, torch.tensor([1.0, 0.0, 1.0, 0.0]))
    mean.backward()
    assert mean == 2 and values.grad.tolist() == [0.5, 0, 0.5, 0]
    nothing = token_mean(values, torch.zeros(4))
    (gradient,) = torch.autograd.grad(nothing, values)
    assert nothing == 0 and (gradient == 0).all()


# ---------------------------------------------------------------------------------------------------------- table


def test_logits_are_made_when_a_loss_asks_for_them_and_once():
    calls = []

    def head(hidden):
        calls.append(len(hidden))
        return hidden @ torch.ones(4, WORDS)

    student, teacher = (Predictions(torch.randn(3, 4), head) for _ in range(2))
    labels = torch.tensor([1, -100, 2])
    table = paper_losses(2.0)
    table["cos"].function(student, teacher, labels)
    assert calls == []
    for name in ("task", "ce", "mse"):
        assert table[name].function(student, teacher, labels).shape == (3,)
    assert calls == [3, 3], "once for each model"


def test_the_table_names_the_papers_losses_and_what_they_read():
    table = paper_losses(2.0)
    assert list(table) == ["task", "ce", "cos", "mse"]
    assert [name for name in table if table[name].labelled] == ["task"]
    assert [name for name in table if "hidden" in table[name].reads] == ["cos"]
    student, teacher, labels = drawn(11)
    sides = [Predictions(logits, lambda hidden: hidden) for logits in (student, teacher)]
    warm = paper_losses(5.0)["ce"].function(*sides, labels)
    assert torch.equal(warm, smoothed_cross_entropy(student, teacher, 5.0))
    assert torch.equal(table["cos"].function(*sides, labels), cosine_distance(student, teacher))
    assert torch.equal(table["task"].function(*sides, labels), masked_cross_entropy(student, labels))
    assert torch.equal(table["mse"].function(*sides, labels), squared_error(student, teacher))


def test_the_causal_form_of_a_loss_is_the_same_row_read_under_the_intervention():
    table = paper_losses(2.0) | {"huber": Loss(lambda student, teacher, labels: student.logits.sum(-1))}
    for name in ("ce", "cos", "mse", "huber"):
        causal = find_loss(f"causal_{name}", table)
        assert causal.counterfactual and not table[name].counterfactual
        assert (causal.function, causal.reads) == (table[name].function, table[name].reads)
    own = Loss(table["ce"].function, counterfactual=True)
    assert find_loss("causal_ce", table | {"causal_ce": own}) is own, "a row of that name comes first"


@pytest.mark.parametrize("name", ["causal", "causal_", "huber", "causal_huber", "causal_causal_ce", "causal_task"])
def test_a_name_without_a_row_is_refused(name):
    with pytest.raises(Refusal, match=name) as refused:
        find_loss(name, paper_losses(2.0))
    assert refused.value.field == "objective.weights"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"function": lambda *sides: 0, "reads": frozenset({"attentions"})}, "reads"),
        ({"function": lambda *sides: 0, "reads": frozenset({"states", "logits"})}, "reads"),
        ({"reads": frozenset({"hidden"})}, "function"),
        ({"function": lambda *sides: 0, "make": lambda models: Loss(lambda *sides: 0)}, "function"),
    ],
)
def test_a_row_reads_what_there_is_and_has_a_function_or_what_makes_it(options, field):
    with pytest.raises(Refusal) as refused:
        Loss(**options)
    assert refused.value.field == field
