"""Networks of pytorchcv: one SE class, of convolutions or of linear layers."""

import pytest
import torch
from torch import nn

from tests.clients.networks import check_swaps

pytest.importorskip("pytorchcv", reason="pytorchcv is not installed: pip install '.[clients]'")
from pytorchcv.models import fastseresnet, mobilenetv3, seresnet

pytestmark = pytest.mark.clients

KIND = f"{seresnet.SEBlock.__module__}.SEBlock"  # its module has moved


def se_resnet():
    return seresnet.SEResNet([[16], [24, 24]], 16, bottleneck=False, conv1_stride=False)


def fast_se_resnet():
    """With linear layers."""
    return fastseresnet.FastSEResNet([[16], [24, 24]], 16, bottleneck=False, conv1_stride=False)


def mobilenet():
    return mobilenetv3.mobilenetv3_small_w7d20()


@pytest.mark.parametrize(("build", "count"), [(se_resnet, 3), (fast_se_resnet, 2), (mobilenet, 9)])
def test_every_se_is_swapped(build, count):
    model = build()
    model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # its own is for images of 224 pixels
    check_swaps(model, torch.rand(2, 3, 64, 64), KIND, count)
