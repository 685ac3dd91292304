"""Models by name, layer by layer, and students made of them."""

from diito.models.load import ModelSource

__all__ = ["ModelSource"]
