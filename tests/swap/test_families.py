"""The swap on at least one network of every family that holds SE blocks.

Every kind of SE block - its class, its layers, and who builds it - has a fast case; the other
families are slow ones.
"""

import pytest
import timm
import torch
import torchvision

from attnblocks import CBAM, SE, CaCo, CoordAtt, SeCo, find_se, replace_se
from tests.helpers import keep_the_signal_alive, randomized

SE_CLASSES = {"SqueezeExcitation", "SqueezeExcite", "SEModule", "EffectiveSEModule", "EseModule"}
# name, input size, options that make the network smaller
TORCHVISION = [
    ("mobilenet_v3_small", 64, {}),
    ("mobilenet_v3_large", 32, {}),
    ("efficientnet_b0", 32, {}),
    ("regnet_y_400mf", 32, {}),
    ("maxvit_t", 224, {}),
]
TIMM = [
    ("mobilenetv3_small_050", 64, {}),
    ("tf_mobilenetv3_small_075", 64, {}),
    ("lcnetv2_small", 32, {}),
    ("cspnext_tiny", 64, {}),
    ("fastvit_t8", 64, {}),
    ("mixnet_s", 32, {}),
    ("tinynet_e", 64, {}),
    ("fbnetv3_b", 32, {}),
    ("semnasnet_050", 64, {}),
    ("ghostnetv3_050", 64, {}),
    ("ghostnet_050", 64, {}),
    ("ghostnetv2_100", 64, {}),
    ("repghostnet_050", 64, {}),
    ("lcnet_035", 64, {}),
    ("seresnet18", 32, {}),
    ("regnety_002", 64, {}),
    ("resnetrs50", 32, {"layers": (1, 1, 1, 1)}),
    ("regnetz_005", 32, {}),
    ("regnetz_b16", 32, {}),
    ("mobileone_s4", 32, {}),
    ("repvit_m0_9", 32, {}),
    ("efficientvit_m0", 64, {"img_size": 64}),
    ("efficientvim_m1", 64, {}),
    ("shvit_s1", 64, {}),
    ("test_maxvit", 160, {}),
    ("nf_seresnet26", 32, {}),
    ("dm_nfnet_f0", 32, {"depths": (1, 1, 1, 1)}),
    ("coatnet_0_rw_224", 64, {"img_size": 64}),
    ("rexnet_100", 32, {}),
    ("rexnetr_100", 32, {}),
    ("cs3sedarknet_l", 32, {}),
    ("legacy_seresnet18", 32, {}),
    ("legacy_seresnext26_32x4d", 32, {}),
    ("ese_vovnet19b_slim_dw", 32, {}),
    ("rdnet_tiny", 32, {}),
    ("hgnet_tiny", 32, {}),
]
QUICK = {
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "mobilenetv3_small_050",
    "cspnext_tiny",
    "fastvit_t8",
    "tinynet_e",
    "fbnetv3_b",
    "semnasnet_050",
    "lcnet_035",
    "seresnet18",
    "test_maxvit",
    "nf_seresnet26",
    "rexnetr_100",
    "legacy_seresnet18",
    "hgnet_tiny",
}
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


def build(library: str, name: str, **options) -> torch.nn.Module:
    if library == "tv":
        return torchvision.models.get_model(name, weights=None, num_classes=5)
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} does not have {name} yet")
    return timm.create_model(name, num_classes=5, **options)


def let_branches_count(model: torch.nn.Module) -> None:
    """Lift what networks initialise at or near zero to close their residual branches."""
    for name, parameter in model.named_parameters():
        small = parameter.abs().max() < 1e-3
        if small and not name.endswith("bias"):
            torch.nn.init.constant_(parameter, 0.5)


@pytest.mark.parametrize(
    ("library", "name", "size", "options"),
    [
        pytest.param(library, *row, marks=() if row[0] in QUICK else pytest.mark.slow)
        for library, rows in (("tv", TORCHVISION), ("timm", TIMM))
        for row in rows
    ],
)
def test_se_to_se_is_exact_and_se_to_caco_trains(library, name, size, options):
    torch.manual_seed(0)
    model = build(library, name, **options).double().eval().requires_grad_(False)
    let_branches_count(model)
    sites = find_se(model)
    batch = 2 if size < 224 else 1
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)
    names = [n for n, m in model.named_modules() if type(m).__name__ in SE_CLASSES]
    assert names
    assert [s.name for s in sites] == names
    keep_the_signal_alive(model, torch.cat([x, -x, x.flip(2), -x.flip(2)]) if batch > 1 else x)
    with torch.no_grad():
        untouched = model(x)
        for site in sites:
            randomized(site.module, seed=len(site.name))
        before = model(x)
        after = replace_se(model, SE)(x)
    assert torch.isfinite(before).all()
    scale = before.abs().max().item()
    assert (before - untouched).abs().max() > 0.01 * scale  # the gates matter
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9 * scale)

    replace_se(model, CaCo)
    assert [(s.name, s.channels) for s in find_se(model)] == [(s.name, s.channels) for s in sites]
    assert {type(s.module) for s in find_se(model)} == {CaCo}
    for site in find_se(model):
        site.module.requires_grad_(True)
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
