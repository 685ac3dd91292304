"""Law 10: which tokens are swapped and which row is whose source. Draws are seeded; the odds stated are those of a fair
draw failing at the first writing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CLS, MASK, PAD, SEP, SPECIAL_IDS, choose

from diito.method.draws import generator
from diito.method.positions import (
    RULES,
    apply_rule,
    at,
    consecutive,
    derangement,
    eligible_positions,
    masked,
    matched_sources,
    random,
    segments,
    special_positions,
    swap_counts,
    trim,
    where_tokens_are,
)
from diito.method.swaps import SwapDraws

masks = st.lists(st.lists(st.booleans(), min_size=17, max_size=17), min_size=1, max_size=6).map(torch.tensor)
shares = st.floats(0.01, 1.0)


def seeded(seed):
    return generator("test", seed)


def count_on_paper(eligible, share):
    return max(1, math.floor(share * eligible)) if eligible else 0


# ------------------------------------------------------------------------------------------------------- the rules


@settings(max_examples=60, deadline=None)
@given(masks, shares, st.integers(0, 10**6))
def test_a_run_of_exactly_so_many_successive_eligible_positions(eligible, share, seed):
    drawn = consecutive(eligible, eligible, share, seeded(seed))
    for row in range(len(eligible)):
        available = eligible[row].nonzero().flatten().tolist()
        chosen = drawn[row].nonzero().flatten().tolist()
        assert len(chosen) == count_on_paper(len(available), share)
        if chosen:
            start = available.index(chosen[0])
            assert chosen == available[start : start + len(chosen)]


@settings(max_examples=60, deadline=None)
@given(masks, masks, shares, st.integers(0, 10**6))
def test_random_and_masked_draw_so_many_of_their_candidates(eligible, hidden, share, seed):
    hidden = hidden[:1].expand_as(eligible)
    drawn, from_masked = (rule(eligible, hidden, share, seeded(seed)) for rule in (random, masked))
    counts = torch.tensor([[count_on_paper(int(row.sum()), share)] for row in eligible])
    assert torch.equal(swap_counts(eligible, share), counts)
    assert not (drawn & ~eligible).any() and torch.equal(drawn.sum(1, keepdim=True), counts)
    candidates = eligible & hidden
    assert not (from_masked & ~candidates).any()
    assert torch.equal(from_masked.sum(1), torch.minimum(counts.squeeze(1), candidates.sum(1))), "all, if at most n"


@pytest.mark.parametrize(
    ("eligible", "share", "expected"),
    [(0, 0.3, 0), (1, 0.3, 1), (3, 0.3, 1), (6, 0.3, 1), (7, 0.3, 2), (10, 0.3, 3), (20, 0.3, 6), (110, 0.3, 33), (5, 1, 5)],
)
def test_counts_are_what_they_are_on_paper(eligible, share, expected):
    row = torch.arange(120)[None] < eligible
    assert swap_counts(row, share).item() == expected
    for rule in RULES.values():
        assert rule(row, row, share, seeded(0)).sum() == expected


def test_the_rules_by_name():
    assert (RULES["consecutive"], RULES["random"], RULES["masked"]) == (consecutive, random, masked)
    assert len(RULES) == 3


def test_a_draw_is_a_function_of_its_generator():
    eligible = torch.ones(4, 30, dtype=torch.bool)
    for rule in RULES.values():
        torch.manual_seed(0)
        first = rule(eligible, eligible, 0.3, seeded(1))
        torch.manual_seed(1)
        assert torch.equal(first, rule(eligible, eligible, 0.3, seeded(1)))
        assert not torch.equal(first, rule(eligible, eligible, 0.3, seeded(2)))


ROWS = 20_000


def within_five_sigma(count, draws, rate):
    return (count - draws * rate).abs() < 5 * math.sqrt(draws * rate * (1 - rate))


def test_the_start_of_a_run_is_uniform_and_does_not_wrap():
    """10 eligible positions with gaps, runs of 3: 8 starts of 20,000 rows, 2500 each, five sigma = 234; odds of about 1 in
    220,000 for all eight."""
    row = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0], dtype=torch.bool)
    drawn = consecutive(row.expand(ROWS, -1), row.expand(ROWS, -1), 0.3, seeded(3))[:, row]
    starts = torch.bincount(drawn.int().argmax(1), minlength=10)
    assert (starts[8:] == 0).all() and within_five_sigma(starts[:8].double(), ROWS, 1 / 8).all()


@pytest.mark.parametrize("rule", [random, masked])
def test_positions_are_drawn_uniformly_without_replacement(rule):
    """3 of 10 eligible positions, all masked: each in 3 of 10 rows (6000, five sigma = 324), each two together in 1 of 15
    (1333, five sigma = 176); 10 + 45 rates, odds of about 1 in 30,000."""
    row = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0], dtype=torch.bool)
    drawn = rule(row.expand(ROWS, -1), row.expand(ROWS, -1), 0.3, seeded(4))[:, row].double()
    together = drawn.T @ drawn
    assert within_five_sigma(together.diag(), ROWS, 0.3).all()
    assert within_five_sigma(together[~torch.eye(10, dtype=torch.bool)], ROWS, 1 / 15).all()


def test_the_masked_rule_draws_among_the_masked_by_the_share_of_the_eligible():
    """10 eligible, 5 of them masked, 3 to be drawn: each masked one in 3 of 5 rows, five sigma = 346."""
    eligible = torch.arange(12) < 10
    hidden = choose([1, 3, 5, 7, 9, 11], width=12)[0]
    drawn = masked(eligible.expand(ROWS, -1), hidden.expand(ROWS, -1), 0.3, seeded(5))
    assert (drawn.sum(1) == 3).all()
    counts = drawn.sum(0).double()
    assert (counts[[0, 2, 4, 6, 8, 10, 11]] == 0).all() and within_five_sigma(counts[[1, 3, 5, 7, 9]], ROWS, 0.6).all()
    few = masked(eligible[None], choose([4], width=12), 0.3, seeded(6))
    assert few.nonzero().tolist() == [[0, 4]]
    assert not masked(eligible[None], choose([], width=12), 0.3, seeded(6)).any()


# ------------------------------------------------------------------------------------------------ what is eligible


def test_eligible_positions_are_allowed_in_both_and_below_the_shorter_length():
    base = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    source = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)
    assert eligible_positions(base, source).int().tolist() == [[0, 1, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert eligible_positions(source, base).int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]


def test_special_positions_by_their_ids():
    ids = torch.tensor([[CLS, 9, SEP, MASK, 8, SEP, PAD], [CLS, 7, 7, 7, 7, 7, SEP]])
    real = ids != PAD
    expected = [[1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 1]]
    assert special_positions(ids, real, torch.tensor(SPECIAL_IDS)).int().tolist() == expected
    without_padding = special_positions(ids, real, torch.tensor([CLS, SEP]))
    assert without_padding.int().tolist() == expected, "padding is out whatever the ids"


def test_special_positions_by_where_they_stand():
    """The first and last real token of a row, whatever their ids, on whichever side the padding is."""
    ids = torch.full((5, 6), 9)
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0], [0] * 6]).bool()
    expected = [[1, 0, 0, 0, 0, 1], [1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1], [1] * 6]
    assert special_positions(ids, real, None).int().tolist() == expected


# --------------------------------------------------------------------------------------------------------- sources


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10**6))
def test_a_derangement_is_a_permutation_without_a_fixed_point(rows, seed):
    source = derangement(rows, seeded(seed))
    assert source.dtype == torch.long
    assert sorted(source.tolist()) == list(range(rows))
    assert (source != torch.arange(rows)).all()


def test_every_other_row_is_a_source_equally_often():
    """20,000 derangements of 5 rows: each of the 20 pairs 5000 times, five sigma = 306; odds of about 1 in 90,000 for all."""
    draws = generator("test", 7)
    sources = torch.stack([derangement(5, draws) for _ in range(ROWS)])
    counts = torch.stack([torch.bincount(column, minlength=5) for column in sources.T]).double()
    assert (counts.diag() == 0).all()
    assert within_five_sigma(counts[~torch.eye(5, dtype=torch.bool)], ROWS, 0.25).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_has_no_source(rows):
    with pytest.raises(ValueError, match=rf"^training\.batch: .*at least 2 rows in a micro-batch, not {rows}"):
        derangement(rows, seeded(0))


@settings(max_examples=60, deadline=None)
@given(masks, st.integers(0, 10**6))
def test_the_kth_position_reads_the_kth_of_its_source(source_positions, seed):
    room = torch.ones(len(source_positions), 11, dtype=torch.bool)
    positions = trim(random(room, room, 0.5, seeded(seed)), source_positions)
    index = matched_sources(positions, source_positions)
    assert index.shape == positions.shape and (index >= 0).all() and (index < 17).all()
    for row in range(len(positions)):
        held = source_positions[row].nonzero().flatten().tolist()
        read = index[row][positions[row]].tolist()
        assert read == held[: len(read)] and len(read) == min(5, len(held))


def test_trim_keeps_the_leftmost_positions():
    positions = choose([0, 2, 5], [1, 3], [4], width=6)
    assert torch.equal(trim(positions, choose([1, 7], [0, 1, 2], [], width=8)), choose([0, 2], [1, 3], [], width=6))


# --------------------------------------------------------------------------------------------- positions that are named


def test_named_positions_are_swapped_where_they_are_eligible_whatever_the_share():
    eligible = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 1]], dtype=torch.bool)
    assert at([1, 3, 9])(eligible, eligible, 0.01, seeded(1)).int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 1, 0]]


def test_each_row_swaps_one_of_the_segments_and_each_is_as_likely():
    eligible = torch.ones(4000, 6, dtype=torch.bool)
    drawn = segments([[0, 1], [2, 3, 4]])(eligible, eligible, 0.3, seeded(2))
    first, second = drawn[:, :2].all(1), drawn[:, 2:5].all(1)
    assert torch.equal(first, ~second) and torch.equal(drawn.sum(1), torch.where(first, 2, 3))
    assert abs(int(first.sum()) - 2000) < 5 * math.sqrt(4000 / 4)


def test_a_rule_is_given_what_it_has_parameters_for():
    eligible = torch.tensor([[True, True, False]])
    ids, source_ids = torch.tensor([[7, 8, 7]]), torch.tensor([[7, 9, 9]])
    given = {"input_ids": ids, "source_ids": source_ids, "pair": None}
    assert apply_rule(where_tokens_are([7]), eligible, eligible, 0.3, seeded(1), **given).tolist() == [[True, False, False]]

    def differing(eligible, masked, share, generator, *, source_ids, input_ids, pair):
        assert pair is None
        return eligible & (input_ids != source_ids)

    assert apply_rule(differing, eligible, eligible, 0.3, seeded(1), **given).tolist() == [[False, True, False]]
    four = lambda eligible, masked, share, generator: eligible  # noqa: E731  (a rule as of diito 0.1.0)
    assert apply_rule(four, eligible, eligible, 0.3, seeded(1), **given) is eligible


@pytest.mark.parametrize(
    ("sources", "positions", "read"),
    [
        (None, [[1, 4], [2, 3]], [[2, 3], [1, 4]]),
        ([[7, 5, 5], [5, 5, 7]], [[1], [2]], [[0], [2]]),
        ([[5, 5, 5, 7, 7, 7], [7, 7, 5, 5, 5, 7]], [[1, 4], [2, 3]], [[3, 4], [0, 1]]),
    ],
    ids=["in the batch", "shorter", "longer"],
)
def test_a_source_with_positions_of_its_own_is_read_where_it_has_the_tokens(sources, positions, read):
    rule, pairing = where_tokens_are([7]), lambda rows, generator: torch.tensor([1, 0])
    draws = SwapDraws(rule=rule, pairing=pairing, share=0.3, special_ids=[], independent_positions=True)
    ids = torch.tensor([[5, 7, 5, 5, 7], [5, 5, 7, 7, 7]])
    batch = {"input_ids": ids, "labels": torch.full_like(ids, -100)}
    if sources is not None:
        batch["source_input_ids"] = torch.tensor(sources)
    swap = draws.draw(batch, seeded(1))
    assert [row.nonzero().flatten().tolist() for row in swap.positions] == positions
    assert [index[row].tolist() for index, row in zip(swap.index, swap.positions, strict=True)] == read


def test_the_objective_gives_a_rule_the_drawn_pair_and_the_tokens_of_base_and_source():
    from objectives import batch_of, make, models

    seen = {}

    def rule(eligible, masked, share, generator, *, pair, input_ids, source_ids):
        seen.update(pair=pair, input_ids=input_ids, source_ids=source_ids)
        return eligible

    objective = make(*models(), positions=rule)
    batch = batch_of()
    objective(batch, step=0)
    assert seen["pair"] in objective.alignment.pairs
    assert torch.equal(seen["input_ids"], batch["input_ids"]) and not torch.equal(seen["source_ids"], batch["input_ids"])
