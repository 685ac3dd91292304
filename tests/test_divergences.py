"""Divergences over predictions: hand-worked values, torch's own, and formulas written here once more from their papers."""

import math

import pytest
import torch
from models import build
from objectives import batch_of, make

from diito.method import losses as losses_module
from diito.method import recompute
from diito.method.losses import Predictions
from diito.method.rows import loss_rows
from diito.refusal import Refusal

NAMES = ("reverse_kl", "jsd", "tvd", "skew_kl")
OPTIONS = [
    ("reverse_kl", {}),
    ("jsd", {"beta": 0.0}),
    ("jsd", {"beta": 0.3}),
    ("jsd", {"beta": 1.0}),
    ("tvd", {}),
    ("skew_kl", {"alpha": 0.0}),
    ("skew_kl", {"alpha": 0.1}),
]


def value(name, student, teacher, *, temperature=1.0, answers="classes", **options):
    """The loss of logits, a value a token."""
    row = loss_rows(temperature, answers, {name: options})[name]
    sides = [Predictions(logits, lambda hidden: hidden) for logits in (student, teacher)]
    return row.values(*sides, torch.zeros(len(student), dtype=torch.long))


def logits_of(*probabilities):
    return torch.tensor([probabilities]).log()


def test_values_worked_by_hand():
    """Student (1/2, 1/2), teacher (3/4, 1/4)."""
    student, teacher = logits_of(0.5, 0.5), logits_of(0.75, 0.25)
    log = math.log
    expected = {
        ("reverse_kl", ()): 0.5 * log(0.5 / 0.75) + 0.5 * log(0.5 / 0.25),
        ("tvd", ()): 0.25,
        ("jsd", (("beta", 0.5),)): 0.5 * (0.75 * log(0.75 / 0.625) + 0.25 * log(0.25 / 0.375))
        + 0.5 * (0.5 * log(0.5 / 0.625) + 0.5 * log(0.5 / 0.375)),
        ("skew_kl", (("alpha", 0.2),)): 0.75 * log(0.75 / 0.55) + 0.25 * log(0.25 / 0.45),
    }
    for (name, options), number in expected.items():
        torch.testing.assert_close(value(name, student, teacher, **dict(options)), torch.tensor([number]))


def as_published(name, student, teacher, temperature, options):
    """The same from the published formulas, in probabilities and with torch's own KL."""
    log_q, log_p = ((logits / temperature).log_softmax(-1) for logits in (student, teacher))
    q, p = log_q.exp(), log_p.exp()

    def kl(first, second):
        return torch.nn.KLDivLoss(reduction="none")(second.log(), first).sum(-1)

    if name == "tvd":
        return (p - q).abs().sum(-1) / 2
    if name == "reverse_kl":
        apart = kl(q, p)
    elif name == "skew_kl":
        apart = kl(p, options["alpha"] * p + (1 - options["alpha"]) * q)
    elif options["beta"] in (0, 1):
        apart = kl(q, p) if options["beta"] else kl(p, q)
    else:
        beta = options["beta"]
        mixture = (1 - beta) * q + beta * p
        apart = beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)
    return temperature**2 * apart


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_they_are_the_published_formulas_in_value_and_gradient(name, options, temperature, monkeypatch):
    monkeypatch.setitem(losses_module.CHUNK, "cpu", 20)  # two tokens a chunk
    draws = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(5, 9, generator=draws, dtype=torch.float32) for _ in range(2))
    student.requires_grad_()
    ours = value(name, student, teacher, temperature=temperature, **options)
    theirs = as_published(name, student, teacher, temperature, options)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    weights = torch.arange(1.0, 6.0)
    gradients = [torch.autograd.grad((weights * each).sum(), student)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_ends_of_jsd_and_skew_are_the_two_kls():
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    rows = loss_rows(2.0)
    sides = [Predictions(logits, lambda hidden: hidden) for logits in (student, teacher)]
    forward = rows["ce"].values(*sides, torch.zeros(4))
    torch.testing.assert_close(value("jsd", student, teacher, temperature=2.0, beta=0.0), forward)
    torch.testing.assert_close(value("skew_kl", student, teacher, temperature=2.0, alpha=0.0), forward)
    reverse = value("reverse_kl", student, teacher, temperature=2.0)
    torch.testing.assert_close(value("jsd", student, teacher, temperature=2.0, beta=1.0), reverse)


@pytest.mark.parametrize("name", NAMES)
def test_they_are_0_where_both_agree_and_finite_where_the_student_is_sure_of_something_else(name):
    logits = torch.randn(3, 6)
    torch.testing.assert_close(value(name, logits, logits + 2.0), torch.zeros(3), rtol=0, atol=1e-6)
    sure = torch.tensor([[40.0, -40.0, 0.0]])
    assert value(name, sure, -sure).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_of_several_classes_each_is_a_distribution_of_its_own(name):
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    own = torch.stack(
        [
            value(name, *(torch.stack([each[:, column], torch.zeros(4)], -1) for each in (student, teacher)), temperature=2.0)
            for column in range(3)
        ]
    ).mean(0)
    torch.testing.assert_close(value(name, student, teacher, temperature=2.0, answers="several"), own)


def test_a_temperature_of_its_own_wins_over_the_common_one():
    student, teacher = torch.randn(4, 7), torch.randn(4, 7)
    for name in (*NAMES, "ce"):
        own = value(name, student, teacher, temperature=2.0)
        row = loss_rows(9.0, "classes", {name: {"temperature": 2.0}})[name]
        sides = [Predictions(logits, lambda hidden: hidden) for logits in (student, teacher)]
        assert torch.equal(row.values(*sides, torch.zeros(4)), own), name


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"jsd": {"beta": 1.1}}, "objective.options.jsd.beta"),
        ({"skew_kl": {"alpha": 1.0}}, "objective.options.skew_kl.alpha"),
        ({"tvd": {"temperature": 0.0}}, "objective.options.tvd.temperature"),
        ({"ce": {"temperature": -1.0}}, "objective.options.ce.temperature"),
        ({"jsd": {"betta": 0.5}}, "objective.options.jsd.betta"),
        ({"cos": {"measure": "mse"}}, "objective.options.cos"),
    ],
)
def test_wrong_options_are_refused_by_their_names(options, field):
    with pytest.raises(Refusal) as refused:
        loss_rows(2.0, "classes", options)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "name",
    [
        "jsd",
        *(pytest.param(name, marks=pytest.mark.soak) for name in ("reverse_kl", "tvd", "skew_kl", "causal_jsd", "causal_mse")),
    ],
)
def test_chunked_equals_whole(name, monkeypatch):
    """Losses over logits made in parts have the values and gradients of those made at once."""
    student, teacher, batch = build(layers=2, seed=1), build(layers=4, seed=2), batch_of()
    answers = []
    for limit in (recompute.WHOLE, 0):
        monkeypatch.setattr(recompute, "WHOLE", limit)
        monkeypatch.setattr(recompute, "PART", 120)
        loss = make(student, teacher, weights={name: 1.0})(batch, step=0)["loss"]
        answers.append((loss, *torch.autograd.grad(loss, student.get_input_embeddings().weight)))
    for whole, parts in zip(*answers, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6 * float(whole.detach().abs().max()))


def test_a_student_learns_from_each_of_them():
    rows, labels = loss_rows(1.0), torch.zeros(1)
    teacher = Predictions(torch.randn(1, 12, generator=torch.Generator().manual_seed(0)), lambda hidden: hidden)
    for name in NAMES:
        logits = torch.zeros(1, 12, requires_grad=True)
        optimiser = torch.optim.Adam([logits], lr=0.2)
        values = []
        for _ in range(15):
            optimiser.zero_grad()
            loss = rows[name].values(Predictions(logits, lambda hidden: hidden), teacher, labels).sum()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < 0.3 * values[0], (name, values)
