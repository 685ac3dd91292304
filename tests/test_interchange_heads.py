"""Laws 2 and 3 beyond masked LM: interchange in causal LMs, sequence and token classifiers, against forward hooks.

The models are transformers' own, tiny, every weight random; the oracle hangs hooks on their own layers.
"""

import functools

import oracle
import pytest
import torch
import transformers

import diito

VOCABULARY, DEPTH, COLUMNS, PAD = 50, 3, 9, 0
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MARKED = SIZES | {"cls_token_id": 1, "sep_token_id": 2}
CONFIGURATIONS = {
    "gpt2": ("GPT2", SIZES),
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", SIZES | {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3", GROUPED),
    "gpt_neox": ("GPTNeoX", SIZES),
    "gemma3": ("Gemma3Text", GROUPED | WINDOWS | {"query_pre_attn_scalar": 8}),
    "opt": ("OPT", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 4}),
    "mamba": ("Mamba", SIZES | {"state_size": 4, "time_step_rank": 4}),
    "bert": ("Bert", SIZES),
    "roberta": ("Roberta", SIZES),
    "deberta": ("DebertaV2", SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16}),
    "modernbert": ("ModernBert", MARKED),
    "modernbert, mean": ("ModernBert", MARKED | {"classifier_pooling": "mean"}),
    "distilbert": ("DistilBert", SIZES | {"n_layers": DEPTH, "dim": 16, "n_heads": 2, "hidden_dim": 24}),
    "electra": ("Electra", SIZES | {"embedding_size": 16}),
}
HEADS = {
    "causal LM": transformers.AutoModelForCausalLM,
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
}
CAUSAL = ("gpt2", "llama", "qwen3", "gpt_neox", "gemma3", "opt", "mixtral", "mamba")
DECODERS = (*CAUSAL, "qwen2")
CLASSIFIERS = ("bert", "roberta", "deberta", "modernbert", "modernbert, mean", "distilbert", "electra", "qwen2", "gpt2")
TAGGERS = ("bert", "roberta", "modernbert")
NO_SDPA = ("mamba", "deberta")  # transformers has only one form of their attention
# Layouts: without a mask, padded on the right, and on the left: with the positions that a decoder's forward takes
# by itself ("left"), and with those that generate() gives it, counted from the first real token ("placed").
LEFT = ("left", "placed")
DECODERS_RUN = [("eager", "left"), ("sdpa", "none"), ("sdpa", "right"), ("sdpa", "placed")]
ENCODERS_RUN = [("eager", "right"), ("sdpa", "none"), ("sdpa", "right")]


def runs(family):
    """How a family runs: pairs of attention and layout."""
    if family == "mamba":  # it has no positions
        return [("eager", layout) for layout in ("none", "right", "left")]
    if family in NO_SDPA:
        return [("eager", layout) for layout in ("none", "right")]
    return DECODERS_RUN if family in DECODERS else ENCODERS_RUN


ROWS = [
    (family, head, attention, layout)
    for head, members in (("causal LM", CAUSAL), ("sequence", CLASSIFIERS), ("token", TAGGERS))
    for family in members
    for attention, layout in runs(family)
]


def parametrize(*heads, rows=ROWS):
    """A test for every family with such a head, attention and layout."""
    return pytest.mark.parametrize(("family", "head", "attention", "layout"), [row for row in rows if row[1] in heads])


# The laws are held in fewer runs, to be quick; the agreement with the oracle is held in all.
LAWS = [row for row in ROWS if row[3] in LEFT or (row[3] == "right" and (row[2] == "sdpa" or row[0] in NO_SDPA))]


@functools.cache
def build(family, head, attention="sdpa"):
    """A tiny model in eval mode, biases and norms random too, so that a wrong wire shows."""
    name, sizes = CONFIGURATIONS[family]
    labels = {} if head == "causal LM" else {"num_labels": 4}
    configuration = getattr(transformers, f"{name}Config")(**sizes, **labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HEADS[head].from_config(configuration, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.config.use_cache = False  # a cache lays keys out anew in memory, which changes the last bit of eager attention
    return model.eval().requires_grad_(False)


def mask_of(lengths, layout):
    """Integer[B, COLUMNS], 1 where a row of that length is real."""
    columns, ends = torch.arange(COLUMNS), torch.tensor(lengths)[:, None]
    real = columns >= COLUMNS - ends if layout in LEFT else columns < ends
    return real.long()


def text(seed, lengths, layout):
    """Rows of random words of the given lengths, or all COLUMNS long without a mask where there is no padding."""
    ids = torch.randint(3, VOCABULARY, (len(lengths), COLUMNS), generator=torch.Generator().manual_seed(seed))
    if layout == "none":
        return {"input_ids": ids}
    mask = mask_of(lengths, layout)
    inputs = {"input_ids": torch.where(mask == 1, ids, PAD), "attention_mask": mask}
    return inputs | ({"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if layout == "placed" else {})


BASE, SOURCE = (COLUMNS, 6, 5), (7, COLUMNS, 5)
SHARED = tuple(map(min, BASE, SOURCE))


def pair(layout):
    """A base and a source whose rows are of different lengths."""
    return text(1, BASE, layout), text(2, SOURCE, layout)


def choose(layout, *rows):
    """Bool[B, COLUMNS], True at the listed ones of each row's columns that are real in base and source."""
    chosen = torch.zeros(len(rows), COLUMNS, dtype=torch.bool)
    for row, columns in enumerate(rows):
        first = COLUMNS - SHARED[row] if layout in LEFT else 0
        chosen[row, [first + column for column in columns]] = True
    return chosen


def one(layout):
    return choose(layout, [1], [3], [2])


def several(layout):
    return choose(layout, [1, 2, 5], [3], [0, 2])


def every(layout):
    return choose(layout, *(range(length) for length in SHARED))


def noisy(inputs, seed):
    """Other words on the padding."""
    words = text(seed, [COLUMNS] * len(inputs["input_ids"]), "none")["input_ids"]
    return inputs | {"input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], words)}


def real(inputs):
    return oracle.attention_mask(inputs) == 1


def moved(one_logits, other_logits):
    """How far the logits are apart: [B, T], or [B] in a sequence classifier."""
    return (one_logits - other_logits).abs().amax(-1)


# ---------------------------------------------------------------------------------------------------- law 2: the oracle


@parametrize(*HEADS)
def test_values_and_interchange_equal_the_oracle(family, head, attention, layout):
    model, (base, source) = build(family, head, attention), pair(layout)
    recorded = oracle.hidden_states(model, source)
    values = diito.get_values(model, source, range(DEPTH))
    assert all(torch.equal(values[layer], recorded[layer]) for layer in range(DEPTH))
    untouched = model(**base).logits
    for layers, positions in (
        ([0], one(layout)),
        ([0, 2], several(layout)),
        ([1], every(layout)),
    ):
        ours = diito.interchange(model, base, source, layers, positions)
        theirs, _ = oracle.interchange(model, base, source, layers, positions)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert moved(ours, untouched).max() > 1e-3, "the swap shows"


DIFFERENT_LENGTHS = {
    "shorter source": (slice(None), slice(0, 5)),
    "longer source": (slice(0, 5), slice(None)),
}


@pytest.mark.parametrize(("family", "head"), [("gpt2", "causal LM"), ("qwen2", "sequence"), ("roberta", "token")])
@pytest.mark.parametrize("lengths", DIFFERENT_LENGTHS)
def test_base_and_source_of_different_lengths_and_the_options(family, head, lengths):
    model = build(family, head)
    base, source = (
        {"input_ids": inputs["input_ids"][:, columns]}
        for inputs, columns in zip(pair("none"), DIFFERENT_LENGTHS[lengths], strict=True)
    )
    positions = choose("none", [1, 2, 4], [3], [0, 2])[:, : base["input_ids"].shape[1]]
    elsewhere = choose("none", [0, 2, 3], [1], [2, 4])[:, : source["input_ids"].shape[1]]
    for dimensions in (None, [(9, 12), (0, 3)]):
        options = {"source_positions": elsewhere, "dimensions": dimensions}
        ours = diito.interchange(model, base, source, [0, 1], positions, **options)
        theirs, _ = oracle.interchange(model, base, source, [0, 1], positions, **options)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "head"), [("llama", "causal LM"), ("gpt2", "sequence"), ("deberta", "sequence"), ("bert", "token")]
)
def test_gradients_equal_the_oracles(family, head):
    model, (base, source) = build(family, head, "eager"), pair("right")
    pattern = torch.randn(model(**base).logits.shape, generator=torch.Generator().manual_seed(3))
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    expected, found = (
        torch.autograd.grad((logits * pattern).sum(), weight)[0]
        for logits in (
            oracle.interchange(model, base, source, [0, 1], several("right"))[0],
            diito.interchange(model, base, source, [0, 1], several("right")),
        )
    )
    weight.requires_grad_(False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["right", "left"])
def test_a_position_on_padding_is_refused(layout):
    model, (base, source) = build("llama", "causal LM"), pair(layout)
    for row, column in ((1, 7), (0, 8)):  # columns from the row's padded end: the base's padding, the source's
        positions = one(layout)
        positions[row] = False
        positions[row, COLUMNS - 1 - column if layout == "left" else column] = True
        with pytest.raises(ValueError, match="padding"):
            diito.interchange(model, base, source, [0], positions)


# ------------------------------------------------------------------------------------------------- law 3: bit by bit


@parametrize(*HEADS, rows=LAWS)
def test_swapping_a_text_with_itself_changes_no_bit(family, head, attention, layout):
    model, (base, _) = build(family, head, attention), pair(layout)
    untouched = model(**base).logits
    for layers, positions in (([0, 2], several(layout)), ([1], real(base))):
        assert torch.equal(diito.interchange(model, base, base, layers, positions), untouched)


@parametrize(*HEADS, rows=LAWS)
def test_swapping_every_position_is_the_sources_own_upper_run(family, head, attention, layout):
    model, base, source = build(family, head, attention), text(1, BASE, layout), text(2, BASE, layout)
    expected, read = model(**source).logits, real(base) if head != "sequence" else ...
    for layers in ([0], [1, 2]):
        swapped = diito.interchange(model, base, source, layers, real(base))
        assert torch.equal(swapped[read], expected[read])


@parametrize("causal LM", rows=LAWS)
def test_in_a_decoder_a_swap_moves_what_comes_after_it_and_nothing_before(family, head, attention, layout):
    model, (base, source) = build(family, head, attention), pair(layout)
    untouched = model(**base).logits
    for layers, positions in (([0], one(layout)), ([0, 1], several(layout))):
        swapped = diito.interchange(model, base, source, layers, positions)
        distance, reached = moved(swapped, untouched), positions.cumsum(-1) > 0
        assert (distance[~reached & real(base)] <= 1e-6).all()
        behind = distance.masked_fill(~reached | positions | ~real(base), 0)
        assert (behind.amax(-1) > 1e-3).all(), "a token after the swap moves in each row"
    distance = moved(diito.interchange(model, base, source, [DEPTH - 1], several(layout)), untouched)
    assert (distance[~several(layout) & real(base)] <= 1e-6).all(), "at the top only the swapped tokens"
    assert (distance[several(layout)] > 1e-3).all()


@parametrize("token", rows=LAWS)
def test_in_a_token_classifier_a_swap_moves_tokens_on_both_sides(family, head, attention, layout):
    model, (base, source) = build(family, head, attention), pair(layout)
    untouched, positions = model(**base).logits, one(layout)
    distance = moved(diito.interchange(model, base, source, [0], positions), untouched)
    before, after = positions.cumsum(-1) == 0, (positions.cumsum(-1) > 0) & ~positions & real(base)
    assert (distance.masked_fill(~before, 0).amax(-1) > 1e-4).all()
    assert (distance.masked_fill(~after, 0).amax(-1) > 1e-4).all()
    distance = moved(diito.interchange(model, base, source, [DEPTH - 1], positions), untouched)
    assert (distance[~positions & real(base)] == 0).all(), "at the top only the swapped tokens"
    assert (distance[positions] > 1e-3).all()


@parametrize("sequence", rows=LAWS)
def test_a_sequence_classifier_answers_the_swaps_its_head_can_see(family, head, attention, layout):
    """Below the top a swap at the first token reaches every head; at the top only one at a token that the head reads."""
    model, (base, source) = build(family, head, attention), pair(layout)
    lengths = BASE if layout != "none" else [COLUMNS] * len(BASE)
    source = text(2, lengths, layout)  # real to the end, so that the last token can be swapped
    first, last = real(base).long(), torch.tensor(lengths) - 1
    start = first.argmax(-1)
    end = start + last
    rows = torch.arange(len(BASE))
    untouched = model(**base).logits

    def answer_to(layer, columns):
        positions = torch.zeros(len(BASE), COLUMNS, dtype=torch.bool)
        positions[rows, columns] = True
        return moved(diito.interchange(model, base, source, [layer], positions), untouched)

    assert (answer_to(0, start) > 1e-4).all()
    reads = {"start": family not in DECODERS, "end": family in DECODERS or "mean" in family, "between": "mean" in family}
    for place, columns in (("start", start), ("end", end), ("between", start + 1)):
        distance = answer_to(DEPTH - 1, columns)
        assert (distance > 1e-4).all() if reads[place] else (distance == 0).all(), place


@parametrize(*HEADS, rows=LAWS)
def test_no_padding_is_read(family, head, attention, layout):
    model, (base, source) = build(family, head, attention), pair(layout)
    read = real(base) if head != "sequence" else ...
    # A decoder's classifier finds the last real token by its id, so the base's padding must stay what it is there.
    other_base = base if head == "sequence" and family in DECODERS else noisy(base, 5)
    clean = diito.interchange(model, base, source, [0, 2], several(layout))
    dirty = diito.interchange(model, other_base, noisy(source, 6), [0, 2], several(layout))
    torch.testing.assert_close(dirty[read], clean[read], rtol=1e-6, atol=1e-6)
