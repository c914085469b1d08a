"""Evaluation of a split: scores, recalls, table and figure."""
