"""Measurements on held-out text. Their draws are functions of (seed, example), whatever the batch size."""
