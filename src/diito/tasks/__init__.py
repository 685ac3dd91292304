"""What a model is trained to do: rows of a corpus to batches with slots and labels."""
