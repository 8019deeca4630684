"""The swap on at least one network of every family that holds SE blocks."""

import pytest
import timm
import torch
import torchvision

from attnblocks import CBAM, SE, CaCo, CoordAtt, SeCo, find_se, replace_se
from tests.helpers import randomized

SE_CLASSES = {"SqueezeExcitation", "SqueezeExcite", "SEModule", "EffectiveSEModule", "EseModule"}
# name, input size
TORCHVISION = [
    ("mobilenet_v3_small", 64),
    ("mobilenet_v3_large", 64),
    ("efficientnet_b0", 64),
    ("efficientnet_v2_s", 64),
    ("regnet_y_400mf", 64),
    ("maxvit_t", 224),
]
TIMM = [
    ("mobilenetv3_small_050", 64),
    ("tf_mobilenetv3_small_075", 64),
    ("efficientnet_b0", 64),
    ("mixnet_s", 64),
    ("tinynet_e", 64),
    ("fbnetv3_b", 64),
    ("semnasnet_050", 64),
    ("ghostnet_050", 64),
    ("ghostnetv2_100", 64),
    ("repghostnet_050", 64),
    ("lcnet_035", 64),
    ("seresnet18", 64),
    ("regnety_002", 64),
    ("resnetrs50", 64),
    ("regnetz_005", 64),
    ("mobileone_s4", 64),
    ("nf_seresnet26", 64),
    ("dm_nfnet_f0", 64),
    ("coatnet_0_rw_224", 224),
    ("rexnet_100", 64),
    ("rexnetr_100", 64),
    ("cs3sedarknet_l", 64),
    ("legacy_seresnet18", 64),
    ("legacy_seresnext26_32x4d", 64),
    ("ese_vovnet19b_slim_dw", 64),
    ("rdnet_tiny", 64),
    ("hgnet_tiny", 64),
]
WITHOUT_SE = [
    ("tv", "mnasnet0_5"),
    ("tv", "regnet_x_400mf"),
    ("timm", "tf_mobilenetv3_small_minimal_100"),
    ("timm", "efficientnet_lite0"),
    ("timm", "mobilenetv4_conv_small"),
    ("timm", "starnet_s1"),
    ("timm", "ecaresnet26t"),
    ("timm", "eca_nfnet_l0"),
]


def build(library: str, name: str) -> torch.nn.Module:
    if library == "tv":
        return torchvision.models.get_model(name, weights=None, num_classes=5)
    return timm.create_model(name, num_classes=5)


def let_branches_count(model: torch.nn.Module) -> None:
    """Lift what networks initialise at or near zero to close their residual branches."""
    for name, parameter in model.named_parameters():
        small = parameter.abs().max() < 1e-3
        if small and not name.endswith("bias"):
            torch.nn.init.constant_(parameter, 0.5)


@pytest.mark.parametrize(
    ("library", "name", "size"),
    [("tv", *row) for row in TORCHVISION] + [("timm", *row) for row in TIMM],
)
def test_se_to_se_is_exact_and_se_to_caco_trains(library, name, size):
    model = build(library, name).eval()
    let_branches_count(model)
    sites = find_se(model)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    names = [n for n, m in model.named_modules() if type(m).__name__ in SE_CLASSES]
    assert names
    assert [s.name for s in sites] == names
    with torch.no_grad():
        untouched = model(x)
        for site in sites:
            randomized(site.module, seed=len(site.name))
        before = model(x)
        after = replace_se(model, SE)(x)
    error, effect = (after - before).abs().max(), (before - untouched).abs().max()
    assert torch.isfinite(before).all()
    assert error < 0.01 * effect  # small beside what the gates do to the output

    replace_se(model, CaCo)
    assert [(s.name, s.channels) for s in find_se(model)] == [(s.name, s.channels) for s in sites]
    assert {type(s.module) for s in find_se(model)} == {CaCo}
    model(x).square().sum().backward()
    for site in find_se(model):
        gradients = [p.grad for p in site.module.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
        assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(("library", "name"), WITHOUT_SE)
def test_families_without_se_are_refused(library, name):
    model = build(library, name)
    assert find_se(model) == ()
    with pytest.raises(LookupError, match="has no SE block"):
        replace_se(model, CaCo)


@pytest.mark.parametrize("block", [SE, CBAM, CoordAtt, SeCo, CaCo])
def test_builders_of_timm_take_the_blocks_as_they_are(block):
    model = timm.create_model("efficientnet_b0", se_layer=block, dtype=torch.float64)
    sites = find_se(model)
    assert len(sites) == 16
    assert {type(s.module) for s in sites} == {block}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert model(torch.rand(2, 3, 32, 32, dtype=torch.float64)).isfinite().all()
    for name, count in [("gernet_s", 14), ("seresnet33ts", 10), ("regnetz_b16", 22)]:
        model = timm.create_model(name, attn_layer=block).eval()
        assert [type(s.module) for s in find_se(model)] == [block] * count
        assert model(torch.rand(1, 3, 64, 64)).isfinite().all()


def test_the_builder_sets_ratio_and_activation_of_the_first_stage():
    first = find_se(timm.create_model("efficientnet_b0", se_layer=CaCo))[1].module
    assert isinstance(first.channel.act, torch.nn.SiLU)
    assert first.channel.rd_channels == 96 // 24  # a quarter of the 16 channels of its input
    assert isinstance(first.coord.act, torch.nn.Hardswish)
