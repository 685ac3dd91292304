"""The configuration of a student: the teacher's, for some of its layers or with other fields, or another model's dropout."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

from diito.models.learn import describe
from diito.refusal import Refusal

_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
"""Names of the number of layers; the last two are those of decoders taken from an encoder-decoder."""
_NEVER_PER_LAYER = ("architectures", "_id", "_ids")
"""Endings of the names of lists that may be as long as the model is deep by chance."""
_SYNONYMS = {"intermediate_size": ("hidden_dim", "n_inner", "ffn_dim", "d_ff")}
"""What families call a field that has no common name in transformers."""
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
"""Fields that are counts of at least 1, by their common names."""
_FOLLOWERS = {
    "num_key_value_heads": "num_attention_heads",
    "pooler_hidden_size": "hidden_size",
    "embedding_size": "hidden_size",
}
"""Fields that go with another where they are the same in the teacher."""
_TEACHERS = (
    "vocab_size",
    "type_vocab_size",
    "model_type",
    "architectures",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "is_decoder",
    "is_encoder_decoder",
    "quantization_config",
    "dtype",
    "transformers_version",
)
"""Fields by which the student would read or answer something else than its teacher."""
FIELD = "student.config"


def shortened(config: PreTrainedConfig, depth: int, chosen: Sequence[int]) -> PreTrainedConfig:
    """A copy of ``config`` for the chosen layers: their number, and of every list with an entry a layer their entries."""
    short = copy.deepcopy(config)
    for part in with_parts(short):
        lists = {
            name: [value[layer] for layer in chosen]
            for name, value in vars(part).items()
            if isinstance(value, list | tuple) and len(value) == depth and not name.endswith(_NEVER_PER_LAYER)
        }
        # Past the configuration's own setter, which may compare lists and number before both are there.
        vars(part).update(lists)
        for name in _DEPTHS:
            target = part.attribute_map.get(name, name)
            if vars(part).get(target) == depth:
                vars(part)[target] = len(chosen)
    return short


def changed(config: PreTrainedConfig, fields: Mapping[str, Any], *, depth: int) -> PreTrainedConfig:
    """A copy of the teacher's configuration with other ``fields``, lists with an entry a layer cut along (or stretched).

    Fields go by the family's names or by the common ones of transformers. Some go with others: key-value heads that are as many
    as the heads stay so.
    Raises Refusal, naming ``student.config``, for a field that there is not or that is the teacher's to say, and for sizes that
    do not go together.
    """
    _check_names(config.get_text_config(), fields)
    layers = fields.get(field_named(config, "num_hidden_layers"), fields.get("num_hidden_layers", depth))
    _check_count("num_hidden_layers", layers)
    made = shortened(config, depth, [index * depth // layers for index in range(layers)])
    part = made.get_text_config()
    present = {name: leader for name, leader in _FOLLOWERS.items() if name in vars(part)}
    following = {name: leader for name, leader in present.items() if size(part, name) == size(part, leader)}
    for given, value in fields.items():
        name = field_named(part, given)
        _check_value(given, value, vars(part).get(name))
        vars(part)[name] = value
    vars(part).update({name: size(part, leader) for name, leader in following.items() if name not in fields})
    _check_heads(part)
    return made


def check_buildable(config: PreTrainedConfig, build: Any) -> None:
    """Refuse a configuration of which ``build`` can make no model, tried without weights."""
    try:
        validate = getattr(config.get_text_config(), "validate", None)
        if validate is not None:
            validate()
        with torch.random.fork_rng(), torch.device("meta"):
            build(config)
    except Exception as error:  # whatever a model does with sizes that it was not made for is the reason
        raise Refusal(FIELD, f"no {config.model_type} can be built with these sizes ({describe(error)})") from error


def field_named(config: PreTrainedConfig, name: str) -> str:
    """What the family calls a field."""
    part = config.get_text_config()
    name = part.attribute_map.get(name, name)
    return next((other for other in _SYNONYMS.get(name, ()) if name not in vars(part) and other in vars(part)), name)


def size(config: PreTrainedConfig, name: str) -> int | None:
    """A size by its common name; None where the configuration does not have it or leaves it open."""
    value = getattr(config.get_text_config(), field_named(config, name), None)
    return value if isinstance(value, int) else None


def head_width(config: PreTrainedConfig) -> int | None:
    """Dimensions of an attention head; None where the configuration does not tell."""
    own, width, heads = (size(config, name) for name in ("head_dim", "hidden_size", "num_attention_heads"))
    return own or (width // heads if width and heads else None)


def with_parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those nested in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from with_parts(value)


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Every rate of hidden states and attention; not those of layers as a whole or of a classifier's head."""
    for part in with_parts(config):
        for name, value in list(vars(part).items()):
            other = any(word in name for word in ("classifier", "summary", "layerdrop", "head_dropout"))
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool) and not other:
                setattr(part, name, dropout)


def dropout_fields(config: PreTrainedConfig, dropout: float) -> dict[str, float]:
    """The fields of a configuration that :func:`set_dropout` sets, those of nested ones left out."""
    changed_config = copy.deepcopy(config)
    set_dropout(changed_config, dropout)
    return {name: value for name, value in vars(changed_config).items() if "dropout" in name and value != vars(config)[name]}


def _check_names(part: PreTrainedConfig, fields: Mapping[str, Any]) -> None:
    if not fields:
        raise Refusal(FIELD, "is empty; give the fields that are others in the student, such as {num_hidden_layers: 4}")
    own = [name for name in vars(part) if not name.startswith("_")]
    for given in fields:
        name = field_named(part, given)
        if name in _TEACHERS or given.endswith("_token_id"):
            raise Refusal(FIELD, f"{given} is the teacher's to say, whose words and answers the student has; leave it out")
        if name not in own:
            near = difflib.get_close_matches(given, [*own, *part.attribute_map], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(own)}"
            raise Refusal(FIELD, f"the configuration of a {part.model_type} has no {given}; {hint}")
    names = {field_named(part, given): given for given in fields}
    twice = [given for given in fields if names[field_named(part, given)] != given]
    if twice:
        raise Refusal(FIELD, f"{twice[0]} and {names[field_named(part, twice[0])]} are the same field; give one of them")


def _check_value(given: str, value: Any, before: Any) -> None:
    if given in _SIZES or (isinstance(before, int) and not isinstance(before, bool) and isinstance(value, int)):
        _check_count(given, value)
    is_number = isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool)
    if before is not None and type(value) is not type(before) and not is_number:
        raise Refusal(FIELD, f"{given}: {value!r} is not like the teacher's, {before!r}")


def _check_count(given: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refusal(FIELD, f"{given}: {value!r} must be a whole number of at least 1")


def _check_heads(part: PreTrainedConfig) -> None:
    width, heads, groups = (size(part, name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if width and heads and size(part, "head_dim") is None and width % heads:
        raise Refusal(FIELD, f"{heads} attention heads do not divide a hidden size of {width}; give sizes that divide")
    if heads and groups and heads % groups:
        raise Refusal(FIELD, f"{groups} key-value heads do not divide {heads} attention heads; give sizes that divide")
