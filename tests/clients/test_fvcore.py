"""fvcore: its counter (convolutions, and some for each value of a norm), and its SE."""

import pytest
import torch
from torch import nn

from attnblocks import find_se, replace_se
from tests.clients.counted import check_block, check_network, every_mode
from tests.clients.networks import check_swaps
from tests.helpers import every_block

fvcore = pytest.importorskip(
    "fvcore.nn", reason="fvcore is not installed: pip install '.[clients]'"
)
from fvcore.nn.squeeze_excitation import SqueezeExcitation  # noqa: E402

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


def test_every_se_is_swapped():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        SqueezeExcitation(16, activation=nn.SiLU()),
        nn.BatchNorm2d(16),
        SqueezeExcitation(16, num_channels_reduced=3),
        nn.Conv2d(16, 4, 3),
    )
    kind = "fvcore.nn.squeeze_excitation.SqueezeExcitation"
    check_swaps(model, torch.rand(2, 3, 16, 16), kind, 2)


def test_volumes_are_refused():
    model = nn.Sequential(nn.Conv3d(3, 16, 3), SqueezeExcitation(16, is_3d=True))
    assert find_se(model) == ()
    with pytest.raises(LookupError, match=r"SqueezeExcitation \('1'\).*it is for volumes"):
        replace_se(model, "CaCo")
