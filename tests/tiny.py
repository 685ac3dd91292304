"""Tiny teachers, a tiny corpus and tiny recipes: everything the training tests need, made on the spot, without a network."""

from __future__ import annotations

import functools
import gc
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from diito.recipe import Recipe
from diito.recipe.file import read
from diito.run.distill import distill
from diito.run.folder import RunFolder
from diito.run.parts import Parts, build_trainer, prepare
from diito.training.arguments import training_arguments
from diito.training.trainer import DistillationTrainer

gc.freeze()  # what the imports made stays, and Trainer collects garbage at the end of every run
_HOLDER = tempfile.TemporaryDirectory(prefix="diito-tiny-")
FOLDER = Path(_HOLDER.name)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = 55
"""Words of the tokenizer beside the specials; the teachers' vocabulary of 64 has a padded tail."""


def tokenizer(words: int = WORDS) -> PreTrainedTokenizerFast:
    """A tokenizer that knows [PAD], [UNK], [CLS], [SEP], [MASK], w0, w1, ..."""
    pieces = [*SPECIALS, *(f"w{number}" for number in range(words))]
    backend = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


@functools.cache
def teacher(family: str = "bert", *, layers: int = 4, width: int = 16, words: int = WORDS, vocabulary: int = 64) -> str:
    """The folder of a teacher with random weights and its tokenizer."""
    sizes = {"vocab_size": vocabulary, "max_position_embeddings": 64}
    bert = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * width}
    distilbert = {"dim": width, "n_layers": layers, "n_heads": 2, "hidden_dim": 2 * width}
    make = {
        "bert": lambda: BertForMaskedLM(BertConfig(**sizes, **bert)),
        "bert without a head": lambda: BertModel(BertConfig(**sizes, **bert)),
        "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**sizes, **bert, pad_token_id=0, bos_token_id=2, eos_token_id=3)),
        "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(**sizes, **distilbert)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=16, n_layer=2, n_head=2)),
    }
    folder = FOLDER / f"{family}-{layers}-{width}-{words}-{vocabulary}".replace(" ", "-")
    with torch.random.fork_rng():
        torch.manual_seed(layers)
        model = make[family]()
        with torch.no_grad():
            for parameter in model.parameters():  # with the usual 0.02 the predictions are nearly flat
                parameter.mul_(15) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return str(folder)


@functools.cache
def corpus(documents: int = 60) -> str:
    """A text file: a document of 4 to 20 words a line."""
    draws = random.Random(documents)
    lines = [" ".join(f"w{draws.randrange(WORDS)}" for _ in range(draws.randint(4, 20))) for _ in range(documents)]
    path = FOLDER / f"corpus-{documents}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@functools.cache
def recipe_file() -> str:
    """A recipe on the tiny teacher and corpus: blocks of 16, batches of 4, 6 steps of 2 micro-batches."""
    path = FOLDER / "tiny.yaml"
    path.write_text(
        f"""
name: tiny
seed: 1
teacher: {{model: {teacher()}}}
student: {{layers: 2}}
corpus: {{sources: [{corpus()}], length: 16, minimum_tokens: 3, workers: 1, cache: {FOLDER / "cache"}}}
training: {{steps: 6, batch: 4, accumulation: 2, learning_rate: 1e-2, log_every: 1, save_every: 100}}
speed: {{precision: fp32}}
evaluation: {{sources: [{corpus(20)}], length: 16, blocks: 4}}
""",
        encoding="utf-8",
    )
    return str(path)


def recipe(output: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """The tiny recipe with overrides, its run in ``output``."""
    return read(recipe_file(), {"output": str(output), **(overrides or {})})


def run(output: Path, overrides: dict[str, Any] | None = None, **options: bool) -> Path:
    """Distil the tiny recipe to its end; the folder of the run."""
    made = recipe(output, overrides)
    assert distill(made, **options) == 0
    return output / made.name


def parts_and_trainer(made: Recipe, **keywords: Any) -> tuple[Parts, DistillationTrainer]:
    """What ``diito distill`` would train with."""
    arguments = training_arguments(made, output_dir=str(RunFolder(made).checkpoints))
    parts = prepare(made, arguments)
    return parts, build_trainer(made, parts, arguments, **keywords)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a saved student."""
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def checkpoints(run_folder: Path) -> list[str]:
    """Names in the checkpoint folder, in the order of their steps."""
    names = [entry.name for entry in (run_folder / "checkpoints").iterdir()]
    return sorted(names, key=lambda name: (len(name), name))
