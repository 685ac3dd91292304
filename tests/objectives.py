"""Small objectives, models and batches that the tests of the method share."""

import oracle
import torch
from models import build, inputs_of, masked_batch

from diito import Alignment, DistillationObjective
from diito.method.losses import cosine_distance, masked_cross_entropy, smoothed_cross_entropy, squared_error

EVERY = {"task": 0.3, "ce": 0.2, "cos": 0.5, "causal_ce": 0.7, "causal_cos": 0.4, "mse": 0.01}
STANDARD = {"task": 1 / 3, "ce": 1 / 3, "cos": 1 / 3}
CAUSAL = ("causal_ce", "causal_cos")
NAMES = tuple(EVERY)


def batch_of(seed=1, lengths=(9, 9, 9), **options):
    return masked_batch(seed, list(lengths), [1, 4], [2], [1, 3, 6], **options)


def make(student, teacher, alignment=None, **options):
    """An objective on the given models; FULL and all six losses unless told."""
    alignment = alignment or Alignment.full(*(len(oracle.layer_modules(model)) for model in (teacher, student)))
    return DistillationObjective(student, teacher, alignment, **{"weights": EVERY} | options)


def models(family="bert", teacher_layers=4, student_layers=2, **changes):
    """A student and a teacher of the same family, in eval mode, nothing in common."""
    student = build(family, student_layers, seed=1, **changes)
    return student, build(family, teacher_layers, seed=2, **changes)


def fixed_rule(positions, source_positions=None):
    """A rule that always answers the same. The objective draws the source's positions with the eligible ones as masked."""

    def rule(eligible, masked, share, generator):
        return source_positions if masked is eligible and source_positions is not None else positions

    return rule


def fixed_pairing(*rows):
    return lambda count, generator: torch.tensor(rows)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --------------------------------------------------------------------------------------------- against the oracle


def plain_distillation(student, teacher, batch, weights, tokens="masked"):
    """Distillation as one would write it with the Hugging Face forward, on the package's losses."""
    inputs, labels = inputs_of(batch), batch["labels"]
    with torch.no_grad():
        told = teacher(**inputs, output_hidden_states=True)
    said = student(**inputs, output_hidden_states=True)
    chosen = labels != -100 if tokens == "masked" else oracle.attention_mask(batch).bool()
    values = {
        "task": masked_cross_entropy(said.logits[labels != -100], labels[labels != -100]),
        "ce": smoothed_cross_entropy(said.logits[chosen], told.logits[chosen], 2.0),
        "cos": cosine_distance(said.hidden_states[-1][chosen], told.hidden_states[-1][chosen]),
        "mse": squared_error(said.logits[chosen], told.logits[chosen]),
    }
    losses = {name: values[name].sum() / len(values[name]) for name in weights}
    return losses | {"loss": sum(weight * losses[name] for name, weight in weights.items())}
