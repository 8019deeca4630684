"""The SE of fvcore, which networks of maps and of volumes share."""

import pytest
import torch
from torch import nn

from attnblocks import find_se, replace_se
from tests.clients.networks import check_swaps

pytest.importorskip("fvcore", reason="fvcore is not installed: pip install '.[clients]'")
from fvcore.nn.squeeze_excitation import SqueezeExcitation

pytestmark = pytest.mark.clients


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
