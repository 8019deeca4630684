"""Operations by torch's own FlopCounterMode: convolutions, two for each multiplication."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

pytestmark = pytest.mark.clients


def count(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops(), sum(p.numel() for p in model.parameters())


def wanted(cost):
    return 2 * cost.macs


@every_mode
@every_block
def test_it_counts_a_block(name, mode):
    check_block(name, mode, count, wanted)


def test_it_counts_the_blocks_of_a_network():
    check_network(count, wanted)
