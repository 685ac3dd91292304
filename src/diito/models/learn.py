"""Learning how a model can be run layer by layer: a watched run finds its parts, and a comparison shows that they are right.

1. A short text runs through the model. The largest outermost list of modules that runs holds the layers; the outermost module
   around it that the model calls is the body, whose answer the head reads.
2. The body runs once more, watched: which layer is called in turn, what each of them gives, and what stands after the last.
3. The run in steps is held against the model's own forward: bit for bit, in eval and train mode, with and without padding.

A model that does not fit is refused in one sentence. Learning takes some ten short runs and is done once for each model; it
leaves train flags, buffers and the random state as they were.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, PreTrainedModel

from diito.faults import is_full
from diito.models.answers import Reads, read_positions
from diito.models.modes import modes_kept
from diito.models.steps import (
    Answer,
    CannotRun,
    Form,
    Inputs,
    Parts,
    Steps,
    accepted,
    first,
    graft,
    hidden_states,
    logits_of,
    run_body,
)

_KNOWN: WeakKeyDictionary[nn.Module, Parts] = WeakKeyDictionary()
_LENGTHS = (11, 7, 5, 3, 2)
"""Tokens of the text. A prime, since a model that pads to blocks runs unpadded where the block's size divides the length."""


def learn(model: PreTrainedModel, *, field: str = "teacher.model") -> Parts:
    """The parts of ``model``, from the first call on kept for as long as the model lives.

    Raises ValueError, one sentence that begins with ``field``, where it cannot be run layer by layer.
    """
    known = _KNOWN.get(model)
    if known is not None and _length(model, known.layers) == known.modules:
        return known
    try:
        with torch.no_grad(), put_back(model):
            parts = _Learning(model, field).parts()
    except (CannotRun, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model does with a run that it was not made for is the reason
        if is_full(error):  # which is not the model's fault
            raise
        raise CannotRun(model, describe(error), field=field) from error
    _KNOWN[model] = parts
    return parts


def probe(model: PreTrainedModel, *, padded: bool = False) -> dict[str, Tensor]:
    """Two rows of a short text that any model reads: ordinary words, with ``padded`` two words fewer in the second row."""
    longest = longest_sequence(model)
    length = next((each for each in _LENGTHS if longest is None or each <= longest), 1)
    inputs = {"input_ids": ordinary_words(model, 2 * length).view(2, length)}
    if padded:
        real = max(1, length - 2)
        mask = torch.ones_like(inputs["input_ids"])
        mask[1, real:] = 0
        padding = getattr(model.config.get_text_config(), "pad_token_id", None)
        padding = padding if isinstance(padding, int) else 0
        inputs = {"input_ids": inputs["input_ids"].masked_fill(mask == 0, padding), "attention_mask": mask}
    return inputs


def ordinary_words(model: PreTrainedModel, count: int) -> Tensor:
    """Int[count]: ids of words that are not special to the model, on its device."""
    config = model.config.get_text_config()
    table = getattr(model.get_input_embeddings(), "weight", None)
    words = config.vocab_size if table is None else len(table)
    special = {value for name, value in vars(config).items() if name.endswith(("_id", "_index")) and isinstance(value, int)}
    ordinary = [word for word in range(min(words, 1000)) if word not in special] or [0]
    return torch.tensor([ordinary[place * 7 % len(ordinary)] for place in range(count)], device=model.device)


def reaches_every_parameter(model: PreTrainedModel) -> bool:
    """Whether the logits of a short text give every trainable parameter a gradient; leaves the model as it was."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad(), put_back(model):
        logits = logits_of(model(**accepted(model, probe(model))))
        gradients = torch.autograd.grad(logits.float().sum(), trainable, allow_unused=True)
    return all(gradient is not None for gradient in gradients)


@contextmanager
def same_draws(model: nn.Module) -> Iterator[None]:
    """Draws inside begin at the present random state, which is put back afterwards, on the host and on the model's device."""
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type not in ("cpu", "meta")}
    kind = next((device.type for device in devices), "cuda")
    with torch.random.fork_rng([device.index for device in devices], device_type=kind):
        yield


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are the same bits, where NaN is NaN."""
    if ours is theirs:
        return True
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def longest_sequence(model: Any) -> int | None:
    """Tokens for which a model has positions; None where it has no limit.

    ``model``: a model, or its configuration, from which a model without weights is then built.
    """
    if not isinstance(model, nn.Module):
        with torch.random.fork_rng(), torch.device("meta"):
            model = AutoModel.from_config(model)
    limits = [getattr(model.config.get_text_config(), "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if "position" in name.rsplit(".", 1)[-1] and hasattr(module, "padding_idx") and hasattr(module, "weight"):
            # Where a table has a row for padding, positions are counted from the row after it.
            limits.append(len(module.weight) - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def describe(error: Exception) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


class _Learning:
    """What is known of a model while its parts are learnt."""

    def __init__(self, model: PreTrainedModel, field: str) -> None:
        self.model = model
        self.field = field

    def parts(self) -> Parts:
        """The parts, compared with the model's own forward."""
        names = {name.rsplit(".", 1)[-1] for name, _ in self.model.named_modules()}
        if getattr(self.model.config, "is_encoder_decoder", False) and "decoder" in names:
            raise self.cannot_run("it is an encoder and a decoder; give an encoder or a decoder")
        if getattr(self.model.config, "attention_type", None) == "block_sparse" and any(
            hasattr(module, "set_attention_type") for module in self.model.modules()
        ):
            # BigBird's own forward does so at a text as short as the one below; the student would then differ by its texts.
            raise self.cannot_run(
                "its block-sparse attention becomes full attention for good at the first short text; set attention_type to "
                "original_full in its configuration"
            )
        inputs = probe(self.model)
        self.model.eval()
        try:
            logits = logits_of(self.model(**accepted(self.model, inputs)))
        except ValueError as error:
            if getattr(self.model.config.get_text_config(), "pad_token_id", None) is None and "pad" in str(error):
                raise self.cannot_run("set pad_token_id in its configuration") from error
            raise
        if logits is None:
            raise self.cannot_run("it has no list of layers below a head")
        for layers in self._lists():
            body = self._body(layers, inputs)
            parts = None if body is None else self._watch(body, layers, inputs, per_token=logits.ndim == 3)
            if parts is not None:
                self._compare(Steps(self.model, parts, field=self.field))
                return parts if parts.per_token else dataclasses.replace(parts, reads=self._reads(parts))
        raise self.cannot_run("it has no list of layers below a head")

    def _lists(self) -> list[str]:
        """The outermost lists of modules below some body, the one with most parameters first."""
        lists = {
            name: module for name, module in self.model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
        }
        outer = [name for name in lists if "." in name and not any(name.startswith(f"{other}.") for other in lists)]
        return sorted(outer, key=lambda name: -sum(parameter.numel() for parameter in lists[name].parameters()))

    def _body(self, layers: str, inputs: Inputs) -> str | None:
        """The outermost module around ``layers`` that the model's own forward calls."""
        called: list[str] = []

        def follow(name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            called.append(name)
            return module(*arguments, **keywords)

        for body in _around(layers):
            if not _has_forward(self.model.get_submodule(body)):
                continue
            graft(self.model, {body: functools.partial(follow, body)})(**accepted(self.model, inputs))
            if called:
                return body
        return None

    def _watch(self, body: str, layers: str, inputs: Inputs, *, per_token: bool) -> Parts | None:
        """The parts as a run of the body shows them; None where no layer of this list runs."""
        states: list[Tensor] = []
        order: list[str] = []
        forms: list[Form | None] = []
        after: list[tuple[str, Any, Any]] = []

        def layer(name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            unlike = self.cannot_run(
                f"its {type(module).__name__} does not turn hidden states [batch, tokens, width] into the next ones"
            )
            hidden = hidden_states(arguments, keywords)
            if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[:2] != inputs["input_ids"].shape:
                raise unlike
            if any(isinstance(value, Cache) for value in (*arguments, *keywords.values())):
                raise self.cannot_run("its layers are given a cache")
            if states and not same(hidden, states[-1]):
                raise self.cannot_run("it changes its hidden states between two layers")
            answer = module(*arguments, **keywords)
            plain = isinstance(answer, Tensor)
            if not plain and type(answer) not in (tuple, list):
                raise unlike
            following = first(answer)
            if not isinstance(following, Tensor) or following.shape != hidden.shape:
                raise unlike
            states.append(following)
            order.append(name)
            forms.append(None if plain else (type(answer), len(answer)))
            after.clear()
            return answer

        def follow(name: str, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            answer = module(*arguments, **keywords)
            after.append((name, hidden_states(arguments, keywords), answer))
            return answer

        around = [each for each in _around(layers) if each == body or each.startswith(f"{body}.")]
        within = len(body) + 1
        answers: dict[str, Answer] = {}
        for place in around:
            for name, module in self.model.get_submodule(place).named_children():
                path = f"{place}.{name}"
                if path not in around and _has_forward(module):
                    answers[path[within:]] = functools.partial(follow, path)
        modules = self.model.get_submodule(layers)
        for name, _ in modules.named_children():
            answers[f"{layers}.{name}"[within:]] = functools.partial(layer, name)
        last = first(run_body(self.model, body, answers, inputs))
        if not states:
            return None
        return Parts(
            body=body,
            layers=layers,
            order=tuple(order),
            modules=_length(self.model, layers),
            forms=tuple(forms),
            norms=self._norms(states[-1], after, last),
            width=states[-1].shape[-1],
            per_token=per_token,
        )

    def _norms(self, hidden: Tensor, after: list[tuple[str, Any, Any]], last: Tensor) -> tuple[str, ...]:
        """The modules through which the last layer's output becomes the body's, as far as they reach.

        A dropout behind the norm gives what it gets in eval mode, and belongs to them too.
        """
        way: list[str] = []
        norms: tuple[str, ...] | None = () if same(hidden, last) else None
        for name, argument, answer in after:
            if isinstance(argument, Tensor) and same(argument, hidden):
                way.append(name)
                hidden = first(answer)
                if same(hidden, last):
                    norms = tuple(way)
        if norms is None:
            raise self.cannot_run("something other than norms stands between its last layer and its head")
        return norms

    def _compare(self, steps: Steps) -> None:
        """Refuse a model whose run in steps is not its own forward."""
        for training in (False, True):
            self.model.train(training)
            for padded in (False, True):
                case = f"in {'train' if training else 'eval'} mode, {'padded' if padded else 'unpadded'}"
                inputs = probe(self.model, padded=padded)
                with same_draws(self.model):
                    own = logits_of(self.model(**accepted(self.model, inputs)))
                with same_draws(self.model):
                    run, states = steps.states(inputs, range(steps.depth))
                    final = steps.final(states[steps.depth - 1])
                    ours = steps.head(final, inputs)
                self._equal(ours, own, case)
                if not training:
                    for layer in reversed(range(steps.depth)):
                        hidden = run.embedded if layer == 0 else states[layer - 1]
                        self._equal(steps.advance(run, hidden, layer), states[layer], f"{case}, layer {layer} once more")
                    if steps.per_token:
                        chosen = steps.head(final[:, ::2].flatten(0, 1)).float()
                        expected = own[:, ::2].flatten(0, 1).float()
                        if not torch.allclose(chosen, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())):
                            raise self.cannot_run("its head does not read each token on its own")

    def _reads(self, parts: Parts) -> Reads:
        """Which tokens of a sequence move its logits."""
        self.model.eval()
        inputs = probe(self.model, padded=True)
        steps = Steps(self.model, parts, field=self.field)
        _, states = steps.states(inputs, [steps.depth - 1])
        with torch.enable_grad():
            final = steps.final(states[steps.depth - 1]).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(steps.head(final, inputs).float().square().sum(), final)
        moves = (gradient != 0).any(-1)
        padding = self.model.config.get_text_config().pad_token_id
        choices: tuple[Reads, ...] = ("first", "last")
        return next((reads for reads in choices if bool((moves == read_positions(reads, inputs, padding)).all())), "all")

    def _equal(self, ours: Tensor, own: Tensor, case: str) -> None:
        if same(ours, own):
            return
        apart = f"off by {float((ours - own).abs().max()):.2g}" if ours.shape == own.shape else f"{list(ours.shape)}"
        raise self.cannot_run(f"a run in steps does not give what its own forward gives ({case}: {apart})")

    def cannot_run(self, reason: str) -> CannotRun:
        """The refusal for ``reason``."""
        return CannotRun(self.model, reason, field=self.field)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """Train flags, buffers and the random state are afterwards what they were."""
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    with modes_kept(model), same_draws(model):
        try:
            yield
        finally:
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer


def _around(layers: str) -> list[str]:
    """The paths of the modules around a list, from the outermost inwards."""
    names = layers.split(".")[:-1]
    return [".".join(names[: count + 1]) for count in range(len(names))]


def _has_forward(module: nn.Module) -> bool:
    """Whether a module can be called; a list or dictionary of modules cannot."""
    return type(module).forward is not nn.Module.forward


def _length(model: nn.Module, layers: str) -> int:
    """Entries of the list at a path, 0 where there is none."""
    found: Any = model
    for name in layers.split("."):
        found = getattr(found, name, None)
    return len(found) if isinstance(found, nn.ModuleList) else 0
