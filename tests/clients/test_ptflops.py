"""Operations by ptflops: convolutions with biases; those of norms and ReLU with hooks on layers."""

import pytest

from tests.clients.counted import check_block, check_network, every_mode
from tests.helpers import every_block

ptflops = pytest.importorskip(
    "ptflops", reason="ptflops is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients


def by_functions(cost):
    return cost.macs + cost.biased


def by_layers(cost):
    """A norm is a product and a sum; a ReLU is seen as a layer and as the function it calls."""
    return cost.macs + cost.biased + 2 * cost.normed + 2 * cost.relus


WANTED = {"aten": by_functions, "pytorch": by_layers}
every_backend = pytest.mark.parametrize("backend", WANTED)


def counter(backend):
    def count(model, x):
        return ptflops.get_model_complexity_info(
            model,
            tuple(x.shape[1:]),
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )

    return count


@every_backend
@every_mode
@every_block
def test_it_counts_a_block(name, mode, backend):
    check_block(name, mode, counter(backend), WANTED[backend])


@every_backend
def test_it_counts_the_blocks_of_a_network(backend):
    check_network(counter(backend), WANTED[backend])
