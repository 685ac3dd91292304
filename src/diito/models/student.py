"""A student made of some of its teacher's layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from diito.models.layered import Layered
from diito.recipe import RELEASED_LAYERS
from diito.refusal import Refusal


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
    the teacher's are. Raises ValueError as :func:`student_layers` does, and for an unsupported family.
    """
    original = Layered(teacher)
    chosen = student_layers(layers, original.depth)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(chosen)
    config.tie_word_embeddings = is_tied(teacher)
    if dropout is not None:
        _set_dropout(config, dropout)
    with torch.random.fork_rng():  # its random first weights are replaced below and must not move the caller's draws
        student = type(teacher)._from_config(config, dtype=dtype)
    student.load_state_dict(_chosen_state(teacher, f"{original.family.body}.{original.family.layers}.", chosen))
    return student.train(teacher.training)


def _chosen_state(teacher: PreTrainedModel, prefix: str, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
    """The teacher's weights under the names they have in the student; ``prefix`` is where the layers stand."""
    position = {str(layer): str(index) for index, layer in enumerate(chosen)}
    state = {}
    for name, value in teacher.state_dict().items():
        if not name.startswith(prefix):
            state[name] = value
            continue
        layer, rest = name.removeprefix(prefix).split(".", 1)
        if layer in position:
            state[f"{prefix}{position[layer]}.{rest}"] = value
    return state


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output layer and the word embeddings of ``model`` are one weight."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def _set_dropout(config: Any, dropout: float) -> None:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
