"""Alignment and matching scores between images and captions."""
