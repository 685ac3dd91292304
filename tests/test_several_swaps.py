"""Several sources of a row, and several aligned pairs of a micro-batch, against single swaps in the oracle made of hooks."""

import decoders
import oracle
import pytest
import tiny
import torch
from models import SPECIAL_IDS, counted, masked_batch, text
from objectives import EVERY, STANDARD, batch_of, fixed_rule, make, models
from test_objective_cost import Waits, with_slots
from torch.utils.flop_counter import FlopCounterMode

from diito import AlignedPair, Alignment
from diito.method.cost import ModelSize, step_cost
from diito.method.draws import host_random
from diito.method.runs import run_model
from diito.method.swaps import Swap, joined
from diito.recipe.checks import check
from diito.refusal import Refusal, Refusals

PAIR = Alignment([AlignedPair([0], [1, 2])])
FOUR = (12, 12, 12, 12)


def rows_of(*lengths):
    """A batch of as many rows."""
    return masked_batch(1, list(lengths), *([1, 4], [2], [1, 3, 6], [2, 5], [3])[: len(lengths)])


def parts_of(swap, source_rows):
    """The swap as single ones: for each base row and source row that it takes tokens of, where they go and come from."""
    for row, positions in enumerate(swap.positions.tolist()):
        for source in range(source_rows):
            chosen = [t for t, swapped in enumerate(positions) if swapped and swap.rows[row, t] == source]
            if chosen:
                yield row, source, {t: int(swap.index[row, t]) for t in chosen}


def intervened(model, batch, sources, layers, swap):
    """The single swaps one after another in one run: logits and last hidden states."""
    states = oracle.hidden_states(model, sources)
    width = torch.ones(states[0].shape[-1], dtype=torch.bool)

    def writing(layer):
        def write(output):
            for row, source, matches in parts_of(swap, len(sources["input_ids"])):
                values = states[layer][[source] * len(output)]
                output = oracle.overwrite(
                    output, values, [matches if each == row else {} for each in range(len(output))], width
                )
            return output

        return write

    logits, _, hidden = oracle.run(model, batch, {layer: writing(layer) for layer in layers})
    return logits, hidden


def of_the_batch(batch):
    return {name: value for name, value in batch.items() if name in oracle.INPUTS}


# ------------------------------------------------------------------------------------------------ several sources of a row


@pytest.mark.parametrize("positions", ["consecutive", "random"])
@pytest.mark.parametrize("where", ["same", "independent"])
@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_one_run_is_the_composition_of_single_swaps(positions, where, foreign):
    student, teacher = models()
    extra = {f"source_{name}": value for name, value in text(8, [11, 9, 12, 10, 12, 12, 7, 12]).items()} if foreign else {}
    batch = rows_of(12, 10, 12, 11) | extra
    given = {"positions": positions, "source_positions": where, "special_ids": SPECIAL_IDS, "share": 0.5}
    method = make(student, teacher, PAIR, sources_per_row=2, **given)
    swap = method.draw_swap(batch, step=3)
    sources = {name.removeprefix("source_"): value for name, value in extra.items()} or of_the_batch(batch)
    for row, source, matches in parts_of(swap, len(sources["input_ids"])):
        assert source % 4 == row if foreign else source != row
        for there, here in ((batch, set(matches)), ({k: v[[source] * 4] for k, v in sources.items()}, {*matches.values()})):
            real = oracle.attention_mask(there)[row].bool()
            special = torch.isin(there["input_ids"][row], torch.tensor(SPECIAL_IDS))
            assert all(real[t] and not special[t] for t in here)
    losses = method(batch, step=3)
    tokens = [tuple(each) for each in (batch["labels"] != -100).nonzero().tolist()]
    ours = intervened(student, of_the_batch(batch), sources, [0], swap)
    theirs = intervened(teacher, of_the_batch(batch), sources, [1, 2], swap)
    torch.testing.assert_close(losses["causal_ce"].double(), oracle.ce(ours[0], theirs[0], tokens, 2.0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["causal_cos"].double(), oracle.cos(ours[1], theirs[1], tokens), rtol=1e-5, atol=1e-6)
    if not foreign:
        found = torch.autograd.grad(losses["causal_ce"], student.get_input_embeddings().weight)[0]
        expected = torch.autograd.grad(oracle.ce(ours[0], theirs[0], tokens, 2.0), student.get_input_embeddings().weight)[0]
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rule", ["consecutive", "random"])
@pytest.mark.parametrize("several", [1, 2, 3])
def test_each_source_has_its_share_of_a_part_of_its_own(rule, several):
    method = make(*models(), positions=rule, share=0.4, sources_per_row=several)
    batch = rows_of(*[16] * 5)  # 14 eligible ones
    for step in range(5):
        swap = method.draw_swap(batch, step=step)
        sizes = [int(0.4 * len(part)) for part in torch.arange(14).tensor_split(several)]
        assert swap.positions.sum(1).tolist() == [sum(sizes)] * 5
        assert not swap.positions[:, [0, 15]].any()
        if several == 1:
            assert swap.rows.shape == (5,) and swap.index is None, "as ever"
            continue
        for row, positions in enumerate(swap.positions):
            rows = swap.rows[row][positions].tolist()
            order = list(dict.fromkeys(rows))
            assert len(order) == several and row not in order, "different ones, none of them the row itself"
            assert sorted(rows.count(each) for each in order) == sorted(sizes)
            assert rows == [each for each in order for _ in range(rows.count(each))], "successive parts"


def test_swaps_are_joined_where_they_are_and_one_stays_as_it_is():
    first = Swap(torch.tensor([[True, False, False]]), torch.tensor([1]), None, None)
    second = Swap(torch.tensor([[False, False, True]]), torch.tensor([2]), torch.tensor([[0, 0, 1]]), None)
    assert joined([first]) is first
    both = joined([first, second])
    assert both.positions.tolist() == [[True, False, True]]
    assert (both.rows.tolist(), both.index.tolist()) == ([[1, 0, 2]], [[0, 1, 1]])
    states = torch.arange(9.0).view(3, 3, 1)
    assert both.values(states)[0, [0, 2], 0].tolist() == [3.0, 7.0]


def test_a_row_that_is_its_own_sources_is_as_it_was():
    batch = batch_of(lengths=(12, 12, 12))
    own = {f"source_{name}": torch.cat([value, value]) for name, value in of_the_batch(batch).items()}
    losses = make(*models(), sources_per_row=2)(batch | own, step=0)
    assert torch.equal(losses["causal_ce"], losses["ce"]) and torch.equal(losses["causal_cos"], losses["cos"])


def test_gradients_reach_every_source_and_no_other_row():
    """Each source has words of its own."""
    student, teacher = models(tie_word_embeddings=False)
    sources = torch.cat([text(each, [9, 9, 9], low=30 + 10 * each, high=40 + 10 * each)["input_ids"] for each in range(3)])
    batch = batch_of(low=4, high=30) | {"source_input_ids": sources}
    method = make(student, teacher, PAIR, weights={"causal_ce": 1.0}, sources_per_row=3)
    gradient = torch.autograd.grad(method(batch, step=0)["loss"], student.get_input_embeddings().weight)[0]
    reached = gradient.abs().sum(-1) > 0
    assert reached[sources.unique()].all() and not reached[torch.isin(torch.arange(60), sources, invert=True)][30:].any()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_a_decoder_nothing_before_the_first_swapped_position_moves(family):
    model, rows = decoders.build(family), decoders.text(1, [12, 12, 12])
    positions = torch.zeros(3, 12, dtype=torch.bool)
    positions[:, [4, 5, 8]] = True
    source = torch.tensor([[1], [2], [0]]).repeat(1, 12)
    source[:, 8] = torch.tensor([2, 0, 1])
    swap = Swap(positions, source, torch.arange(12).expand(3, 12), None)
    runs = run_model(model, rows, [0], None, swap, torch.arange(12).expand(3, 12), base=True, outputs=None)
    moved = (runs.base.hidden != runs.counterfactual.hidden).any(-1).view(3, 12)
    assert not moved[:, :4].any() and moved[:, 4:].all()


def test_words_of_several_sources_are_swapped_under_the_control():
    method = make(*models(), sources_per_row=2, control="token-swap", share=1.0)
    batch = rows_of(*FOUR)
    swap = method.draw_swap(batch, step=1)
    expected = batch["input_ids"].clone()
    for row, source, matches in parts_of(swap, 4):
        for there, here in matches.items():
            expected[row, there] = batch["input_ids"][source, here]
    assert torch.equal(swap.stitched(batch)["input_ids"], expected)
    assert method(batch, step=1)["causal_ce"] > 0


@pytest.mark.parametrize("where", ["same", "independent"])
def test_a_step_never_waits_for_the_device(where):
    method = make(*models(), source_positions=where, sources_per_row=2, pairs_per_batch=2).train()
    batch = with_slots(batch_of())
    with Waits() as waits:
        method(batch, step=0)["loss"].backward()
    assert waits.seen == []


# ----------------------------------------------------------------------------------------------- several pairs of a batch


@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_losses_under_the_intervention_are_means_over_the_runs_of_different_pairs(foreign):
    student, teacher = models("bert", 6, 3)
    extra = {f"source_{name}": value for name, value in text(8, [9, 9, 9]).items()} if foreign else {}
    batch = batch_of() | extra
    method = make(student, teacher, pairs_per_batch=2)
    for step in range(3):
        drawing = host_random("alignment", 42, step)
        pairs = [method.alignment.draw(drawing)]
        pairs += method.alignment.draw_others(pairs[0], drawing, 1)
        assert pairs[0] == make(student, teacher).alignment.draw(host_random("alignment", 42, step)) != pairs[1]
        swaps = [method.draw_swap(batch, step=step, run=run) for run in range(2)]
        assert not torch.equal(swaps[0].positions, swaps[1].positions) or not torch.equal(swaps[0].rows, swaps[1].rows)
        each = []
        for pair, swap in zip(pairs, swaps, strict=True):
            source = {name: value[swap.rows] for name, value in of_the_batch(batch).items()}
            source = {name.removeprefix("source_"): value for name, value in extra.items()} or source
            sides = list(pair.student), list(pair.teacher)
            each.append(oracle.objective(student, teacher, *sides, of_the_batch(batch) | batch, source, swap.positions, EVERY))
        losses = method(batch, step=step)
        for name in losses:
            mean = torch.stack([one[name] for one in each]).mean()
            torch.testing.assert_close(losses[name].double(), mean, rtol=1e-5, atol=1e-6)


def test_all_pairs_are_the_mean_over_the_alignment_and_the_base_runs_once():
    student, teacher = models("bert", 6, 3)
    method = make(student, teacher, pairs_per_batch=3, weights={"ce": 1.0, "causal_ce": 1.0, "manifold": 1.0})
    drawing = host_random("alignment", 42, 0)
    first = method.alignment.draw(drawing)
    assert {first, *method.alignment.draw_others(first, drawing, 2)} == {*method.alignment.pairs}
    with counted(student) as ours, counted(teacher) as theirs:
        method(with_slots(batch_of()), step=0)
    assert ours["layers"] == [1, 2, 3] and theirs["layers"] == [1, 2, 2, 3, 3, 4]


def test_pairs_beside_the_first_are_drawn_without_replacement_and_uniformly():
    """2000 draws of 2 of 4 pairs: each in half of them; five sigma = 5 * sqrt(2000 / 4) = 112."""
    alignment = Alignment.full(4, 4)
    counts = dict.fromkeys(alignment.pairs, 0)
    for step in range(2000):
        drawing = host_random("alignment", 1, step)
        first = alignment.draw(drawing)
        (second,) = alignment.draw_others(first, drawing, 1)
        assert first is not second
        for pair in (first, second):
            counts[pair] += 1
    assert all(abs(count - 1000) < 112 for count in counts.values())
    assert len(alignment.draw_others(first, drawing, 9)) == 3, "no more than there are"


def test_every_parameter_that_one_pair_reaches_is_reached():
    student, teacher = models(tie_word_embeddings=False)
    make(student, teacher, pairs_per_batch=2, sources_per_row=2)(batch_of(), step=0)["loss"].backward()
    unused = {"cls.predictions.bias"}  # a second bias of an untied head, which transformers holds and never reads
    assert {name for name, parameter in student.named_parameters() if parameter.grad is None} <= unused
    assert all(parameter.grad is None for parameter in teacher.parameters())


# ---------------------------------------------------------------------------------- states and words in one objective


@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_with_both_the_losses_under_the_intervention_are_means_over_states_and_words(foreign):
    student, teacher = models()
    batch = batch_of() | ({f"source_{name}": value for name, value in text(8, [9, 9, 9]).items()} if foreign else {})
    methods = {control: make(student, teacher, control=control) for control in ("none", "token-swap", "both")}
    losses = {control: method(batch, step=3) for control, method in methods.items()}
    for name, value in losses["both"].items():
        torch.testing.assert_close(value, (losses["none"][name] + losses["token-swap"][name]) / 2)
    assert losses["none"]["causal_ce"] != losses["token-swap"]["causal_ce"]
    assert methods["both"].changed == methods["token-swap"].changed > 0 and methods["none"].changed is None


# -------------------------------------------------------------------------------------------------- what they cost


@pytest.mark.parametrize(
    ("options", "counted_as"),
    [
        ({"pairs_per_batch": 2}, {"pairs_per_batch": 2}),
        ({"sources_per_row": 3}, {}),
        ({"sources_per_row": 2, "pairs_per_batch": 2, "foreign": 2}, {"pairs_per_batch": 2, "own_sources": 2}),
        ({"foreign": 1}, {"own_sources": 1}),
        ({"control": "both"}, {"beside_token_swap": True}),
    ],
)
def test_the_counted_operations_are_those_of_torchs_own_counter(options, counted_as):
    student, teacher = models("bert", 4, 2, attention="eager", hidden_dropout_prob=0.0)
    batch = rows_of(*FOUR)
    foreign = options.get("foreign", 0)
    if foreign:
        batch["source_input_ids"] = text(2, FOUR * foreign)["input_ids"]
    given = {name: value for name, value in options.items() if name != "foreign"}
    alignment = Alignment.full(4, 2) if given.get("pairs_per_batch") else PAIR
    sizes = ModelSize.of(teacher), ModelSize.of(student)
    with FlopCounterMode(display=False) as counter:
        make(student, teacher, alignment, **given)(batch, step=0)["loss"].backward()
    slots = int((batch["labels"] != -100).sum(1).max())
    expected = step_cost(*sizes, alignment, length=12, loss_tokens=slots / 12, **counted_as).total * 48
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------------------------------------------- what is refused


REFUSED = [
    ({"sources_per_row": 0}, r"^intervention\.sources_per_row: 0 must be at least 1"),
    ({"pairs_per_batch": 0}, r"^alignment\.pairs_per_batch: .* give 1 to as many"),
    ({"pairs_per_batch": 3}, r"^alignment\.pairs_per_batch: 3 different pairs are asked for; the alignment has 2"),
    ({"pairs_per_batch": 2, "control": "token-swap"}, r"^alignment\.pairs_per_batch: must be 1 with the control token-swap"),
]


@pytest.mark.parametrize(("options", "complaint"), REFUSED)
def test_what_no_batch_could_make_right_is_refused(options, complaint):
    with pytest.raises(Refusal, match=complaint):
        make(*models(), **options)


@pytest.mark.parametrize(
    ("options", "batch", "complaint"),
    [
        ({"sources_per_row": 3}, {}, r"^intervention\.sources_per_row: 3 need at least 4 rows .* there are 3"),
        ({"sources_per_row": 2, "pairing": lambda rows, draws: torch.arange(rows)}, {}, "must be 1 with a pairing of your own"),
        ({}, {"source_input_ids": text(1, FOUR)["input_ids"]}, r"^source_input_ids: 4 rows are not 1 for each of the 3 rows"),
    ],
)
def test_a_batch_without_enough_sources_is_refused(options, batch, complaint):
    with pytest.raises(Refusal, match=complaint):
        make(*models(), **options)(batch_of() | batch, step=0)


def test_a_teacher_that_is_no_model_has_one_pair():
    class Answers:
        depth, width = 4, 16

        def runs(self, *arguments, **options):
            raise AssertionError

    with pytest.raises(Refusal, match="must be 1 with a teacher that is no model"):
        make(models()[0], Answers(), Alignment.full(4, 2), pairs_per_batch=2)
    with pytest.raises(Refusal, match=r"intervention\.control: both needs a teacher that is a model"):
        make(models()[0], Answers(), Alignment.full(4, 2), control="both")


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"intervention.sources_per_row": "4"}, "training.per_device_train_batch_size: .* at least 5 rows"),
        ({"intervention.sources_per_row": "2", "intervention.pairing": "package.rules:own"}, "intervention.sources_per_row"),
        ({"intervention.sources_per_row": "0"}, "intervention.sources_per_row"),
        ({"alignment.pairs_per_batch": "2", "intervention.control": "token-swap"}, "alignment.pairs_per_batch"),
        (
            {"intervention.sources_per_row": "2", "intervention.positions": "{segments: [[1, 2], [5, 6]]}"},
            "intervention.sources_per_row: must be 1 with positions.segments",
        ),
    ],
)
def test_a_recipe_that_can_never_be_right_is_refused(overrides, field, tmp_path):
    with pytest.raises((Refusal, Refusals), match=field):
        check(tiny.recipe(tmp_path, overrides))


def test_they_are_learnt():
    """Fifteen steps of Adam on one batch."""
    for options in ({"sources_per_row": 2}, {"pairs_per_batch": 2}):
        student, teacher = models()
        method = make(student, teacher, weights={"causal_ce": 1.0}, **options).train()
        optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
        values = []
        for _ in range(15):
            optimiser.zero_grad()
            loss = method(batch_of(), step=0)["loss"]
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < 0.8 * values[0], (options, values[0], values[-1])


def test_standard_distillation_pays_for_neither():
    method = make(*models(), weights=STANDARD, positions=fixed_rule(None), sources_per_row=2, pairs_per_batch=2)
    with counted(method.student) as calls:
        method(batch_of(), step=0)
    assert set(calls["layers"]) == {1}
