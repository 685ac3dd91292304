"""The method once more, slow and obvious: Hugging Face models, forward hooks and loops, nothing of `diito`.

Written from the paper and its method page alone, so that an agreement with the package is worth something.
Layers are 0-based and a layer's value is its output; `positions` is Bool[B, T], True where a token is swapped.
Dropout is drawn afresh in every run: compare in eval mode, or with dropout 0.
"""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

LAYERS_OF_FAMILY = {  # where the list of layers is, below the head: by the model type of the configuration
    "bert": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "gemma3_text": "layers",
    "gpt2": "h",
    "gpt_neox": "layers",
    "llama": "layers",
    "mamba": "layers",
    "mixtral": "layers",
    "modernbert": "layers",
    "olmoe": "layers",
    "opt": "decoder.layers",
    "qwen2": "layers",
    "qwen3": "layers",
    "qwen3_moe": "layers",
    "roberta": "encoder.layer",
}
INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")  # no labels: the losses are worked out here
LOSSES = ("task", "ce", "cos", "causal_ce", "causal_cos", "mse")

Tokens = list[tuple[int, int]]  # (row, position) pairs


# ---------------------------------------------------------------------------------------------- running a model


def layer_modules(model: nn.Module) -> list[nn.Module]:
    """The transformer layers, lowest first."""
    return list(model.base_model.get_submodule(LAYERS_OF_FAMILY[model.config.model_type]))


def hidden_of(answer: Tensor | tuple) -> Tensor:
    """The hidden states in what a layer answers: all of it, or (DeBERTa's, with attention weights) its first part."""
    return answer[0] if isinstance(answer, tuple) else answer


def with_hidden(answer: Tensor | tuple, hidden: Tensor) -> Tensor | tuple:
    """What a layer answers, with other hidden states."""
    return (hidden, *answer[1:]) if isinstance(answer, tuple) else hidden


def run(model: nn.Module, inputs: dict, writes: dict | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
    """One ordinary forward call: logits [B, T, V], every layer's output [B, T, D], last hidden state [B, T, D].

    A sequence classifier's logits are [B, labels].
    `writes` maps a layer to a function from its output to what the layers above shall see instead. The outputs
    are recorded after the writing. The last hidden state is what the head reads: after the final norm, if any.
    """
    layers = layer_modules(model)
    outputs: list[Tensor] = []
    last_hidden: list[Tensor] = []
    with ExitStack() as stack:
        for index, function in (writes or {}).items():
            write = layers[index].register_forward_hook(
                lambda module, args, answer, f=function: with_hidden(answer, f(hidden_of(answer)))
            )
            stack.callback(write.remove)
        for layer in layers:  # registered later, so called later: these see what was written
            record = layer.register_forward_hook(lambda module, args, answer: outputs.append(hidden_of(answer)))
            stack.callback(record.remove)
        body = model.base_model.get_submodule(LAYERS_OF_FAMILY[model.config.model_type].rpartition(".")[0])
        top = body.register_forward_hook(lambda module, args, output: last_hidden.append(output.last_hidden_state))
        stack.callback(top.remove)
        logits = model(**{name: inputs[name] for name in INPUTS if inputs.get(name) is not None}).logits
    return logits, outputs, last_hidden[0]


def hidden_states(model: nn.Module, inputs: dict) -> list[Tensor]:
    """GetVals for every layer: the outputs [B, T, D], lowest layer first (the top one's before a final norm)."""
    return run(model, inputs)[1]


# ------------------------------------------------------------------------------------------------- interchange


def attention_mask(inputs: dict) -> Tensor:
    """Integer[B, T], 1 where the token is real: the given mask, or ones."""
    given = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if given is None else given


def match_positions(base: dict, source: dict, positions: Tensor, source_positions: Tensor) -> list[dict[int, int]]:
    """For each row, base position -> source position, paired in ascending order.

    Raises ValueError where the counts differ or a position is not a real token of its text.
    """
    base_mask, source_mask = attention_mask(base), attention_mask(source)
    matches = []
    for row in range(len(positions)):
        written = [t for t in range(positions.shape[1]) if positions[row, t]]
        read = [t for t in range(source_positions.shape[1]) if source_positions[row, t]]
        if len(written) != len(read):
            raise ValueError(f"row {row}: {len(written)} base positions, {len(read)} source positions")
        if any(t >= base_mask.shape[1] or not base_mask[row, t] for t in written):
            raise ValueError(f"row {row}: a position on the base's padding or beyond it")
        if any(t >= source_mask.shape[1] or not source_mask[row, t] for t in read):
            raise ValueError(f"row {row}: a position on the source's padding or beyond it")
        matches.append(dict(zip(written, read, strict=True)))
    return matches


def overwrite(output: Tensor, values: Tensor, matches: list[dict[int, int]], swapped_dimension: Tensor) -> Tensor:
    """A new [B, T, D]: `output` [B, T, D], holding `values` [B, Ts, D] at the matched tokens' swapped dimensions."""
    rows = []
    for row, match in enumerate(matches):
        columns = []
        for position in range(output.shape[1]):
            column = output[row, position]
            if position in match:
                column = torch.where(swapped_dimension, values[row, match[position]], column)
            columns.append(column)
        rows.append(torch.stack(columns))
    return torch.stack(rows)


def interchange(
    model: nn.Module,
    base: dict,
    source: dict,
    layers: list[int],
    positions: Tensor,
    *,
    source_positions: Tensor | None = None,
    dimensions: list[tuple[int, int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """IntInv, Eqs. 1 and 2: the base's logits [B, T, V] and last hidden state [B, T, D] under the swap.

    All of `layers` take the values that the source's own run gave them, each as the base's run passes it.
    `source_positions` Bool[B, Ts] defaults to `positions`; `dimensions` are (start, stop) ranges, None means all.
    Gradients flow through the base's run and through the source's.
    """
    if source_positions is None:
        source_positions = positions
    matches = match_positions(base, source, positions, source_positions)
    source_values = hidden_states(model, source)

    width = source_values[0].shape[-1]
    swapped_dimension = torch.zeros(width, dtype=torch.bool, device=positions.device)
    for start, stop in [(0, width)] if dimensions is None else dimensions:
        for dimension in range(start, stop):
            swapped_dimension[dimension] = True

    writes = {}
    for layer in layers:
        values = source_values[layer]
        writes[layer] = lambda output, values=values: overwrite(output, values, matches, swapped_dimension)
    logits, _, last_hidden = run(model, base, writes)
    return logits, last_hidden


def eligible(base: dict, source: dict, special_ids: set[int]) -> Tensor:
    """Bool[B, T of the base]: real in base and source, within both, a special token in neither."""
    base_ids, source_ids = base["input_ids"], source["input_ids"]
    base_mask, source_mask = attention_mask(base), attention_mask(source)
    result = torch.zeros(base_ids.shape, dtype=torch.bool)
    for row in range(base_ids.shape[0]):
        for position in range(min(base_ids.shape[1], source_ids.shape[1])):
            real = base_mask[row, position] == 1 and source_mask[row, position] == 1
            special = int(base_ids[row, position]) in special_ids or int(source_ids[row, position]) in special_ids
            result[row, position] = bool(real) and not special
    return result


# ------------------------------------------------------------------------------------------------------ losses


def mean(values: list[Tensor]) -> Tensor:
    """Their mean, a float64 scalar; 0 of nothing."""
    return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)


def log_probabilities(scores: Tensor) -> Tensor:
    """log softmax of one token's scores [V], by its definition, in float64."""
    scores = scores.double()
    shifted = scores - scores.max()
    return shifted - torch.log(torch.sum(torch.exp(shifted)))


def mlm(logits: Tensor, labels: Tensor, tokens: Tokens) -> Tensor:
    """Eq. 4, -log p(label), mean over `tokens`: logits [B, T, V], labels [B, T]."""
    return mean([-log_probabilities(logits[token])[labels[token]] for token in tokens])


def ce(student_logits: Tensor, teacher_logits: Tensor, tokens: Tokens, temperature: float) -> Tensor:
    """Eq. 5, tau^2 * sum_v p_teacher(v) * (log p_teacher(v) - log p_student(v)), mean over `tokens`: [B, T, V] each."""
    values = []
    for token in tokens:
        teacher = log_probabilities(teacher_logits[token].double() / temperature)
        student = log_probabilities(student_logits[token].double() / temperature)
        values.append(temperature**2 * torch.sum(torch.exp(teacher) * (teacher - student)))
    return mean(values)


def cos(student_hidden: Tensor, teacher_hidden: Tensor, tokens: Tokens) -> Tensor:
    """Eq. 6, 1 - <s, t> / (|s| |t|), mean over `tokens`: [B, T, D] each."""
    values = []
    for token in tokens:
        student, teacher = student_hidden[token].double(), teacher_hidden[token].double()
        norms = torch.sqrt(torch.sum(student * student)) * torch.sqrt(torch.sum(teacher * teacher))
        values.append(1 - torch.sum(student * teacher) / norms)
    return mean(values)


def mse(student_logits: Tensor, teacher_logits: Tensor, tokens: Tokens) -> Tensor:
    """Squared differences of the logits [B, T, V], summed over the vocabulary, mean over `tokens`."""
    values = [(student_logits[token].double() - teacher_logits[token].double()) ** 2 for token in tokens]
    return mean([value.sum() for value in values])


# --------------------------------------------------------------------------------------------------- Algorithm 1


def objective(
    student: nn.Module,
    teacher: nn.Module,
    student_layers: list[int],
    teacher_layers: list[int],
    batch: dict,
    source: dict,
    positions: Tensor,
    weights: dict[str, float],
    temperature: float = 2.0,
    tokens: str = "masked",
    *,
    source_positions: Tensor | None = None,
    student_dimensions: list[tuple[int, int]] | None = None,
    teacher_dimensions: list[tuple[int, int]] | None = None,
) -> dict[str, Tensor]:
    """Algorithm 1, lines 7 to 18, for one micro-batch whose draws are made: each loss, and their weighted `loss`.

    `batch` holds labels [B, T], -100 where there is nothing to predict; `positions` Bool[B, T] are the swapped ones.
    Every loss is worked out whatever its weight; a weight that is not given is 0. `mlm` is over masked tokens, the
    others over `tokens`: "masked" or "all" (every real one). Rows without a swap are out of the causal losses.
    """
    labels, real = batch["labels"], attention_mask(batch)
    everywhere = [(row, t) for row in range(labels.shape[0]) for t in range(labels.shape[1])]
    masked = [token for token in everywhere if labels[token] != -100]
    chosen = {"masked": masked, "all": [token for token in everywhere if real[token] == 1]}[tokens]
    chosen_causal = [(row, t) for row, t in chosen if positions[row].any()]

    with torch.no_grad():
        teacher_logits, _, teacher_hidden = run(teacher, batch)
        teacher_swapped_logits, teacher_swapped_hidden = interchange(
            teacher,
            batch,
            source,
            teacher_layers,
            positions,
            source_positions=source_positions,
            dimensions=teacher_dimensions,
        )
    student_logits, _, student_hidden = run(student, batch)
    student_swapped_logits, student_swapped_hidden = interchange(
        student,
        batch,
        source,
        student_layers,
        positions,
        source_positions=source_positions,
        dimensions=student_dimensions,
    )

    losses = {
        "task": mlm(student_logits, labels, masked),
        "ce": ce(student_logits, teacher_logits, chosen, temperature),
        "cos": cos(student_hidden, teacher_hidden, chosen),
        "causal_ce": ce(student_swapped_logits, teacher_swapped_logits, chosen_causal, temperature),
        "causal_cos": cos(student_swapped_hidden, teacher_swapped_hidden, chosen_causal),
        "mse": mse(student_logits, teacher_logits, chosen),
    }
    unknown = set(weights) - set(LOSSES)
    if unknown:
        raise ValueError(f"weights of no loss: {sorted(unknown)}")
    losses["loss"] = sum(weights.get(name, 0.0) * losses[name] for name in LOSSES)
    return losses
