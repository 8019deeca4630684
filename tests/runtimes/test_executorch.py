"""Networks in ExecuTorch with XNNPACK."""

import pytest

from benchmarks.runtimes import executorch
from tests.runtimes.networks import block_in_a_network, check_agrees

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
