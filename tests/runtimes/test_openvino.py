"""Networks in OpenVINO."""

import pytest

from benchmarks.runtimes import openvino
from tests.runtimes.networks import block_in_a_network, check_agrees

pytest.importorskip("openvino", reason="openvino is not installed: pip install '.[runtimes]'")

pytestmark = [
    pytest.mark.runtimes,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@block_in_a_network
def test_a_network_agrees_at_every_size(name):
    found = check_agrees(openvino, name)
    assert found.operators["Convolution"] >= 1
    assert not {"Input", "Output", "Const"} & set(found.operators)
