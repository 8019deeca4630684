"""A small network with what tools meet: swapped blocks, an inserted one, norms, a classifier."""

from collections import OrderedDict

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import insert, replace_se
from tests.helpers import randomized

IMAGES = torch.rand(4, 3, 16, 20, generator=torch.Generator().manual_seed(0))
PLACE = "stem.relu"


def _stage(width: int, out: int) -> nn.Sequential:
    layers = {"conv": nn.Conv2d(width, out, 3, padding=1), "bn": nn.BatchNorm2d(out)}
    return nn.Sequential(OrderedDict(**layers, relu=nn.ReLU()))


def plain(classes: int = 5) -> nn.Module:
    """Torchvision's SE behind each of two stages, random weights, in eval mode."""
    torch.manual_seed(0)
    layers = {
        "stem": _stage(3, 16),
        "se": SqueezeExcitation(16, 8),
        "stage": _stage(16, 24),
        "late": SqueezeExcitation(24, 8),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(24, classes),
    }
    return randomized(nn.Sequential(OrderedDict(layers))).eval()


def attended(name: str = "CaCo", classes: int = 5) -> nn.Module:
    """That network with blocks at its sites, and a CBAM behind its first ReLU; all gates move."""
    model = replace_se(plain(classes), name)
    insert(model, "CBAM", after=PLACE, example=IMAGES)
    return randomized(model).eval()
