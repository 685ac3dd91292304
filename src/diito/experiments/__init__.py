"""Grids of distillations and evaluations: ``diito reproduce``."""
