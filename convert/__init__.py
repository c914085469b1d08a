"""Between PyTorch and JAX: the only package that imports torch."""
