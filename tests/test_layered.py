"""Law 1: the layered view gives the bits of the Hugging Face forward, from wherever it is taken up."""

import copy
import itertools

import pytest
import torch
from models import LONGEST, VOCABULARY, WIDTH, build, config, counted, families, text
from sweep import equal, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Toy, ToyConfig
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BartConfig,
    BartForSequenceClassification,
    BigBirdConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
)

import diito
from diito.models.layered import Layered, learn, longest_sequence
from diito.models.learn import reaches_every_parameter
from diito.speed.dropout import use_fast_dropout

ENCODERS = ("bert", "roberta", "distilbert", "albert", "modernbert", "deberta-v2", "electra", "mpnet")
EAGER = ("deberta-v2", "mpnet")
DECODERS = ("gpt2", "llama", "qwen2")
CASES = [(family, "masked LM") for family in ENCODERS] + [(family, "causal LM") for family in DECODERS]
CLASSIFIERS = [
    ("bert", "sequence classification"),
    ("albert", "sequence classification"),
    ("modernbert", "sequence classification"),
    ("llama", "sequence classification"),
    ("roberta", "token classification"),
]
cases = pytest.mark.parametrize(("family", "head"), CASES)
all_cases = pytest.mark.parametrize(("family", "head"), CASES + CLASSIFIERS)
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])
modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
PADDINGS = ("none", "right", "left")


def batch(padding="none", seed=1, rows=3, tokens=13):
    ids = torch.randint(6, 99, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    if padding == "none":
        return {"input_ids": ids}
    lengths = torch.tensor([[tokens - 4 * row] for row in range(rows)])
    mask = (torch.arange(tokens) < lengths).long()
    mask = mask.flip(1) if padding == "left" else mask
    return {"input_ids": ids * mask, "attention_mask": mask}


def run_in_steps(model, inputs):
    layered = Layered(model)
    run, states = layered.states(inputs, range(layered.depth))
    return run, states, layered.head(layered.final(states[layered.depth - 1]), inputs)


def hooked(model, inputs):
    """The logits of the model's own forward and, by forward hooks, what each layer gave."""
    outputs = []

    def keep(module, arguments, output):
        outputs.append(output if isinstance(output, torch.Tensor) else output[0])

    hooks = [layer.register_forward_hook(keep) for layer in dict.fromkeys(Layered(model).layers)]
    logits = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    return logits, outputs


@all_cases
@attentions
def test_every_hidden_state_and_the_logits_are_transformers_own(family, head, attention):
    if family in EAGER and attention == "sdpa":
        pytest.skip("this family has no sdpa attention")
    model = tiny_model(family, head, attention=attention)
    for padding, training in itertools.product(PADDINGS, (False, True)):
        model.train(training)
        inputs = batch(padding)
        torch.manual_seed(5)
        logits, outputs = hooked(model, inputs)
        torch.manual_seed(5)
        run, states, ours = run_in_steps(model, inputs)
        case = f"padding {padding}, {'train' if training else 'eval'} mode"
        assert len(states) == len(outputs) == 4
        assert all(equal(states[layer], output) for layer, output in enumerate(outputs)), case
        assert equal(ours, logits), case
        assert run.embedded.shape == (3, 13, Layered(model).width)


@all_cases
def test_resuming_from_every_layer_gives_the_same_bits_whatever_ran_in_between(family, head):
    model = tiny_model(family, head)
    layered = Layered(model)
    for padding in PADDINGS:
        inputs = batch(padding)
        run, states, _ = run_in_steps(model, inputs)
        run_in_steps(model, batch(seed=2, tokens=7))
        logits = model(**inputs).logits
        for start in range(-1, 4):
            hidden = run.embedded if start < 0 else states[start]
            for layer in range(start + 1, 4):
                hidden = layered.advance(run, hidden, layer)
                assert equal(hidden, states[layer])
            assert equal(layered.head(layered.final(hidden), inputs), logits), padding


@all_cases
def test_a_swapped_layer_gives_what_an_overwriting_hook_gives_and_its_gradients(family, head):
    model, inputs = tiny_model(family, head), batch("right")
    layered = Layered(model)
    run, states, _ = run_in_steps(model, inputs)
    value = torch.randn(states[1].shape, generator=torch.Generator().manual_seed(3)).requires_grad_()
    hidden = value
    for layer in (2, 3):
        hidden = layered.advance(run, hidden, layer)
    ours = layered.head(layered.final(hidden), inputs)
    calls = []

    def overwrite(module, arguments, output):
        calls.append(module)
        if len(calls) == 2:
            return value if isinstance(output, torch.Tensor) else (value, *output[1:])

    hooks = [layer.register_forward_hook(overwrite) for layer in dict.fromkeys(layered.layers)]
    logits = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    assert equal(ours, logits)
    (mine,), (own,) = (torch.autograd.grad(output.square().sum(), value) for output in (ours, logits))
    assert torch.equal(mine, own)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_token_type_ids_are_honoured(family):
    model, inputs = build(family), text(3, [9, 6, 3])
    typed = inputs | {"token_type_ids": (torch.arange(9) > 3).long().expand(3, 9)}
    logits = run_in_steps(model, typed)[2]
    assert torch.equal(logits, model(**typed).logits)
    assert not torch.allclose(logits, model(**inputs).logits)


def test_token_type_ids_are_left_out_where_the_model_has_none():
    model, inputs = build("distilbert"), text(3, [9, 6, 3])
    typed = inputs | {"token_type_ids": torch.zeros(3, 9, dtype=torch.long)}
    assert torch.equal(run_in_steps(model, typed)[2], model(**inputs).logits)
    diito.get_values(model, typed, [0])


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_position_ids_are_honoured(family):
    model = tiny_model(family, "causal LM" if family in DECODERS else "masked LM")
    inputs = batch("left")
    placed = inputs | {"position_ids": (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
    logits = run_in_steps(model, placed)[2]
    assert equal(logits, model(**placed).logits)
    assert not equal(logits, model(**inputs).logits)


def test_an_input_that_the_model_does_not_read_is_named():
    model, inputs = build("bert"), text(3, [9, 6])
    with pytest.raises(ValueError, match=r"^inputs: BertForMaskedLM does not read 'special_tokens_mask'; leave it out$"):
        diito.get_values(model, inputs | {"special_tokens_mask": inputs["input_ids"]}, [0])
    diito.get_values(model, inputs | {"labels": inputs["input_ids"]}, [0])


@all_cases
def test_gradients_are_those_of_the_forward(family, head):
    model, inputs = tiny_model(family, head), batch()
    parameters = list(model.parameters())
    ours = torch.autograd.grad(run_in_steps(model, inputs)[2].square().sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad(model(**inputs).logits.square().sum(), parameters, allow_unused=True)
    for mine, own in zip(ours, theirs, strict=True):
        assert (mine is None) == (own is None)
        assert mine is None or torch.equal(mine, own)


@families
def test_a_run_stops_at_the_highest_layer_asked_for_and_keeps_only_those(family):
    model, inputs = build(family, layers=4), text(5, [7, 7])
    layered = Layered(model)
    with counted(model) as calls:
        _, states = layered.states(inputs, [2, 0])
    assert calls == {"layers": [1, 1, 1, 0], "head": []}
    assert sorted(states) == [0, 2]
    with counted(model) as calls:
        run, states = layered.states(inputs, [])
    assert calls == {"layers": [0] * 4, "head": []} and states == {} and run.embedded.shape == (2, 7, WIDTH)


@cases
def test_the_head_gives_the_same_logits_for_some_tokens_as_for_all(family, head):
    model, inputs = tiny_model(family, head), batch()
    layered = Layered(model)
    assert layered.per_token
    final = layered.final(run_in_steps(model, inputs)[1][3])
    chosen = final[[0, 1, 1], [3, 0, 6]]
    torch.testing.assert_close(layered.head(chosen), model(**inputs).logits[[0, 1, 1], [3, 0, 6]])
    torch.testing.assert_close(layered.head(chosen.view(3, 1, 1, -1))[:, 0, 0], layered.head(chosen))


@families
def test_the_head_sees_no_other_token(family):
    model, inputs = build(family, layers=2), text(5, [7, 7])
    layered = Layered(model)
    final = layered.states(inputs, [1])[1][1]
    with counted(model) as calls:
        layered.head(final[:, 0])
    assert calls["head"] == [2]


def test_a_head_that_reads_whole_sequences_needs_their_inputs():
    model, inputs = tiny_model("bert", "sequence classification"), batch("right")
    layered = Layered(model)
    final = layered.final(run_in_steps(model, inputs)[1][3])
    assert not layered.per_token and layered.head(final, inputs).shape == (3, model.config.num_labels)
    with pytest.raises(ValueError, match=r"^inputs: the head of BertForSequenceClassification reads whole sequences"):
        layered.head(final)


@families
def test_the_longest_sequence_of_a_family_runs_and_one_token_more_does_not(family):
    longest = longest_sequence(config(family, 1))
    assert longest == (LONGEST - PAD_OFFSET if family == "roberta" else LONGEST)
    model = build(family, layers=1)
    assert longest_sequence(model) == longest
    assert run_in_steps(model, text(7, [longest]))[2].shape == (1, longest, VOCABULARY)
    with pytest.raises((IndexError, RuntimeError)):
        Layered(model).states(text(7, [longest + 1]), [0])


PAD_OFFSET = 1  # RoBERTa counts positions from its padding id (0 here) on


def test_finding_the_longest_sequence_of_a_configuration_draws_nothing():
    state = torch.get_rng_state()
    assert longest_sequence(config("bert", 1)) == LONGEST
    assert torch.equal(torch.get_rng_state(), state)


@all_cases
def test_learning_leaves_the_model_and_the_random_state_as_they_were(family, head):
    model = tiny_model(family, head).train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    modules = [(name, id(module)) for name, module in model.named_modules()]
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    learn(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [(name, id(module)) for name, module in model.named_modules()] == modules
    assert [{name: id(value) for name, value in vars(module).items()} for module in model.modules()] == attributes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_is_learnt_once_and_its_copy_anew():
    model = build("bert")
    parts = learn(model)
    other = copy.deepcopy(model)
    with counted(model) as calls, counted(other) as copied:
        assert learn(model) is parts
        assert learn(other) == parts
    assert sum(calls["layers"]) == 0 and sum(copied["layers"]) > 0
    del model.bert.encoder.layer[2]
    assert Layered(model).depth == 2, "a list of another length is learnt anew"


@modes
@pytest.mark.parametrize("change", ["fast dropout", "bf16", "float64", "another attention"])
def test_what_was_learnt_stays_true_when_the_model_changes(change, training):
    model, inputs = build("bert").train(training), text(1, [9, 6, 3])
    parts = learn(model)
    if change == "fast dropout":
        use_fast_dropout(model)
    elif change == "another attention":
        model.set_attn_implementation("eager")
    else:
        model.to(torch.bfloat16 if change == "bf16" else torch.float64)
    assert learn(model) is parts
    torch.manual_seed(5)
    logits = model(**inputs).logits
    torch.manual_seed(5)
    assert torch.equal(run_in_steps(model, inputs)[2], logits)


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_compiled_layers_make_no_new_graphs_after_the_first_run(family):
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph.forward

    model, inputs = tiny_model(family, "causal LM" if family == "llama" else "masked LM"), batch()
    logits = model(**inputs).logits
    layered = Layered(model)
    torch._dynamo.reset()
    for layer in layered.layers:
        layer.compile(backend=backend, dynamic=False)
    with torch.no_grad():
        assert torch.equal(run_in_steps(model, inputs)[2], logits)
        first = len(graphs)
        run, states, _ = run_in_steps(model, batch(seed=4))
        layered.advance(run, states[0], 2)
    assert 1 <= first <= 4 and len(graphs) == first
    assert not any("_orig_mod" in name for name in model.state_dict())
    torch._dynamo.reset()


class Synchronisations(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(keywords or {}))


@cases
@pytest.mark.parametrize("padding", ["none", "right"])
def test_a_run_waits_for_the_device_no_oftener_than_the_models_own(family, head, padding):
    model, inputs = tiny_model(family, head, attention=None), batch(padding)
    Layered(model)
    options = {"use_cache": False} if family in DECODERS else {}
    with Synchronisations() as own:
        model(**inputs, **options)
    with Synchronisations() as ours:
        run_in_steps(model, inputs)
    assert ours.count <= own.count
    # Without a cache, transformers looks for packed sequences in the positions of a decoder; DeBERTa looks for a mask.
    assert ours.count == 0 or padding != "none" or family in (*DECODERS, "deberta-v2")


def test_interchange_of_a_classifier_gives_one_answer_a_row():
    model, base, source = tiny_model("bert", "sequence classification"), batch(seed=1), batch(seed=2)
    everywhere = torch.ones(3, 13, dtype=torch.bool)
    logits = diito.interchange(model, base, source, [1], everywhere)
    assert torch.equal(logits, model(**source).logits)
    assert torch.equal(diito.interchange(model, base, source, [1], ~everywhere), model(**base).logits)


@pytest.mark.parametrize("family", DECODERS)
def test_in_a_decoder_nothing_before_the_first_swapped_position_moves(family):
    model, base, source = tiny_model(family, "causal LM"), batch("left", seed=1, rows=2), batch("left", seed=2, rows=2)
    positions = torch.zeros(2, 13, dtype=torch.bool)
    positions[:, 8:10] = True
    swapped, own = diito.interchange(model, base, source, [1], positions), model(**base).logits
    assert equal(swapped[:, :8], own[:, :8])
    assert (swapped[:, 8:] - own[:, 8:]).abs().amax(-1).min() > 0
    assert equal(diito.interchange(model, base, source, [1], torch.zeros_like(positions)), own)


REFUSALS = {
    "between": "it changes its hidden states between two layers",
    "after": "something other than norms stands between its last layer and its head",
    "cache": "its layers are given a cache",
    "flat": "its ToyLayer does not turn hidden states [batch, tokens, width] into the next ones",
    "no list": "it has no list of layers below a head",
    "skipped": "a run in steps does not give what its own forward gives (in train mode, unpadded",
    "layerdrop": "layers run; set its layerdrop to 0",
    "carried": "a run in steps does not give what its own forward gives",
    "mixing head": "its head does not read each token on its own",
    "raises": "RuntimeError: this layer runs once",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_model_that_does_not_fit_is_refused_in_one_sentence(fault):
    model = Toy(ToyConfig(fault=fault))
    with pytest.raises(ValueError) as raised:
        Layered(model)
    sentence = str(raised.value)
    assert sentence.startswith("teacher.model: 'Toy' cannot be run layer by layer: ")
    assert REFUSALS[fault] in sentence and "\n" not in sentence
    assert all(module.training for module in model.modules())


def test_a_model_that_fits_is_not_refused():
    model = Toy(ToyConfig(fault="none"))
    assert torch.equal(run_in_steps(model.eval(), batch())[2], model(**batch()).logits)


def test_refusals_of_transformers_models():
    sizes = {"vocab_size": 99, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    with pytest.raises(ValueError, match=r"it is an encoder and a decoder; give an encoder or a decoder$"):
        Layered(BartForSequenceClassification(BartConfig(**sizes, **heads)))
    with pytest.raises(ValueError, match=r"set pad_token_id in its configuration$"):
        Layered(GPT2ForSequenceClassification(GPT2Config(vocab_size=99, n_embd=8, n_layer=2, n_head=1)))
    with pytest.raises(ValueError, match=r"^--teacher: 'BertModel' cannot be run layer by layer: it has no list of layers"):
        learn(AutoModel.from_config(config("bert", 1)), field="--teacher")
    dropped = OPTForCausalLM(
        OPTConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, ffn_dim=16, num_attention_heads=2, layerdrop=1.0)
    )
    with pytest.raises(ValueError, match=r"0 of its 2 layers run; set its layerdrop to 0$"):
        Layered(dropped)


def test_a_model_is_named_as_it_was_loaded():
    loaded = AutoModelForMaskedLM.from_config(config("bert", 1))
    loaded.name_or_path = "some/teacher"
    loaded.bert.encoder.forward = None
    with pytest.raises(ValueError, match=r"^teacher.model: 'some/teacher' cannot be run layer by layer: TypeError"):
        Layered(loaded)


def test_block_sparse_attention_is_refused_and_left_as_it_is():
    sizes = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = AutoModelForMaskedLM.from_config(BigBirdConfig(**sizes))
    with pytest.raises(ValueError, match="set attention_type to original_full in its configuration"):
        learn(model)
    assert model.bert.attention_type == "block_sparse"
    learn(AutoModelForMaskedLM.from_config(BigBirdConfig(**sizes, attention_type="original_full")))


@pytest.mark.parametrize(("family", "reached"), [("bert", True), ("layoutlm", False)])
def test_parameters_that_no_logits_read_are_known_and_get_no_gradient_by_it(family, reached):
    model = tiny_model(family, "masked LM")
    assert reaches_every_parameter(model) == reached
    assert all(parameter.grad is None for parameter in model.parameters())
