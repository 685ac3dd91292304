"""Losses between what layers hold: against naive computations, in every family of attention, and across widths."""

import math

import pytest
import torch
import torch.nn.functional as F
from models import build, text
from objectives import batch_of, fixed_rule, make, models
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
)

from diito import AlignedPair, Alignment
from diito.method.cost import ModelSize, step_cost
from diito.method.intervention_losses import distance_to_nearest
from diito.method.losses import HIDDEN, Loss
from diito.method.reach import reach_of_a_decoder
from diito.method.representations import (
    attention_distance,
    attention_widths,
    contrast,
    linear_cka,
    pooled,
    relation_divergence,
    state_distance,
)
from diito.models.kept import Attention, Kept, Wanted
from diito.models.layered import Layered
from diito.refusal import Refusal
from diito.training.checkpoints import save_projections

STATES = ("hidden", "cka", "contrastive")
ALL = (*STATES, "relations", "attention")
COUNTED = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_nonsense(values, counted=COUNTED):
    """The values, with others where nothing counts: no loss may read them."""
    return torch.where(counted.unsqueeze(-1), values, 1e3)


# --------------------------------------------------------------------------------------------- the pure functions


def test_state_distance_by_hand():
    student = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[0.0, 1.0], [0.0, 5.0]]])
    counted = torch.tensor([[True, True]])
    assert state_distance(student, teacher, counted, "mse") == pytest.approx((1 + 4.5) / 2)
    assert state_distance(student, teacher, counted, "cosine") == pytest.approx((1 + 0) / 2)
    assert state_distance(student, teacher, counted & False, "mse") == 0


@pytest.mark.parametrize("measure", ["mse", "cosine"])
def test_state_distance_is_torchs_over_the_tokens_that_count(measure):
    ours, theirs = drawn(2, 5, 4), drawn(2, 5, 4, seed=1)
    chosen = ours[COUNTED], theirs[COUNTED]
    expected = F.mse_loss(*chosen) if measure == "mse" else F.cosine_embedding_loss(*chosen, torch.ones(6))
    torch.testing.assert_close(state_distance(with_nonsense(ours), theirs, COUNTED, measure), expected)


def test_linear_cka_is_the_hsic_of_gram_matrices_and_knows_no_rotation():
    ours, theirs = drawn(2, 5, 4), drawn(2, 5, 7, seed=1)
    first, second = (each[COUNTED].double() for each in (ours, theirs))
    centre = torch.eye(6, dtype=torch.float64) - 1 / 6
    grams = [centre @ each @ each.T @ centre for each in (first, second)]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    torch.testing.assert_close(linear_cka(with_nonsense(ours), theirs, COUNTED), expected.float(), rtol=1e-5, atol=1e-6)
    rotation = torch.linalg.qr(drawn(4, 4, seed=2)).Q
    assert linear_cka(ours, 3 * ours @ rotation + 1, COUNTED) == pytest.approx(1, abs=1e-5)
    constant = torch.ones(2, 5, 4, requires_grad=True)
    linear_cka(constant, theirs, COUNTED).backward()
    assert constant.grad.isfinite().all(), "states that are all the same have no direction"


def test_relation_divergence_is_the_papers():
    """A head and a token at a time, with torch's KL."""
    ours, theirs = drawn(2, 3, 5, 4), drawn(2, 3, 5, 2, seed=1)
    terms = []
    for row, length in enumerate((4, 2)):
        for head in range(3):
            relations = [
                (each[row, head, :length] @ each[row, head, :length].T / math.sqrt(each.shape[-1])).softmax(-1)
                for each in (ours, theirs)
            ]
            terms.append(F.kl_div(relations[0].log(), relations[1], reduction="none").sum(-1))
    expected = torch.cat(terms).sum() / (3 * 6)
    torch.testing.assert_close(relation_divergence(ours, theirs, COUNTED, COUNTED), expected)


@pytest.mark.parametrize("of", ["scores", "maps"])
def test_attention_distance_is_the_naive_one(of):
    sizes = {"ours": (4, 2, 3), "theirs": (4, 4, 6)}  # heads, heads of keys, their size
    sides = {
        name: Attention(
            drawn(2, heads, 5, size, seed=heads + size),
            drawn(2, key_heads, 5, size, seed=size),
            drawn(2, key_heads, 5, size, seed=9),
            size**-0.5,
            torch.ones(1, 1, 5, 5, dtype=torch.bool).tril() if name == "theirs" else None,
        )
        for name, (heads, key_heads, size) in sizes.items()
    }
    terms = []
    for row, length in enumerate((4, 2)):
        for head in range(4):
            for query in range(length):
                scores = [
                    torch.stack(
                        [
                            each.queries[row, head, query] @ each.keys[row, head * each.keys.shape[1] // 4, key] * each.scaling
                            for key in range(query + 1)
                        ]
                    )
                    for each in sides.values()
                ]
                first, second = scores if of == "scores" else [each.softmax(-1) for each in scores]
                terms.append((first - second).square())
    expected = torch.cat(terms).mean()
    torch.testing.assert_close(attention_distance(*sides.values(), COUNTED, COUNTED, of), expected)


def test_contrast_is_a_cross_entropy_over_the_rows_of_the_batch():
    ours, theirs = drawn(4, 6), drawn(4, 6, seed=1)
    counted = torch.tensor([True, True, False, True])
    scores = F.cosine_similarity(ours[counted].unsqueeze(1), theirs[counted].unsqueeze(0), dim=-1) / 0.1
    torch.testing.assert_close(contrast(ours, theirs, counted, 0.1), F.cross_entropy(scores, torch.arange(3)))
    states = drawn(2, 5, 3)
    torch.testing.assert_close(
        pooled(with_nonsense(states), COUNTED), torch.stack([states[0, :4].mean(0), states[1, :2].mean(0)])
    )


def test_distance_to_nearest_by_hand():
    states = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    natural = torch.tensor([[0.0, 1.0], [3.0, 4.0], [9.0, 9.0]])
    distances = distance_to_nearest(states, natural)
    assert distances.tolist() == [0.5, 0.0]
    used = torch.tensor([True, False, True])
    assert distance_to_nearest(states, natural, used).tolist() == [0.5, 9.0], "what is no loss token is nobody's nearest"
    distances.sum().backward()
    assert states.grad.tolist() == [[0.0, -1.0], [0.0, 0.0]]


# ------------------------------------------------------------------------------------- what attention compares


SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
DECODERS = {
    "llama": lambda: LlamaConfig(**SMALL, num_key_value_heads=2, max_position_embeddings=40),
    "gpt2": lambda: GPT2Config(vocab_size=60, n_positions=40, n_embd=16, n_layer=2, n_head=4),
}
MODERNBERT = {"local_attention": 6, "max_position_embeddings": 40, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}
FAMILIES = ("bert", "roberta", "distilbert", "modernbert", "llama", "gpt2")
IN_THE_SOAK = [(family, "eager") for family in ("roberta", "distilbert", "gpt2")] + [("roberta", "sdpa"), ("bert", "sdpa")]
CASES = [
    pytest.param(family, attention, marks=[pytest.mark.soak] if (family, attention) in IN_THE_SOAK else [])
    for family in FAMILIES
    for attention in ("sdpa", "eager")
]


def model_of(family, attention="sdpa"):
    if family in ("bert", "roberta", "distilbert"):
        return build(family, 2, attention=attention, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    torch.manual_seed(0)
    if family == "modernbert":
        config = ModernBertConfig(**SMALL, **MODERNBERT, bos_token_id=1, eos_token_id=2)
        return AutoModelForMaskedLM.from_config(config, attn_implementation=attention)
    return AutoModelForCausalLM.from_config(DECODERS[family](), attn_implementation=attention)


@pytest.mark.parametrize(("family", "attention"), CASES)
def test_noting_what_attention_compares_changes_no_bit_and_gives_the_models_own_attention(family, attention):
    model = model_of(family, attention).eval()
    layered, inputs = Layered(model), text(3, [9, 6])
    real = inputs["attention_mask"].bool()
    names = set(vars(model.config)), [set(vars(module)) for module in model.modules()]
    for training in (False, True):
        model.train(training)
        answers = []
        for wanted in (Wanted(), Wanted(frozenset({0, 1}), frozenset({0, 1}))):
            kept = Kept(wanted, real, real)
            torch.manual_seed(1)
            answers.append(layered.states(inputs, [0, 1], kept)[1])
        for layer in (0, 1):
            assert torch.equal(answers[0][layer], answers[1][layer])
            assert torch.equal(kept.states[layer], answers[0][layer])
    assert names == (set(vars(model.config)), [set(vars(module)) for module in model.modules()]), "the model is as it was"
    if attention == "eager":
        maps = model.eval()(**inputs, output_attentions=True).attentions
        for layer, expected in enumerate(maps):
            noted = kept_in_eval(layered, inputs, real).attention[layer]
            keys = noted.keys.repeat_interleave(noted.queries.shape[1] // noted.keys.shape[1], 1)
            scores = noted.queries @ keys.transpose(2, 3) * noted.scaling
            visible = real[:, None, None, :] if noted.visible is None else real[:, None, None, :] & noted.visible
            ours = scores.masked_fill(~visible, -math.inf).softmax(-1)
            rows = real[:, None, :, None].expand_as(ours)
            torch.testing.assert_close(ours[rows], expected[rows], rtol=1e-4, atol=1e-6)


def kept_in_eval(layered, inputs, real):
    kept = Kept(Wanted(attention=frozenset({0, 1})), real, real)
    layered.states(inputs, [0, 1], kept)
    return kept


def test_keys_that_several_queries_share_are_as_wide_as_they_are():
    assert attention_widths(Layered(model_of("llama")), 0) == {"queries": 16, "keys": 8, "values": 8}
    assert attention_widths(Layered(model_of("modernbert")), 1) == {"queries": 16, "keys": 16, "values": 16}


def test_a_layer_that_attends_in_code_of_its_own_is_refused_in_a_sentence():
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    student, teacher = (DebertaV2ForMaskedLM(DebertaV2Config(**sizes, num_hidden_layers=layers)) for layers in (1, 2))
    with pytest.raises(Refusal, match=r"^objective\.weights: .* attends in code of its own") as refused:
        make(student, teacher, Alignment.full(2, 1), weights={"attention": 1.0})
    assert refused.value.field == "objective.weights"
    assert make(student, teacher, Alignment.full(2, 1), weights={"hidden": 1.0})(batch_of(), step=0)["hidden"] > 0


# ------------------------------------------------------------------------------------------------- in the objective


def narrow(**options):
    """A student of width 8 and a teacher of width 16."""
    return build("bert", 2, seed=1, hidden_size=8, **options), build("bert", 4, seed=2, **options)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("family", ["bert", pytest.param("distilbert", marks=pytest.mark.soak)])
def test_a_row_is_its_function_of_the_models_own_states(name, family):
    """With padding, and for the top layers of each pair of Π."""
    student, teacher = models(family)
    batch = batch_of(lengths=(9, 7, 8))
    method = make(student, teacher, weights={name: 1.0})
    ours, theirs = (
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True).hidden_states
        for model in (student, teacher)
    )
    counted, pairs = batch["attention_mask"].bool(), [(0, 1), (1, 3)]
    attention = {}
    for side, model, depth in (("ours", student, 2), ("theirs", teacher, 4)):
        kept = Kept(Wanted(attention=frozenset(range(depth))), counted, counted)
        Layered(model).states(batch, [depth - 1], kept)
        attention[side] = kept.attention
    expected = {
        "hidden": lambda s, t: state_distance(ours[s + 1], theirs[t + 1], counted, "mse"),
        "cka": lambda s, t: 1 - linear_cka(ours[s + 1], theirs[t + 1], counted),
        "contrastive": lambda s, t: contrast(
            pooled(ours[s + 1], counted), pooled(theirs[t + 1], counted), counted.any(1), 0.07
        ),
        "attention": lambda s, t: attention_distance(attention["ours"][s], attention["theirs"][t], counted, counted, "scores"),
        "relations": lambda s, t: sum(
            relation_divergence(getattr(attention["ours"][s], kind), getattr(attention["theirs"][t], kind), counted, counted)
            for kind in ("queries", "keys", "values")
        ),
    }[name]
    pairs = [(1, 3)] if name == "relations" else pairs
    value = method(batch, step=0)[name]
    torch.testing.assert_close(value, torch.stack([expected(*pair) for pair in pairs]).mean())


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    student, teacher = (build(layers=2, seed=2) for _ in range(2))
    names = [name for name in ALL if name != "contrastive"]  # other rows may be alike
    weights = dict.fromkeys([*names, *(f"causal_{name}" for name in names)], 1.0)
    losses = make(student, teacher, Alignment.full(2, 2), weights=weights)(batch_of(), step=0)
    assert all(abs(losses[name].item()) < 1e-5 for name in weights), losses


def test_the_causal_form_reads_what_the_layers_hold_under_the_swap():
    """Above the swap other states, below it those of the base run; of rows without a swap nothing."""
    student, teacher = models("bert", 4, 3)
    alignment = Alignment([AlignedPair([1], [2])])
    options = {"hidden": {"layers": [[0, 0], [1, 2], [2, 3]]}}
    weights = {"hidden": 1.0, "causal_hidden": 1.0}
    seen = []
    method = make(student, teacher, alignment, weights=weights, options=options)
    shared = method.losses["hidden"].function
    assert method.losses["causal_hidden"].function is shared and list(method.loss_modules) == ["hidden"]
    of_pair = shared.of_pair
    shared.of_pair = lambda index, *sides: seen.append(sides[0]) or of_pair(index, *sides)
    method(batch_of(), step=0)
    base, swapped = seen[0], seen[-1]
    assert torch.equal(base.states[0], swapped.states[0])
    moved = (base.states[1] != swapped.states[1]).any(-1)
    swap = method.draw_swap(batch_of(), step=0)
    assert torch.equal(moved, swap.positions), "the state of the swapped layer is the one that was set"
    assert (base.states[2] != swapped.states[2]).any(-1).all()
    assert torch.equal(swapped.counted.any(1), swap.positions.any(1))


def test_in_a_decoder_what_no_swap_can_change_is_no_part_of_a_causal_form():
    """Nothing before the first swapped position, and nothing of another document."""
    student, teacher = model_of("llama").eval(), model_of("gpt2").eval()
    batch = text(3, [9, 9]) | {"documents": torch.tensor([[0] * 5 + [1] * 4] * 2)}
    batch["labels"] = batch["input_ids"].clone()
    positions = torch.zeros(2, 9, dtype=torch.bool)
    positions[0, 2] = positions[1, 6] = True
    rule = fixed_rule(positions)
    method = make(student, teacher, weights={"causal_cka": 1.0}, positions=rule, reach=reach_of_a_decoder, special_ids=[])
    own, kept = method.losses["causal_cka"].function, []
    of_pair = own.of_pair
    own.of_pair = lambda index, *sides: kept.append(sides[0]) or of_pair(index, *sides)
    method(batch, step=0)
    assert kept[0].counted.int().tolist() == [[0, 0, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1]]


def test_where_no_token_counts_every_loss_is_0():
    student, teacher = models()
    weights = {f"causal_{name}": 1.0 for name in ALL}
    nothing = torch.zeros_like(batch_of()["input_ids"], dtype=torch.bool)
    losses = make(student, teacher, weights=weights, positions=fixed_rule(nothing))(batch_of(), step=0)
    assert [losses[name].item() for name in weights] == [0.0] * len(ALL)


def test_a_module_of_ones_own_that_a_loss_and_its_causal_form_share_is_saved_once(tmp_path):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, student, teacher, labels):
            return self.scale * (student.hidden - teacher.hidden).square().mean(-1)

    rows = {"own": Loss(Own(), reads=HIDDEN)}
    method = make(*models(), weights={"causal_own": 0.5, "own": 1.0}, losses=rows)
    save_projections(method.loss_modules.state_dict(), tmp_path)
    assert set(load_file(tmp_path / "projections.safetensors")) == {"own.scale"}


def test_widths_that_differ_are_met_by_a_projection_that_is_drawn_by_the_seed():
    weights = {"task": 1.0, **dict.fromkeys(("hidden", "contrastive", "cka"), 0.1)}
    first, second, other = (make(*narrow(), weights=weights, seed=seed) for seed in (1, 1, 2))
    states = [each.loss_modules.state_dict() for each in (first, second, other)]
    assert set(states[0]) == {f"{name}.projections.{index}.weight" for name in ("hidden", "contrastive") for index in (0, 1)}
    assert all(value.shape == (16, 8) for value in states[0].values())
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[0][name], states[2][name])
    losses = first(batch_of(), step=0)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in first.parameters()), "every parameter is used"
    assert not any("projection" in name for name in first.student.state_dict())
    assert make(*models(), weights=weights).loss_modules.state_dict() == {}, "of equal widths there is none"


def test_dividing_layers_among_heads_by_default_and_as_told():
    student, teacher = narrow()
    assert make(student, teacher, weights={"relations": 1.0}).loss_modules["relations"].heads == 2
    options = {"relations": {"heads": 8, "layers": [[0, 1]]}}
    method = make(student, teacher, weights={"relations": 1.0}, options=options)
    assert method.losses["relations"].layers == ((0, 1),)
    assert method(batch_of(), step=0)["relations"] > 0


@pytest.mark.parametrize(
    ("name", "options", "field", "sentence"),
    [
        ("hidden", {"layers": [[2, 0]]}, "objective.options.hidden.layers", "the student has no layer 2"),
        ("cka", {"layers": [[0, 4]]}, "objective.options.cka.layers", "the teacher has no layer 4"),
        ("cka", {"layers": []}, "objective.options.cka.layers", "empty"),
        ("relations", {"heads": 3}, "objective.options.relations.heads", "must divide"),
        ("attention", {"layers": [[0, 0]]}, "objective.weights.attention", "compares heads one by one"),
        ("contrastive", {"temperature": 0}, "objective.options.contrastive.temperature", "above 0"),
    ],
)
def test_what_two_models_cannot_have_is_refused(name, options, field, sentence):
    student, teacher = build("bert", 2, seed=1, num_attention_heads=4), build("bert", 4, seed=2)
    with pytest.raises(Refusal, match=sentence) as refused:
        make(student, teacher, weights={name: 1.0}, options={name: options})
    assert refused.value.field == field


def test_a_teacher_that_is_no_model_is_not_asked_for_its_states():
    student, teacher = models()
    live = make(student, teacher)._hidden_teacher[0]
    with pytest.raises(Refusal, match=r"^objective\.weights\.hidden: reads what the teacher's layers hold"):
        make(student, live, Alignment.full(4, 2), weights={"hidden": 1.0})


@pytest.mark.parametrize(
    "name", ["relations", *(pytest.param(name, marks=pytest.mark.soak) for name in ("attention", "hidden"))]
)
def test_gradients_are_those_of_a_run_that_keeps_everything(name):
    student, teacher = models("bert", 4, 2, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    method, batch = make(student, teacher, weights={"task": 1.0, name: 1.0, f"causal_{name}": 1.0}).train(), batch_of()
    answers = []
    for recompute in (False, True):
        method.recompute = recompute
        loss = method(batch, step=1)["loss"]
        answers.append(torch.autograd.grad(loss, list(student.parameters()), allow_unused=True))
    for plain, again in zip(*answers, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["cka", "causal_relations", *(pytest.param(name, marks=pytest.mark.soak) for name in (*ALL[::2], "attention", "manifold"))],
)
def test_the_counted_operations_are_those_of_torchs_own_counter(name):
    student, teacher = narrow(attention="eager", hidden_dropout_prob=0.0)
    pair, batch = Alignment([AlignedPair([0], [0, 1])]), batch_of(lengths=(9, 9, 9))
    method = make(student, teacher, pair, weights={"task": 1.0, "causal_ce": 1.0, "ce": 1.0, name: 0.5})
    with FlopCounterMode(display=False) as counter:
        method(batch, step=0)["loss"].backward()
    cost = step_cost(
        ModelSize.of(teacher),
        ModelSize.of(student),
        pair,
        length=9,
        loss_tokens=9 / 27,
        batch=3,
        losses=method.losses,
        weights=method.weights,
    )
    counted = counter.get_total_flops()
    if name == "manifold":  # cdist is no matrix product to torch's counter
        counted += cost.losses * 27
    assert counted == pytest.approx(cost.total * 27, rel=1e-6)
    assert cost.losses > 0


@pytest.mark.soak
def test_each_is_learnt():
    """Thirty steps of Adam on one batch; a narrow student, so that projections are in it."""
    for name in (*ALL, "causal_hidden", "manifold"):
        student, teacher = narrow()
        torch.manual_seed(0)
        method = make(student, teacher, weights={name: 1.0}).train()
        optimiser = torch.optim.Adam(method.parameters(), lr=5e-3)
        values = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = method(batch_of(), step=0)["loss"]
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < 0.7 * values[0], (name, values[0], values[-1])
