"""Measurements on held-out text. Their draws are functions of (seed, example), whatever the batch size."""

from diito.renamed import attributes_of

__getattr__ = attributes_of(__name__, "diito.evaluation.held_out.text")
