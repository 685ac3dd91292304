"""Whether a model computes as the known causal model of generated data does."""
