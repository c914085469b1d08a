"""Readers of the original's files: features, tags, captions."""
