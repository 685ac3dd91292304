"""Whether the checkpoint is the model that runs: one check of configuration, loading report, weights and tokenizer.

Each function looks at one part. What is harmless is set right, and comes back as a note; what is not comes back as a
sentence without its subject, which the caller refuses with the name that the user gave.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from diito.models.padding import position_padding
from diito.models.tensor_names import Renaming, are_quantised, frequent_prefix, layers_held, of_body, renaming, some, unread

_OUTPUTS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False, "torchscript": False}
"""What a configuration may have kept of somebody's run, and what leaves the answers alone."""


class Unfit(ValueError):
    """A sentence without its subject."""


def configuration_fault(config: Any) -> str | None:
    """What a configuration alone shows to be impossible."""
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else getattr(quantised, "quant_method", None)
        return (
            f"is quantised ({method or 'by a method that it does not name'}); give the checkpoint that it was made from, in "
            "fp32, fp16 or bf16"
        )
    return None


def set_right(config: Any, head: Any, *, trained: bool) -> list[str]:
    """Set a configuration right where it has kept something that does not belong to the model; a note for each.

    ``head``: the Auto class that is going to load it; ``trained``: whether the head's weights are in the checkpoint.
    """
    notes = []
    for name, right in _OUTPUTS.items():
        if getattr(config, name, right) not in (right, None):
            notes.append(f"{name}: {str(not right).lower()} in its configuration is taken as {str(right).lower()}")
            setattr(config, name, right)
    is_encoder = type(config) in AutoModelForMaskedLM._model_mapping
    saved = config.architectures or ()
    is_causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in saved)
    reads_both_sides = head is AutoModelForMaskedLM or (not is_causal and "CausalLM" not in head.__name__)
    if getattr(config, "is_decoder", False) and is_encoder and reads_both_sides:
        config.is_decoder = False
        notes.append("is_decoder: true in its configuration is taken as false: its head reads both sides of a token")
    if getattr(config, "problem_type", None) is not None and not (trained and "Classification" in head.__name__):
        notes.append(f"problem_type: {config.problem_type} in its configuration is left out; the task says what is learnt")
        config.problem_type = None
    return notes


def other_names(model: PreTrainedModel, report: Mapping[str, Any], *, trained: bool) -> Renaming | None:
    """How the tensors that the model lacks are named in the checkpoint, where they are there under other names.

    ``trained``: whether a head is looked for too; one that is yet to be learnt has no other name.
    """
    prefix = model.base_model_prefix
    missing = {name for name in report["missing_keys"] if name not in getattr(model, "all_tied_weights_keys", {})}
    if not trained:
        missing = {name for name in missing - set(_optional(model, missing)) if name.startswith(f"{prefix}.")}
    return renaming(missing, report["unexpected_keys"], prefix=prefix)


def report_fault(model: PreTrainedModel, report: Mapping[str, Any], *, trained: bool) -> str | None:
    """What the loading report says against the body of a model; None where its body is the checkpoint's.

    ``report``: missing, unexpected and mismatched keys, as ``from_pretrained`` gives them. ``trained``: whether the head was
    trained with the body; a new one may stand on a part of it, such as a Funnel without its decoder.
    """
    prefix, depth = model.base_model_prefix, getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    children = [name for name, _ in model.base_model.named_children()] if model.base_model is not model else []
    missing = {name for name in report["missing_keys"] if of_body(name, prefix=prefix, children=children)}
    unexpected = unread(name for name in report["unexpected_keys"] if of_body(name, prefix=prefix, children=children))
    if not trained and children:
        unexpected = [name for name in unexpected if name.removeprefix(f"{prefix}.").split(".")[0] in children]
    missing = set(missing) - set(_optional(model, missing))
    own = {name for name in model.state_dict() if name.startswith(f"{prefix}.")}
    everything = own - set(_optional(model, own))
    if are_quantised(report["unexpected_keys"]):
        return f"is quantised (its weights hold {some(report['unexpected_keys'])}); give the checkpoint that it was made from"
    if sizes := report["mismatched_keys"]:
        name, file, ours = min(sizes)
        return (
            f"does not fit its configuration: {name} is {_shape(file)} in its weights and {_shape(ours)} by its configuration"
            + (f", and {len(sizes) - 1} more differ" if len(sizes) > 1 else "")
        )
    if missing and missing >= everything:
        first = frequent_prefix(report["unexpected_keys"])
        return (
            f"has weights of which a {model.config.model_type} reads none: their names begin with {first}., and those of the "
            f"model with {prefix}.; give it the config.json that belongs to the weights, or rename them"
        )
    for names, beyond in ((missing, False), (unexpected, True)):
        held = layers_held(names, depth, missing=not beyond)
        if held is not None:
            return (
                f"has {depth} layers by its configuration and {held} in its weights; set the number of layers in config.json "
                f"to {held}, or give the weights that belong to it"
            )
    if missing:
        return f"lacks {len(missing)} of the tensors of its body: {some(missing)}"
    if unexpected:
        return (
            f"holds {len(unexpected)} tensors that transformers' {type(model).__name__} does not read, so that another model "
            f"would run: {some(unexpected)}"
        )
    return None


def tie_biases(model: PreTrainedModel, report: Mapping[str, Any]) -> list[str]:
    """Fill biases that older checkpoints hold under one of their two names only; a note for each.

    transformers 4 kept one bias under two names even where the words' weights were not tied; 5 does not.
    """
    notes = []
    missing = report["missing_keys"]
    ties = model._tied_weights_keys
    for pair in ties.items() if isinstance(ties, Mapping) else ():
        for lacking, held in (pair, pair[::-1]):
            if lacking.endswith("bias") and lacking in missing and held not in missing:
                with torch.no_grad():
                    model.get_parameter(lacking).copy_(model.get_parameter(held))
                missing.discard(lacking)
                notes.append(f"{lacking} is taken from {held}, as in checkpoints of transformers 4")
    return notes


def note_untied(model: PreTrainedModel) -> list[str]:
    """Say so where a checkpoint's head has weights of its own although its configuration ties them to the embeddings."""
    output = model.get_output_embeddings()
    weight, words = (getattr(each, "weight", None) for each in (output, model.get_input_embeddings()))
    if weight is None or words is None or weight is words or not getattr(model.config, "tie_word_embeddings", False):
        return []
    if weight.shape != words.shape:
        return []
    model.config.tie_word_embeddings = False
    return ["its head has weights of its own, which are kept, although its configuration ties them to the embeddings"]


@torch.no_grad()
def weights_fault(model: nn.Module) -> str | None:
    """Weights that are not finite."""
    bad = [
        (name, int((~value.isfinite()).sum()))
        for name, value in model.named_parameters()
        if not value.sum().isfinite() and not value.isfinite().all()  # the sum is cheap, and finite but for an overflow
    ]
    if not bad:
        return None
    return (
        f"has weights that are not finite numbers: {sum(count for _, count in bad):,} in {some([name for name, _ in bad])}; "
        "give a checkpoint that did not diverge or overflow"
    )


def tokenizer_fault(tokenizer: PreTrainedTokenizerBase, *, words: int) -> str | None:
    """Ids that the model does not embed. ``words``: rows of its embedding."""
    largest = max(tokenizer.get_vocab().values())  # not the number of words: the ids may have holes
    if largest < words:
        return None
    return (
        f"has {len(tokenizer):,} words with ids up to {largest:,}, but the model knows only ids below {words:,}; give the "
        "tokenizer that the model was trained with"
    )


def set_token_types_right(tokenizer: PreTrainedTokenizerBase, config: Any) -> list[str]:
    """Keep a tokenizer from giving token types where the model knows one type only, which they all have then.

    Raises :class:`Unfit` where the model knows some of the types that are given, not all.
    """
    known = getattr(config, "type_vocab_size", None)
    if "token_type_ids" not in tokenizer.model_input_names or not isinstance(known, int) or known == 0:
        return []
    given = tokenizer("a", "a").get("token_type_ids") or [0]
    if max(given) < known:
        return []
    if known > 1:
        raise Unfit(
            f"gives token types up to {max(given)} to a pair of texts, but the model knows only types below {known}; give the "
            "tokenizer that the model was trained with"
        )
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return [f"its tokenizer gives {max(given) + 1} token types and the model knows one, which all tokens get"]


def padding_fault(tokenizer: PreTrainedTokenizerBase, config: Any) -> str | None:
    """Padding that the model would take for words: where it counts positions, it passes over its own padding id alone."""
    ours, its = tokenizer.pad_token_id, getattr(config.get_text_config(), "pad_token_id", None)
    if None in (ours, its) or ours == its or position_padding(config) in (None, ours):
        return None
    return (
        f"pads with {tokenizer.pad_token} (id {ours}), but the model counts positions from its pad_token_id, {its}; set it in "
        f"config.json to {ours}, or give the tokenizer that the model was trained with"
    )


def set_padding_right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Have a head that looks for the last token before the padding look for the tokenizer's padding; a note if it did not."""
    config, ours = model.config.get_text_config(), tokenizer.pad_token_id
    if ours is None or config.pad_token_id == ours:
        return []
    note = f"pad_token_id: {config.pad_token_id} in its configuration is taken as {ours}, with which its tokenizer pads"
    config.pad_token_id = model.config.pad_token_id = ours
    return [note]


def _optional(model: PreTrainedModel, names: Collection[str]) -> list[str]:
    """Names that a checkpoint may lack: those tied to others, and a pooler, which a body is given for heads that want one."""
    tied = getattr(model, "all_tied_weights_keys", {})
    return [name for name in names if name in tied or ".pooler." in f".{name}"]


def _shape(size: Collection[int]) -> str:
    return "×".join(map(str, size))
