"""ALADIN image-text retrieval in JAX."""
