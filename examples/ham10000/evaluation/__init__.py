"""Figures of a trained network, its predictions, and their pictures."""
