"""What becomes of networks with attention in the runtimes that they are deployed in."""
