"""What blocks are made of: statistics of a map, and its product with gates."""

from attnblocks.ops.native.library import Forms, forms

__all__ = ["Forms", "forms"]
