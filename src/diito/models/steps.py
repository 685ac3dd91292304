"""Running a model in steps: embed → layers → norms → head, with the model's own code and its own modules.

1. The modules on the way from the model to its list of layers are copied shallowly, everything else is shared. In the copy a
   stub stands for each layer; it records how the layer is called and hands the hidden states on.
2. The body's own forward runs on that copy, so masks, position embeddings and all else a layer reads are the body's own.
3. A layer is run by repeating its recorded call with the hidden states that it is to read.
4. The head is the model's own forward with a stub for the body, which answers with the given hidden states.

The model itself is never changed: no hook, no patch, no attribute.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diito.models.answers import Reads, read_positions
from diito.models.kept import Attention, Kept, run_noting
from diito.refusal import Refusal

Inputs = Mapping[str, Tensor]
"""``input_ids`` Int[batch tokens]; optionally ``attention_mask`` (1 = real), ``token_type_ids``, ``position_ids`` of the same
shape, and whatever else the model's forward reads. Other entries of a batch, such as labels, are not looked at."""

_NO_INPUTS = (
    "inputs_embeds", "past_key_values", "use_cache", "cache_position", "logits_to_keep", "num_logits_to_keep",
    "return_dict", "output_attentions", "output_hidden_states", "encoder_hidden_states", "encoder_attention_mask",
)  # fmt: skip
"""What forwards name, and a run in steps has no use for or decides itself."""

Answer = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]
"""What a stub does with a call: from the module it stands for, the arguments and the keyword arguments."""

Form = tuple[Callable[[list[Any]], Any], int]
"""Of a sequence that a layer answers with: its kind, tuple or list, and its length."""


class CannotRun(Refusal):
    """A model that cannot be run layer by layer."""

    def __init__(self, model: nn.Module, reason: str, *, field: str) -> None:
        name = getattr(model, "name_or_path", "") or type(model).__name__
        super().__init__(field, f"{name!r} cannot be run layer by layer: {reason}")

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        return Refusal, (self.field, self.sentence)


@dataclass(frozen=True)
class Parts:
    """Where the parts of a model stand: names and sizes only, so that they stay true when modules are moved or replaced."""

    body: str
    """Path of the module whose answer the head reads."""
    layers: str
    """Path of the list of layers."""
    order: tuple[str, ...]
    """For each layer in turn its name in the list; a name stands more than once where layers share a module."""
    modules: int
    """Entries of the list."""
    forms: tuple[Form | None, ...]
    """For each layer the kind and length of the sequence it answers with; None where it answers with hidden states alone."""
    norms: tuple[str, ...]
    """Paths of the modules that the last layer's output passes on its way to the head, mostly a norm or none."""
    width: int
    """Size of a hidden state."""
    per_token: bool
    """Whether the head gives logits for each token, not for each sequence."""
    reads: Reads | None = None
    """Which tokens the head of a sequence reads: the first, the last that is no padding, or several; None: each on its own."""


@dataclass(frozen=True)
class Call:
    """A recorded call of a layer, without the hidden states."""

    layer: nn.Module
    arguments: tuple[Any, ...]
    """What follows the hidden states."""
    keywords: dict[str, Any]
    by_name: bool
    """Whether the hidden states go by their name."""

    def __call__(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """The layer's output when it reads ``hidden``."""
        if self.by_name:
            return first(self.layer(hidden_states=hidden, **self.keywords))
        return first(self.layer(hidden, *self.arguments, **self.keywords))


@dataclass(frozen=True)
class Run:
    """A run in progress: the embedded tokens, and for every layer the call that is to be made with its hidden states."""

    embedded: Float[Tensor, "batch tokens width"]
    calls: tuple[Call, ...]


class Steps:
    """A model with known parts as ``embed``, ``advance``, ``final`` and ``head``. Holds no weights of its own."""

    def __init__(self, model: PreTrainedModel, parts: Parts, *, field: str = "teacher.model", recompute: bool = False) -> None:
        self.model = model
        self.parts = parts
        self.field = field
        self.recompute = recompute

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.parts.order)

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.parts.width

    @property
    def per_token(self) -> bool:
        """Whether the head gives logits for each token, not for each sequence."""
        return self.parts.per_token

    @property
    def body(self) -> Any:
        """The model without its head."""
        return self.model.get_submodule(self.parts.body)

    @property
    def layers(self) -> list[nn.Module]:
        """The layers in the order in which they run; layers that share a module are that module more than once."""
        return [self.model.get_submodule(f"{self.parts.layers}.{name}") for name in self.parts.order]

    def reads(self, name: str, inputs: Inputs) -> bool:
        """Whether the model reads the input called ``name``."""
        return name in accepted(self.body, inputs, like=self.model)

    def check_inputs(self, inputs: Inputs) -> None:
        """Refuse (ValueError) an input that a run in steps would not use as the model's own forward does.

        Labels are left alone, and so are ``token_type_ids`` of 0, which tokenizers give to models without token types.
        """
        if "input_ids" not in inputs:
            raise Refusal("inputs", "need input_ids; inputs_embeds alone do not say which tokens are swapped")
        read = accepted(self.body, inputs, like=self.model)
        for name, value in inputs.items():
            if "label" in name or (name == "token_type_ids" and name not in read and not value.any()):
                continue
            if name not in read or name in _NO_INPUTS:
                raise Refusal("inputs", f"{type(self.model).__name__} does not read {name!r}; leave it out")
            if name.endswith("attention_mask") and value.shape != inputs["input_ids"].shape:
                raise Refusal("inputs", f"need {name} of the shape of input_ids, not {list(value.shape)}")

    def embed(self, inputs: Inputs) -> Run:
        """Start a run: embed ``inputs`` and record how the body calls its layers.

        Raises ValueError where not all layers run, as in training with layerdrop.
        """
        calls: list[Call] = []
        embedded: list[Tensor] = []

        def record(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            hidden = hidden_states(arguments, keywords)
            if hidden.shape[:2] != inputs["input_ids"].shape:
                raise self._cannot_run("its hidden states are not one for each token")
            if len(calls) == self.depth:
                raise self._cannot_run(f"its {self.depth} layers run more than once")
            form = self.parts.forms[len(calls)]
            others = {name: value for name, value in keywords.items() if name != "hidden_states"}
            calls.append(Call(layer, arguments[1:], others, by_name=not arguments))
            embedded.append(hidden)
            return hidden if form is None else form[0]([hidden, *[None] * (form[1] - 1)])

        run_body(self.model, self.parts.body, dict.fromkeys(self._within_body(), record), inputs)
        if len(calls) < self.depth:
            raise self._cannot_run(f"{len(calls)} of its {self.depth} layers run; set its layerdrop to 0")
        return Run(embedded[0], tuple(calls))

    def advance(
        self, run: Run, hidden: Float[Tensor, "batch tokens width"], layer: int, keep: Kept | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Output of ``layer`` when it reads ``hidden``; what the layer attends with goes to ``keep``, where that wants it.

        Where the view was made to ``recompute``, the layer keeps its input alone and is run again, with the same dropout, for
        the backward pass.
        """
        call: Callable[[Tensor], Any] = run.calls[layer]
        notes = keep is not None and layer in keep.wanted.attention
        if notes:
            call = functools.partial(noted, run.calls[layer])
        if self.recompute and torch.is_grad_enabled():
            answer = checkpoint(call, hidden, use_reentrant=False, preserve_rng_state=True)
        else:
            answer = call(hidden)
        if not notes:
            return answer
        assert keep is not None
        output, keep.attention[layer] = answer
        return output

    def states(
        self, inputs: Inputs, layers: Collection[int], keep: Kept | None = None
    ) -> tuple[Run, dict[int, Float[Tensor, "batch tokens width"]]]:
        """Run ``inputs`` up to the highest of ``layers``: the run, and the outputs of these layers (others are let go).

        Without any layer the run stops at the embedded tokens. ``keep``: takes what it wants of the layers that run.
        """
        run = self.embed(inputs)
        hidden, kept = run.embedded, {}
        for layer in range(max(layers, default=-1) + 1):
            hidden = self.advance(run, hidden, layer, keep)
            if layer in layers:
                kept[layer] = hidden
            if keep is not None:
                keep.keep(layer, hidden)
        return run, kept

    def final(self, hidden: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """N_h: the last layer's output as the head reads it, after the final norm where the model has one."""
        for name in self.parts.norms:
            hidden = first(self.model.get_submodule(name)(hidden))
        return hidden

    def head(self, final: Float[Tensor, "... width"], inputs: Inputs | None = None) -> Float[Tensor, "... outputs"]:
        """Logits of ``final``: of as many tokens as are given, in any shape, where the head reads each token on its own.

        A head that reads whole sequences (see ``per_token``) takes [batch tokens width] and their ``inputs``, and
        gives [batch outputs]. Raises ValueError where it gets no inputs.
        """
        if self.per_token:
            rows = final if final.ndim == 3 else final.reshape(1, -1, final.shape[-1])
            inputs = {"input_ids": torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)}
            return self._answer(BodyOutput((rows, None)), inputs).reshape(*final.shape[:-1], -1)
        if inputs is None:
            raise Refusal("inputs", f"the head of {type(self.model).__name__} reads whole sequences; give their inputs")
        return self._answer(BodyOutput((final, self._pooled(final))), inputs)

    def read_positions(self, inputs: Inputs) -> Bool[Tensor, "batch tokens"]:
        """The tokens whose final hidden states the head of a sequence reads (``answers.read_positions``)."""
        assert self.parts.reads is not None
        return read_positions(self.parts.reads, inputs, self.model.config.get_text_config().pad_token_id)

    def _pooled(self, final: Tensor) -> Tensor | None:
        """What the body's pooler makes of the sequences, where it has one."""
        pooler = getattr(self.body, "pooler", None)
        if isinstance(pooler, nn.Linear):  # ALBERT's, which reads the first token and is followed by an activation
            return self.body.pooler_activation(pooler(final[:, 0]))
        return None if pooler is None else pooler(final)

    def _answer(self, output: BodyOutput, inputs: Inputs) -> Tensor:
        model = graft(self.model, {self.parts.body: lambda *call: output})
        return logits_of(model(**accepted(model, inputs)))

    def _within_body(self) -> list[str]:
        """The paths of the layers' modules from the body."""
        layers = self.parts.layers.removeprefix(f"{self.parts.body}.")
        return [f"{layers}.{name}" for name in dict.fromkeys(self.parts.order)]

    def _cannot_run(self, reason: str) -> CannotRun:
        return CannotRun(self.model, reason, field=self.field)


def noted(call: Call, hidden: Tensor) -> tuple[Tensor, Attention]:
    """The answer of a layer, and what its attention compared. Raises Refusal where it does not attend once, by name."""
    output, notes = run_noting(call.layer, lambda layer: dataclasses.replace(call, layer=layer)(hidden))
    if len(notes) != 1:
        times = "attends in code of its own" if not notes else f"attends {len(notes)} times"
        raise Refusal(
            "objective.weights",
            f"{type(call.layer).__name__} {times}, so its queries, keys and values cannot be read; give the losses relations "
            "and attention a weight only where each layer attends once, through transformers' AttentionInterface",
        )
    return output, notes[0]


class BodyOutput(tuple[Any, ...]):
    """What a body gives its head: last hidden state and pooled output, by place or by name; None by any other name."""

    @property
    def last_hidden_state(self) -> Tensor:
        """[batch tokens width]."""
        return self[0]

    @property
    def pooler_output(self) -> Tensor | None:
        """[batch width], where the body has a pooler."""
        return self[1]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class Stub(nn.Module):
    """Stands for a module: ``answer`` takes its calls, and attributes are those of the module."""

    def __init__(self, module: nn.Module, answer: Answer) -> None:
        super().__init__()
        self._modules["module"] = module  # a body may look for its dtype among its parameters
        self.__dict__.update(_answer=answer, training=module.training)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_modules"]["module"], name)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """Whatever ``answer`` makes of the call."""
        return self._answer(self._modules["module"], arguments, keywords)


def graft(module: nn.Module, answers: Mapping[str, Answer]) -> nn.Module:
    """``module`` with stubs at the given paths: modules on the way are shallow copies, all others are shared."""
    children = dict(module._modules)
    deeper: dict[str, dict[str, Answer]] = defaultdict(dict)
    for path, answer in answers.items():
        name, _, rest = path.partition(".")
        child = children[name]
        assert child is not None
        if rest:
            deeper[name][rest] = answer
        else:
            children[name] = Stub(child, answer)
    for name, below in deeper.items():
        child = children[name]
        assert child is not None
        children[name] = graft(child, below)
    clone = copy.copy(module)
    # Compiled code would be that of the original.
    clone.__dict__.update(_modules=children, _compiled_call_impl=None)
    return clone


def run_body(model: nn.Module, path: str, answers: Mapping[str, Answer], inputs: Inputs) -> Any:
    """The answer of the body at ``path`` to ``inputs``, with stubs at the paths in ``answers`` (from the body)."""
    body = graft(model.get_submodule(path), answers)
    return body(**accepted(body, inputs, like=model))


def accepted(module: nn.Module, inputs: Inputs, *, like: nn.Module | None = None) -> dict[str, Any]:
    """The arguments of ``module``'s forward among ``inputs``, and no cache.

    A forward with ``**keywords`` also takes what the forward of ``like`` names, since models hand on their arguments so.
    """
    names, is_open = _parameters(type(module).forward)
    if is_open and like is not None:
        names = names | _parameters(type(like).forward)[0]
    taken: dict[str, Any] = {name: value for name, value in inputs.items() if name in names}
    if "use_cache" in names or (is_open and hasattr(getattr(module, "config", None), "use_cache")):
        taken["use_cache"] = False
    return taken


@functools.cache
def _parameters(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names of ``forward``'s parameters, without labels, and whether it takes further keyword arguments."""
    parameters = inspect.signature(forward).parameters.values()
    names = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD and "label" not in each.name}
    return frozenset(names), any(each.kind is each.VAR_KEYWORD for each in parameters)


def hidden_states(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    """What a layer is called with as its hidden states; None where there are none."""
    return arguments[0] if arguments else keywords.get("hidden_states")


def first(answer: Any) -> Any:
    """The hidden states in a module's answer: all of it, or the first of several."""
    return answer if isinstance(answer, Tensor) else answer[0]


def logits_of(output: Any) -> Any:
    """The logits in a model's answer, which is a plain tuple where the configuration says so; None where it has none."""
    return output[0] if type(output) is tuple else getattr(output, "logits", None)
