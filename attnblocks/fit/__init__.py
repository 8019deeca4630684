"""Fitting replaced blocks to the network that they came from."""
