"""Tiny random decoders with tokenizers of their kinds, and recipes on them. Nothing is downloaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from diito.recipe import Recipe
from diito.recipe.file import read

FAMILIES = ("gpt2", "llama", "qwen3", "gpt_neox", "olmoe", "mamba")
"""Learned positions; rotary ones with norms before; grouped heads; parallel blocks; a mixture of experts; a state space."""
WORDS, WIDTH, LONGEST = 64, 16, 64
_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": WIDTH, "n_head": 2, "n_positions": LONGEST},
    "llama": {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen3": {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "layer_types": None},
    "gpt_neox": {"intermediate_size": 24, "num_attention_heads": 2},
    "olmoe": {"intermediate_size": 8, "num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"state_size": 4, "conv_kernel": 3, "intermediate_size": 32},
}


def build(family: str = "llama", layers: int = 3, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model in eval mode, every weight of it random."""
    sizes = {"hidden_size": WIDTH, "max_position_embeddings": LONGEST, **_SIZES[family]}
    depth = {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    tokens = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = AutoConfig.for_model(family, **{**sizes, **depth, **tokens, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.25 * torch.randn_like(parameter)) if parameter.ndim < 3 else None
    return model.eval()


def tokenizer(*, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """Words w0, w1, ...; a token that begins and one that ends a text, no padding token."""
    pieces = ["<s>", "</s>", "<unk>", *(f"w{number}" for number in range(tiny.WORDS))]
    backend = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@functools.cache
def teacher(family: str = "llama", *, layers: int = 4, adds_bos: bool = True) -> str:
    """The folder of a teacher with its tokenizer."""
    folder = tiny.FOLDER / f"decoder-{family}-{layers}-{adds_bos}"
    build(family, layers, seed=layers).save_pretrained(folder)
    tokenizer(adds_bos=adds_bos).save_pretrained(folder)
    return str(folder)


def recipe(output: Path, overrides: dict[str, Any] | None = None, *, family: str = "llama") -> Recipe:
    """The tiny recipe for a decoder."""
    given = {"output": str(output), "task": "causal-lm", "teacher.model": teacher(family), "evaluation.continuations": "0"}
    given |= overrides or {}
    return read(tiny.recipe_file(), given)


def text(seed: int, lengths: list[int], *, width: int | None = None) -> dict[str, torch.Tensor]:
    """Rows of ordinary words behind a token that begins the text, padded on the right with the one that ends it."""
    width = width or max(lengths)
    ids = torch.randint(3, WORDS, (len(lengths), width), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    if bool(real.all()):
        return {"input_ids": ids}
    return {"input_ids": ids.where(real, 1), "attention_mask": real.long()}
