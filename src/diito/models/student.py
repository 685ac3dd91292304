"""A student made of its teacher: some of its layers, or its configuration with other sizes, filled with what of it is kept."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from diito.models.cut import Cut, cut_state, keep
from diito.models.layered import Layered
from diito.models.learn import describe, learn, probe, same
from diito.models.modes import eval_mode
from diito.models.steps import Inputs, accepted, logits_of
from diito.models.student_config import FIELD, changed, check_buildable, set_dropout, shortened
from diito.recipe import LAYERS, RELEASED_LAYERS, StudentSection
from diito.recipe.checks import student_form
from diito.refusal import Refusal, refuse

Initial = Literal["teacher", "cut", "random"]


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
    layers: int | Sequence[int] | str | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    initial: Initial | None = None,
    calibration: Sequence[Inputs] | None = None,
    seed: int = 42,
    dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A model of the teacher's class, sharing no storage with it: with some of its layers, or with other sizes.

    ``layers``: see :func:`student_layers`; 6 where neither they nor ``config`` are given. ``config``: instead of layers, fields
    of the teacher's configuration that are others in the student (``student_config.changed``).
    ``initial``: the first weights. "teacher" (default of layers) copies the layers, the embeddings and the head; "random"
    (default of config) draws all of them by ``seed``; "cut" keeps the parts of the teacher that are most active on
    ``calibration``, batches of what the teacher reads (``cut.keep``).
    ``dropout``: of hidden states and attention; None keeps the teacher's. ``dtype``: of the student's weights, fp32 by default
    whatever the teacher is held in, since they are trained. Weights are tied where the teacher's are. The student is in train
    mode whatever the teacher's, so that a loop of one's own trains with dropout; call ``eval()`` to measure it.

    Raises ValueError as :func:`student_layers` and ``student_config.changed`` do, for a teacher that cannot be run layer by
    layer, where a model of the chosen layers would not compute what these layers compute in the teacher, and where it is not
    known how a model is to be cut.
    """
    if initial is not None and initial not in get_args(Initial):
        raise Refusal("student.initial", f"{initial!r} is not one of {', '.join(get_args(Initial))}")
    given = None if config is None else dict(config)
    section = StudentSection(layers=layers, config=given, initial=initial, dropout=dropout)  # type: ignore[arg-type]
    return make_student(teacher, section, calibration=calibration, seed=seed, dtype=dtype)[0]


def make_student(
    teacher: PreTrainedModel,
    section: StudentSection,
    *,
    calibration: Sequence[Inputs] | None = None,
    seed: int = 42,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, Cut | None]:
    """:func:`build_student` of what a recipe says, and of a student that is cut what was kept."""
    refuse(student_form(section))
    original, config = Layered(teacher), section.config
    initial = section.initial or ("teacher" if config is None else "random")
    if initial == "cut" and not calibration:
        raise Refusal("student.initial", "cut needs calibration: batches of what the teacher reads")
    if config is None:
        chosen = student_layers(LAYERS if section.layers is None else section.layers, original.depth)
        changed_config = shortened(teacher.config, original.depth, chosen)
    else:
        changed_config = changed(teacher.config, config, depth=original.depth)
        check_buildable(changed_config, type(teacher)._from_config)
    if teacher.get_output_embeddings() is not None and "tie_word_embeddings" not in (config or {}):
        changed_config.tie_word_embeddings = is_tied(teacher)
    if section.dropout is not None:
        set_dropout(changed_config, section.dropout)
    if initial == "teacher":
        return _copied(original, changed_config, chosen, dtype).train(), None
    student, kept = _drawn(type(teacher), changed_config, seed, dtype), None
    if calibration is not None and initial == "cut":
        kept = keep(original, changed_config, calibration)
        student.load_state_dict(cut_state(original, student, kept))
    learn(student, field=FIELD)
    return student.train(), kept


def _drawn(kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int, dtype: torch.dtype) -> PreTrainedModel:
    """A model with weights that are a function of ``seed``; the caller's random state stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind._from_config(config, dtype=dtype)


def _copied(original: Layered, config: PreTrainedConfig, chosen: Sequence[int], dtype: torch.dtype) -> PreTrainedModel:
    """The chosen layers, the embeddings and the head, copied, and seen to compute what they do in the teacher."""
    teacher = original.model
    try:
        student = _drawn(type(teacher), config, 0, dtype)
        student.load_state_dict(_chosen_state(original, chosen))
        alike = _computes_alike(student, original, chosen)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise Refusal("student.layers", f"{_by_place(teacher, chosen)} ({describe(error)})") from error
    if not alike:
        raise Refusal("student.layers", _by_place(teacher, chosen))
    return student


def _by_place(teacher: PreTrainedModel, chosen: Sequence[int]) -> str:
    name = teacher.name_or_path or type(teacher).__name__
    return f"the layers of {name!r} compute by their place; a student of {list(chosen)} would not compute what they do"


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
    with eval_mode(teacher):
        inputs = probe(teacher)
        run = original.embed(inputs)
        hidden = run.embedded
        for layer in chosen:
            hidden = original.advance(run, hidden, layer)
        expected = original.head(original.final(hidden), inputs)
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
