"""Measurements of the blocks against their peers."""
