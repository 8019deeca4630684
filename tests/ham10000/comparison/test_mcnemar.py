"""McNemar's test and Holm's procedure, against scipy and by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from examples.ham10000.paper.compare import holm, mcnemar


@pytest.mark.parametrize("only_first", [0, 1, 2, 5, 12, 300])
@pytest.mark.parametrize("only_other", [0, 1, 3, 5, 30, 350])
def test_mcnemar_is_the_binomial_test_of_scipy(only_first, only_other):
    number = only_first + only_other
    expected = binomtest(only_first, number).pvalue if number else 1
    assert mcnemar(only_first, only_other) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_a_published_example():
    """Two media for tuberculosis bacilli: Armitage and Berry 1994, page 127."""
    assert round(mcnemar(12, 2), 4) == 0.0129


def test_holm_rejects_what_its_procedure_does():
    p_values = [0.03, 0.011, 0.8, 0.0124, 0.02]
    adjusted = holm(p_values)
    for alpha in np.linspace(0.001, 0.999, 333):
        rejected = set()
        for rank, p in enumerate(sorted(p_values)):
            if p > alpha / (len(p_values) - rank):
                break
            rejected.add(p)
        assert {p for p, a in zip(p_values, adjusted, strict=True) if a <= alpha} == rejected
    assert holm([0.9, 0.8]) == [1, 1]
