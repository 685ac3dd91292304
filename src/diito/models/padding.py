"""Whether the padding beside a text moves a model's answers, and which token of a text is padding.

Most models hide padding. Some mix it in: by a Fourier transform (FNet), by convolutions over words (ConvBERT, MobileBERT), by
pooling (Funnel), or by a head that reads the last column (XLNet). Their answers are made one text at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel


def real_positions(inputs: Mapping[str, Tensor]) -> Bool[Tensor, "batch tokens"]:
    """Where ``inputs`` (``input_ids``, optionally ``attention_mask``) hold a token and not padding.

    In blocks whose documents are kept apart (``documents``) padding is a document of its own, with a number below 0.
    """
    mask = inputs.get("attention_mask")
    real = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()
    return real & (inputs["documents"] >= 0) if "documents" in inputs else real


_KNOWN: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def reads_padding(model: PreTrainedModel, answers: Callable[[Sequence[int]], Tensor], lengths: NDArray[Any]) -> bool:
    """Whether a model's answers to texts of these lengths depend on what they are batched with; found once for each model.

    ``answers``: from the numbers of some texts, which are then padded to the longest, to Float[texts, ...]; where there is an
    answer for each token, tokens are the second axis. The shortest text and one of middle length are looked at.
    """
    order = np.argsort(lengths, kind="stable")
    short, middle, long = (int(order[place]) for place in (0, len(order) // 2, -1))
    if lengths[short] == lengths[long]:
        return False
    if model not in _KNOWN:
        _KNOWN[model] = _differ(answers, [short, middle, long])
    return _KNOWN[model]


@torch.no_grad()
def _differ(answers: Callable[[Sequence[int]], Tensor], texts: Sequence[int]) -> bool:
    together = answers(texts)
    for row, text in enumerate(texts[:-1]):
        (alone,) = answers([text])
        padded = together[row, : len(alone)] if together.ndim > 2 else together[row]
        bound = torch.finfo(alone.dtype).eps ** 0.5 * float(alone.abs().nan_to_num().max())
        if not torch.allclose(padded, alone, rtol=0, atol=bound, equal_nan=True):
            return True
    return False


def position_padding(config: Any) -> int | None:
    """The id from which a model counts its positions, leaving out tokens that have it (as RoBERTa does); None: it does not."""
    with torch.random.fork_rng(), torch.device("meta"):
        model = AutoModel.from_config(config)
    tables = [module for name, module in model.named_modules() if "position" in name.rsplit(".", 1)[-1]]
    ids = [table.padding_idx for table in tables if isinstance(table, nn.Embedding) and table.padding_idx is not None]
    return ids[0] if ids else None
