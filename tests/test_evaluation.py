"""Perplexity and interchange-intervention accuracy against loops by hand; laws 3 and 6 of the measure; batch sizes."""

import copy
import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from models import CLS, MASK, PAD, SEP, SPECIAL_IDS, VOCABULARY, build, families

from diito import AlignedPair, Alignment
from diito.evaluation.held_out import HeldOut
from diito.evaluation.interchange import (
    QUANTITIES,
    _other,
    interchange_accuracy,
    interchange_counts,
    interchange_numbers,
    means,
)
from diito.evaluation.perplexity import perplexity
from diito.masking import Masking
from diito.positions import consecutive, masked, random


class Rows(list):
    """Sequences as a corpus gives them; two successive ones are of the same document."""

    @property
    def documents(self):
        return np.arange(len(self)) // 2

    def __getitems__(self, indices):
        return [{"input_ids": self[index]} for index in indices]


def held_out(lengths=(20, 12, 20, 9, 15, 20, 7), **options):
    generator = torch.Generator().manual_seed(0)
    rows = Rows()
    for length in lengths:
        ids = torch.randint(MASK + 1, VOCABULARY, (length,), generator=generator)
        ids[0], ids[-1] = CLS, SEP
        rows.append(ids)
    masking = Masking(
        token_counts=None,
        rate=0.3,
        smoothing=0.0,
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        special_ids=SPECIAL_IDS,
        pad_token_id=PAD,
    )
    return HeldOut(**{"corpus": rows, "masking": masking, "seed": 5, "batch": 3} | options)


def source_of(index, text):
    return _other(text, "evaluation source", index, {index})


def donor_of(index, text):
    return _other(text, "evaluation donor", index, {index, source_of(index, text)})


def example(text, index):
    """One example on its own, as the models read it, without any padding."""
    batch = text.masked([index], device=torch.device("cpu"))
    return {"input_ids": batch["input_ids"]}, batch["labels"]


# ------------------------------------------------------------------------------------------------------ held-out text


def test_examples_are_spread_over_the_corpus_and_come_in_batches():
    assert held_out().examples == [0, 1, 2, 3, 4, 5, 6]
    assert held_out(limit=3).examples == [0, 2, 4]
    assert held_out(limit=100).examples == held_out(limit=7).examples == held_out(limit=None).examples
    assert list(held_out().batches()) == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_example_is_masked_by_draws_of_its_own():
    text = held_out()
    together = text.masked([3, 0, 5], device=torch.device("cpu"))
    for row, index in enumerate([3, 0, 5]):
        ids, labels = example(text, index)
        length = labels.shape[1]
        assert torch.equal(together["input_ids"][row, :length], ids["input_ids"][0])
        assert torch.equal(together["labels"][row, :length], labels[0])
    other = replace(text, seed=6).masked([3, 0, 5], device=torch.device("cpu"))
    assert not torch.equal(other["labels"], together["labels"])


# --------------------------------------------------------------------------------------------------------- perplexity


@families
def test_perplexity_equals_a_loop_by_hand(family):
    model, text = build(family, 2), held_out()
    losses = []
    for index in text.examples:
        inputs, labels = example(text, index)
        with torch.no_grad():
            logits = model(**inputs).logits
        losses += F.cross_entropy(logits[labels != -100].double(), labels[labels != -100], reduction="none").tolist()
    result = perplexity(model, text)
    assert result["tokens"] == len(losses) > 20
    assert result["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


@families
def test_perplexity_does_not_depend_on_the_batch_size_or_the_global_state(family):
    model = build(family, 2)
    results = []
    for size in (1, 2, 3, 7):
        torch.manual_seed(size)
        results.append(perplexity(model, held_out(batch=size)))
    for result in results[1:]:
        assert result["tokens"] == results[0]["tokens"]
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_models_mode_is_put_back_and_dropout_is_off(training):
    student, teacher, text = build(layers=2).train(training), build(layers=2, seed=3), held_out()
    alignment = Alignment.full(2, 2)
    assert perplexity(student, text) == perplexity(student, text)
    assert interchange_accuracy(student, teacher, alignment, text) == interchange_accuracy(student, teacher, alignment, text)
    assert student.training == training and not teacher.training
    assert all(module.training == training for module in student.modules())
    assert perplexity(student, text) == perplexity(copy.deepcopy(student).eval(), text)


# -------------------------------------------------------------------------------------------- interchange accuracy

KEYS = {"iia", "effective_iia", "efficacy", "counterfactual_kl", "tokens"}


def first_three(eligible, masked, share, generator):
    """A rule without chance: the first three eligible positions."""
    return eligible & (eligible.cumsum(1) <= 3)


def by_hand(student, teacher, pairs, text):
    """The measure one example, one pair and one token at a time, by the oracle."""
    sums = {which: {"tokens": 0, "agree": 0, "changed": 0, "both": 0, "kl": 0.0} for which in (False, True)}
    for index in text.examples:
        base, labels = example(text, index)
        source, _ = example(text, source_of(index, text))
        eligible = oracle.eligible(base, source, set(SPECIAL_IDS))
        positions = first_three(eligible, None, None, None)
        elsewhere = F.pad(positions, (0, source["input_ids"].shape[1] - positions.shape[1]))
        for pair in pairs:
            with torch.no_grad():
                unchanged = teacher(**base).logits
                ours, theirs = (
                    oracle.interchange(
                        model, base, source, list(layers), positions, source_positions=elsewhere, dimensions=dimensions
                    )[0]
                    for model, layers, dimensions in (
                        (student, pair.student, pair.student_dimensions),
                        (teacher, pair.teacher, pair.teacher_dimensions),
                    )
                )
            for token in (labels[0] != -100).nonzero().flatten().tolist():
                tally = sums[bool(positions[0, token])]
                agree = bool(ours[0, token].argmax() == theirs[0, token].argmax())
                changed = bool(theirs[0, token].argmax() != unchanged[0, token].argmax())
                tally["tokens"] += 1
                tally["agree"] += agree
                tally["changed"] += changed
                tally["both"] += agree and changed
                tally["kl"] += oracle.ce(ours, theirs, [(0, token)], 1.0).item()
    return sums


@families
def test_interchange_accuracy_equals_a_loop_by_hand(family):
    teacher = build(family, 4, seed=2)
    student = build(family, 2, seed=2)
    alignment = Alignment([AlignedPair([0], [0, 1]), AlignedPair([1], [3], [(2, 14)], [(0, 12)])])
    text = held_out()
    result = interchange_accuracy(student, teacher, alignment, text, rule=first_three, special_ids=SPECIAL_IDS)
    assert result.keys() == KEYS | {f"swapped_{name}" for name in KEYS}
    for which, tally in by_hand(student, teacher, alignment.pairs, text).items():
        prefix = "swapped_" if which else ""
        assert result[f"{prefix}tokens"] == tally["tokens"] > 5
        assert result[f"{prefix}iia"] == pytest.approx(tally["agree"] / tally["tokens"])
        assert result[f"{prefix}efficacy"] == pytest.approx(tally["changed"] / tally["tokens"])
        assert result[f"{prefix}effective_iia"] == pytest.approx(tally["both"] / max(tally["changed"], 1))
        assert result[f"{prefix}counterfactual_kl"] == pytest.approx(tally["kl"] / tally["tokens"], rel=1e-4)
    assert 0 < result["efficacy"] < 1 and result["swapped_efficacy"] > 0


@families
@pytest.mark.parametrize("rule", [consecutive, random, masked])
def test_interchange_accuracy_does_not_depend_on_the_batch_size_or_the_global_state(family, rule):
    student, teacher = build(family, 2, seed=1), build(family, 2, seed=2)
    results = []
    for size in (1, 3, 7):
        torch.manual_seed(size)
        results.append(interchange_accuracy(student, teacher, Alignment.full(2, 2), held_out(batch=size), rule=rule))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)
    assert results[0]["tokens"] > 0 and results[0]["swapped_tokens"] > 0


@families
def test_a_model_agrees_with_itself_under_every_intervention(family):
    teacher = build(family, 3)
    alignment = Alignment(AlignedPair([layer], [layer]) for layer in range(3))
    result = interchange_accuracy(copy.deepcopy(teacher), teacher, alignment, held_out())
    for prefix in ("", "swapped_"):
        assert result[f"{prefix}tokens"] > 0 and result[f"{prefix}efficacy"] > 0
        assert result[f"{prefix}iia"] == result[f"{prefix}effective_iia"] == 1
        assert abs(result[f"{prefix}counterfactual_kl"]) < 1e-6


def test_at_the_top_a_swap_leaves_the_unswapped_tokens_alone():
    teacher = build("bert", 3)
    result = interchange_accuracy(build("bert", 3, seed=8), teacher, Alignment([AlignedPair([2], [2])]), held_out())
    assert result["tokens"] > 0 and result["efficacy"] == 0 and result["swapped_efficacy"] > 0
    assert "effective_iia" not in result, "a mean of nothing is left out"


def test_a_mean_over_no_token_is_left_out():
    def nowhere(eligible, masked, share, generator):
        return eligible & False

    result = interchange_accuracy(build(), build(seed=8), Alignment.full(3, 3), held_out(), rule=nowhere)
    assert result["swapped_tokens"] == result["efficacy"] == 0
    assert result.keys() == {"tokens", "iia", "efficacy", "counterfactual_kl", "swapped_tokens"}


def test_every_examples_source_is_another_and_all_others_may_be():
    text = held_out(lengths=(9,) * 6)
    drawn = {index: {source_of(index, replace(text, seed=seed)) for seed in range(200)} for index in text.examples}
    assert drawn == {index: set(text.examples) - {index} for index in text.examples}


def test_sources_are_drawn_uniformly():
    """5 sources of one example under 5000 seeds: 1000 each, five sigma = 141; odds of about 1 in 350,000."""
    text = held_out(lengths=(9,) * 6)
    drawn = [source_of(2, replace(text, seed=seed)) for seed in range(5000)]
    assert all(abs(drawn.count(other) - 1000) < 5 * math.sqrt(800) for other in (0, 1, 3, 4, 5))


def test_one_example_has_no_source():
    model = build()
    with pytest.raises(ValueError, match=r"^evaluation\.blocks: interchange needs at least 2 examples"):
        interchange_accuracy(model, model, Alignment.full(3, 3), held_out(limit=1))
