"""Writes prepared data sets: TFDS builders, their records and the processes that write them."""
