"""Operations by torchinfo: convolutions with biases, and one for each parameter of other layers."""

import pytest

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

torchinfo = pytest.importorskip(
    "torchinfo", reason="torchinfo is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients


def count(model, x):
    found = torchinfo.summary(
        model, input_data=x, mode="train" if model.training else "eval", verbose=0
    )
    return found.total_mult_adds, found.total_params


def wanted(cost):
    return cost.macs + cost.biased + cost.norms


@every_mode
@every_block
def test_it_counts_a_block(name, mode):
    check_block(name, mode, count, wanted)


def test_it_counts_the_blocks_of_a_network():
    check_network(count, wanted)
