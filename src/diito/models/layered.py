"""One view of any supported model as embed → layers → head, from which a run can be resumed at every layer.

``Layered(model)`` runs the model's own modules one after another, so it gives the bits of the model's forward. A model
family is a row of :data:`FAMILIES`; to support another one, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

Inputs = Mapping[str, Tensor]
"""``input_ids`` Int[batch tokens]; optionally ``attention_mask`` (1 = real) and ``token_type_ids`` of the same shape."""


@dataclass(frozen=True)
class Family:
    """Where the parts of one architecture stand. ``body`` and ``layers`` are dotted attribute paths."""

    body: str
    """The model without its head, from the model."""
    layers: str
    """The list of layers, from the body."""
    embed: Callable[[Any, Inputs], Tensor]
    """From the body and the inputs: the embedded tokens."""
    layer_arguments: Callable[[nn.Module, Tensor, Inputs], Callable[[int], dict[str, Any]]]
    """From the body, the embedded tokens and the inputs: the keyword arguments of each layer."""
    head: Callable[[Any, Tensor], Tensor]
    """From the model and hidden states: the logits."""
    norm: Callable[[nn.Module], nn.Module] | None = None
    """The norm that stands between the last layer and the head, from the body, where the family has one."""
    longest: Callable[[Any], int] = lambda config: config.max_position_embeddings
    """From the configuration: how many tokens a sequence may have."""


def _embed_with_token_types(body: Any, inputs: Inputs) -> Tensor:
    return body.embeddings(inputs["input_ids"], token_type_ids=inputs.get("token_type_ids"))


def _bidirectional(body: Any, hidden: Tensor, inputs: Inputs) -> Callable[[int], dict[str, Any]]:
    """The same attention mask for every layer, None where the inputs have none."""
    mask = create_bidirectional_mask(config=body.config, inputs_embeds=hidden, attention_mask=inputs.get("attention_mask"))
    return lambda layer: {"attention_mask": mask}


def _distilbert_head(model: Any, hidden: Tensor) -> Tensor:
    return model.vocab_projector(model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


FAMILIES: dict[str, Family] = {
    "bert": Family(
        body="bert",
        layers="encoder.layer",
        embed=_embed_with_token_types,
        layer_arguments=_bidirectional,
        head=lambda model, hidden: model.cls(hidden),
    ),
    "roberta": Family(
        body="roberta",
        layers="encoder.layer",
        embed=_embed_with_token_types,
        layer_arguments=_bidirectional,
        head=lambda model, hidden: model.lm_head(hidden),
        # Its positions are counted from the padding id on.
        longest=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
    ),
    "distilbert": Family(
        body="distilbert",
        layers="transformer.layer",
        embed=lambda body, inputs: body.embeddings(inputs["input_ids"]),
        layer_arguments=_bidirectional,
        head=_distilbert_head,
    ),
}
"""The supported families by the ``model_type`` of their configuration."""


@dataclass
class Run:
    """A run in progress: the embedded tokens and what every layer of it needs besides the hidden states."""

    embedded: Float[Tensor, "batch tokens width"]
    arguments: Callable[[int], dict[str, Any]]


class Layered:
    """A masked language model as ``embed``, ``advance`` and ``head``. Holds no weights of its own.

    Raises ValueError for a model family without a row in :data:`FAMILIES`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.family = family_of(model.config.model_type)
        self.body: Any = _submodule(model, self.family.body)
        self.layers: nn.ModuleList = _submodule(self.body, self.family.layers)  # type: ignore[assignment]
        self.norm = self.family.norm(self.body) if self.family.norm else None

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.model.config.hidden_size)

    def embed(self, inputs: Inputs) -> Run:
        """Start a run: embed ``inputs`` and prepare the attention mask."""
        embedded = self.family.embed(self.body, inputs)
        return Run(embedded, self.family.layer_arguments(self.body, embedded, inputs))

    def advance(self, run: Run, hidden: Float[Tensor, "batch tokens width"], layer: int) -> Float[Tensor, "batch tokens width"]:
        """Output of ``layer`` when it reads ``hidden``."""
        return self.layers[layer](hidden, **run.arguments(layer))

    def states(self, inputs: Inputs, layers: Collection[int]) -> tuple[Run, dict[int, Float[Tensor, "batch tokens width"]]]:
        """Run ``inputs`` up to the highest of ``layers``: the run, and the outputs of these layers (others are let go).

        Without any layer the run stops at the embedded tokens.
        """
        run = self.embed(inputs)
        hidden, kept = run.embedded, {}
        for layer in range(max(layers, default=-1) + 1):
            hidden = self.advance(run, hidden, layer)
            if layer in layers:
                kept[layer] = hidden
        return run, kept

    def final(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """N_h: the last layer's output, after the family's final norm where it has one."""
        return hidden if self.norm is None else self.norm(hidden)

    def head(self, final: Float[Tensor, "... width"]) -> Float[Tensor, "... words"]:
        """Logits of ``final``, for as many tokens as are given."""
        return self.family.head(self.model, final)


def family_of(model_type: str, *, field: str = "teacher.model") -> Family:
    """The row of a model family. Raises ValueError naming ``field`` where there is none."""
    if model_type not in FAMILIES:
        raise ValueError(
            f"{field}: the family {model_type!r} is not supported; the supported ones are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"teacher.model: {type(module).__name__} has no part {path!r}; give a model with a masked-language-model head"
        ) from error
