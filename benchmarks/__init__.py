"""Measurements behind the figures in RESULTS.md."""
