"""Retrieval metrics; nothing here knows of training."""
