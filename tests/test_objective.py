"""The method against the oracle, and its laws: what gets a gradient, what is averaged over what, what is refused."""

import copy
from typing import Any

import oracle
import pytest
import torch
from models import (
    SPECIAL_IDS,
    VOCABULARY,
    WIDTH,
    build,
    choose,
    counted,
    families,
    gradients,
    inputs_of,
    text,
    with_slots,
)
from objectives import CAUSAL, EVERY, NAMES, batch_of, fixed_pairing, fixed_rule, make, models, plain_distillation, same

from diito import AlignedPair, Alignment, DistillationObjective
from diito.method import objective
from diito.method.losses import Loss, by_chunks, paper_losses
from diito.method.runs import LiveTeacher

SWAPPED = choose([1, 2, 3], [5], [], width=9)
FOREIGN = {"source_" + name: value for name, value in text(7, [9, 7, 8]).items()}
CASES: dict[str, dict[str, Any]] = {
    "in-batch pairs": {},
    "padded": {"lengths": (9, 7, 8)},
    "all tokens": {"lengths": (9, 7, 8), "tokens": "all"},
    "layer sets and dimensions": {
        "pair": AlignedPair([0, 1], [1, 3], [(2, 7)], [(0, 3), (12, 16)]),
        "lengths": (9, 7, 8),
    },
    "the top layers": {"pair": AlignedPair([1], [2, 3])},
    "given sources": {"extra": FOREIGN, "lengths": (9, 7, 8)},
    "given sources, longer": {"extra": {"source_input_ids": text(8, [12, 12, 12])["input_ids"]}, "tokens": "all"},
    "given sources, shorter": {"extra": {"source_" + name: value for name, value in text(9, [7, 5, 6]).items()}, "row": [3]},
    "independent positions": {"elsewhere": choose([4, 5, 7], [1], [], width=9)},
    "independent positions, given sources": {"elsewhere": choose([2, 4, 6], [3], [], width=9), "extra": FOREIGN},
}


@families
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_oracles(family, case):
    options = CASES[case]
    student, teacher = models(family)
    batch = batch_of(lengths=options.get("lengths", (9, 9, 9))) | options.get("extra", {})
    positions = choose([1, 2, 3], options.get("row", [5]), [], width=9)
    elsewhere, rows = options.get("elsewhere"), torch.tensor([1, 2, 0])
    pair = options.get("pair", AlignedPair([0], [0, 1]))
    losses = make(
        student,
        teacher,
        Alignment([pair]),
        tokens=options.get("tokens", "masked"),
        positions=fixed_rule(positions, elsewhere),
        source_positions="same" if elsewhere is None else "independent",
        pairing=fixed_pairing(*rows.tolist()),
    )(batch, step=0)

    source = {name: value[rows] for name, value in inputs_of(batch).items()}
    if "source_input_ids" in batch:
        source = {name.removeprefix("source_"): value for name, value in batch.items() if name.startswith("source_")}
    expected = oracle.objective(
        student,
        teacher,
        list(pair.student),
        list(pair.teacher),
        batch,
        source,
        positions,
        EVERY,
        2.0,
        options.get("tokens", "masked"),
        source_positions=positions if elsewhere is None else elsewhere[:, : source["input_ids"].shape[1]],
        student_dimensions=pair.student_dimensions,
        teacher_dimensions=pair.teacher_dimensions,
    )
    assert losses.keys() == expected.keys()
    for name in losses:
        torch.testing.assert_close(losses[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(losses["loss"], student), gradients(expected["loss"], student)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    assert losses["causal_ce"] != losses["ce"] and losses["causal_cos"] != losses["cos"]


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_token_type_ids_reach_every_run(family):
    student, teacher = models(family)
    types = torch.tensor([[0] * 4 + [1] * 5, [0] * 9, [0] * 2 + [1] * 7])
    batch = batch_of(lengths=(9, 7, 8)) | {"token_type_ids": types}
    losses = make(
        student,
        teacher,
        Alignment([AlignedPair([0], [1])]),
        positions=fixed_rule(SWAPPED),
        pairing=fixed_pairing(2, 0, 1),
    )(batch, step=0)
    source = {name: value[[2, 0, 1]] for name, value in inputs_of(batch).items()}
    expected = oracle.objective(student, teacher, [0], [1], batch, source, SWAPPED, EVERY)
    for name in losses:
        torch.testing.assert_close(losses[name].double(), expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["consecutive", "random", "masked"])
@pytest.mark.parametrize("source_positions", ["same", "independent"])
@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_what_is_drawn_is_eligible_and_the_losses_are_the_oracles(rule, source_positions, foreign):
    """The draws as the recipe's names make them: legal in the oracle's eyes, and its losses for the same draw."""
    student, teacher = models()
    extra = {"source_" + name: value for name, value in text(8, [12, 6, 11]).items()} if foreign else {}
    batch = batch_of(lengths=(9, 7, 8)) | extra
    method = make(
        student, teacher, positions=rule, source_positions=source_positions, share=0.5, special_ids=SPECIAL_IDS, seed=3
    )
    for step in range(3):
        swap = method.draw_swap(batch, step=step)
        source = {name.removeprefix("source_"): value for name, value in extra.items()}
        if not foreign:
            assert sorted(swap.rows.tolist()) == [0, 1, 2] and (swap.rows != torch.arange(3)).all()
            source = {name: value[swap.rows] for name, value in inputs_of(batch).items()}
        eligible = oracle.eligible(batch, source, set(SPECIAL_IDS))
        assert not (swap.positions & ~eligible).any()
        if rule == "masked":
            assert not (swap.positions & (batch["labels"] == -100)).any()
        elif source_positions == "same":
            assert swap.positions.sum(1).tolist() == [max(1, count // 2) for count in eligible.sum(1).tolist()]
        elsewhere = torch.zeros_like(source["input_ids"], dtype=torch.bool)
        index = torch.arange(9).expand(3, 9) if swap.index is None else swap.index
        for row in range(3):
            read = index[row][swap.positions[row]]
            assert read.tolist() == sorted(set(read.tolist())) and eligible[row][read].all()
            elsewhere[row, read] = True
        pair = method.alignment.draw(objective.host_random("alignment", 3, step))
        expected = oracle.objective(
            student,
            teacher,
            list(pair.student),
            list(pair.teacher),
            batch,
            source,
            swap.positions,
            EVERY,
            source_positions=elsewhere,
        )
        losses = method(batch, step=step)
        for name in losses:
            torch.testing.assert_close(losses[name].double(), expected[name], rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------- law 4: who gets a gradient


@families
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("top", [False, True], ids=["a lower pair", "the top pair"])
def test_a_loss_alone_reaches_every_parameter_of_the_student_it_can_and_none_of_the_teacher(family, name, top):
    student, teacher = models(family, tie_word_embeddings=False)
    student.train()
    pair = AlignedPair([1], [2, 3]) if top else AlignedPair([0], [0, 1])
    losses = make(student, teacher, Alignment([pair]), weights={name: 0.5})(batch_of(lengths=(9, 7, 8)), step=0)
    losses["loss"].backward()
    body = student.base_model_prefix + "."
    found = torch.autograd.grad(student(**text(1, [4])).logits.sum(), list(student.parameters()), allow_unused=True)
    for (parameter_name, parameter), used in zip(student.named_parameters(), found, strict=True):
        reached = parameter.grad is not None and parameter.grad.isfinite().all() and (parameter.grad != 0).any()
        if name.endswith("cos") and not parameter_name.startswith(body):
            assert parameter.grad is None, f"{parameter_name}: the head plays no part"
        elif parameter_name.endswith(("key.bias", "k_lin.bias")):
            assert parameter.grad is not None, "a softmax does not see its keys' bias: 0 but for rounding"
        elif used is None:  # a second bias of an untied head, which transformers holds and never reads
            assert parameter_name in ("cls.predictions.bias", "lm_head.bias") and parameter.grad is None
        else:
            assert reached, parameter_name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


@families
@pytest.mark.parametrize("name", CAUSAL)
def test_gradients_reach_the_source_through_the_swap(family, name):
    """Base and source have no token in common, so only the swap leads to the source's embeddings."""
    student, teacher = models(family, tie_word_embeddings=False)
    foreign = text(7, [9, 9, 9], low=30)["input_ids"]
    batch = batch_of(low=4, high=30) | {"source_input_ids": foreign}
    embeddings = student.get_input_embeddings().weight
    swaps = {"swapped": choose([1, 2], [4], [], width=9), "nothing": torch.zeros(3, 9, dtype=torch.bool)}
    for case, positions in swaps.items():
        method = make(
            student, teacher, Alignment([AlignedPair([0], [1])]), weights={name: 1.0}, positions=fixed_rule(positions)
        )
        gradient = torch.autograd.grad(method(batch, step=0)["loss"], embeddings, allow_unused=True)[0]
        reached = gradient[foreign].abs().sum(-1) > 0
        expected = case == "swapped"
        assert (reached[:2] == expected).all(), "every token of a source, by way of attention below the swap"
        only_third = [t for t in foreign[2].tolist() if t >= 30 and not (foreign[:2] == t).any()]
        assert only_third and (gradient[only_third] == 0).all(), "the third row swaps nothing"


# ----------------------------------------------------------------------------------------- law 6: student = teacher


@families
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 7, 8)], ids=["full", "padded"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(family, lengths):
    teacher = build(family, 3)
    alignment = Alignment(AlignedPair([layer], [layer]) for layer in range(3))
    method = make(copy.deepcopy(teacher), teacher, alignment).eval()
    for step in range(4):
        losses = method(batch_of(lengths=lengths), step=step)
        assert all(losses[name].abs() < 1e-6 for name in ("ce", "cos", "causal_ce", "causal_cos", "mse"))
        torch.testing.assert_close(losses["loss"], 0.3 * losses["task"])
    assert losses["task"] > 0.1


# ------------------------------------------------------------------------------------------- law 7: totals and tokens


@families
def test_the_total_is_the_weighted_sum_with_weights_as_given(family):
    student, teacher = models(family)
    paper = DistillationObjective(student, teacher, Alignment.full(4, 2))
    assert paper.weights == {"task": 0.25, "ce": 0.25, "cos": 0.25, "causal_ce": 0.25}
    whole = make(student, teacher, weights={name: 1.0 for name in NAMES})(batch_of(), step=0)
    heavy = make(student, teacher, weights={"task": 2.0, "causal_ce": 3.0})(batch_of(), step=0)
    assert list(heavy) == ["task", "causal_ce", "loss"]
    assert torch.equal(heavy["task"], whole["task"]) and torch.equal(heavy["causal_ce"], whole["causal_ce"])
    torch.testing.assert_close(heavy["loss"], 2 * whole["task"] + 3 * whole["causal_ce"])
    torch.testing.assert_close(paper(batch_of(), step=0)["loss"], sum(whole[name] for name in NAMES[:4]) / 4)


def test_the_temperature_is_that_of_both_smoothed_losses():
    student, teacher = models()
    options = {"positions": fixed_rule(SWAPPED), "pairing": fixed_pairing(1, 2, 0)}
    losses = make(student, teacher, Alignment([AlignedPair([0], [1])]), temperature=3.0, **options)(batch_of(), step=0)
    source = {"input_ids": batch_of()["input_ids"][[1, 2, 0]]}
    expected = oracle.objective(student, teacher, [0], [1], batch_of(), source, SWAPPED, EVERY, 3.0)
    for name in losses:
        torch.testing.assert_close(losses[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_a_batch_without_any_loss_token_gives_zero_and_finite_gradients():
    student, teacher = models()
    batch = batch_of(lengths=(9, 7, 8))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for given in (batch, batch | {"masked_positions": torch.full((3, 2), -1)}):
        losses = make(student, teacher)(given, step=0)
        assert all(value == 0 for value in losses.values())
        assert all((gradient == 0).all() for gradient in gradients(losses["loss"], student).values())


def test_rows_without_a_swap_are_out_of_the_causal_losses():
    student, teacher = models()
    foreign = {"source_input_ids": text(7, [9, 9, 9])["input_ids"]}
    batch, some = batch_of() | foreign, choose([1, 2], [], [4], width=9)
    whole = make(student, teacher, Alignment([AlignedPair([0], [1])]), positions=fixed_rule(some))(batch, step=0)
    part = {name: value[[0, 2]] for name, value in batch.items()}
    method = make(student, teacher, Alignment([AlignedPair([0], [1])]), positions=fixed_rule(some[[0, 2]]))
    rest = method(part, step=0)
    for name in CAUSAL:
        torch.testing.assert_close(whole[name], rest[name])
    assert not torch.isclose(whole["ce"], rest["ce"])
    nowhere = fixed_rule(torch.zeros(3, 9, dtype=torch.bool))
    none = make(student, teacher, positions=nowhere)(batch, step=0)
    assert none["causal_ce"] == none["causal_cos"] == 0 and torch.equal(none["ce"], whole["ce"])


def test_given_slots_are_those_that_would_be_found():
    student, teacher = models()
    batch = batch_of(lengths=(9, 7, 8))
    method = make(student, teacher)
    found, given = method(batch, step=0), method(with_slots(batch), step=0)
    wider = method(with_slots(batch, slots=5), step=0)
    torch.testing.assert_close(found, given)
    torch.testing.assert_close(found, wider)


@pytest.mark.parametrize("tokens", ["masked", "all"])
def test_labels_at_the_slots_are_the_labels_at_their_positions(tokens):
    student, teacher = models()
    batch = with_slots(batch_of(lengths=(9, 7, 8)), slots=5)
    slots = batch.pop("masked_positions")
    at_slots = batch["labels"].gather(1, slots.clamp(min=0)).masked_fill(slots < 0, -100)
    method = make(student, teacher, tokens=tokens, positions="masked")
    whole, given = method(batch, step=0), method(batch | {"slots": slots, "labels": at_slots}, step=0)
    torch.testing.assert_close(given, whole)
    torch.testing.assert_close(method(batch | {"slots": slots}, step=0), whole, msg="labels of all tokens beside the slots")
    with pytest.raises(ValueError, match=r"^labels: need Int\[3, 5\]"):
        method(batch | {"slots": slots, "labels": at_slots[:, :2]}, step=0)


def test_what_a_source_of_its_own_reads_reaches_it():
    student, teacher = models()
    typed = torch.ones(3, 9, dtype=torch.long)
    batch = batch_of() | {"source_input_ids": text(7, [9, 9, 9])["input_ids"]}
    plain, other = (make(student, teacher)(each, step=0) for each in (batch, batch | {"source_token_type_ids": typed}))
    assert other["causal_ce"] != plain["causal_ce"] and other["ce"] == plain["ce"]


def test_measuring_in_eval_mode_moves_no_draw_of_the_training():
    student, teacher = models()
    method = make(student, teacher).train()
    first = [method(batch_of()) for _ in range(2)]
    again = make(student, teacher).train()
    one = again(batch_of())
    again.eval()(batch_of())
    assert same(one, first[0]) and same(again.train()(batch_of()), first[1])


def test_a_batch_can_be_given_as_keywords():
    student, teacher = models()
    batch, method = batch_of(lengths=(9, 7, 8)), make(student, teacher)
    assert same(method(**batch, step=3), method(batch, step=3))


def test_the_tasks_own_loss_is_also_called_mlm():
    student, teacher = models()
    old, new = (make(student, teacher, weights={name: 1.0, "ce": 1.0})(batch_of(), step=0) for name in ("mlm", "task"))
    assert list(old) == list(new) == ["task", "ce", "loss"]
    assert old["mlm"] is old["task"] and torch.equal(old["task"], new["task"])
    with pytest.raises(KeyError):
        old["cos"]


def test_slots_that_no_swap_reaches_are_out_of_the_causal_losses():
    """As in a decoder, where nothing before the first swapped position can change."""
    student, teacher = models()
    batch = with_slots(batch_of())

    def at_or_after(slots, positions):
        return (slots >= positions.int().argmax(1, keepdim=True)) & positions.any(1, keepdim=True)

    options = {"positions": fixed_rule(SWAPPED), "pairing": fixed_pairing(1, 2, 0)}
    losses = make(student, teacher, reach=at_or_after, **options)(batch, step=0)
    kept = batch["masked_positions"].where(at_or_after(batch["masked_positions"], SWAPPED), -1)
    expected = make(student, teacher, **options)(batch | {"masked_positions": kept}, step=0)
    assert (kept != batch["masked_positions"]).any() and (kept >= 0).any()
    for name in CAUSAL:
        torch.testing.assert_close(losses[name], expected[name])


def test_a_teacher_is_anything_that_answers_as_one():
    """Here one that remembers its answers and no longer has its model."""
    student, teacher = models()
    live, kept = LiveTeacher(teacher), {}

    class Remembering:
        depth, width = live.depth, live.width

        def runs(self, *arguments, step, **options):
            if step not in kept:
                kept[step] = live.runs(*arguments, step=step, **options)
            return kept[step]

    expected = make(student, teacher)(batch_of(), step=5)
    alignment = Alignment.full(4, 2)
    assert same(make(student, Remembering(), alignment)(batch_of(), step=5), expected)
    live.model = None
    assert same(make(student, Remembering(), alignment)(batch_of(), step=5), expected)


def test_a_vocabulary_that_is_only_padded_differently_is_compared_on_the_shared_words():
    student, small = models()
    padded = copy.deepcopy(small)
    padded.resize_token_embeddings(VOCABULARY + 4)
    expected = make(student, small)(batch_of(), step=0)
    losses = make(student, padded, words=VOCABULARY)(batch_of(), step=0)
    torch.testing.assert_close(losses, expected)
    with pytest.raises(ValueError, match=r"^teacher\.model: its vocabulary of 64 differs from the student's of 60"):
        make(student, padded)
    with pytest.raises(ValueError, match=r"^words: 61 must be at most the smaller vocabulary, 60"):
        make(student, padded, words=61)
    fewer = make(student, small, words=50)(batch_of(low=4, high=50), step=0)
    assert torch.isfinite(fewer["loss"])


# ---------------------------------------------------------------------------------------- dropout and the swap


@families
@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_base_source_and_counterfactual_run_share_their_dropout_up_to_the_swap_and_differ_above(family, foreign):
    """In train mode, every row swapped with itself: at the top nothing is left to differ; below, the layers above do."""
    student, teacher = models(family, 3, 3)
    batch = batch_of()
    if foreign:
        batch = batch | {"source_input_ids": batch["input_ids"]}
    options = {"pairing": fixed_pairing(0, 1, 2), "positions": fixed_rule(choose([1, 2], [4], [3], width=9))}
    for layer in range(3):
        method = make(student, teacher, Alignment([AlignedPair([layer], [layer])]), **options)
        dropped, clean = method.train()(batch, step=0), method.eval()(batch, step=0)
        assert torch.equal(dropped["ce"], dropped["causal_ce"]) == (layer == 2)
        assert torch.equal(dropped["cos"], dropped["causal_cos"]) == (layer == 2)
        assert torch.equal(clean["ce"], clean["causal_ce"]) and torch.equal(clean["cos"], clean["causal_cos"])
        assert not torch.equal(dropped["ce"], clean["ce"])


# --------------------------------------------------------------------------------------------- the token-swap control


@families
@pytest.mark.parametrize("foreign", [False, True], ids=["in batch", "given"])
def test_the_token_swap_control_is_distillation_on_stitched_ids(family, foreign):
    student, teacher = models(family)
    batch = batch_of(lengths=(9, 7, 8))
    rows, swapped = [1, 2, 0], choose([1, 2, 3], [5], [], width=9)
    source_ids = batch["input_ids"][rows]
    if foreign:
        batch = batch | FOREIGN
        source_ids = batch["source_input_ids"]
    method = make(student, teacher, control="token-swap", positions=fixed_rule(swapped), pairing=fixed_pairing(*rows))
    with counted(student) as calls:
        losses = method(batch, step=0)
    assert calls["layers"] == [2, 2] and len(calls["head"]) == 2
    stitched = batch["input_ids"].clone()
    for row, position in [(0, 1), (0, 2), (0, 3), (1, 5)]:
        stitched[row, position] = source_ids[row, position]
    some = {name: value[:2] for name, value in (inputs_of(batch) | {"labels": batch["labels"]}).items()}
    on_stitched = plain_distillation(student, teacher, some | {"input_ids": stitched[:2]}, {"ce": 1.0, "cos": 1.0})
    on_base = plain_distillation(student, teacher, batch, {"task": 1.0, "ce": 1.0, "cos": 1.0, "mse": 1.0})
    for name in ("task", "ce", "cos", "mse"):
        torch.testing.assert_close(losses[name], on_base[name])
    torch.testing.assert_close(losses["causal_ce"], on_stitched["ce"])
    torch.testing.assert_close(losses["causal_cos"], on_stitched["cos"])


def test_the_token_swap_control_runs_without_a_base_loss():
    student, teacher = models()
    alone = make(student, teacher, control="token-swap", weights={"causal_ce": 1.0})
    beside = make(student, teacher, control="token-swap")
    assert torch.equal(alone(batch_of(), step=0)["causal_ce"], beside(batch_of(), step=0)["causal_ce"])


# ---------------------------------------------------------------------------------------------------- open seams


def test_a_rule_a_pairing_and_losses_of_ones_own_are_used():
    student, teacher = models()
    seen = {}

    def rule(eligible, masked, share, generator):
        seen["rule"] = (eligible, masked, share, type(generator))
        return eligible & (eligible.cumsum(1) == 1)

    def pairing(rows, generator):
        seen["pairing"] = (rows, type(generator))
        return torch.tensor([2, 0, 1])

    def own(student_says, teacher_says, labels):
        seen["labels"] = labels
        return by_chunks(lambda logits, other: (logits - other).abs().sum(-1), student_says.logits, teacher_says.logits)

    weights = {"absolute": 0.5, "causal_absolute": 2.0, "task": 1.0}
    further = {"absolute": Loss(own), "causal_absolute": Loss(own, counterfactual=True)}
    pair = Alignment([AlignedPair([0], [1])])
    batch = batch_of()
    options = {"positions": rule, "pairing": pairing, "share": 0.45}
    losses = make(student, teacher, pair, weights=weights, losses=further, **options)(batch, step=0)
    assert seen["pairing"] == (3, torch.Generator) and seen["rule"][2:] == (0.45, torch.Generator)
    assert torch.equal(seen["rule"][1], batch["labels"] != -100)
    assert torch.equal(seen["rule"][0], choose(*[range(1, 8)] * 3, width=9))
    assert sorted(seen["labels"][seen["labels"] != -100].tolist()) == sorted(batch["labels"][batch["labels"] != -100].tolist())
    source, positions = {"input_ids": batch["input_ids"][[2, 0, 1]]}, choose([1], [1], [1], width=9)
    chosen = batch["labels"] != -100
    base = (oracle.run(student, batch)[0] - oracle.run(teacher, batch)[0])[chosen].abs().sum(-1).mean()
    ours, theirs = (
        oracle.interchange(model, batch, source, [layer], positions)[0] for model, layer in ((student, 0), (teacher, 1))
    )
    torch.testing.assert_close(losses["absolute"], base)
    torch.testing.assert_close(losses["causal_absolute"], (ours - theirs)[chosen].abs().sum(-1).mean())
    torch.testing.assert_close(losses["loss"], 0.5 * base + 2 * losses["causal_absolute"] + losses["task"])
    replaced = make(student, teacher, weights={"ce": 1.0}, losses={"ce": paper_losses(7.0)["ce"]})(batch, step=0)
    assert torch.equal(replaced["ce"], make(student, teacher, weights={"ce": 1.0}, temperature=7.0)(batch, step=0)["ce"])


# --------------------------------------------------------------------------------------------------- the teacher


@families
def test_the_teacher_stays_frozen_in_eval_mode_and_out_of_the_module(family):
    student, teacher = models(family)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    reference = teacher(**text(1, [7, 7])).logits
    method = make(student.train(), teacher.train())
    assert not teacher.training and student.training
    teacher.train()  # somebody else's mistake
    assert method.train() is method and student.training and not teacher.training
    method.eval()
    assert not student.training and not teacher.training
    method.train()
    optimiser = torch.optim.SGD(method.parameters(), lr=0.1)
    method(batch_of())["loss"].backward()
    optimiser.step()
    assert torch.equal(teacher(**text(1, [7, 7])).logits, reference)
    assert same(before, teacher.state_dict())
    assert {id(parameter) for parameter in method.parameters()} == {id(parameter) for parameter in student.parameters()}
    second = dict(student.named_parameters(remove_duplicate=False)).keys() - dict(student.named_parameters()).keys()
    names = set(method.state_dict())
    assert names == {f"student.{name}" for name in student.state_dict().keys() - second} | {"_extra_state"}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_teacher_moves_with_the_module():
    student, teacher = models()
    method = make(student, teacher, special_ids=SPECIAL_IDS).to(torch.float64)
    assert teacher.dtype == student.dtype == torch.float64 and method.swaps.special_ids.dtype == torch.int64
    losses = method(batch_of(), step=0)
    expected = make(*models())(batch_of(), step=0)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert method.to("meta").teacher.device.type == "meta"


def test_a_teacher_in_bf16_teaches_a_student_in_fp32():
    student, teacher = models()
    exact = make(student, teacher)(batch_of(), step=0)
    rough = make(student, copy.deepcopy(teacher).to(torch.bfloat16))(batch_of(), step=0)
    assert all(value.dtype == torch.float32 for value in rough.values())
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05)
    assert torch.equal(rough["task"], exact["task"])


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": {"causal": 1.0}}, r"^objective\.weights: no loss is called 'causal'; the losses are task, ce, cos"),
        ({"weights": {"mlm": -1.0}}, r"^objective\.weights\.mlm: -1\.0 must be"),
        ({"weights": {"mlm": float("nan")}}, r"^objective\.weights\.mlm: nan must be"),
        ({"weights": {"task": float("inf")}}, r"^objective\.weights\.task: inf must be"),
        ({"weights": {"task": 0.0}}, r"^objective\.weights: all are 0"),
        ({"weights": {"mlm": 1.0, "task": 1.0}}, r"^objective\.weights\.mlm: is another name of task"),
        ({"weights": {}}, r"^objective\.weights: all are 0"),
        ({"temperature": 0.0}, r"^objective\.temperature: 0\.0"),
        ({"share": 0.0}, r"^intervention\.share: 0\.0"),
        ({"share": 1.5}, r"^intervention\.share: 1\.5"),
        ({"alignment": Alignment([AlignedPair([2], [0])])}, "alignment: the student has no layer 2; its layers are 0 to 1"),
        ({"alignment": Alignment([AlignedPair([0], [4])])}, "alignment: the teacher has no layer 4; its layers are 0 to 3"),
        ({"alignment": Alignment([AlignedPair([0], [0], None, [(0, WIDTH + 1)])])}, "teacher_dimensions"),
    ],
)
def test_values_that_no_batch_could_make_right_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(*models(), **changes)


@pytest.mark.parametrize("name", ["cos", "causal_cos"])
def test_cosines_of_different_widths_are_refused_and_the_rest_works(name):
    student, teacher = build(layers=2, hidden_size=8, seed=1), build(layers=4)
    with pytest.raises(ValueError, match=rf"^objective\.weights\.{name}: must be 0 where the widths of student \(8\)"):
        make(student, teacher, weights={"task": 1.0, name: 1.0})
    losses = make(student, teacher, weights={"task": 1.0, "ce": 1.0, "causal_ce": 1.0})(batch_of(), step=0)
    assert losses["loss"].isfinite()


def test_a_micro_batch_of_one_row_has_no_pair():
    row = {name: value[:1] for name, value in batch_of().items()}
    with pytest.raises(ValueError, match=r"^training\.batch: .*at least 2 rows.* not 1"):
        make(*models())(row, step=0)
