"""Shapes in signatures are checked while the tests run: jaxtyping's annotations, enforced by beartype."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

# Not the trainer: Trainer's own attributes are looser than their annotations.
CHECKED = ("positions", "swaps", "layered", "intervention", "losses", "objective", "student", "masking")
install_import_hook([f"diito.{name}" for name in CHECKED], "typechecker.typechecked")
