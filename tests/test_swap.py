"""Finding and replacing SE blocks: what changes, what stays, and what is refused."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.layers import EcaModule, SEModule
from torch import nn

from attnblocks import (
    CBAM,
    SE,
    CaCo,
    CoordAtt,
    Eca,
    SELayers,
    find_se,
    list_blocks,
    register_block,
    register_se,
    replace_se,
)
from tests.helpers import random_map, randomized


def small_network() -> nn.Module:
    """MobileNetV3-Small of torchvision with random weights and statistics, in eval mode."""
    return randomized(torchvision.models.mobilenet_v3_small(num_classes=5)).eval()


def snapshot(model: nn.Module) -> dict[str, object]:
    """Every module by identity, and every value."""
    modules = {f"module {name}": module for name, module in model.named_modules()}
    return modules | {k: v.clone() for k, v in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, object]) -> bool:
    after = snapshot(model)
    return before.keys() == after.keys() and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b
        for a, b in zip(before.values(), after.values(), strict=True)
    )


def test_sites_are_read_off_the_network():
    model = torchvision.models.mobilenet_v3_small()
    blocks = {n: m for n, m in model.named_modules() if type(m).__name__ == "SqueezeExcitation"}
    sites = find_se(model)
    assert [s.name for s in sites] == list(blocks)
    for site, block in zip(sites, blocks.values(), strict=True):
        assert site.module is block
        assert site.channels == block.fc1.weight.shape[1]
        assert site.rd_channels == block.fc1.weight.shape[0]
        assert site.kind == "torchvision.ops.misc.SqueezeExcitation"
        assert isinstance(site.act_layer(), nn.ReLU)
        assert isinstance(site.gate_layer(), nn.Hardsigmoid)
        assert site.gate_layer() is not block.scale_activation
    assert find_se(model) == sites


def test_the_new_blocks_stand_where_the_old_ones_stood():
    model = small_network()
    sites = find_se(model)
    others = {n: m for n, m in model.named_modules() if "block" in n and not list(m.children())}
    assert replace_se(model, CaCo) is model
    new = find_se(model)
    assert [(s.name, s.channels) for s in new] == [(s.name, s.channels) for s in sites]
    assert all(type(s.module) is CaCo and not s.module.training for s in new)
    kept = [n for n in others if not any(n.startswith(s.name) for s in sites)]
    assert len(kept) > 30
    assert all(model.get_submodule(n) is others[n] for n in kept)
    y = model.train()(torch.rand(2, 3, 64, 64))
    y.sum().backward()
    assert all(p.grad is not None for s in new for p in s.module.parameters())


def test_a_swap_by_se_changes_nothing_and_fits_the_old_checkpoint():
    model = small_network()
    x = torch.rand(2, 3, 64, 64)
    before, state = model(x), copy.deepcopy(model.state_dict())
    replace_se(model, SE)
    torch.testing.assert_close(model(x), before)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("first", list_blocks())
@pytest.mark.parametrize("second", list_blocks())
def test_a_swap_can_be_followed_by_another(first, second):
    model = replace_se(replace_se(small_network(), first), second)
    assert {type(s.module).__name__ for s in find_se(model)} == {second}
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_se_after_caco_takes_over_its_channel_mlp():
    model = replace_se(small_network(), CaCo, rd_channels="match")
    old = {s.name: s.module.channel for s in find_se(model)}
    for site in find_se(replace_se(model, SE)):
        assert torch.equal(site.module.fc1.weight, old[site.name].fc1.weight)
        assert torch.equal(site.module.fc2.bias, old[site.name].fc2.bias)
        assert isinstance(site.module.gate, nn.Sigmoid)


def test_where_selects_by_predicate_and_by_pattern():
    wide = replace_se(small_network(), CaCo, where=lambda site: site.channels > 200)
    assert [s.channels > 200 for s in find_se(wide)] == [
        isinstance(s.module, CaCo) for s in find_se(wide)
    ]
    one = replace_se(small_network(), Eca, where="features.4.*")
    assert [s.name for s in find_se(one) if isinstance(s.module, Eca)] == ["features.4.block.2"]
    two = replace_se(small_network(), Eca, where=["features.4.*", "features.1?.*"])
    assert {s.name.split(".")[1] for s in find_se(two) if isinstance(s.module, Eca)} == {
        "4",
        "10",
        "11",
    }


def test_inplace_false_leaves_the_original():
    model = small_network()
    before = snapshot(model)
    copied = replace_se(model, CaCo, inplace=False)
    assert unchanged(model, before)
    assert copied is not model
    assert {type(s.module) for s in find_se(copied)} == {CaCo}


def test_widths_are_published_unless_matched():
    published = [s.rd_channels for s in find_se(small_network())]
    assert [s.rd_channels for s in find_se(replace_se(small_network(), CaCo))] == [
        s.channels // 16 for s in find_se(small_network())
    ]
    matched = replace_se(small_network(), CaCo, rd_channels="match")
    assert [s.rd_channels for s in find_se(matched)] == published
    one_conv = replace_se(timm.layers.EffectiveSEModule(64), CBAM, rd_channels="match")
    assert one_conv.rd_channels == 4


def test_block_options_names_and_factories():
    model = replace_se(small_network(), "CaCo", coord_rd_channels=4, rd_channels=3)
    assert {(s.module.rd_channels, s.module.coord.rd_channels) for s in find_se(model)} == {(3, 4)}
    register_block("Tiny", lambda channels: CBAM(channels, 1))
    assert {s.rd_channels for s in find_se(replace_se(small_network(), "Tiny"))} == {1}

    # A factory may keep the old block and add to it.
    model = small_network()
    sites = find_se(model)
    replace_se(model, lambda s: nn.Sequential(s.module, CoordAtt(s.channels)))
    assert [model.get_submodule(f"{s.name}.0") for s in sites] == [s.module for s in sites]


def test_the_root_itself_may_be_an_se_block():
    root = randomized(torchvision.ops.SqueezeExcitation(16, 4))
    new = replace_se(root, SE)
    x = random_map(2, 16, 5, 6)
    assert type(new) is SE
    torch.testing.assert_close(new(x), root(x))


def test_a_shared_block_is_replaced_once_and_stays_shared():
    shared = SEModule(16)
    model = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.ModuleList([shared])})
    assert len(find_se(model)) == 1
    replace_se(model, CaCo)
    assert type(model["a"][0]) is CaCo
    assert model["a"][0] is model["b"][0]


@pytest.mark.parametrize(
    "place", [{"device": "meta"}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}]
)
@pytest.mark.parametrize("block", [SE, CaCo])
def test_device_and_dtype_are_taken_over(place, block):
    model = torchvision.models.mobilenet_v3_small().to(**place)
    placed = replace_se(model, block)
    like = next(model.parameters())
    assert all((p.device, p.dtype) == (like.device, like.dtype) for p in placed.parameters())


def test_se_of_a_float64_network_is_exact():
    model = small_network().double()
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = model(x)
    torch.testing.assert_close(replace_se(model, SE)(x), before, atol=1e-12, rtol=1e-12)


def test_memory_format_is_taken_over():
    model = replace_se(small_network().to(memory_format=torch.channels_last), CBAM)
    spatial = find_se(model)[0].module.spatial.conv.weight
    assert spatial.stride() == spatial.contiguous(memory_format=torch.channels_last).stride()
    assert spatial.stride() != spatial.contiguous().stride()


def test_mode_and_frozen_parts_are_taken_over_by_se():
    old = SEModule(16, norm_layer=nn.BatchNorm2d).train()
    old.bn.eval()
    old.fc1.requires_grad_(False)
    new = replace_se(nn.Sequential(old), SE)[0]
    assert new.training
    assert not new.bn.training
    assert [p.requires_grad for p in (*new.fc1.parameters(), *new.fc2.parameters())] == [
        False,
        False,
        True,
        True,
    ]


def test_a_class_of_the_users_own_with_linear_layers():
    class Mine(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(dim, dim // 4, bias=False), nn.Linear(dim // 4, dim)

        def forward(self, x):
            y = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
            return x * y[:, :, None, None]

    class Quieter(Mine):
        def forward(self, x):
            return super().forward(x) / 2

    def layers(m: Mine) -> SELayers:
        return SELayers(m.up.out_features, nn.Sigmoid(), m.up, m.down, nn.ReLU())

    register_se(Mine, layers)
    model = randomized(nn.Sequential(Mine(16), Quieter(16)))
    x = random_map(2, 16, 5, 6)
    before = model(x)
    assert [s.name for s in find_se(model)] == ["0"]  # the subclass computes something else
    torch.testing.assert_close(replace_se(model, SE)(x), before)
    with pytest.raises(ValueError, match="registered already"):
        register_se(Mine, layers)


def test_hooks_that_go_with_a_block_are_named():
    model = small_network()
    model.features[4].block[2].register_forward_hook(print)
    with pytest.warns(UserWarning, match=r"print on 'features\.4\.block\.2'"):
        replace_se(model, CaCo)


def failing_factory(site):
    if site.channels > 200:
        raise RuntimeError("out of ideas")
    return CaCo(site.channels)


@pytest.mark.parametrize(
    ("block", "kwargs", "error", "message"),
    [
        (CaCo, {"where": "no.such.*"}, LookupError, r"'no\.such\.\*' matches none.*features\.1"),
        (CaCo, {"where": ["features.4.*", "typo"]}, LookupError, "'typo' matches none"),
        (CaCo, {"where": lambda site: False}, LookupError, "selects none"),
        (CaCo, {"where": []}, LookupError, "selects none"),
        (failing_factory, {}, ValueError, r"site 'features\.5\.block\.2'.*out of ideas"),
        (lambda site: site.channels, {}, ValueError, "no nn.Module: 16"),
        (lambda site: None, {"rd_channels": 4}, TypeError, "a function gets the site alone"),
        (Eca, {"rd_channels": "match"}, ValueError, "rd_channels"),
        (CaCo, {"rd_ratio": -1}, ValueError, "rd_ratio must be above 0"),
        (SE, {"rd_ratio": 0.5}, TypeError, "SE takes its widths"),
        ("Cacao", {}, ValueError, "Did you mean 'CaCo'"),
        (nn.Identity(), {}, TypeError, "block must be"),
        (int, {}, TypeError, "block must be"),
    ],
)
def test_whatever_fails_leaves_the_network_as_it_was(block, kwargs, error, message):
    model = small_network()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        replace_se(model, block, **kwargs)
    assert unchanged(model, before)


def test_networks_without_se_say_what_was_looked_for_and_what_is_similar():
    with pytest.raises(LookupError, match=r"torchvision\.ops\.misc\.SqueezeExcitation.*Nothing"):
        replace_se(torchvision.models.resnet18(), CaCo)
    with pytest.raises(LookupError, match=r"Similar modules in it: EcaModule \('1'\)"):
        replace_se(nn.Sequential(nn.ReLU(), EcaModule(16)), CaCo)
    assert find_se(torchvision.models.resnet18()) == ()


def finished_models():
    compiled_in_place = small_network()
    compiled_in_place.compile()
    quantizable = torchvision.models.quantization.mobilenet_v3_large(weights=None)
    exported = torch.export.export(SEModule(16).eval(), (torch.rand(1, 16, 4, 4),))
    return {
        "OptimizedModule.*_orig_mod": torch.compile(small_network()),
        r"model\.compile": compiled_in_place,
        "ExportedProgram": exported,
        "ScriptModule": torch.jit.script(SEModule(16)),
        "skip_mul.*then quantize": quantizable,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_finished_networks_are_refused_with_advice():
    for message, model in finished_models().items():
        with pytest.raises(TypeError, match=message):
            replace_se(model, CaCo)
    nested = nn.Sequential(torch.compile(SEModule(16)))
    with pytest.raises(TypeError, match="OptimizedModule"):
        replace_se(nested, CaCo)


def test_wrapped_networks_are_refused(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        ddp = nn.parallel.DistributedDataParallel(SEModule(16))
        with pytest.raises(TypeError, match=r"DistributedDataParallel.*model\.module"):
            replace_se(ddp, CaCo)
        fsdp = nn.Sequential(SEModule(16))
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        torch.distributed.fsdp.fully_shard(fsdp, mesh=mesh)
        with pytest.raises(TypeError, match="FSDPModule"):
            replace_se(fsdp, CaCo)
    finally:
        torch.distributed.destroy_process_group()


def test_squeezing_the_maximum_is_no_se():
    with pytest.raises(ValueError, match="add_maxpool"):
        replace_se(nn.Sequential(SEModule(16, add_maxpool=True)), SE)


def test_wrong_models_are_named():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got 3"):
        replace_se(3, CaCo)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got 3"):
        find_se(3)
