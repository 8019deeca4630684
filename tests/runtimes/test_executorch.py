"""Networks in ExecuTorch with XNNPACK."""

import pytest
import torch

from benchmarks.runtimes import executorch
from tests.runtimes.networks import block_in_a_network, check_agrees, network_with

pytest.importorskip("executorch", reason="executorch is not installed: pip install '.[runtimes]'")

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@block_in_a_network
def test_a_network_agrees_at_every_size(name):
    found = check_agrees(executorch, name)
    assert found.delegates is not None
    assert found.delegates >= 1
    assert "getitem" not in found.operators


@pytest.mark.parametrize("name", ["CoordAtt", "CaCo"])
def test_xnnpack_takes_the_whole_network_where_sizes_are_fixed(name):
    model = network_with(name)
    found = executorch.convert(model, torch.rand(1, 3, 64, 48), frozenset())
    assert found.delegates == 1
    assert set(found.operators) <= {"dim_order_ops._to_dim_order_copy.default"}
