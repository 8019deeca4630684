"""What the gates of a network do: read on images, counted, and reported."""
