"""A model and its tokenizer as a folder that the Auto classes load."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diito.files import check_writable, replace_folder, writing
from diito.refusal import Refusal


def check_place(folder: Path, field: str) -> None:
    """Refuse, naming the field or flag, a folder that cannot be made, or that is to be replaced and is none of a model."""
    check_writable(folder, field)
    if folder.exists() and not (folder / "config.json").is_file():
        raise Refusal(field, f"{folder} exists and holds no model; give another folder")


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write both aside, then rename: there is a whole folder or none. Raises ``files.CannotWrite``."""
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(folder):
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)
