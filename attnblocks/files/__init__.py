"""Swapped networks as recipes and as files."""
