"""transformers' Trainer around the objective."""
