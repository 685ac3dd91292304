"""Law 5: what a step runs and what it costs, and that without causal weights it is plain distillation."""

import pytest
import torch
from models import SPECIAL_IDS, counted, families, gradients, inputs_of, masked_batch, text, with_slots
from objectives import CAUSAL, EVERY, STANDARD, batch_of, make, models, plain_distillation, same
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from diito import AlignedPair, Alignment
from diito.method.cost import ModelSize, step_cost
from diito.method.draws import hashed
from diito.method.losses import cosine_distance, masked_cross_entropy, smoothed_cross_entropy, token_mean


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
        "task": token_mean(masked_cross_entropy(logits, labels), ones),
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
    only_mlm = runs_of(make(student, teacher, pair, weights={"task": 1.0}), batch_of())
    assert [calls["head"] for calls in only_mlm] == [[9], []], "the teacher's logits are not asked for"


@families
def test_given_sources_run_up_to_the_aligned_layer_only(family):
    method = make(*models(family, 6, 3), Alignment([AlignedPair([1], [2, 3])]))
    student, teacher = runs_of(method, batch_of() | {"source_input_ids": text(7, [9, 9, 9])["input_ids"]})
    assert student["layers"] == [2, 2, 2] and teacher["layers"] == [2, 2, 2, 3, 2, 2]
    assert student["head"] == teacher["head"] == [9, 9]


BASE = ModelSize.of_bert(layers=12, width=768, inner=3072, words=30522)
SIX = ModelSize.of_bert(layers=6, width=768, inner=3072, words=30522)


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
    sizes = ModelSize.of(teacher), ModelSize.of(student)
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
