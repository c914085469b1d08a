"""From prepared records to batches: reading, tokenization, the input pipeline."""
