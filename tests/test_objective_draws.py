"""What a step draws, and from what."""

import copy
import math

import torch
from models import MASK, SPECIAL_IDS, build, choose
from objectives import NAMES, batch_of, make, models, same

from diito import Alignment, DistillationObjective
from diito.method import objective
from diito.method.positions import consecutive, derangement, random


def test_a_step_is_a_function_of_seed_and_number_and_not_of_the_global_state():
    """Dropout included, which is keyed in the same way; the caller's state is where it was."""
    student, teacher = models()
    method = make(student, teacher).train()
    batch = batch_of()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = method(batch, step=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(first, method(batch, step=7))
    other_step, other_seed = method(batch, step=8), make(student, teacher, seed=43).train()(batch, step=7)
    for other in (other_step, other_seed):
        assert all(not torch.equal(first[name], other[name]) for name in NAMES)


def test_without_a_step_it_counts_by_itself_and_the_count_is_in_its_state():
    student, teacher = models()
    method = make(student, teacher).train()
    by_number = [method(batch_of(), step=step) for step in range(4)]
    assert method.micro_batches == 0, "a step that is given is not counted"
    assert all(same(method(batch_of()), by_number[step]) for step in range(3))
    state = copy.deepcopy(method.state_dict())
    resumed = make(build(layers=2, seed=9), teacher).train()
    resumed.load_state_dict(state)
    assert resumed.micro_batches == 3
    assert same(resumed(batch_of()), by_number[3])


def record_draws(monkeypatch, rank, steps=12):
    """The aligned pairs, the sources and the swapped positions of some steps, as seen by a process of this rank."""
    monkeypatch.setattr(objective, "_rank", lambda: rank)
    pairs, swaps = [], []

    def rule(eligible, masked, share, generator):
        swaps.append(random(eligible, masked, share, generator))
        return swaps[-1]

    draw = Alignment.draw

    def drawn(self, generator):
        pairs.append(draw(self, generator))
        return pairs[-1]

    monkeypatch.setattr(Alignment, "draw", drawn)
    student, teacher = models("bert", 3, 3)
    method = make(student, teacher, positions=rule, weights={"causal_cos": 1.0})
    with torch.no_grad():
        for step in range(steps):
            method(batch_of(), step=step)
    monkeypatch.setattr(Alignment, "draw", draw)
    return pairs, torch.stack(swaps)


def test_all_ranks_draw_the_same_pair_and_other_positions(monkeypatch):
    first, second = record_draws(monkeypatch, 0), record_draws(monkeypatch, 1)
    assert first[0] == second[0] and len(set(first[0])) == 3
    assert not torch.equal(first[1], second[1])
    again = record_draws(monkeypatch, 0)
    assert again[0] == first[0] and torch.equal(again[1], first[1])


def test_dropout_differs_by_rank(monkeypatch):
    student, teacher = models()
    method = make(student, teacher, weights={"task": 1.0}).train()
    here = method(batch_of(), step=0)["task"]
    monkeypatch.setattr(objective, "_rank", lambda: 1)
    assert not torch.equal(here, method(batch_of(), step=0)["task"])


def test_pairs_are_drawn_uniformly_over_the_steps():
    """6 pairs in 6000 steps, 1000 each; five sigma = 5 * sqrt(6000 * 5/36) = 145: odds of about 1 in 290,000 for all six."""
    alignment = Alignment.full(12, 6)
    drawn = [alignment.draw(objective.host_random("alignment", 42, step)) for step in range(6000)]
    counts = [drawn.count(pair) for pair in alignment.pairs]
    assert sum(counts) == 6000 and all(abs(count - 1000) < 5 * math.sqrt(6000 * 5 / 36) for count in counts)


def test_the_defaults_are_the_papers():
    method = DistillationObjective(*models(), Alignment.full(4, 2))
    assert (method.swaps.rule, method.swaps.pairing, method.swaps.share) == (consecutive, derangement, 0.3)
    assert (method.tokens, method.swaps.of_tokens) == ("masked", False)
    assert (method.swaps.specials, method.swaps.independent_positions) == (False, False)
    batch = batch_of(lengths=(24, 24, 24))
    swap = method.draw_swap(batch, step=0)
    assert swap.positions.sum(1).tolist() == [6, 6, 6], "floor(0.3 * 22)"
    assert not swap.positions[:, [0, 23]].any()


def test_specials_may_be_swapped_where_that_is_asked_for():
    student, teacher = models()
    swap = make(student, teacher, specials=True, share=1.0).draw_swap(batch_of(), step=0)
    assert swap.positions.all()
    inner = make(student, teacher, share=1.0, special_ids=SPECIAL_IDS).draw_swap(batch_of(), step=0)
    assert torch.equal(inner.positions, choose(*[range(1, 8)] * 3, width=9)), "[MASK] is no special here"
    assert (batch_of()["input_ids"] == MASK).any()
