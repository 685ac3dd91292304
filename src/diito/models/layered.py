"""One view of any Hugging Face transformer as embed → layers → head, from which a run can be resumed at every layer.

``Layered(model)`` runs the model's own modules in its own order, so it gives the bits of the model's forward: for encoders and
decoders with a head for masked or causal language modelling, sequence or token classification. ``learn`` finds the
parts of a model, ``steps`` runs them.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from diito.models.learn import learn, longest_sequence
from diito.models.steps import Inputs, Run, Steps

__all__ = ["Inputs", "Layered", "Run", "learn", "longest_sequence"]


class Layered(Steps):
    """A model as ``embed``, ``advance``, ``final`` and ``head``. Holds no weights of its own.

    The first view of a model learns its parts, in some ten short runs; later ones only look them up. Raises ValueError, one
    sentence that begins with ``field``, for a model that cannot be run layer by layer. ``recompute``: see ``advance``.
    """

    def __init__(self, model: PreTrainedModel, *, field: str = "teacher.model", recompute: bool = False) -> None:
        super().__init__(model, learn(model, field=field), field=field, recompute=recompute)
