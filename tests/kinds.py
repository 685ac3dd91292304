"""Tiny teachers of the encoder families that people distil, each with a real tokenizer of its kind, trained on the spot.

WordPiece for BERT and ELECTRA; Unigram, as SentencePiece makes it, for ALBERT, DeBERTa-v3 and XLM-R; byte-level BPE for RoBERTa
and ModernBERT. The special tokens have the names and the ids that the published checkpoints give them.
"""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertTokenizer,
    AutoModelForMaskedLM,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaTokenizer,
)

from diito.embedded import resolve

KINDS = ("bert", "electra", "albert", "deberta-v3", "xlm-r", "roberta", "modernbert")
LONGEST = 64
"""Tokens of the longest sequence of each teacher."""
WORDS = 400
"""Pieces that a tokenizer learns, about; its special tokens come on top."""
LAYERS, WIDTH = 4, 32
_SPARE = 7  # rows of the embedding that no token has, as padded vocabularies of published models have them
_HOLDER = tempfile.TemporaryDirectory(prefix="diito-kinds-")
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@functools.cache
def text(documents: int = 200) -> tuple[str, ...]:
    """The first paragraphs of WikiText-2's validation part."""
    with gzip.open(resolve("embedded:wikitext-2/valid.txt.gz"), "rt", encoding="utf-8") as file:
        paragraphs = (line.strip() for line in file)
        return tuple(line for line, _ in zip((line for line in paragraphs if line), range(documents), strict=False))


@functools.cache
def corpus(documents: int = 120) -> str:
    """A file of that text, a paragraph a line."""
    path = Path(_HOLDER.name) / f"corpus-{documents}.txt"
    path.write_text("\n".join(text(documents)) + "\n", encoding="utf-8")
    return str(path)


@functools.cache
def teacher_of(kind: str) -> str:
    """The folder of a teacher of that kind: random weights, and the tokenizer beside them."""
    folder = Path(_HOLDER.name) / kind
    tokenizer = _TOKENIZERS[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(KINDS.index(kind))
        model = AutoModelForMaskedLM.from_config(_config(kind, tokenizer))
        with torch.no_grad():
            for parameter in model.parameters():  # as they are initialised the predictions are nearly flat
                parameter.mul_(10) if parameter.ndim > 1 else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _wordpiece() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(text(), trainers.WordPieceTrainer(vocab_size=WORDS, special_tokens=_BERT, show_progress=False))
    return BertTokenizer(vocab=backend.get_vocab(), model_max_length=LONGEST)


@functools.cache
def _pieces(lowercase: bool) -> tuple[tuple[str, float], ...]:
    """Pieces and scores that a Unigram model learns, without special tokens."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Lowercase() if lowercase else normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=WORDS, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(text(), trainer)
    learned = json.loads(backend.to_str())["model"]["vocab"]
    return tuple((piece, score) for piece, score in learned if piece != "<unk>")


def _albert() -> PreTrainedTokenizerBase:
    specials = [(name, 0.0) for name in ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")]
    return AlbertTokenizer(vocab=[*specials, *_pieces(lowercase=True)], model_max_length=LONGEST)


def _deberta() -> PreTrainedTokenizerBase:
    """[MASK] has the last id, after the pieces."""
    specials = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    pieces = _pieces(lowercase=False)
    return DebertaV2Tokenizer(vocab=[*specials, *pieces, ("[MASK]", 0.0)], model_max_length=LONGEST)


def _xlm_roberta() -> PreTrainedTokenizerBase:
    """fairseq's order: four special tokens before the pieces, <mask> after them."""
    specials = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = _pieces(lowercase=False)
    return XLMRobertaTokenizer(vocab=[*specials, *pieces, ("<mask>", 0.0)], model_max_length=LONGEST)


def _byte_level(specials: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of byte-level BPE, the special tokens first."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(text(), trainer)
    learned = json.loads(backend.to_str())["model"]
    return learned["vocab"], [tuple(merge) for merge in learned["merges"]]


def _roberta() -> PreTrainedTokenizerBase:
    vocabulary, merges = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    vocabulary["<mask>"] = len(vocabulary)
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)


def _modernbert() -> PreTrainedTokenizerBase:
    """Special tokens behind the pieces, and BERT's names for them."""
    vocabulary, merges = _byte_level([])
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    return framed("[CLS] $A [SEP]", backend, cls="[CLS]", sep="[SEP]", pad="[PAD]", mask="[MASK]", unk="[UNK]")


def framed(template: str, backend: Tokenizer, **specials: str) -> PreTrainedTokenizerFast:
    """A tokenizer that adds what ``template`` says, such as ``$A </s>``; ``specials``: the names of its special tokens."""
    tokens = [(token, backend.token_to_id(token)) for token in template.split() if token != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)
    names = {f"{name}_token": token for name, token in specials.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LONGEST, **names)


_TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": _wordpiece,
    "electra": _wordpiece,
    "albert": _albert,
    "deberta-v3": _deberta,
    "xlm-r": _xlm_roberta,
    "roberta": _roberta,
    "modernbert": _modernbert,
}


def _config(kind: str, tokenizer: Any) -> PreTrainedConfig:
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer) + _SPARE,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 2 * WIDTH,
        "max_position_embeddings": LONGEST,
        "pad_token_id": tokenizer.pad_token_id,
    }
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    offset = {"max_position_embeddings": LONGEST + tokenizer.pad_token_id + 1, "type_vocab_size": 1}  # positions begin there
    relative = {
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    }
    local = {
        "global_attn_every_n_layers": 3,
        "local_attention": 16,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
    }
    configs: dict[str, Callable[[], PreTrainedConfig]] = {
        "bert": lambda: BertConfig(**sizes),
        "electra": lambda: ElectraConfig(**sizes, embedding_size=WIDTH // 2),
        "albert": lambda: AlbertConfig(**sizes, **ends, embedding_size=WIDTH // 2),
        "deberta-v3": lambda: DebertaV2Config(**sizes, **relative),
        "xlm-r": lambda: XLMRobertaConfig(**(sizes | offset), **ends),
        "roberta": lambda: RobertaConfig(**(sizes | offset), **ends),
        "modernbert": lambda: ModernBertConfig(**sizes, **ends, **local),
    }
    return configs[kind]()
