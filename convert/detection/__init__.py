"""Regions of one's own pictures, by a detector of one's own."""
