"""Tiny random models and batches that the tests of the mathematics share. Nothing is downloaded."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import oracle
import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, DistilBertConfig, RobertaConfig

from diito.tasks.masked_lm import Masking

PAD, CLS, SEP, MASK = range(4)
SPECIAL_IDS = [PAD, CLS, SEP]
VOCABULARY, WIDTH, LONGEST = 60, 16, 40
FAMILIES = ("bert", "distilbert", "roberta")
families = pytest.mark.parametrize("family", FAMILIES)


def config(family, layers, **changes):
    """The configuration of a tiny model; ``changes`` go by BERT's names, which DistilBERT's are translated from."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": LONGEST,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "type_vocab_size": 2,
    } | changes
    if family == "bert":
        return BertConfig(**sizes)
    if family == "roberta":
        return RobertaConfig(**sizes, bos_token_id=CLS, eos_token_id=SEP)
    names = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }
    return DistilBertConfig(**{names.get(name, name): value for name, value in sizes.items() if name != "type_vocab_size"})


def masking(rate, *, pad_token_id=PAD):
    """``Masking`` for the words of these models."""
    return Masking(
        token_counts=None,
        rate=rate,
        smoothing=0.0,
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        special_ids=SPECIAL_IDS,
        pad_token_id=pad_token_id,
    )


def build(family="bert", layers=3, *, seed=0, attention="sdpa", **changes):
    """A tiny model in eval mode, every weight of it random (biases and norms too), so that a wrong wire shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForMaskedLM.from_config(config(family, layers, **changes), attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def text(seed, lengths, *, low=MASK + 1, high=VOCABULARY, width=None):
    """``[CLS] tokens [SEP]`` rows of the given lengths, tokens in [low, high); a mask only where there is padding."""
    width = width or max(lengths)
    ids = torch.randint(low, high, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    columns, ends = torch.arange(width), torch.tensor(lengths)[:, None]
    ids[:, 0] = CLS
    ids = ids.masked_fill(columns == ends - 1, SEP).masked_fill(columns >= ends, PAD)
    if min(lengths) == width:
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": (columns < ends).long()}


def choose(*rows, width):
    """Bool[len(rows), width], True at the positions listed for each row."""
    chosen = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, positions in enumerate(rows):
        chosen[row, positions] = True
    return chosen


def masked_batch(seed, lengths, *masked, **options):
    """:func:`text` with [MASK] at the listed positions of each row, labels there and -100 elsewhere."""
    batch = text(seed, lengths, **options)
    ids = batch["input_ids"]
    chosen = choose(*masked, width=ids.shape[1])
    return batch | {"input_ids": ids.masked_fill(chosen, MASK), "labels": torch.where(chosen, ids, -100)}


def with_slots(batch, slots=None):
    """The batch with ``masked_positions``, -1 in unused slots, as masking gives it."""
    rows = [row.nonzero().flatten().tolist() for row in batch["labels"] != -100]
    slots = slots or max(map(len, rows))
    return batch | {"masked_positions": torch.tensor([row + [-1] * (slots - len(row)) for row in rows])}


def inputs_of(batch):
    """What a model reads of a batch."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}


def head_of(model):
    """The module that makes the logits, called once for each use of the head."""
    return {"bert": "cls", "roberta": "lm_head", "distilbert": "vocab_projector"}[model.config.model_type]


@contextmanager
def counted(model):
    """How often each layer is called inside (``calls["layers"]``), and with how many tokens the head (``calls["head"]``)."""
    layers = oracle.layer_modules(model)
    calls = {"layers": [0] * len(layers), "head": []}

    def count(index):
        def hook(module, arguments, output):
            calls["layers"][index] += 1

        return hook

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(count(index)).remove)
        head = model.get_submodule(head_of(model))
        hook = head.register_forward_hook(lambda module, arguments, output: calls["head"].append(output[..., 0].numel()))
        stack.callback(hook.remove)
        yield calls


def gradients(loss, model):
    """The gradient of each parameter by name, zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }
