"""Operations by fvcore: convolutions, and two for each value of a norm, five in train mode."""

import pytest

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

fvcore = pytest.importorskip("fvcore.nn", reason="pip install '.[clients]'")

pytestmark = pytest.mark.clients


def count(model, x):
    found = fvcore.FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
    return found.total(), fvcore.parameter_count(model)[""]


def formula(mode):
    return lambda cost: cost.macs + (5 if mode == "train" else 2) * cost.normed


@every_mode
@every_block
def test_it_counts_a_block(name, mode):
    check_block(name, mode, count, formula(mode))


def test_it_counts_the_blocks_of_a_network():
    check_network(count, formula("eval"))
