"""A model and its tokenizer as a folder that the Auto classes load."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.files import replace_folder, writing


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write both aside, then rename: there is a whole folder or none. Raises ``files.CannotWrite``."""
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(folder):
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)
