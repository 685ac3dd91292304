"""Models by name, layer by layer, and students made of them."""

from diito.renamed import attributes_of

__getattr__ = attributes_of(__name__, "diito.models.load")
