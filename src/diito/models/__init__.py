"""Models by name, layer by layer, and students made of them."""
