"""Configurations: common.py has every field, each other file one training regime."""
