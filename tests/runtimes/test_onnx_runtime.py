"""Networks in ONNX Runtime."""

import torch

from attnblocks import replace_se
from benchmarks.runtimes import onnx_runtime
from benchmarks.runtimes.runtime import SIZES
from tests.benchmarks.made import tiny_network
from tests.runtimes.networks import block_in_a_network, check_agrees


@block_in_a_network
def test_a_network_agrees_at_every_size(name):
    found = check_agrees(onnx_runtime, name)
    assert found.operators["Conv"] >= 2
    assert found.delegates is None


def test_a_session_has_the_threads_of_torch_and_runs_what_it_was_given():
    network = replace_se(tiny_network(), "SE").eval()
    x = torch.rand(2, 3, 32, 32)
    session = onnx_runtime.onnx_session(network, x, frozenset(SIZES))
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    with torch.no_grad():
        wanted = network(x[:1])
    (y,) = onnx_runtime.new_run(session, x[:1])()
    torch.testing.assert_close(torch.from_numpy(y), wanted)
