"""Operations by thop: convolutions, and four for each value of a norm."""

import pytest

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

thop = pytest.importorskip("thop", reason="thop is not installed: pip install '.[clients]'")

pytestmark = pytest.mark.clients


def count(model, x):
    return thop.profile(model, (x,), verbose=False)


def wanted(cost):
    return cost.macs + 4 * cost.normed


@every_mode
@every_block
def test_it_counts_a_block(name, mode):
    check_block(name, mode, count, wanted)


def test_it_counts_the_blocks_of_a_network():
    check_network(count, wanted)
