"""What 8-bit integers cost a pre-trained network with attention, on real images."""
