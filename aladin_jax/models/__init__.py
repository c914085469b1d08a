"""The backbone and the two heads, in Flax NNX."""
