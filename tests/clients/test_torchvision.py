"""Blocks in a ResNet of torchvision: its weights, its optimizer and its files go on to fit."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import find_places, find_se, insert, load_model, recipe, save_model, summary
from tests.helpers import randomized

pytestmark = pytest.mark.clients

ENDS = [
    f"layer{stage}.{block}.bn2"  # torchvision's own name for the last norm of a BasicBlock
    for stage in (1, 2, 3, 4)
    for block in (0, 1)
]


@pytest.fixture
def resnet():
    return randomized(torchvision.models.resnet18(num_classes=5)).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def step(model, optimizer, images):
    """One step of training, on the same loss."""
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), torch.tensor([1, 3])).backward()
    optimizer.step()


def test_places_are_the_ends_of_the_residual_branches(resnet, images):
    places = find_places(resnet, images)
    residual = [place.name for place in places if "residual" in place.roles]
    assert [name for name in residual if "downsample" not in name] == ENDS


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_the_output_stays_to_the_bit(resnet, images, train):
    plain = copy.deepcopy(resnet)
    names = dict(resnet.named_modules())
    insert(resnet, "CBAM", after=ENDS, example=images)
    assert [site.after for site in find_se(resnet)] == ENDS
    assert all(dict(resnet.named_modules())[name] is module for name, module in names.items())
    assert torch.equal(resnet.train(train)(images), plain.train(train)(images))


def test_weights_of_torchvision_load_afterwards(resnet, images):
    weights = copy.deepcopy(resnet.state_dict())
    late = torchvision.models.resnet18(num_classes=5)
    insert(late, "CBAM", after=ENDS, example=images)
    blocks = tuple(f"{site.name}." for site in find_se(late))
    missing, unexpected = late.load_state_dict(weights, strict=False)
    assert unexpected == []
    assert missing
    assert all(name.startswith(blocks) for name in missing)
    assert torch.equal(late.eval()(images), resnet(images))


def test_an_optimizer_checkpoint_from_before_goes_on(resnet, images):
    """The first step of the old weights is that of the plain network: all gates are constant."""
    sgd = {"lr": 0.01, "momentum": 0.9}
    optimizer = torch.optim.SGD(resnet.parameters(), **sgd)
    step(resnet, optimizer, images)
    checkpoint = copy.deepcopy({"model": resnet.state_dict(), "optimizer": optimizer.state_dict()})
    step(resnet, optimizer, images)  # what goes on without blocks

    late = torchvision.models.resnet18(num_classes=5)
    late.load_state_dict(checkpoint["model"])
    resumed = torch.optim.SGD(late.parameters(), **sgd)
    resumed.load_state_dict(checkpoint["optimizer"])
    insert(late, "CBAM", after=ENDS, example=images, optimizers=resumed)
    started = {n: p.clone() for n, p in late.named_parameters()}
    step(late, resumed, images)
    for name, parameter in resnet.named_parameters():
        torch.testing.assert_close(late.get_parameter(name), parameter, atol=1e-5, rtol=1e-4)
    new = [name for name in started if name not in dict(resnet.named_parameters())]
    moved = [name for name in new if not torch.equal(late.get_parameter(name), started[name])]
    assert len(moved) >= len(ENDS)


def test_the_file_gives_the_network_again(resnet, images, tmp_path):
    insert(resnet, "CoordAtt", after=ENDS, example=images)
    step(resnet, torch.optim.SGD(resnet.parameters(), lr=0.01), images)
    save_model(
        resnet,
        tmp_path / "resnet.safetensors",
        base="torchvision/resnet18",
        base_kwargs={"num_classes": 5},
    )
    loaded = load_model(tmp_path / "resnet.safetensors")
    assert torch.equal(loaded.eval()(images), resnet.eval()(images))


def test_synchronised_norms_lose_a_block_behind_a_norm_and_keep_one_behind_a_block(resnet, images):
    around = copy.deepcopy(resnet)
    insert(around, "CBAM", after="layer?.?", example=images)
    before = around(images)
    around = nn.SyncBatchNorm.convert_sync_batchnorm(around)
    assert len(find_se(around)) == 8
    assert torch.equal(around(images), before)

    insert(resnet, "CBAM", after=ENDS, example=images)
    resnet = nn.SyncBatchNorm.convert_sync_batchnorm(resnet)
    for looks in (recipe, summary):
        with pytest.raises(ValueError, match=r"'layer1\.0\.bn2'"):
            looks(resnet)
