"""What a model's own card says of its licence and its languages, as far as there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from diito.embedded import resolve
from diito.faults import quiet_hub
from diito.models.load import ModelSource

_LICENCE = ("license", "license_name", "license_link")


def card_of(source: ModelSource) -> dict[str, Any]:
    """``license`` (with its name and link) and ``language`` of a model's card; without what it does not say, or not as text."""
    path = _file(source)
    try:
        said = metadata_load(path) if path is not None and path.is_file() else None
    except (ValueError, yaml.YAMLError):  # written by hand, and nothing depends on it
        said = None
    said = said if isinstance(said, dict) else {}
    found: dict[str, Any] = {name: said[name] for name in _LICENCE if isinstance(said.get(name), str)}
    languages = said.get("language")
    if isinstance(languages, str):
        languages = [languages]
    if isinstance(languages, list) and languages and all(isinstance(each, str) for each in languages):
        found["language"] = languages
    return found


def _file(source: ModelSource) -> Path | None:
    folder = Path(resolve(source.name))
    if folder.is_dir():
        return folder / "README.md"
    try:
        with quiet_hub():
            return Path(hf_hub_download(source.name, "README.md", revision=source.revision))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled):
        return None
