"""Perplexity and interchange-intervention accuracy against loops by hand; laws 3 and 6 of the measure; batch sizes."""

import copy
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import CLS, MASK, SEP, SPECIAL_IDS, VOCABULARY, build, counted, families, masking

from diito import AlignedPair, Alignment
from diito.evaluation.held_out.agreement import QUANTITIES, interchange_numbers, means
from diito.evaluation.held_out.choice import compare_alignments
from diito.evaluation.held_out.interchange import interchange_accuracy, interchange_counts, other_example
from diito.evaluation.held_out.intervals import bootstrap_interval, by_document
from diito.evaluation.held_out.maps import all_pairs, best_monotone, matrix
from diito.evaluation.held_out.perplexity import (
    TokenLosses,
    perplexity,
    perplexity_difference,
    perplexity_numbers,
    token_losses,
)
from diito.evaluation.held_out.text import HeldOut
from diito.method.positions import consecutive, masked, random
from diito.models.layered import Layered


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
    return HeldOut(**{"corpus": rows, "batching": masking(0.3), "seed": 5, "batch": 3} | options)


def source_of(index, text):
    return other_example(text, "evaluation source", index, {index})


def donor_of(index, text):
    return other_example(text, "evaluation donor", index, {index, source_of(index, text)})


def by_token(batch):
    """The labels of a batch for each token, -100 where there is none."""
    length = batch["input_ids"].shape[1]
    places = batch["slots"].where(batch["slots"] >= 0, length)
    return torch.full((len(places), length + 1), -100).scatter(1, places, batch["labels"])[:, :length]


def example(text, index):
    """One example on its own, as the models read it, without any padding."""
    batch = text.batch_of([index], device=torch.device("cpu"))
    return {"input_ids": batch["input_ids"]}, by_token(batch)


# ------------------------------------------------------------------------------------------------------ held-out text


def test_examples_are_spread_over_the_corpus_and_come_in_batches():
    assert list(held_out().examples) == [0, 1, 2, 3, 4, 5, 6]
    assert list(held_out(limit=3).examples) == [0, 2, 4]
    assert held_out(limit=100).examples == held_out(limit=7).examples == held_out(limit=None).examples
    assert [list(batch) for batch in held_out().batches()] == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_example_is_masked_by_draws_of_its_own():
    text = held_out()
    together = text.batch_of([3, 0, 5], device=torch.device("cpu"))
    for row, index in enumerate([3, 0, 5]):
        ids, labels = example(text, index)
        length = labels.shape[1]
        assert torch.equal(together["input_ids"][row, :length], ids["input_ids"][0])
        assert torch.equal(by_token(together)[row, :length], labels[0])
    other = replace(text, seed=6).batch_of([3, 0, 5], device=torch.device("cpu"))
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
    assert result == {"tokens": 0, "swapped_tokens": 0}


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


# -------------------------------------------------------------------------------------- perplexity: draws and intervals


@families
def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(family):
    model = build(family, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    numbers = perplexity_numbers(token_losses(model, held_out(), draws=2))
    assert numbers["perplexity"] == pytest.approx(VOCABULARY, rel=1e-6)
    assert numbers["interval"] == pytest.approx([VOCABULARY] * 2, rel=1e-6) and numbers["draws_sd"] == pytest.approx(
        0, abs=1e-4
    )


def test_draws_are_those_of_the_next_seeds_and_the_mean_is_weighted_by_tokens():
    model, text = build(), held_out()
    sums = token_losses(model, text, draws=3)
    assert sums.losses.shape == sums.tokens.shape == (3, 7)
    singles = [perplexity(model, replace(text, seed=text.seed + draw)) for draw in range(3)]
    numbers = perplexity_numbers(sums)
    assert numbers["draws"] == pytest.approx([single["perplexity"] for single in singles])
    assert numbers["tokens"] == sum(single["tokens"] for single in singles)
    weighted = sum(single["loss"] * single["tokens"] for single in singles) / numbers["tokens"]
    assert numbers["loss"] == pytest.approx(weighted) and numbers["perplexity"] == pytest.approx(math.exp(weighted))
    assert numbers["draws_sd"] == pytest.approx(np.std(numbers["draws"], ddof=1))
    assert len(set(numbers["draws"])) == 3, "three draws mask three sets of tokens"


def test_masked_tokens_are_the_same_for_every_model_and_batch_size():
    one, other = (token_losses(build(seed=seed), held_out(batch=size)) for seed, size in ((1, 2), (2, 7)))
    assert np.array_equal(one.tokens, other.tokens) and not np.allclose(one.losses, other.losses)


def test_sums_of_examples_remake_the_figures():
    sums = token_losses(build(), held_out(), draws=2)
    again = TokenLosses.from_json(json.loads(json.dumps(sums.as_json())))
    assert perplexity_numbers(again)["perplexity"] == pytest.approx(perplexity_numbers(sums)["perplexity"], rel=1e-6)
    assert perplexity_difference(again, sums)["difference"] == pytest.approx(0, abs=1e-4)


def test_the_difference_of_two_models_is_paired_by_document():
    """Two documents, each with the same ratio of losses in both models: resampling cannot change the ratio."""
    tokens, documents = np.array([[10, 10]]), np.array([0, 1])
    ours = TokenLosses(np.array([[10.0, 30.0]]), tokens, documents)
    other = TokenLosses(np.array([[20.0, 40.0]]), tokens, documents)
    result = perplexity_difference(ours, other)
    assert result["difference"] == pytest.approx(math.exp(2) - math.exp(3))
    low, high = result["interval"]  # one document twice, or both: e − e², e³ − e⁴, or in between
    assert low == pytest.approx(math.exp(3) - math.exp(4)) and high == pytest.approx(math.e - math.exp(2))
    with pytest.raises(ValueError, match=r"^against: the two models read the text with other tokens"):
        perplexity_difference(ours, TokenLosses(other.losses, tokens + 1, documents))


def test_an_interval_draws_documents_and_not_tokens():
    """100 examples of two documents are two draws: the interval spans both documents' means."""
    documents = np.repeat([4, 9], 50)
    values = np.where(documents == 4, 1.0, 3.0)
    totals, counts = by_document(documents, values), by_document(documents, np.ones(100))
    assert totals.tolist() == [50, 150] and counts.tolist() == [50, 50]
    assert bootstrap_interval(np.divide, totals, counts) == [1, 3]
    assert bootstrap_interval(np.divide, totals, counts) == bootstrap_interval(np.divide, totals, counts)
    assert bootstrap_interval(np.divide, totals[:1], counts[:1]) is None, "one document has no spread"
    assert bootstrap_interval(np.divide, totals, np.array([0.0, 5.0])) is None, "undefined in a quarter of the resamples"


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Means of 40 normal draws, 300 times; 95 % minus a little (percentile intervals are short), five sigma = 6 %."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = generator.normal(size=40)
        low, high = bootstrap_interval(np.divide, values, np.ones(40))
        hits += low < 0 < high
    assert 0.87 < hits / 300 < 1


# ------------------------------------------------------------------------------------ interchange: references and maps


def test_references_equal_loops_by_hand():
    """No swap, a random donor, and the undistilled student, each against the teacher's same counterfactual run."""
    teacher, student, undistilled = build(layers=4, seed=2), build(layers=2, seed=2), build(layers=2, seed=9)
    pair, text = AlignedPair([0], [0, 1]), held_out()

    def rule(eligible, masked, share, generator):
        return eligible & (eligible.cumsum(1) <= 3)

    keywords = {"rule": rule, "special_ids": SPECIAL_IDS, "references": True, "undistilled": undistilled}
    counts = interchange_counts(student, teacher, [pair], text, **keywords)
    assert counts.names == ("student", "no swap", "random donor", "undistilled")
    expected = np.zeros((4, 7, 2, 5))
    for row, index in enumerate(text.examples):
        base, labels = example(text, index)
        source, donor = (example(text, chosen(index, text))[0] for chosen in (source_of, donor_of))
        eligible = oracle.eligible(base, source, set(SPECIAL_IDS)) & oracle.eligible(base, donor, set(SPECIAL_IDS))
        positions = rule(eligible, None, None, None)
        with torch.no_grad():
            unchanged = teacher(**base).logits[0]
            theirs = _interchanged(teacher, base, source, [0, 1], positions)
            answers = [
                _interchanged(student, base, source, [0], positions),
                student(**base).logits[0],
                _interchanged(student, base, donor, [0], positions),
                _interchanged(undistilled, base, source, [0], positions),
            ]
        for token in (labels[0] != -100).nonzero().flatten().tolist():
            for name, answer in enumerate(answers):
                agree = bool(answer[token].argmax() == theirs[token].argmax())
                changed = bool(theirs[token].argmax() != unchanged[token].argmax())
                divergence = oracle.ce(answer[None], theirs[None], [(0, token)], 1.0).item()
                expected[name, row, int(positions[0, token])] += [1, agree, changed, agree and changed, divergence]
    assert expected[..., 0].sum() > 40
    np.testing.assert_allclose(counts.sums[:, 0], expected, rtol=1e-3, atol=1e-4)


def _interchanged(model, base, source, layers, positions):
    width = source["input_ids"].shape[1]
    elsewhere = F.pad(positions, (0, max(0, width - positions.shape[1])))[:, :width]
    return oracle.interchange(model, base, source, layers, positions, source_positions=elsewhere)[0][0]


def test_a_map_is_every_alignment_measured_alone():
    student, teacher, text = build(layers=2, seed=1), build(layers=3, seed=2), held_out()
    pairs = all_pairs(2, 3)
    assert [(pair.student, pair.teacher) for pair in pairs] == [((i,), (j,)) for i in range(2) for j in range(3)]
    numbers = interchange_numbers(interchange_counts(student, teacher, pairs, text))["student"]["pairs"]
    for pair, entry in zip(pairs, numbers, strict=True):
        alone = interchange_accuracy(student, teacher, Alignment([pair]), text)
        assert (entry["student"], entry["teacher"]) == (list(pair.student), list(pair.teacher))
        for name, value in alone.items():
            where, key = ("swapped", name.removeprefix("swapped_")) if name.startswith("swapped_") else ("unswapped", name)
            assert entry[where][key] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert matrix(numbers, "efficacy")[:, 2].tolist() == [0, 0], "above the teacher's top layer nothing mixes tokens"
    assert np.isnan(matrix(numbers, "effective_iia")[:, 2]).all()


def test_a_map_resumes_each_layer_once_whatever_the_number_of_pairs():
    student, teacher, text = build(layers=2, seed=1), build(layers=3, seed=2), held_out(batch=7)
    for model in (student, teacher):
        Layered(model)  # learns the model's parts, in runs of its own
    text.for_models(student, teacher)  # learns that padding moves nothing
    with counted(student) as ours, counted(teacher) as theirs:
        interchange_counts(student, teacher, all_pairs(2, 3), text)
    assert ours["layers"] == [2, 2 + 1] and theirs["layers"] == [2, 2 + 1, 2 + 2]  # base, source; resumed above each layer


def test_a_model_is_its_own_best_student():
    """Student = teacher: 1 at every pair of a layer with itself, nothing from the references; the diagonal is found."""
    teacher, text = build(layers=3), held_out()
    counts = interchange_counts(copy.deepcopy(teacher), teacher, all_pairs(3, 3), text, references=True)
    numbers = interchange_numbers(counts)
    for entry in numbers["student"]["pairs"]:
        if entry["student"] == entry["teacher"]:
            assert entry["unswapped"]["iia"] == entry["swapped"]["iia"] == 1
            assert abs(entry["unswapped"]["counterfactual_kl"]) < 1e-5
    assert best_monotone(-matrix(numbers["student"]["pairs"], "counterfactual_kl")) == [0, 1, 2]
    for entry in numbers["no swap"]["pairs"]:
        assert entry["unswapped"].get("effective_iia", 0) == 0, "without a swap the student keeps the unchanged word"


def test_intervals_stand_around_their_means():
    student, teacher = build(layers=3), build(layers=3)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in student.parameters():  # noise, so that they agree in part
            parameter.add_(0.1 * torch.randn_like(parameter))
    counts = interchange_counts(student, teacher, all_pairs(3, 3), held_out(lengths=(20,) * 12))
    numbers = interchange_numbers(counts)["student"]["unswapped"]
    for name in ("iia", "effective_iia", "efficacy", "counterfactual_kl"):
        low, high = numbers[f"{name}_interval"]
        assert low <= numbers[name] <= high and low < high, name
    total = counts.sums[0].sum(axis=(0, 1))[0]
    assert means(total) == {name: value for name, value in numbers.items() if not name.endswith("_interval")}


def test_counts_of_examples_are_written_with_their_names():
    counts = interchange_counts(build(layers=2), build(layers=3, seed=2), all_pairs(2, 3), held_out(), references=True)
    content = json.loads(json.dumps(counts.as_json()))
    assert content["names"] == ["student", "no swap", "random donor"] and content["quantities"] == list(QUANTITIES)
    assert content["documents"] == [0, 0, 1, 1, 2, 2, 3] and content["pairs"][4] == {"student": [1], "teacher": [1]}
    np.testing.assert_allclose(np.array(content["sums"]), counts.sums, atol=1e-5)


def test_donors_are_neither_the_example_nor_its_source_and_all_others_may_be():
    text = held_out(lengths=(9,) * 5)
    drawn = {index: set() for index in text.examples}
    for seed in range(300):
        for index in text.examples:
            other = replace(text, seed=seed)
            assert donor_of(index, other) not in (index, source_of(index, other))
            drawn[index].add(donor_of(index, other))
    assert drawn == {index: set(text.examples) - {index} for index in text.examples}
    with pytest.raises(ValueError, match="needs at least 3 examples"):
        model = build()
        interchange_counts(model, model, all_pairs(3, 3), held_out(limit=2), references=True)


@pytest.mark.parametrize(
    ("scores", "path"),
    [
        ([[3, 1, 2], [9, 4, 5]], [0, 2]),  # 9 cannot follow 3: strictly deeper
        ([[1, 9, 0, 0], [9, 0, 0, 3]], [1, 3]),
        ([[5, 5], [5, 5]], [0, 1]),
        ([[1], [2], [3]], [0, 0, 0]),  # fewer teacher layers: not strictly
        ([[9, 0], [0, 1], [2, 0]], [0, 0, 0]),
        ([[0, 2], [0, 1], [0, 3]], [1, 1, 1]),
        ([[1, math.nan, 5], [math.nan, math.nan, 2]], [0, 2]),  # what is undefined is not taken
    ],
)
def test_the_best_monotone_alignment_by_hand(scores, path):
    assert best_monotone(np.array(scores, dtype=float)) == path


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6))
def test_the_best_monotone_alignment_is_the_best_of_all(students, teachers, seed):
    scores = np.random.default_rng(seed).normal(size=(students, teachers))
    strict = teachers >= students
    paths = [
        path
        for path in itertools.product(range(teachers), repeat=students)
        if all(above > below if strict else above >= below for below, above in itertools.pairwise(path))
    ]
    best = max(paths, key=lambda path: sum(scores[layer, teacher] for layer, teacher in enumerate(path)))
    assert tuple(best_monotone(scores)) == best


def test_an_undefined_score_cannot_choose():
    with pytest.raises(ValueError, match=r"^score: undefined for so many pairs"):
        best_monotone(np.array([[math.nan, math.nan]]))


# ------------------------------------------------------------------------------------------------- choosing an alignment


def counts_of(pairs, agree, tokens=20):
    """Counts as JSON has them, of a student alone: ``agree`` [pairs, documents] of so many tokens each."""
    sums = np.zeros((1, len(pairs), len(agree[0]), 2, len(QUANTITIES)))
    sums[0, :, :, 0, QUANTITIES.index("tokens")] = tokens
    sums[0, :, :, 0, QUANTITIES.index("agree")] = agree
    names = [{"student": [ours], "teacher": [theirs]} for ours, theirs in pairs]
    return {"names": ["student"], "pairs": names, "sums": sums.tolist(), "documents": list(range(len(agree[0])))}


@pytest.mark.parametrize(
    ("shift", "documents", "better"), [(3, 40, "chosen"), (-3, 40, "default"), (0, 40, "undecided"), (3, 1, "undecided")]
)
def test_an_alignment_is_held_against_the_default_on_the_same_documents(shift, documents, better):
    draws = np.random.default_rng(0)
    common = draws.integers(5, 15, size=(2, documents))
    noise = draws.integers(-2, 3, size=(2, documents))
    whole = counts_of([(0, 0), (0, 1), (1, 0), (1, 1)], [common[0] + shift + noise[0], common[0], common[1], common[1] + shift])
    said = compare_alignments(whole, counts_of([(0, 0), (1, 1)], common), [0, 1], "iia")
    assert said["better"] == better
    assert said["difference"] == pytest.approx((2 * shift + noise[0].mean()) / 2 / 20)
    if documents > 1:
        assert said["interval"][0] <= said["difference"] <= said["interval"][1]
        assert said["interval"][1] - said["interval"][0] < 0.05, "what documents have in common is not in the interval"
    else:
        assert said["interval"] is None
