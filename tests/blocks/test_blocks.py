"""The blocks against a float64 reference, other libraries, and their own contract."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import example, given
from hypothesis import strategies as st
from timm.layers import EcaModule
from torch import nn
from torchvision.models._utils import _make_divisible

from attnblocks import CBAM, SE, CaCo, CoordAtt, Eca, SeCo, create_block, replace_se
from tests.helpers import (
    BLOCKS,
    CHANNELS,
    both_formats,
    both_modes,
    by_reference,
    every_block,
    every_form,
    random_block,
    random_map,
    randomized,
)
from tests.reference import weights

SHAPES = [(2, 7, 5), (1, 6, 9), (3, 1, 1), (1, 1, 1)]  # N, H, W

# Parameters of the whole network with 1000 classes.
PARAMETERS = {
    "mobilenet_v3_small": {
        "SE": 2_542_856,
        "CoordAtt": 2_176_615,
        "CBAM": 2_197_723,
        "Eca": 2_081_255,
        "SeCo": 2_638_255,
        "CaCo": 2_292_222,
    },
    "mobilenet_v3_large": {
        "SE": 5_483_032,
        "CoordAtt": 4_265_847,
        "CBAM": 4_351_892,
        "Eca": 3_970_786,
        "SeCo": 5_778_127,
        "CaCo": 4_646_187,
    },
}


@both_modes
@both_formats
@pytest.mark.parametrize("channels", CHANNELS)
@every_block
def test_agrees_with_the_float64_reference(name, channels, memory_format, train):
    block = random_block(name, channels, dtype=torch.float64).train(train)
    for n, height, width in SHAPES:
        if train and name == "CBAM" and n * height * width == 1:
            continue
        x = random_map(n, channels, height, width, dtype=torch.float64)
        expected = by_reference(name, block, x, train)
        y = block(x.contiguous(memory_format=memory_format))
        torch.testing.assert_close(y, expected, atol=1e-10, rtol=0)
        assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("name", "norm", "momentum"), [("CBAM", "spatial.bn", 0.01), ("CoordAtt", "bn1", 0.1)]
)
def test_running_statistics_follow_the_published_momentum(name, norm, momentum):
    block = random_block(name, 16, dtype=torch.float64).train()
    seen = []
    block.get_submodule(norm).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    before = weights(block)[f"{norm}.running_mean"]
    block(random_map(2, 16, 5, 6, dtype=torch.float64))
    mean = seen[0].detach().numpy().mean((0, 2, 3))
    expected = (1 - momentum) * before + momentum * mean
    np.testing.assert_allclose(weights(block)[f"{norm}.running_mean"], expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)]
)
@both_formats
@every_block
@every_form
def test_lower_precision_stays_near_the_reference(name, memory_format, dtype, tolerance, form):
    block = random_block(name, 64).to(dtype)
    x = random_map(2, 64, 9, 6, dtype=dtype).contiguous(memory_format=memory_format)
    y = block(x)
    expected = by_reference(name, block, x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
    assert (y.double() - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("full_map", [False, True], ids=["lower", "float32"])
@both_modes
@every_block
def test_autocast_keeps_the_dtype_of_the_map(name, train, full_map, lower):
    x_dtype = torch.float32 if full_map else lower
    block = random_block(name, 64).train(train)
    x = random_map(2, 64, 9, 6, dtype=x_dtype).requires_grad_()
    expected = by_reference(name, block, x, train)
    with torch.autocast("cpu", dtype=lower):
        y = block(x)
    y.float().square().sum().backward()
    assert y.dtype == x_dtype
    assert x.grad.dtype == x_dtype
    assert (y.detach().double() - expected).norm() / expected.norm() < 3e-2
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("name", ["SE", "Eca"])
def test_a_gate_of_another_half_type_does_not_widen_the_map(name):
    block, x = random_block(name, 64), random_map(2, 64, 9, 6, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).dtype == torch.float16


@pytest.mark.parametrize("network", PARAMETERS)
@every_block
def test_parameters_of_whole_networks(network, name):
    model = replace_se(torchvision.models.get_model(network), name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[network][name]


@given(st.integers(1, 2000))
def test_squeeze_width_is_rounded_as_in_torchvision(channels):
    assert SE(channels, device="meta").rd_channels == _make_divisible(channels // 4, 8)


@given(st.integers(1, 1500), st.integers(1, 80))
@example(98, 49)  # 98 * (1 / 49) is 1.99... in floating point
def test_a_ratio_of_one_over_r_floors_exactly(channels, r):
    assert CBAM(channels, rd_ratio=1 / r, device="meta").rd_channels == max(1, channels // r)
    assert CoordAtt(channels, rd_ratio=1 / r, device="meta").rd_channels == max(8, channels // r)


def test_defaults_are_the_published_widths():
    widths = {b: create_block(b, 256, device="meta") for b in BLOCKS}
    assert widths["SE"].rd_channels == widths["SeCo"].rd_channels == 64
    assert widths["CBAM"].rd_channels == widths["CaCo"].rd_channels == 16
    assert widths["CoordAtt"].rd_channels == widths["CaCo"].coord.rd_channels == 8
    assert SeCo(1024, device="meta").coord.rd_channels == 32
    assert CBAM(8).rd_channels == CaCo(8).rd_channels == 1


@pytest.mark.parametrize("channels", [1, 8, 64, 100, 240, 576, 2048])
def test_eca_agrees_with_timm(channels):
    ours, theirs = random_block("Eca", channels), EcaModule(channels).eval()
    theirs.load_state_dict(ours.state_dict())
    x = random_map(2, channels, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x))


@both_formats
def test_se_agrees_with_torchvision_and_timm(memory_format):
    x = random_map(2, 96, 5, 6).contiguous(memory_format=memory_format)
    ours = randomized(SE(96))
    peers = [
        (torchvision.ops.SqueezeExcitation(96, 24, scale_activation=nn.Hardsigmoid), ours),
        (timm.layers.SEModule(96, rd_channels=24, gate_layer="hard_sigmoid"), ours),
        (torchvision.ops.SqueezeExcitation(96, 24), SE(96, 24, gate_layer=nn.Sigmoid)),
    ]
    for theirs, block in peers:
        block.load_state_dict(ours.state_dict())
        theirs.load_state_dict(ours.state_dict())  # the same names
        torch.testing.assert_close(block(x), theirs(x))


@every_block
def test_the_meta_device_holds_the_same_parameters(name):
    real, meta = create_block(name, 64), create_block(name, 64, device="meta")
    assert all(p.is_meta for p in meta.parameters())
    shapes = [{k: v.shape for k, v in b.state_dict().items()} for b in (real, meta)]
    assert shapes[0] == shapes[1]
    x = torch.empty(2, 64, 7, 5, device="meta")
    assert meta(x).shape == x.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA has other algorithms")
@every_block
def test_deterministic_algorithms_suffice_on_cuda(name):
    block = random_block(name, 16).cuda().train()
    x = random_map(2, 16, 5, 6).cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)  # raises where an operator has none
    try:
        block(x).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_options_reach_the_layer_they_speak_of():
    block = CaCo(
        64, 5, act_layer=nn.SiLU, gate_layer=nn.Hardsigmoid, coord_rd_channels=7, norm_layer=None
    )
    assert (block.channel.fc1.out_channels, block.coord.conv1.out_channels) == (5, 7)
    assert isinstance(block.channel.act, nn.SiLU)
    assert isinstance(block.coord.act, nn.Hardswish)
    assert isinstance(block.channel.gate, nn.Hardsigmoid)
    assert isinstance(block.coord.gate, nn.Sigmoid)
    assert isinstance(block.coord.bn1, nn.Identity)
    seco = SeCo(64, rd_ratio=1 / 8, coord_rd_ratio=1 / 2)
    assert (seco.se.rd_channels, seco.coord.rd_channels) == (8, 32)
    assert CBAM(64, kernel_size=3).spatial.conv.kernel_size == (3, 3)
    assert Eca(64, kernel_size=5).conv.kernel_size == (5,)
    assert isinstance(SE(64, norm_layer=nn.BatchNorm2d).bn, nn.BatchNorm2d)


@pytest.mark.parametrize("name", ["CoordAtt", "SeCo", "CaCo"])
def test_a_layer_around_another_is_given_what_it_takes(name):
    """As adapters are, which know nothing of the channel gate."""
    block = random_block(name, 32)
    x = random_map(2, 32, 5, 7)
    expected = block(x)
    coord = block if name == "CoordAtt" else block.coord
    coord.conv1 = nn.Sequential(coord.conv1)
    torch.testing.assert_close(block(x), expected)


@every_block
def test_wrong_maps_are_named(name):
    block = create_block(name, 16)
    with pytest.raises(ValueError, match=r"4 dimensions.*got 3.*\(16, 7, 7\)"):
        block(torch.rand(16, 7, 7))
    if name != "Eca":  # whose one layer runs over however many there are
        with pytest.raises(ValueError, match=r"built for 16 channels, got 24"):
            block(torch.rand(2, 24, 7, 7))
    for height, width in ((0, 7), (7, 0)):  # a mean of nothing is NaN, and so were gradients
        with pytest.raises(ValueError, match=rf"map with positions, got .*16, {height}, {width}\)"):
            block(torch.rand(2, 16, height, width))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SE(0), ValueError, "channels must be at least 1, got 0"),
        (lambda: Eca(-3), ValueError, "channels must be at least 1, got -3"),
        (lambda: CaCo(16.0), TypeError, "channels must be an int, got 16.0"),
        (lambda: CBAM(16, 0), ValueError, "rd_channels must be at least 1, got 0"),
        (lambda: SE(16, rd_ratio=0), ValueError, "rd_ratio must be above 0 and finite, got 0"),
        (lambda: SE(16, rd_ratio=float("inf")), ValueError, "rd_ratio must be .* finite, got inf"),
        (lambda: CoordAtt(16, rd_ratio=float("nan")), ValueError, "rd_ratio must be above 0"),
        (lambda: CaCo(16, coord_rd_channels=0), ValueError, "coord_rd_channels must be at least"),
        (lambda: SeCo(16, coord_rd_ratio=-1), ValueError, "coord_rd_ratio must be above 0"),
        (lambda: Eca(16, kernel_size=4), ValueError, "kernel_size must be odd.*got 4"),
        (lambda: CBAM(16, kernel_size=6), ValueError, "kernel_size must be odd.*got 6"),
        (lambda: SE(16, act_layer="relu"), TypeError, "act_layer must be.*got 'relu'"),
        (lambda: SE(16, gate_layer=nn.Sigmoid()), TypeError, "gate_layer must be"),
        (lambda: CBAM(16, gate_layer=lambda: 1), TypeError, "gate_layer must make an nn.Module"),
        (lambda: Eca(16, rd_ratio=0.5), TypeError, "rd_ratio"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_batch_norm_of_a_single_value_is_refused_in_train_mode_only():
    x = torch.rand(1, 16, 1, 1)
    for block in (CBAM(16), SE(16, norm_layer=nn.BatchNorm2d)):
        with pytest.raises(
            ValueError, match="Expected more than 1 value per channel when training"
        ):
            block(x)
        assert block.eval()(x).shape == x.shape
    assert CaCo(16)(x).shape == x.shape  # a row and a column make two values
