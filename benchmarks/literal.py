"""Algorithm 1 taken literally, as the released code schedules it: the slow side of the speed benchmark.

One micro-batch makes six full forward passes, each with full-vocabulary logits at every position:

1. teacher, base                              4. student, source (with gradients)
2. teacher, source                            5. student, base
3. teacher, base with the source's values     6. student, base with the source's values

then the losses over every real token and their weighted sum. Nothing is slowed down on purpose: the teacher runs
without gradients, hooks record only what is read again, and a loss of weight 0 is not worked out. The models run in
the precision they are in; the benchmark gives them fp32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_LISTS = ("encoder.layer", "transformer.layer", "layers", "h")
"""Where the base model of a Hugging Face family keeps its transformer layers."""

Hook = Callable[[nn.Module, tuple, Any], Tensor | None]


def layer_modules(model: nn.Module) -> nn.ModuleList:
    """The transformer layers, lowest first; ValueError for a model that keeps them nowhere known."""
    named = dict(model.base_model.named_modules())
    for path in LAYER_LISTS:
        if path in named:
            return named[path]
    raise ValueError(f"no transformer layers found in {type(model).__name__}: looked for {', '.join(LAYER_LISTS)}")


@contextmanager
def forward_hooks(hooks: list[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """The hooks are on their modules inside the `with`, called in the order given."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(
    model: nn.Module,
    inputs: dict[str, Tensor],
    layers: list[int],
    values: list[Tensor] | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """A full forward call: logits [B, T, V], last hidden state [B, T, D], outputs of `layers` [B, T, D] each.

    With `values`, one [B, T, D] for each of `layers`, those outputs are overwritten at `positions` Bool[B, T].
    """
    modules = layer_modules(model)
    recorded: dict[int, Tensor] = {}
    last_hidden: list[Tensor] = []
    hooks: list[tuple[nn.Module, Hook]] = []

    def swap(value: Tensor) -> Hook:
        return lambda module, arguments, output: torch.where(positions.unsqueeze(-1), value, output)

    def record(layer: int) -> Hook:
        return lambda module, arguments, output: recorded.__setitem__(layer, output)

    if values is not None:
        hooks += [(modules[layer], swap(value)) for layer, value in zip(layers, values, strict=True)]
    hooks += [(modules[layer], record(layer)) for layer in layers]
    hooks += [(model.base_model, lambda module, arguments, output: last_hidden.append(output.last_hidden_state))]
    names = ("input_ids", "attention_mask", "token_type_ids")
    with forward_hooks(hooks):
        logits = model(**{name: inputs[name] for name in names if inputs.get(name) is not None}).logits
    return logits, last_hidden[0], [recorded[layer] for layer in layers]


class LiteralStep:
    """One micro-batch of Algorithm 1 (lines 9 to 18), without the backward pass.

    `weights` are those of task, ce, cos, causal_ce, causal_cos and mse, 0 where absent. Puts the teacher into eval
    mode and the student into train mode (lines 1 and 2).
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, *, temperature: float = 2.0, weights: dict[str, float]) -> None:
        self.student = student.train()
        self.teacher = teacher.eval()
        self.temperature = temperature
        self.weights = weights

    def __call__(
        self,
        batch: dict[str, Tensor],
        source_batch: dict[str, Tensor],
        student_layers: list[int],
        teacher_layers: list[int],
        positions: Tensor,
    ) -> Tensor:
        """The weighted loss, a scalar with a gradient.

        Both batches are [B, T] of one shape; `batch` has labels, -100 where there is nothing to predict; `positions`
        Bool[B, T] are swapped. As in the released code every real token counts in every loss but `mlm`, rows
        without a swap included.
        """
        with torch.no_grad():
            teacher_logits, teacher_hidden, _ = run(self.teacher, batch, [])
            _, _, values = run(self.teacher, source_batch, teacher_layers)
            teacher_swapped_logits, teacher_swapped_hidden, _ = run(self.teacher, batch, teacher_layers, values, positions)
        _, _, values = run(self.student, source_batch, student_layers)
        student_logits, student_hidden, _ = run(self.student, batch, [])
        student_swapped_logits, student_swapped_hidden, _ = run(self.student, batch, student_layers, values, positions)

        labels, real = batch["labels"], batch.get("attention_mask")
        terms: dict[str, Callable[[], Tensor]] = {
            "task": lambda: F.cross_entropy(student_logits.flatten(0, 1), labels.flatten(), ignore_index=-100),
            "ce": lambda: self._divergence(student_logits, teacher_logits, real),
            "cos": lambda: self._cosine_distance(student_hidden, teacher_hidden, real),
            "causal_ce": lambda: self._divergence(student_swapped_logits, teacher_swapped_logits, real),
            "causal_cos": lambda: self._cosine_distance(student_swapped_hidden, teacher_swapped_hidden, real),
            "mse": lambda: self._squared_error(student_logits, teacher_logits, real),
        }
        return sum(weight * terms[name]() for name, weight in self.weights.items() if weight)

    def _divergence(self, student: Tensor, teacher: Tensor, real: Tensor | None) -> Tensor:
        """tau^2 * KL(teacher || student) of logits [B, T, V], mean over real tokens."""
        student, teacher = _tokens(student, real), _tokens(teacher, real)
        divergence = F.kl_div(
            F.log_softmax(student / self.temperature, dim=-1),
            F.softmax(teacher / self.temperature, dim=-1),
            reduction="batchmean",
        )
        return divergence * self.temperature**2

    def _cosine_distance(self, student: Tensor, teacher: Tensor, real: Tensor | None) -> Tensor:
        """1 - cosine of hidden states [B, T, D], mean over real tokens."""
        student, teacher = _tokens(student, real), _tokens(teacher, real)
        return F.cosine_embedding_loss(student, teacher, student.new_ones(len(student)))

    def _squared_error(self, student: Tensor, teacher: Tensor, real: Tensor | None) -> Tensor:
        """Squared differences of logits [B, T, V], summed over the vocabulary, mean over real tokens."""
        student, teacher = _tokens(student, real), _tokens(teacher, real)
        return F.mse_loss(student, teacher, reduction="sum") / len(student)


def _tokens(values: Tensor, real: Tensor | None) -> Tensor:
    """[B, T, X] -> [N, X]: the real tokens, or without a copy all of them where there is no mask."""
    return values.flatten(0, 1) if real is None else values[real.bool()]
