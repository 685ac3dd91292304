"""Parts of a student that are not trained, by names that do not depend on its family."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from diito.models.layered import Layered
from diito.refusal import Refusal

FIELD = "student.freeze"


def freeze(model: PreTrainedModel, names: Sequence[str], *, field: str = FIELD) -> None:
    """Take the named parts out of training: their weights get no gradient and stay as they are.

    ``embeddings``: what of the body stands before its layers, the words' weights among it, also where the head shares them;
    ``layers``, ``layers.0``: all layers, one of them; ``norm``: the norms behind the last one; ``head``: what reads the body,
    a pooler among it; or the path of any module or weight.
    Raises Refusal, naming the field, for a name that there is not, and where nothing is left to be trained.
    """
    parts = parts_of(model)
    paths = {path: [parameter] for path, parameter in model.named_parameters()}
    paths |= {path: list(module.parameters()) for path, module in model.named_modules() if path}
    for index, name in enumerate(names):
        chosen = parts.get(name, paths.get(name))
        if chosen is None:
            near = difflib.get_close_matches(name, [*parts, *paths], n=1, cutoff=0.75)
            depth = Layered(model).depth
            there = f"the parts are {', '.join(part for part in parts if '.' not in part)} and layers.0 to layers.{depth - 1}"
            hint = f"did you mean {near[0]}?" if near else f"{there}, or the path of a module"
            raise Refusal(f"{field}[{index}]", f"the student has no {name!r}; {hint}")
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise Refusal(
            field, f"{', '.join(names)} is all of the student, so nothing is left to be trained; leave some of it out"
        )


def parts_of(model: PreTrainedModel) -> dict[str, list[nn.Parameter]]:
    """The weights of each part, by its name; each weight stands in one of ``embeddings``, ``layers``, ``norm`` and ``head``."""
    layered = Layered(model)
    body, within = f"{layered.parts.body}.", f"{layered.parts.layers}."
    norms = tuple(f"{name}." for name in layered.parts.norms)
    parts: dict[str, list[nn.Parameter]] = {"embeddings": [], "layers": [], "norm": [], "head": []}
    for name, parameter in model.named_parameters():
        if name.startswith(within):
            parts["layers"].append(parameter)
        elif name.startswith(norms):
            parts["norm"].append(parameter)
        elif name.startswith(body) and "pooler" not in name.removeprefix(body).split("."):
            parts["embeddings"].append(parameter)
        else:
            parts["head"].append(parameter)
    parts = {name: parameters for name, parameters in parts.items() if parameters}
    return parts | {f"layers.{index}": list(layer.parameters()) for index, layer in enumerate(layered.layers)}
