"""The method against the oracle, and its laws: what it costs, what gets a gradient, what is drawn and from what."""

import copy
import math
from typing import Any

import oracle
import pytest
import torch
from models import (
    FAMILIES,
    MASK,
    SPECIAL_IDS,
    VOCABULARY,
    WIDTH,
    build,
    choose,
    counted,
    families,
    gradients,
    inputs_of,
    masked_batch,
    text,
    with_slots,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from diito import AlignedPair, Alignment, DistillationObjective, objective
from diito.draws import hashed
from diito.flops import ModelSize, step_cost
from diito.losses import (
    Loss,
    by_chunks,
    cosine_distance,
    masked_cross_entropy,
    paper_losses,
    smoothed_cross_entropy,
    squared_error,
    token_mean,
)
from diito.positions import consecutive, derangement, random

EVERY = {"mlm": 0.3, "ce": 0.2, "cos": 0.5, "causal_ce": 0.7, "causal_cos": 0.4, "mse": 0.01}
STANDARD = {"mlm": 1 / 3, "ce": 1 / 3, "cos": 1 / 3}
CAUSAL = ("causal_ce", "causal_cos")
NAMES = tuple(EVERY)


def batch_of(seed=1, lengths=(9, 9, 9), **options):
    return masked_batch(seed, list(lengths), [1, 4], [2], [1, 3, 6], **options)


def make(student, teacher, alignment=None, **options):
    """An objective on the given models; FULL and all six losses unless told."""
    depths = len(oracle.layer_modules(teacher)), len(oracle.layer_modules(student))
    alignment = alignment or Alignment.full(*depths)
    return DistillationObjective(student, teacher, alignment, **{"weights": EVERY} | options)


def models(family="bert", teacher_layers=4, student_layers=2, **changes):
    """A student and a teacher of the same family, in eval mode, nothing in common."""
    student = build(family, student_layers, seed=1, **changes)
    return student, build(family, teacher_layers, seed=2, **changes)


def fixed_rule(positions, source_positions=None):
    """A rule that always answers the same. The objective draws the source's positions with the eligible ones as masked."""

    def rule(eligible, masked, share, generator):
        return source_positions if masked is eligible and source_positions is not None else positions

    return rule


def fixed_pairing(*rows):
    return lambda count, generator: torch.tensor(rows)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --------------------------------------------------------------------------------------------- against the oracle

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


# ------------------------------------------------------------------------- law 5: what a step runs, and plain distillation


def plain_distillation(student, teacher, batch, weights, tokens="masked"):
    """Distillation as one would write it with the Hugging Face forward, on the package's losses."""
    inputs, labels = inputs_of(batch), batch["labels"]
    with torch.no_grad():
        told = teacher(**inputs, output_hidden_states=True)
    said = student(**inputs, output_hidden_states=True)
    chosen = labels != -100 if tokens == "masked" else oracle.attention_mask(batch).bool()
    values = {
        "mlm": masked_cross_entropy(said.logits[labels != -100], labels[labels != -100]),
        "ce": smoothed_cross_entropy(said.logits[chosen], told.logits[chosen], 2.0),
        "cos": cosine_distance(said.hidden_states[-1][chosen], told.hidden_states[-1][chosen]),
        "mse": squared_error(said.logits[chosen], told.logits[chosen]),
    }
    losses = {name: values[name].sum() / len(values[name]) for name in weights}
    return losses | {"loss": sum(weight * losses[name] for name, weight in weights.items())}


@families
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 7, 8)], ids=["full", "padded"])
@pytest.mark.parametrize("tokens", ["masked", "all"])
def test_without_causal_weights_it_is_plain_distillation(family, lengths, tokens):
    student, teacher = models(family)
    batch, weights = batch_of(lengths=lengths), STANDARD | {"mse": 0.01}
    method = make(student, teacher, weights=weights | dict.fromkeys(CAUSAL, 0.0), tokens=tokens)
    losses, expected = method(batch, step=0), plain_distillation(student, teacher, batch, weights, tokens)
    torch.testing.assert_close(losses, expected, rtol=2e-6, atol=1e-6)
    ours, theirs = gradients(losses["loss"], student), gradients(expected["loss"], student)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@families
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 7, 8)], ids=["full", "padded"])
def test_without_causal_weights_every_bit_is_plain_distillations(family, lengths):
    """In train mode, dropout included; the head sees the same tokens in both, since matrix products of other shapes round
    otherwise."""
    student, teacher = models(family)
    batch = masked_batch(1, list(lengths), [1, 4], [2, 5], [1, 3])
    method = make(student, teacher, weights=STANDARD | dict.fromkeys(CAUSAL, 0.0)).train()
    losses = method(batch, step=3)
    rows, columns = (batch["labels"] != -100).nonzero(as_tuple=True)
    labels = batch["labels"][rows, columns]
    names = {"bert": "cls", "roberta": "lm_head"}

    def head(model, hidden):
        if family == "distilbert":
            hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
            return model.vocab_projector(hidden)
        return getattr(model, names[family])(hidden)

    with torch.no_grad():
        told = teacher.base_model(**inputs_of(batch)).last_hidden_state[rows, columns]
        target = head(teacher, told)
    with torch.random.fork_rng():
        torch.manual_seed(hashed("dropout", 42, 3, 0))
        said = student.base_model(**inputs_of(batch)).last_hidden_state[rows, columns]
    logits = head(student, said)
    ones = torch.ones(len(labels))
    expected = {
        "mlm": token_mean(masked_cross_entropy(logits, labels), ones),
        "ce": token_mean(smoothed_cross_entropy(logits, target, 2.0), ones),
        "cos": token_mean(cosine_distance(said, told), ones),
    }
    expected["loss"] = sum(weight * expected[name] for name, weight in STANDARD.items())
    assert same(losses, expected)
    ours, theirs = gradients(losses["loss"], student), gradients(expected["loss"], student)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


def runs_of(method, batch):
    """The layer calls and head tokens of student and teacher in one forward and backward."""
    with counted(method.student) as student, counted(method.teacher) as teacher:
        method(batch, step=0)["loss"].backward()
    return student, teacher


@families
def test_standard_distillation_pays_nothing_for_diito(family):
    method = make(*models(family), weights=STANDARD | dict.fromkeys(CAUSAL, 0.0))
    assert not method.has_counterfactual
    for calls in runs_of(method, with_slots(batch_of())):
        assert set(calls["layers"]) == {1}
        assert calls["head"] == [9], "three slots of three rows"


def never(*arguments):
    raise AssertionError("this draw is not needed")


def test_standard_distillation_draws_no_swap_and_takes_a_single_row():
    method = make(*models(), weights=STANDARD, positions=never, pairing=never)
    row = {name: value[:1] for name, value in batch_of().items()}
    assert method(row, step=0)["loss"] > 0


@families
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_full_pair_costs_the_layers_above_the_swap_and_no_more(family, layer):
    """Once each for the base run; then from the lowest swapped layer upwards. 6 teacher layers, groups of two."""
    method = make(*models(family, 6, 3), Alignment([Alignment.full(6, 3).pairs[layer]]))
    student, teacher = runs_of(method, with_slots(batch_of()))
    assert student["layers"] == [1 if each <= layer else 2 for each in range(3)]
    assert teacher["layers"] == [1 if each <= 2 * layer else 2 for each in range(6)]
    assert sum(student["layers"]) == 3 + (3 - 1 - layer)
    assert sum(teacher["layers"]) == 6 + (6 - 1 - 2 * layer)
    assert student["head"] == teacher["head"] == [9, 9]


@families
def test_runs_that_no_loss_reads_are_not_made(family):
    student, teacher = models(family, 6, 3)
    pair = Alignment([AlignedPair([1], [2, 3])])
    only_causal = runs_of(make(student, teacher, pair, weights={"causal_ce": 1.0}), batch_of())
    assert [calls["layers"] for calls in only_causal] == [[1, 1, 1], [1, 1, 1, 2, 1, 1]]
    assert [calls["head"] for calls in only_causal] == [[9], [9]]
    only_cosines = runs_of(make(student, teacher, pair, weights={"cos": 1.0, "causal_cos": 1.0}), batch_of())
    assert [calls["layers"] for calls in only_cosines] == [[1, 1, 2], [1, 1, 1, 2, 2, 2]]
    assert [calls["head"] for calls in only_cosines] == [[], []]
    only_mlm = runs_of(make(student, teacher, pair, weights={"mlm": 1.0}), batch_of())
    assert [calls["head"] for calls in only_mlm] == [[9], []], "the teacher's logits are not asked for"


@families
def test_given_sources_run_up_to_the_aligned_layer_only(family):
    method = make(*models(family, 6, 3), Alignment([AlignedPair([1], [2, 3])]))
    student, teacher = runs_of(method, batch_of() | {"source_input_ids": text(7, [9, 9, 9])["input_ids"]})
    assert student["layers"] == [2, 2, 2] and teacher["layers"] == [2, 2, 2, 3, 2, 2]
    assert student["head"] == teacher["head"] == [9, 9]


BASE = ModelSize(layers=12, width=768, inner=3072, words=30522)
SIX = ModelSize(layers=6, width=768, inner=3072, words=30522)


def test_the_counted_operations_are_the_methods():
    """12 to 6 layers of BERT-base, 512 tokens, 15 % of them predicted: the figures of the method page."""
    alignments = {kind: getattr(Alignment, kind)(12, 6) for kind in ("full", "middle", "late_released")}
    costs = {name: step_cost(BASE, SIX, each, length=512, loss_tokens=0.15) for name, each in alignments.items()}
    ratios = {name: cost.total / cost.base for name, cost in costs.items()}
    assert {name: round(ratio, 2) for name, ratio in ratios.items()} == {"full": 1.48, "middle": 1.40, "late_released": 1.25}
    assert costs["full"].base / 1e6 == pytest.approx(500, rel=0.02)
    assert costs["full"].total / 1e6 == pytest.approx(740, rel=0.02)
    plain = step_cost(BASE, SIX, alignments["full"], length=512, loss_tokens=0.15, counterfactual=False)
    assert (plain.base, plain.total) == (costs["full"].base, costs["full"].base)
    swapped = step_cost(BASE, SIX, alignments["full"], length=512, loss_tokens=0.15, from_the_start=True)
    assert swapped.total == 2 * swapped.base


@families
def test_the_counted_operations_are_those_of_torchs_own_counter(family):
    """torch counts every matrix product of a forward and backward; the same number comes out, causal runs or not."""
    student, teacher = models(family, 4, 2, attention="eager", hidden_dropout_prob=0.0)
    pair = Alignment([AlignedPair([0], [0, 1])])
    batch = masked_batch(1, [20, 20], [1, 4], [2, 3])
    sizes = ModelSize.of(teacher.config), ModelSize.of(student.config)
    for weights, counterfactual in ((STANDARD, False), (EVERY, True)):
        with FlopCounterMode(display=False) as counter:
            make(student, teacher, pair, weights=weights)(batch, step=0)["loss"].backward()
        expected = step_cost(*sizes, pair, length=20, loss_tokens=2 / 20, counterfactual=counterfactual).total * 40
        assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)


class Waits(TorchDispatchMode):
    """Records operations whose result, or the shape of it, the host must read before it can go on."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal", "item")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket.__name__
        indices = arguments[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in self.NAMES or any(index is not None and index.dtype == torch.bool for index in indices):
            self.seen.append(name)
        return operation(*arguments, **(options or {}))


@families
@pytest.mark.parametrize("rule", ["consecutive", "random", "masked"])
@pytest.mark.parametrize("source_positions", ["same", "independent"])
def test_a_step_in_blocks_never_waits_for_the_device(family, rule, source_positions):
    special_ids = SPECIAL_IDS if rule == "random" else None
    method = make(*models(family), positions=rule, source_positions=source_positions, special_ids=special_ids).train()
    batch = with_slots(batch_of())
    with Waits() as waits:
        method(batch, step=0)["loss"].backward()
    assert waits.seen == []
    with Waits() as waits:
        method(batch_of(), step=0)
    assert waits.seen == ["_local_scalar_dense"], "the search for the slots is the only wait, and the test sees it"


@pytest.mark.gpu
@families
@pytest.mark.parametrize("source_positions", ["same", "independent"])
@pytest.mark.parametrize("control", ["none", "token-swap"])
def test_a_step_in_blocks_never_waits_for_an_accelerator(family, source_positions, control):
    method = make(*models(family), source_positions=source_positions, control=control, special_ids=SPECIAL_IDS).train().cuda()
    batch = {name: value.cuda() for name, value in with_slots(batch_of()).items()}
    before = torch.cuda.get_rng_state()
    method(batch, step=0)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(batch, step=1)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert same(method(batch, step=2), method(batch, step=2))


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
        torch.testing.assert_close(losses["loss"], 0.3 * losses["mlm"])
    assert losses["mlm"] > 0.1


# ------------------------------------------------------------------------------------------- law 7: totals and tokens


@families
def test_the_total_is_the_weighted_sum_with_weights_as_given(family):
    student, teacher = models(family)
    paper = DistillationObjective(student, teacher, Alignment.full(4, 2))
    assert paper.weights == {"mlm": 0.25, "ce": 0.25, "cos": 0.25, "causal_ce": 0.25}
    whole = make(student, teacher, weights={name: 1.0 for name in NAMES})(batch_of(), step=0)
    heavy = make(student, teacher, weights={"mlm": 2.0, "causal_ce": 3.0})(batch_of(), step=0)
    assert list(heavy) == ["mlm", "causal_ce", "loss"]
    assert torch.equal(heavy["mlm"], whole["mlm"]) and torch.equal(heavy["causal_ce"], whole["causal_ce"])
    torch.testing.assert_close(heavy["loss"], 2 * whole["mlm"] + 3 * whole["causal_ce"])
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
    on_base = plain_distillation(student, teacher, batch, {"mlm": 1.0, "ce": 1.0, "cos": 1.0, "mse": 1.0})
    for name in ("mlm", "ce", "cos", "mse"):
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

    weights = {"absolute": 0.5, "causal_absolute": 2.0, "mlm": 1.0}
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
    torch.testing.assert_close(losses["loss"], 0.5 * base + 2 * losses["causal_absolute"] + losses["mlm"])
    replaced = make(student, teacher, weights={"ce": 1.0}, losses={"ce": paper_losses(7.0)["ce"]})(batch, step=0)
    assert torch.equal(replaced["ce"], make(student, teacher, weights={"ce": 1.0}, temperature=7.0)(batch, step=0)["ce"])


# -------------------------------------------------------------------------------------------------------- draws


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
    method = make(student, teacher, weights={"mlm": 1.0}).train()
    here = method(batch_of(), step=0)["mlm"]
    monkeypatch.setattr(objective, "_rank", lambda: 1)
    assert not torch.equal(here, method(batch_of(), step=0)["mlm"])


def test_pairs_are_drawn_uniformly_over_the_steps():
    """6 pairs in 6000 steps, 1000 each; five sigma = 5 * sqrt(6000 * 5/36) = 145: odds of about 1 in 290,000 for all six."""
    alignment = Alignment.full(12, 6)
    drawn = [alignment.draw(objective.host_random("alignment", 42, step)) for step in range(6000)]
    counts = [drawn.count(pair) for pair in alignment.pairs]
    assert sum(counts) == 6000 and all(abs(count - 1000) < 5 * math.sqrt(6000 * 5 / 36) for count in counts)


def test_the_defaults_are_the_papers():
    method = DistillationObjective(*models(), Alignment.full(4, 2))
    assert (method.swaps.rule, method.swaps.pairing, method.swaps.share) == (consecutive, derangement, 0.3)
    assert (method.tokens, method.token_swap) == ("masked", False)
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
    names = set(method.state_dict())
    assert names == {f"student.{name}" for name in student.state_dict()} | {"_extra_state"}
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
    assert torch.equal(rough["mlm"], exact["mlm"])


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": {"causal": 1.0}}, r"^objective\.weights: no loss is called 'causal'; the losses are mlm, ce, cos"),
        ({"weights": {"mlm": -1.0}}, r"^objective\.weights\.mlm: -1\.0 must be"),
        ({"weights": {"mlm": float("nan")}}, r"^objective\.weights\.mlm: nan must be"),
        ({"weights": {"mlm": float("inf")}}, r"^objective\.weights\.mlm: inf must be"),
        ({"weights": {"mlm": 0.0}}, r"^objective\.weights: all are 0"),
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
        make(student, teacher, weights={"mlm": 1.0, name: 1.0})
    losses = make(student, teacher, weights={"mlm": 1.0, "ce": 1.0, "causal_ce": 1.0})(batch_of(), step=0)
    assert losses["loss"].isfinite()


def test_a_micro_batch_of_one_row_has_no_pair():
    row = {name: value[:1] for name, value in batch_of().items()}
    with pytest.raises(ValueError, match=r"^training\.batch: .*at least 2 rows.* not 1"):
        make(*models())(row, step=0)


def test_every_supported_family_is_tested():
    from diito.layered import FAMILIES as supported

    assert set(FAMILIES) == set(supported)
