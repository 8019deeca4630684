"""Operations by calflops: as MACs, those of convolutions alone."""

import pytest

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

calflops = pytest.importorskip(
    "calflops", reason="calflops is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients


def count(model, x):
    _, macs, parameters = calflops.calculate_flops(
        model, tuple(x.shape), output_as_string=False, print_results=False
    )
    return macs, parameters


def wanted(cost):
    return cost.macs


@every_mode
@every_block
def test_it_counts_a_block(name, mode):
    check_block(name, mode, count, wanted)


def test_it_counts_the_blocks_of_a_network():
    check_network(count, wanted)
