"""Backbones of mmpretrain: one SE class, with the activations of mmcv."""

import pytest
import torch

from attnblocks import find_se
from tests.clients.networks import check_swaps

pytest.importorskip(
    "mmpretrain.models",
    reason="mmpretrain is not installed (nor in .[clients]; it needs mmengine and mmcv-lite)",
)
from mmpretrain.models import MobileNetV3, SEResNet
from mmpretrain.models.utils import SELayer

pytestmark = pytest.mark.clients

KIND = "mmpretrain.models.utils.se_layer.SELayer"


def se_resnet():
    stages = {"num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (1,)}
    return SEResNet(50, stem_channels=8, base_channels=8, expansion=2, se_ratio=4, **stages)


@pytest.mark.parametrize(("build", "count"), [(se_resnet, 7), (lambda: MobileNetV3("small"), 9)])
def test_every_se_is_swapped(build, count):
    x = torch.rand(2, 3, 64, 64)
    check_swaps(build(), x, KIND, count, run=lambda model, x: model(x)[-1], blocks=["CaCo", "Eca"])


def test_one_that_returns_its_gates_is_no_se():
    assert find_se(SELayer(16, return_weight=True)) == ()
    assert [site.rd_channels for site in find_se(SELayer(32))] == [8]
