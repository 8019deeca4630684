"""What blocks are made of: statistics of a map, and its product with gates."""
