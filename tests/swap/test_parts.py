"""Parts of networks with inserted blocks, and networks whose modules were moved or wrapped."""

import copy
import io
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

from attnblocks import (
    SE,
    CaCo,
    Eca,
    apply_recipe,
    find_se,
    insert,
    recipe,
    remove,
    save_model,
    summary,
)
from attnblocks.visualize import attention_maps
from tests.swap.inserted import IMAGES, anatomy, lively, net, same_anatomy

BASIC = torchvision.models.resnet.BasicBlock
LARGE = torch.rand(2, 3, 32, 32)


def attended(after: list[str]) -> nn.Module:
    """A small ResNet whose blocks change its maps."""
    torch.manual_seed(0)
    model = lively(torchvision.models.ResNet(BASIC, [1, 1, 1, 1])).eval()
    return insert(model, SE, after=after, example=LARGE, init="fresh")


PARTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "children": lambda m: nn.Sequential(*list(m.children())[:-2]),
    "by name": lambda m: nn.Sequential(
        m.conv1, m.bn1, m.relu, m.maxpool, m.layer1, m.layer2, m.layer3, m.layer4
    ),
    "getter": lambda m: IntermediateLayerGetter(m, {"layer4": "x"}),
    "extractor": lambda m: create_feature_extractor(m, {"layer4": "x"}),
}


@pytest.mark.parametrize("take", PARTS.values(), ids=PARTS)
def test_a_part_of_a_network_has_its_blocks(take):
    model = attended(["bn1", "layer1", "layer2.0.bn2", "layer4"])
    expected: list[torch.Tensor] = []
    hook = model.layer4.register_forward_hook(lambda *args: expected.append(args[2]))
    model(LARGE)
    hook.remove()
    part = take(model)
    found = part(LARGE)
    torch.testing.assert_close(found["x"] if isinstance(found, dict) else found, expected[0])
    blocks = [site.module for site in find_se(model)]
    held = set(part.parameters())
    assert all(p in held for block in blocks for p in block.parameters())
    if not isinstance(part, torch.fx.GraphModule):  # which has the layers of blocks, and no block
        assert [site.module for site in find_se(part)] == blocks
        assert len([site for site in find_se(part) if site.after is not None]) == 4
        assert len(recipe(part)) == len(attention_maps(part, LARGE)) == 4
        part.double()(LARGE.double())
        assert find_se(remove(part)) == ()
    else:
        part.double()(LARGE.double())


def test_a_part_is_copied_and_written_without_the_rest():
    model = attended(["layer1", "layer2.0.bn2"])
    written = io.BytesIO()
    torch.save(model.layer1, written)
    own = sum(value.nbytes for value in model.layer1.state_dict().values())
    assert written.tell() < 1.2 * own + 30_000
    copied = copy.deepcopy(model.layer1)
    nn.init.constant_(copied[0].layer1_attention.fc2.bias, -9.0)
    x = torch.rand(2, 64, 8, 8)
    assert not torch.allclose(copied(x), model.layer1(x))
    assert [site.after for site in find_se(copied)] == ["0"]  # the part itself has no name
    assert recipe(apply_recipe(attended(["bn1"]).layer1, recipe(copied))) == recipe(copied)


def test_the_features_of_timm():
    model = timm.create_model("resnet18", features_only=True, out_indices=(1, 2)).eval()
    expected = model(LARGE)
    insert(model, CaCo, after="stages", example=LARGE)
    assert {site.after for site in find_se(model)} == {"act1", "layer1", "layer2"}
    for found, wanted in zip(model(LARGE), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_block_behind_another_one_that_is_taken_out_without_its_home_is_named(tmp_path):
    model = net()
    model.pool = nn.Sequential(SE(8), nn.MaxPool2d(2))
    insert(model, Eca, after="pool.0", example=IMAGES)
    part = nn.Sequential(model.stem, model.pool)
    for read in (find_se, summary, recipe, lambda m: save_model(m, tmp_path / "m")):
        with pytest.raises(ValueError, match=r"behind '1\.0' is held by a module of the network"):
            read(part)
    assert list(tmp_path.iterdir()) == []
    remove(part)
    assert [site.name for site in find_se(model)] == ["pool.0"]


def inserted_before(model: nn.Sequential) -> None:
    model.insert(0, nn.Identity())


def shortened(model: nn.Sequential) -> None:
    del model[0]


def checkpointed(model: nn.Sequential) -> None:
    apply_activation_checkpointing(model, check_fn=lambda m: isinstance(m, nn.BatchNorm2d))


def wrapped(model: nn.Sequential) -> None:
    model[2] = nn.Sequential(model[2], nn.Dropout()).eval()


@pytest.mark.parametrize("change", [inserted_before, shortened, checkpointed, wrapped])
def test_modules_that_are_moved_or_wrapped_keep_their_blocks(change):
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        parts = [nn.Identity(), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*parts).eval()

    model = insert(build(), SE, after="2", example=IMAGES, init="fresh")
    expected = model(IMAGES)
    change(model)
    assert torch.equal(model(IMAGES), expected)
    (site,) = find_se(model)
    assert isinstance(site.module, SE)
    assert dict(model.named_modules())[site.after]._forward_hooks
    remove(model)
    plain = build()
    change(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not [name for m in model.modules() for name in vars(m) if "attention" in name]


class Alias(nn.Module):
    """Code after the shortcut changes the map that the shortcut passes on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(3, 3, 3, padding=1), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        y = self.shortcut(x)
        x.mul_(3)
        return x + y


def test_a_map_that_other_code_changes_is_noticed():
    model = Alias()
    before = anatomy(model)
    with pytest.raises(ValueError, match="returns something else with the new blocks"):
        insert(model, SE, after="shortcut", example=IMAGES)
    assert same_anatomy(model, before)
    insert(model, SE, after="shortcut", example=IMAGES, init="fresh")


class Caches(nn.Module):
    """Keeps what it computed, in a dict and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 3, 3), nn.Parameter(torch.ones(()))
        self.cache: dict[str, torch.Tensor] = {}
        self.seen = [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(self.seen))
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale.detach() * 2
        return self.conv(x) * self.cache["scale"]


def test_caches_are_as_before():
    model = Caches()
    cache, seen = model.cache, model.seen
    insert(model, SE, after="conv", example=IMAGES)
    assert model.cache is cache == {}
    assert model.seen is seen
    assert seen == [0]


def test_what_is_built_in_inference_mode_can_be_trained():
    model = net()
    with torch.inference_mode():
        insert(model, CaCo, after=["bn", "stem"], example=IMAGES)
    model.train()(IMAGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
