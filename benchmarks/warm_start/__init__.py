"""What a swap costs a pre-trained network, and what warm start gives back, on real images."""
