"""From files to batches: raw readers, TFDS builders, tokenisation, the input pipeline."""
