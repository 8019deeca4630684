"""State dicts with the names and shapes of the authors' code load, and compute what theirs do."""

import copy
import pickle

import pytest
import safetensors.torch
import timm.layers
import torch
import torchvision.ops
from torch import Tensor, nn
from torch.func import functional_call

from attnblocks import CBAM, SE, AttentionBlock, CaCo, CoordAtt, Eca, create_block, list_blocks
from tests.blocks.published import (
    PublishedCBAM,
    PublishedCoordAtt,
    PublishedCoordAttByItself,
    PublishedEca,
)
from tests.helpers import random_map, randomized


def eca(channels: int, **kwargs) -> Eca:
    return Eca(channels, kernel_size=3, **kwargs)


PAIRS = [
    (PublishedCoordAtt, CoordAtt),
    (PublishedCoordAttByItself, CoordAtt),
    (PublishedCBAM, CBAM),
    (PublishedEca, eca),
]
CONV_BN = {
    "conv1.weight": (8, 96, 1, 1),
    "conv1.bias": (8,),
    "bn1.weight": (8,),
    "bn1.bias": (8,),
    "bn1.running_mean": (8,),
    "bn1.running_var": (8,),
    "bn1.num_batches_tracked": (),
}
SHAPES = {  # at 96 channels, as the authors' classes give them
    PublishedCoordAtt: {
        **CONV_BN,
        "conv2.weight": (96, 8, 1, 1),
        "conv2.bias": (96,),
        "conv3.weight": (96, 8, 1, 1),
        "conv3.bias": (96,),
    },
    PublishedCoordAttByItself: {
        **CONV_BN,
        "conv_h.weight": (96, 8, 1, 1),
        "conv_h.bias": (96,),
        "conv_w.weight": (96, 8, 1, 1),
        "conv_w.bias": (96,),
    },
    PublishedCBAM: {
        "ChannelGate.mlp.1.weight": (6, 96),
        "ChannelGate.mlp.1.bias": (6,),
        "ChannelGate.mlp.3.weight": (96, 6),
        "ChannelGate.mlp.3.bias": (96,),
        "SpatialGate.spatial.conv.weight": (1, 2, 7, 7),
        "SpatialGate.spatial.bn.weight": (1,),
        "SpatialGate.spatial.bn.bias": (1,),
        "SpatialGate.spatial.bn.running_mean": (1,),
        "SpatialGate.spatial.bn.running_var": (1,),
        "SpatialGate.spatial.bn.num_batches_tracked": (),
    },
    PublishedEca: {"conv.weight": (1, 1, 3)},
}


@pytest.mark.parametrize("published", SHAPES)
def test_the_published_names_and_shapes(published):
    state = published(96).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES[published]


@pytest.mark.parametrize("channels", [16, 96, 512])
@pytest.mark.parametrize(("published", "ours"), PAIRS)
def test_a_loaded_block_computes_what_the_published_one_does(published, ours, channels):
    theirs = randomized(published(channels).double(), seed=1)
    block = ours(channels, dtype=torch.float64)
    names = list(block.state_dict())
    given = theirs.state_dict()
    before = dict(given)
    block.load_state_dict(given)
    assert list(given) == list(before)  # the caller's dictionary stays as it is
    assert list(block.state_dict()) == names
    for training in (False, True):
        x = random_map(2, channels, 5, 9, dtype=torch.float64)
        torch.testing.assert_close(
            block.train(training)(x), theirs.train(training)(x), rtol=1e-12, atol=1e-12
        )
    running = [v for k, v in theirs.state_dict().items() if "running" in k or "tracked" in k]
    ours_running = [v for k, v in block.state_dict().items() if "running" in k or "tracked" in k]
    torch.testing.assert_close(ours_running, running, rtol=1e-12, atol=1e-12)


class Network(nn.Module):
    """Attention inside blocks, under names such as those of MobileNetV2 and ResNet."""

    def __init__(self, attention) -> None:
        super().__init__()
        inner = [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), attention(64), nn.Conv2d(64, 4, 1)]
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Module())
        self.features[1].conv = nn.Sequential(*inner)
        self.layer1 = nn.ModuleDict({"cbam": attention(4 * 16), "conv2": nn.Conv2d(64, 64, 1)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1["conv2"](self.layer1["cbam"](self.features[0](x)))
        return self.features[1].conv(x)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize(("published", "ours"), PAIRS)
def test_files_of_whole_networks(published, ours, kind, tmp_path):
    theirs = randomized(Network(published)).eval()
    path = tmp_path / f"network.{kind}"
    if kind == "pt":
        torch.save(theirs.state_dict(), path)
        state = torch.load(path, weights_only=True)
    else:
        safetensors.torch.save_file(theirs.state_dict(), path)
        state = safetensors.torch.load_file(path)
    model = Network(ours).eval()
    assert not any(model.load_state_dict(state))
    x = random_map(2, 3, 9, 12)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-4, atol=1e-5)
    # What is saved has today's names, and loads again.
    again = Network(ours).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))
    assert model.state_dict().keys() == Network(ours).state_dict().keys()


def refused(block: nn.Module, state: dict[str, Tensor]) -> str:
    """The message of the error."""
    with pytest.raises(RuntimeError) as error:
        block.load_state_dict(state)
    return " ".join(str(error.value).split())


def test_a_checkpoint_that_does_not_fit_is_reported_as_before():
    block = CoordAtt(64)
    own, state = CoordAtt(64).state_dict(), PublishedCoordAtt(64).state_dict()
    lacking = {name: value for name, value in state.items() if name != "conv3.bias"}
    assert 'Missing key(s) in state_dict: "conv_w.bias".' in refused(block, lacking)
    more = {**state, "conv4.weight": state["conv3.weight"]}
    assert 'Unexpected key(s) in state_dict: "conv4.weight".' in refused(block, more)
    both = {**own, "conv2.weight": state["conv2.weight"]}
    assert 'Unexpected key(s) in state_dict: "conv2.weight".' in refused(block, both)
    mixed = {name: v for name, v in {**own, **state}.items() if "conv_h" not in name}
    message = refused(block, mixed)
    assert 'Missing key(s) in state_dict: "conv_h.weight", "conv_h.bias".' in message
    for name in ("conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias"):
        assert f'"{name}"' in message
    other_shape = {**state, "conv2.weight": torch.ones(3, 3)}
    assert "size mismatch for conv_h.weight" in refused(block, other_shape)
    wider = PublishedCBAM(128).state_dict()
    assert "size mismatch for channel.fc1.weight" in refused(CBAM(64), wider)


def test_a_part_of_a_checkpoint_loads_where_that_is_allowed():
    block, state = CoordAtt(64), PublishedCoordAtt(64).state_dict()
    part = {name: value for name, value in state.items() if name.startswith("conv2.")}
    missing, unexpected = block.load_state_dict(part, strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {"conv1", "bn1", "conv_w"}
    assert torch.equal(block.conv_h.weight, state["conv2.weight"])


def test_a_network_of_the_authors_without_a_spatial_gate_lacks_it():
    state = PublishedCBAM(64).state_dict()
    channel_only = {name: v for name, v in state.items() if name.startswith("ChannelGate")}
    missing, unexpected = CBAM(64).load_state_dict(channel_only, strict=False)
    assert unexpected == []
    assert {name.split(".")[0] for name in missing} == {"spatial"}


@pytest.mark.parametrize("name", list_blocks())
def test_every_published_name_is_one_of_a_layer_of_the_block(name):
    block = randomized(create_block(name, 64))
    renamed = {new: old for old, new in type(block).published_names.items()}
    assert renamed.keys() <= dict(block.named_modules()).keys()
    state = {}
    for key, value in block.state_dict().items():
        layer, _, end = key.rpartition(".")
        state[f"{renamed.get(layer, layer)}.{end}"] = value
    fresh = create_block(name, 64)
    fresh.load_state_dict(state)
    assert all(map(torch.equal, fresh.state_dict().values(), block.state_dict().values()))


@pytest.mark.parametrize(("published", "ours"), [PAIRS[0], PAIRS[2]])
def test_copies_and_blocks_without_data_take_them_too(published, ours):
    theirs = randomized(published(64)).eval()
    x = random_map(2, 64, 5, 9)
    expected = theirs(x)
    state = theirs.state_dict()
    empty = ours(64, device="meta")
    for block in (copy.deepcopy(ours(64)), pickle.loads(pickle.dumps(ours(64))), empty):
        block.load_state_dict(state, assign=block is empty)
        assert all(value.requires_grad and value.is_leaf for value in block.parameters())
        torch.testing.assert_close(block.eval()(x), expected, rtol=1e-5, atol=1e-6)
    with_gradients = theirs.state_dict(keep_vars=True)
    empty = ours(64, device="meta")
    empty.load_state_dict(with_gradients, assign=True)
    empty.eval()(x).sum().backward()
    assert all(value.is_leaf and value.grad is not None for value in empty.parameters())


@torch.no_grad()  # kernels round otherwise where derivatives are recorded
def test_wrapped_blocks_take_them_too():
    state = randomized(PublishedCoordAtt(64)).state_dict()
    block = CoordAtt(64).eval()
    block.load_state_dict(state)
    x = random_map(2, 64, 5, 9)
    expected = block(x)
    compiled = torch.compile(CoordAtt(64).eval(), backend="eager")
    compiled.load_state_dict({f"_orig_mod.{name}": value for name, value in state.items()})
    torch.testing.assert_close(compiled(x), expected)
    wrapped = nn.DataParallel(CoordAtt(64).eval())
    wrapped.load_state_dict({f"module.{name}": value for name, value in state.items()})
    assert torch.equal(wrapped.module(x), expected)
    assert torch.equal(functional_call(CoordAtt(64).eval(), block.state_dict(), x), expected)


class Down(AttentionBlock):
    """A block of a user's own that was published with linear layers under other names."""

    gate_names = ("channel",)
    published_names = {"fc.0": "down", "fc.2": "up", "scale": "gain"}  # noqa: RUF012

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.gain = nn.Linear(4, 4)

    def gates(self, x: Tensor) -> list[Tensor]:
        return [self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()]


def test_a_block_of_the_users_own_names_its_published_layers():
    published = nn.Module()
    published.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
    published.scale = nn.Linear(4, 4)  # a linear layer in both
    block = Down(8)
    block.load_state_dict(published.state_dict())
    x = random_map(2, 8, 3, 4)
    expected = x * published.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]
    torch.testing.assert_close(block(x), expected)
    assert torch.equal(block.gain.weight, published.scale.weight)


class WithConv2(CoordAtt):
    """A subclass whose own layer has a name that the published code uses for another."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)


def test_a_layer_of_the_block_keeps_its_name():
    block, other = randomized(WithConv2(16)), WithConv2(16)
    other.load_state_dict(block.state_dict())
    part = {name: v for name, v in block.state_dict().items() if name.startswith("conv2")}
    fresh = WithConv2(16)
    before = fresh.conv_h.weight.clone()
    fresh.load_state_dict(part, strict=False)
    assert torch.equal(fresh.conv2.weight, block.conv2.weight)
    assert torch.equal(fresh.conv_h.weight, before)


def test_the_coordinate_stage_of_another_block_takes_the_names_of_coordinate_attention():
    stage = randomized(PublishedCoordAtt(64)).state_dict()
    block = CaCo(64)
    rest = {name: v for name, v in block.state_dict().items() if name.startswith("channel.")}
    block.load_state_dict({**rest, **{f"coord.{name}": value for name, value in stage.items()}})
    assert torch.equal(block.coord.conv_w.weight, stage["conv3.weight"])


@pytest.mark.parametrize(
    "published", [torchvision.ops.SqueezeExcitation(64, 16), timm.layers.SEModule(64)]
)
def test_se_of_torchvision_and_timm(published):
    block = SE(64, published.fc1.out_channels, gate_layer=nn.Sigmoid)
    block.load_state_dict(randomized(published).state_dict())
    x = random_map(2, 64, 5, 9)
    torch.testing.assert_close(block(x), published(x), rtol=1e-5, atol=1e-6)
