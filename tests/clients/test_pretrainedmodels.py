"""The SE-ResNets of Cadene's pretrainedmodels."""

import pytest
import torch
from torch import nn

from tests.clients.networks import check_swaps

pytest.importorskip(
    "pretrainedmodels", reason="pretrainedmodels is not installed: pip install '.[clients]'"
)
from pretrainedmodels.models import senet

pytestmark = pytest.mark.clients


def test_every_se_is_swapped():
    """In an SE-ResNet cut off behind its second stage."""
    torch.manual_seed(0)
    block = senet.SEResNetBottleneck
    model = senet.SENet(block, (1, 1, 1, 1), 4, 16, inplanes=16, input_3x3=False)
    model.layer3, model.layer4 = nn.Identity(), nn.Identity()
    model.last_linear = nn.Linear(512, 5)
    model.avg_pool = nn.AdaptiveAvgPool2d(1)  # its own is for images of 224 pixels
    check_swaps(model, torch.rand(2, 3, 32, 32), "pretrainedmodels.models.senet.SEModule", 2)
