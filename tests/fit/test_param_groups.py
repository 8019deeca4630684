"""Groups of parameters: each parameter once, at the rate and decay that it should have."""

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attnblocks import SE, AttentionBlock, create_block, find_se, insert, param_groups, replace_se
from attnblocks.blocks.cbam import SpatialGate
from tests.helpers import BLOCKS, small_network

ALL = ("channel", "rows", "columns", "positions")
COORD = {"conv1.weight", "conv_h.weight", "conv_w.weight"}
COORD_VECTORS = {"conv1.bias", "bn1.weight", "bn1.bias", "conv_h.bias", "conv_w.bias"}
MLP, MLP_VECTORS = {"fc1.weight", "fc2.weight"}, {"fc1.bias", "fc2.bias"}


def within(prefix: str, *parts: set[str]) -> set[str]:
    return {f"{prefix}{name}" for part in parts for name in part}


SPATIAL = {
    "SE": ({*()}, {*()}),
    "Eca": ({*()}, {*()}),
    "CBAM": ({"spatial.conv.weight"}, {"spatial.bn.weight", "spatial.bn.bias"}),
    "CoordAtt": (COORD, COORD_VECTORS),
    "SeCo": (within("coord.", COORD), within("coord.", COORD_VECTORS)),
    "CaCo": (within("coord.", COORD), within("coord.", COORD_VECTORS)),
}
CHANNEL = {
    "SE": (MLP, MLP_VECTORS),
    "Eca": ({"conv.weight"}, {*()}),
    "CBAM": (within("channel.", MLP), within("channel.", MLP_VECTORS)),
    "CoordAtt": ({*()}, {*()}),
    "SeCo": (within("se.", MLP), within("se.", MLP_VECTORS)),
    "CaCo": (within("channel.", MLP), within("channel.", MLP_VECTORS)),
}


def names(model: nn.Module, *args, **options) -> dict[str, set[str]]:
    """The names of the parameters of each group, which tests expect by hand."""
    known = {p: name for name, p in model.named_parameters()}
    groups = param_groups(model, *(args or (1e-3, 0.1)), **options)
    return {group["name"]: {known[p] for p in group["params"]} for group in groups}


def layers() -> nn.Sequential:
    """A network without attention, of which every name is known."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("gates", [None, ("channel",), ALL], ids=["default", "channel", "all"])
def test_stages_of_every_block_are_apart_from_the_network(name, gates):
    model = nn.Sequential(*layers(), create_block(name, 8))
    sources = {None: [SPATIAL], ("channel",): [CHANNEL], ALL: [SPATIAL, CHANNEL]}[gates]
    decaying, others = (within("4.", *(s[name][i] for s in sources)) for i in (0, 1))
    all_decaying, all_others = (within("4.", SPATIAL[name][i], CHANNEL[name][i]) for i in (0, 1))
    expected = {
        "weights": {"0.weight", "3.weight"} | (all_decaying - decaying),
        "no decay": {"0.bias", "1.weight", "1.bias", "3.bias"} | (all_others - others),
        "gates": decaying,
        "gates no decay": others,
    }
    found = names(model) if gates is None else names(model, gates=gates)
    assert found == {name: group for name, group in expected.items() if group}


def test_rates_and_decays_are_those_of_the_group():
    model = nn.Sequential(*layers(), create_block("CaCo", 8))

    def found(**options):
        groups = param_groups(model, 1e-3, 0.1, **options)
        return [(group["name"], group["lr"], group["weight_decay"]) for group in groups]

    plain = [("weights", 1e-3, 0.1), ("no decay", 1e-3, 0.0)]
    assert found() == [*plain, ("gates", 1e-3, 0.1), ("gates no decay", 1e-3, 0.0)]
    gates = [("gates", 0.02, 0.1), ("gates no decay", 0.02, 0.0)]
    assert found(gate_lr=0.02) == [*plain, *gates]
    gates = [("gates", 1e-3, 0.0), ("gates no decay", 1e-3, 0.0)]
    assert found(gate_weight_decay=0) == [*plain, *gates]


@pytest.mark.parametrize("family", ["torchvision", "timm mobile", "timm", "timm legacy"])
def test_the_own_se_blocks_of_other_libraries_are_gates_of_channels(family):
    make, layer = {
        "torchvision": (small_network, ".fc"),
        "timm mobile": (lambda: timm.create_model("tf_mobilenetv3_small_075"), ".se."),
        "timm": (lambda: timm.create_model("seresnext26d_32x4d"), ".se."),
        "timm legacy": (lambda: timm.create_model("legacy_seresnet18"), ".se_module."),
    }[family]
    model = make()
    inside = {name for name, _ in model.named_parameters() if layer in name}
    found = names(model, 1e-3, 0.1, gate_lr=1e-2, gates=("channel",))
    assert found["gates"] == {n for n in inside if n.endswith("weight") and ".bn." not in n}
    assert found["gates no decay"] == {n for n in inside if n.endswith("bias") or ".bn." in n}
    assert "gates" not in names(model)


class OwnNorm(nn.Module):
    """One scale and one shift for each channel, in the shape that multiplies a map."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))


class NormedLinear(nn.Module):
    """Called after the norm of its weights, which decay as any matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3))
        self.bias = nn.Parameter(torch.ones(2, 5))


def test_biases_and_norms_of_any_shape_do_not_decay():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(8, 1),
            "pointwise": nn.Conv2d(8, 1, 1),
            "layer": nn.LayerNorm([8, 7, 7]),
            "group": nn.GroupNorm(2, 8),
            "rms": nn.RMSNorm([8, 7]),
            "instance": nn.InstanceNorm2d(8, affine=True),
            "convnext": torchvision.models.convnext.LayerNorm2d(8),
            "timm": timm.layers.LayerNorm2d(8),
            "own": OwnNorm(8),
            "normed": NormedLinear(),
            "attention": nn.MultiheadAttention(8, 2),
            "prelu": nn.PReLU(8),
        }
    )
    found = names(model)
    matrices = {"linear.weight", "pointwise.weight", "normed.weight"}
    matrices |= {"attention.in_proj_weight", "attention.out_proj.weight"}
    assert found["weights"] == matrices
    assert found["no decay"] == {name for name, _ in model.named_parameters()} - matrices


class Rows(AttentionBlock):
    """A block of the user without stages."""

    gate_names = ("rows",)

    def __init__(self, channels: int):
        super().__init__(channels)
        self.layer = nn.Conv2d(channels, channels, 1)

    def gates(self, x):
        return [self.layer(x.mean(3, keepdim=True)).sigmoid()]


class Mixed(Rows):
    gate_names = ("channel", "rows")


class Unsaid(Rows):
    gate_names = ()


def test_a_block_of_the_user_counts_if_all_its_gates_do():
    model = nn.Sequential(Rows(8), Mixed(8), Unsaid(8))
    found = names(model)
    assert found["gates"] == {"0.layer.weight"}
    assert found["weights"] == {"1.layer.weight", "2.layer.weight"}
    assert names(model, gates=ALL)["gates"] == {"0.layer.weight", "1.layer.weight"}


def test_a_shared_block_and_a_shared_parameter_are_listed_once():
    block = create_block("CaCo", 8)
    model = nn.Sequential(block, nn.Conv2d(8, 8, 1), block, nn.Conv2d(8, 8, 1), nn.Linear(8, 8))
    model[3].weight = model[1].weight
    groups = param_groups(model, 1e-3, 0.1)
    listed = [p for group in groups for p in group["params"]]
    assert [group["name"] for group in groups] == ["weights", "no decay", "gates", "gates no decay"]
    assert len({id(p) for p in listed}) == len(listed) == len(list(model.parameters()))


NETWORKS = {
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=2),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=2),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=2),
    "mobilenetv3": lambda: timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=2),
    "convnextv2": lambda: timm.create_model("convnextv2_atto", num_classes=2),
}


@settings(max_examples=12)
@given(
    network=st.sampled_from([*NETWORKS]),
    block=st.sampled_from(BLOCKS),
    gates=st.sets(st.sampled_from(ALL)).map(sorted),
    frozen=st.booleans(),
    optimizer=st.sampled_from([torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop]),
)
def test_every_parameter_is_in_one_group(network, block, gates, frozen, optimizer):
    with torch.device("meta"):
        model = NETWORKS[network]()
    model.requires_grad_(not frozen)
    if find_se(model):
        replace_se(model, block, init="fresh")
    else:
        with torch.device("meta"):
            model = nn.Sequential(model, create_block(block, 8))
    groups = param_groups(model, 1e-3, 0.1, gates=gates)
    listed = [p for group in optimizer(groups).param_groups for p in group["params"]]
    order = {id(p): position for position, p in enumerate(model.parameters())}
    assert sorted(order[id(p)] for p in listed) == [*range(len(order))]
    for group in groups:
        positions = [order[id(p)] for p in group["params"]]
        assert positions == sorted(positions)
        assert group["weight_decay"] == (0 if group["name"].endswith("no decay") else 0.1)
        if group["weight_decay"]:
            assert all(p.ndim > 1 for p in group["params"])


def test_inserted_blocks_have_gates_too():
    model = torchvision.models.resnet18()
    insert(model, "CaCo", after="layer?.1.bn2", example=torch.zeros(1, 3, 64, 64))
    found = names(model)
    assert len(found["gates"]) == 4 * 3
    assert all(".coord." in name for name in found["gates"] | found["gates no decay"])


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel]
)
def test_of_a_wrapped_network_the_parameters_are_those_inside(wrap):
    model = replace_se(small_network(), "CaCo")
    wrapped = wrap(model)
    groups = param_groups(wrapped, 1e-3, 0.1, gates=ALL)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in wrapped.parameters())
    sizes = [len(group["params"]) for group in param_groups(model, 1e-3, 0.1, gates=ALL)]
    assert [len(group["params"]) for group in groups] == sizes


def test_a_step_goes_by_the_rates_of_the_groups():
    """SGD with gradients of 1 and no decay on vectors: what each parameter loses, by hand."""
    model = nn.Sequential(nn.Conv2d(8, 8, 1), create_block("CoordAtt", 8))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = param_groups(model, 0.1, 0.5, gate_lr=0.3, gate_weight_decay=0.25)
    optimizer = torch.optim.SGD(groups)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        lr, decay = (0.1, 0.5) if name.startswith("0.") else (0.3, 0.25)
        decay = 0 if name.endswith("bias") or ".bn1." in name else decay
        torch.testing.assert_close(p, before[name] - lr * (1 + decay * before[name]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr must be finite and not below 0, got -1.0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite"),
        ({"weight_decay": float("inf")}, ValueError, "weight_decay must be finite"),
        ({"gate_lr": -1}, ValueError, "gate_lr must be finite and not below 0, got -1"),
        ({"gate_weight_decay": -0.1}, ValueError, "gate_weight_decay must be finite"),
        ({"lr": "1e-3"}, TypeError, "lr must be a number, got '1e-3'"),
        ({"gate_lr": True}, TypeError, "gate_lr must be a number, got True"),
        ({"gates": "rows"}, TypeError, "gates must be a sequence of names.*got 'rows'"),
        ({"gates": None}, TypeError, "gates must be a sequence of names.*got None"),
        ({"gates": ["row"]}, ValueError, "among channel, rows, columns, positions; got 'row'"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        param_groups(create_block("CaCo", 8), **{"lr": 1e-3, "weight_decay": 0.1, **options})


@pytest.mark.parametrize("argument", ["gate_lr", "gate_weight_decay"])
def test_a_rate_for_layers_that_are_not_there_is_an_error(argument):
    message = rf"^{argument} is for .* rows, columns, positions alone.* none%s {argument} out$"
    other = r"; there are gates of: %s\. Name them, such as gates=\('channel',%s\), or leave"
    for model, end in [
        (SE(8), other % ("channel", "")),
        (torchvision.ops.SqueezeExcitation(8, 2), other % ("channel", "")),
        (Mixed(8), other % ("channel and rows", " 'rows'")),
        (layers(), ", nor any other: leave"),
    ]:
        with pytest.raises(ValueError, match=message % end):
            param_groups(model, 1e-3, 0.1, **{argument: 0.0})
    with pytest.raises(ValueError, match=r"channel alone, .* none, nor any other: leave"):
        param_groups(layers(), 1e-3, 0.1, gates=("channel",), **{argument: 0.0})
    with pytest.raises(ValueError, match=f"{argument} is for .* of positions alone"):
        param_groups(create_block("CoordAtt", 8), 1e-3, 0.1, gates=["positions"], **{argument: 0})
    assert [g["name"] for g in param_groups(SpatialGate(), 1e-3, 0.1, **{argument: 0.0})]


def test_lazy_parameters_and_networks_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet: run model once"):
        param_groups(nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d()), 1e-3, 0.1)
    with pytest.raises(TypeError, match=r"param_groups cannot read a .*ScriptModule"):
        param_groups(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 1, 1)), 1e-3, 0.1)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module"):
        param_groups([nn.Conv2d(1, 1, 1)], 1e-3, 0.1)
