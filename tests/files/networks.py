"""Networks that tests save and load."""

import timm
import torch
import torchvision
from torch import nn

from attnblocks import SE, replace_se
from tests.helpers import randomized

TV = "torchvision/mobilenet_v3_small"
TIMM = "timm/mobilenetv3_small_050"


def built(base: str, **kwargs) -> nn.Module:
    library, name = base.split("/")
    if library == "timm":
        return timm.create_model(name, **kwargs)
    return torchvision.models.get_model(name, **kwargs)


def trained(base: str, block: object, **kwargs) -> nn.Module:
    return randomized(replace_se(built(base, **kwargs), block))


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return list(ours) == list(theirs) and all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name])
        for name, value in ours.items()
    )


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.se, self.b = nn.Linear(3, 3, bias=False), SE(3), nn.Linear(3, 3, bias=False)
        if tied:
            self.b.weight = self.a.weight
