"""Networks of MONAI: its SE blocks in networks of maps, blocks in its U-Net, and no volumes."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import find_places, find_se, insert, remove, replace_se
from tests.clients.networks import check_swaps
from tests.helpers import randomized

monai = pytest.importorskip("monai", reason="monai is not installed: pip install '.[clients]'")
from monai.networks import blocks, nets  # noqa: E402

pytestmark = pytest.mark.clients

KIND = "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer"


def senet(block, dims=2):
    """A SENet cut off behind its second stage."""
    model = nets.SENet(
        spatial_dims=dims,
        in_channels=1,
        block=block,
        layers=(1, 1, 1, 1),
        groups=4,
        reduction=16,
        inplanes=16,
        input_3x3=False,
    )
    model.layer3, model.layer4 = nn.Identity(), nn.Identity()
    model.last_linear = nn.Linear(512, 3)
    return model


def unet(dims=2):
    return nets.UNet(
        spatial_dims=dims,
        in_channels=1,
        out_channels=2,
        channels=(8, 16, 32),
        strides=(2, 2),
        num_res_units=1,
        norm="batch",
    )


@pytest.mark.parametrize("block", ["se_bottleneck", "se_resnet_bottleneck"])
def test_every_se_is_swapped(block):
    """The blocks of SENet-154 and of SE-ResNet; SE-ResNeXt has the same SE."""
    torch.manual_seed(0)
    check_swaps(senet(block), torch.rand(2, 1, 32, 32), KIND, 2)


def test_a_layer_that_adds_the_map_is_no_se():
    adding = blocks.ChannelSELayer(2, 8, add_residual=True)
    layers = nn.Sequential(blocks.ResidualSELayer(2, 8), blocks.ChannelSELayer(2, 8), adding)
    assert [site.name for site in find_se(layers)] == ["1"]
    with pytest.raises(LookupError, match=r"Similar modules in it: ResidualSELayer \('0'\)"):
        replace_se(layers[:1], "CaCo")


def test_volumes_are_refused():
    model = senet("se_resnet_bottleneck", dims=3)
    assert find_se(model) == ()
    with pytest.raises(
        LookupError, match=r"ChannelSELayer \('layer1\.0\.se_layer' and 1 more\)"
    ) as e:
        replace_se(model, "CaCo")
    assert "it is for volumes, and the blocks take maps (N, C, H, W) alone" in str(e.value)


def test_an_inlined_se_is_named():
    model = nets.EfficientNetBN("efficientnet-b0", pretrained=False)
    named = r"_se_reduce and _se_expand of MBConvBlock \('_blocks\.0\.0' and 15 more\)"
    with pytest.raises(LookupError, match=f"inlined SE are no modules.*{named}"):
        replace_se(model, "CaCo")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_an_insertion_into_its_unet_changes_nothing(train):
    torch.manual_seed(0)
    x = torch.rand(2, 1, 32, 32)
    model = randomized(unet()).eval()
    plain, names = copy.deepcopy(model), dict(model.named_modules())
    residual = [place.name for place in find_places(model, x) if "residual" in place.roles]
    assert residual
    insert(model, "CBAM", after="residual", example=x)
    assert {*residual} >= {site.after for site in find_se(model)}
    assert torch.equal(model.train(train)(x), plain.train(train)(x))
    remove(model)
    assert dict(model.named_modules()) == names


def test_an_insertion_into_a_unet_of_volumes_is_refused():
    x = torch.rand(1, 1, 16, 16, 16)
    assert find_places(unet(dims=3), x) == ()
    with pytest.raises(LookupError, match=r"no maps \(N, C, H, W\).*shape \(1, 8, 8, 8, 8\)"):
        insert(unet(dims=3), "CBAM", after="residual", example=x)
    with pytest.raises(
        ValueError, match=r"'model\.0'.*it returns a tensor of shape \(1, 8, 8, 8, 8\)"
    ):
        insert(unet(dims=3), "CBAM", after="model.0", example=x)
