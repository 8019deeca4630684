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
def test_a_network_agrees_at_every_height_and_width(name):
    """Lowering takes the batch for a constant in blocks that join several statistics."""
    found = check_agrees(executorch, name, ("height", "width"))
    assert found.delegates is not None
    assert found.delegates >= 1
    assert "getitem" not in found.operators


def test_the_batch_may_be_free_with_se():
    check_agrees(executorch, "SE")
