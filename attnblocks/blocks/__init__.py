"""The attention blocks, a file for each family, and their registry."""
