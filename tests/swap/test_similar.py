"""What is said of a network without SE blocks about what in it is similar."""

import re

import pytest
from torch import nn

from attnblocks import CaCo, SELayers, register_se, replace_se
from tests.helpers import snapshot, unchanged


class Inlined(nn.Module):
    """The layers of an SE among others, called in its forward."""

    def __init__(self, squeeze="se_reduce", expand="se_expand"):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.add_module(squeeze, nn.Conv2d(8, 2, 1))
        self.add_module(expand, nn.Conv2d(2, 8, 1))


def gates():
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.SiLU(), nn.Conv2d(2, 8, 1), nn.Sigmoid()
    )


class InlinedSequence(nn.Module):
    """A sequence that returns gates, and other layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.att = nn.Conv2d(8, 8, 3), gates()


class OwnSE(nn.Module):
    """A module of its own, whose class is not known."""

    def __init__(self):
        super().__init__()
        self.pool, self.se_1, self.se_2 = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 2), nn.Linear(2, 8)


def said_of(model):
    before = snapshot(model)
    with pytest.raises(LookupError) as error:
        replace_se(model, CaCo)
    assert unchanged(model, before)
    return str(error.value)


@pytest.mark.parametrize(
    ("inlined", "named"),
    [
        (Inlined, "se_reduce and se_expand of Inlined ('1' and 1 more)"),
        (lambda: Inlined("squeeze", "excite"), "squeeze and excite of Inlined ('1' and 1 more)"),
        (InlinedSequence, "att of InlinedSequence ('1' and 1 more)"),
    ],
)
def test_inlined_se_are_named_with_advice(inlined, named):
    said = said_of(nn.Sequential(nn.Conv2d(3, 8, 1), inlined(), inlined()))
    assert f"inlined SE are no modules, and cannot be replaced: {named}." in said
    assert "register_se its class; or insert blocks behind other modules" in said


@pytest.mark.parametrize(
    "build",
    [
        OwnSE,
        lambda: Inlined("conv_down", "conv_up"),  # a bottleneck, as its names say nothing else
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)),
    ],
)
def test_what_may_be_something_else_is_not_called_inlined(build):
    assert "inlined" not in said_of(nn.Sequential(nn.Conv2d(3, 8, 1), build()))


def test_a_module_of_its_own_is_similar():
    assert "Similar modules in it: OwnSE ('0' and 1 more)." in said_of(
        nn.Sequential(OwnSE(), OwnSE())
    )


def test_networks_of_volumes_cannot_be_helped():
    said = said_of(nn.Sequential(nn.Conv3d(3, 8, 1), OwnSE()))
    assert said.endswith("it is for volumes, and the blocks take maps (N, C, H, W) alone")
    assert "OwnSE ('1')" in said


def test_what_was_looked_for_is_said_by_library():
    register_se(OwnSE, lambda m: SELayers(8, nn.Sigmoid(), m.se_2, m.se_1, nn.ReLU()))
    said = said_of(nn.ReLU())
    assert "of timm SqueezeExcite, SEModule, EffectiveSEModule, EseModule;" in said
    assert "of transformers EfficientNetSqueezeExciteLayer, " in said
    assert re.search("of tests [^;]*OwnSE; and the blocks of attnblocks", said)  # and other tests
