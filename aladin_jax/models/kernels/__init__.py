"""Fused forms of a Transformer layer's parts for GPUs, in Pallas (Triton).

On a GPU a training step is bound by memory traffic, not by matrix products. Each kernel here reads its inputs once and
writes its outputs once, where XLA needs several passes; none keeps a dropout mask. The plain forms, which CPUs run,
stand in `models/bert.py` and `models/attention.py`; tests/models/test_kernels.py compares the two in Pallas's
interpreter.
"""
