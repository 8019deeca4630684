"""McNemar's test: do two networks differ in how often they are right?

McNemar Q. Note on the sampling error of the difference between correlated proportions or
percentages. Psychometrika 12(2), 1947, 153-157. Holm S. A simple sequentially rejective multiple
test procedure. Scandinavian Journal of Statistics 6(2), 1979, 65-70.
"""

import math
from collections.abc import Sequence


def mcnemar(only_first: int, only_other: int) -> float:
    """The exact two-sided p-value.

    If both networks are right equally often, an image that only one of them has right is the
    first's or the other's like heads or tails.

    Args:
        only_first: images that only the first network has right.
        only_other: images that only the other one has right.
    """
    tosses = only_first + only_other
    ways = sum(math.comb(tosses, heads) for heads in range(min(only_first, only_other) + 1))
    both_tails: float = 2 * ways / 2**tosses
    return min(1.0, both_tails)  # where they meet in the middle, it was counted twice


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: with 5 %, all rejections together are right with 95 %."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
