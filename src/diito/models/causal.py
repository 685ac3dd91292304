"""Whether a model's tokens read what stands behind them, found by changing a token and looking what moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diito.models.learn import probe
from diito.models.steps import accepted, logits_of


def reads_ahead(model: PreTrainedModel) -> bool:
    """Whether a token's logits depend on the last token of the text."""
    inputs = probe(model)
    last = inputs["input_ids"].shape[1] - 1
    return not logits_stay(model, inputs, changed=last, tokens=slice(0, last))


@torch.no_grad()
def logits_stay(model: PreTrainedModel, inputs: Mapping[str, Tensor], *, changed: int, tokens: slice) -> bool:
    """Whether the logits of ``tokens`` stay as they are when the token at ``changed`` is another one.

    ``inputs``: as :func:`diito.models.learn.probe` gives them, no two neighbours alike.
    """
    other = inputs["input_ids"].clone()
    other[:, changed] = other[:, changed - 1]
    answers = [
        logits_of(model(**accepted(model, {**inputs, "input_ids": ids})))[:, tokens] for ids in (inputs["input_ids"], other)
    ]
    # Not bit for bit: which tokens share an expert moves the last digits of a mixture's answers.
    return torch.allclose(answers[0], answers[1], rtol=0.0, atol=1e-4 * float(answers[0].abs().max()))
