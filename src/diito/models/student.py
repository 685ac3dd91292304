"""A student made of some of its teacher's layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from diito.models.layered import Layered
from diito.models.learn import describe, probe, same
from diito.models.steps import accepted, logits_of
from diito.recipe import RELEASED_LAYERS
from diito.refusal import Refusal

_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_decoder_layers")
"""Names of the number of layers; the last two are those of decoders taken from an encoder-decoder."""
_NEVER_PER_LAYER = ("architectures", "_id", "_ids")
"""Endings of the names of lists that may be as long as the model is deep by chance."""


def student_layers(layers: int | Sequence[int] | str, teacher_layers: int) -> list[int]:
    """The teacher layers a student is made of: ``floor(i * L_T / n)`` for a number n, a list as given, or a released one.

    Raises ValueError naming ``student.layers`` where the list is empty, not increasing, or leaves the teacher.
    """
    if isinstance(layers, str):
        if layers not in RELEASED_LAYERS:
            raise Refusal("student.layers", f"{layers!r} is not one of {', '.join(RELEASED_LAYERS)}")
        chosen = RELEASED_LAYERS[layers]
    elif isinstance(layers, int):
        if not 1 <= layers <= teacher_layers:
            raise Refusal("student.layers", f"{layers} layers of a teacher of {teacher_layers}; give 1 to {teacher_layers}")
        chosen = [index * teacher_layers // layers for index in range(layers)]
    else:
        chosen = list(layers)
    if not chosen or chosen != sorted(set(chosen)):
        raise Refusal("student.layers", f"{chosen} must be a list of increasing teacher layers")
    if chosen[0] < 0 or chosen[-1] >= teacher_layers:
        raise Refusal("student.layers", f"{chosen} are not all among the teacher's layers 0 to {teacher_layers - 1}")
    return chosen


def build_student(
    teacher: PreTrainedModel,
    layers: int | Sequence[int] | str = 6,
    *,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A model of the teacher's class with the given layers, its embeddings and head, sharing no storage with it.

    ``layers``: see :func:`student_layers`. ``dropout``: of hidden states and attention; None keeps the teacher's. ``dtype``:
    of the student's weights, fp32 by default whatever the teacher is held in, since they are trained. Weights are tied where
    the teacher's are. The student is in train mode whatever the teacher's, so that a loop of one's own trains with dropout;
    call ``eval()`` to measure it.

    Raises ValueError as :func:`student_layers` does, for a teacher that cannot be run layer by layer, and where a model of the
    chosen layers would not compute what these layers compute in the teacher.
    """
    original = Layered(teacher)
    chosen = student_layers(layers, original.depth)
    config = _shortened(teacher.config, original.depth, chosen)
    if teacher.get_output_embeddings() is not None:
        config.tie_word_embeddings = is_tied(teacher)
    if dropout is not None:
        _set_dropout(config, dropout)
    try:
        with torch.random.fork_rng():  # its random first weights are replaced below and must not move the caller's draws
            student = type(teacher)._from_config(config, dtype=dtype)
        student.load_state_dict(_chosen_state(original, chosen))
        alike = _computes_alike(student, original, chosen)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Refusal("student.layers", f"{_by_place(teacher, chosen)} ({describe(error)})") from error
    if not alike:
        raise Refusal("student.layers", _by_place(teacher, chosen))
    return student.train()


def _by_place(teacher: PreTrainedModel, chosen: Sequence[int]) -> str:
    name = teacher.name_or_path or type(teacher).__name__
    return f"the layers of {name!r} compute by their place; a student of {list(chosen)} would not compute what they do"


def _shortened(config: PreTrainedConfig, depth: int, chosen: Sequence[int]) -> PreTrainedConfig:
    """A copy of ``config`` for the chosen layers: their number, and of every list with an entry a layer their entries."""
    shortened = copy.deepcopy(config)
    for part in _with_parts(shortened):
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
    return shortened


def _with_parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those nested in it."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _with_parts(value)


def _chosen_state(original: Layered, chosen: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's weights under the names they have in the student; where layers share a module, all of them."""
    prefix = f"{original.parts.layers}."
    shared = len(set(original.parts.order)) < original.depth
    position = {original.parts.order[layer]: str(index) for index, layer in enumerate(chosen)}
    state = {}
    for name, value in original.model.state_dict().items():
        if shared or not name.startswith(prefix):
            state[name] = value
            continue
        layer, rest = name.removeprefix(prefix).split(".", 1)
        if layer in position:
            state[f"{prefix}{position[layer]}.{rest}"] = value
    return state


@torch.no_grad()
def _computes_alike(student: PreTrainedModel, original: Layered, chosen: Sequence[int]) -> bool:
    """Whether the student answers as the teacher's chosen layers run in turn: bit for bit where precision and device agree."""
    teacher = original.model
    modes = [(module, module.training) for module in teacher.modules()]
    teacher.eval()
    try:
        inputs = probe(teacher)
        run = original.embed(inputs)
        hidden = run.embedded
        for layer in chosen:
            hidden = original.advance(run, hidden, layer)
        expected = original.head(original.final(hidden), inputs)
    finally:
        for module, mode in modes:
            module.training = mode
    exact = (student.dtype, student.device) == (teacher.dtype, teacher.device)
    alike = student if exact else _held_like(student, teacher)
    logits = logits_of(alike.eval()(**accepted(alike, inputs)))
    return same(logits, expected) if exact else torch.allclose(logits, expected, atol=0.05 * float(expected.abs().max()))


def _held_like(student: PreTrainedModel, teacher: PreTrainedModel) -> PreTrainedModel:
    """A copy of the student where the teacher is, each tensor in its precision there: rotary tables may be fp32."""
    dtypes = {name: each.dtype for name, each in (*teacher.named_parameters(), *teacher.named_buffers())}
    alike = copy.deepcopy(student).to(teacher.device)  # type: ignore[arg-type]
    for name, each in (*alike.named_parameters(), *alike.named_buffers()):
        if each.is_floating_point():
            each.data = each.data.to(dtypes.get(name, teacher.dtype))
    return alike


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output layer and the word embeddings of ``model`` are one weight."""
    output = model.get_output_embeddings()
    weight = getattr(output, "weight", None)
    return weight is not None and weight is model.get_input_embeddings().weight


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Every rate of hidden states and attention; not those of layers as a whole or of a classifier's head."""
    for part in _with_parts(config):
        for name, value in list(vars(part).items()):
            other = any(word in name for word in ("classifier", "summary", "layerdrop", "head_dropout"))
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool) and not other:
                setattr(part, name, dropout)
