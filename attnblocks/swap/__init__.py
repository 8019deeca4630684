"""Finding the SE blocks of a network, and putting other blocks in their place."""
