"""What the swap refuses, with which advice, and that it then changes nothing."""

import pytest
import torch
import torchvision
from timm.layers import EcaModule, SEModule
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from attnblocks import (
    SE,
    CaCo,
    Eca,
    find_se,
    list_blocks,
    replace_se,
)
from tests.helpers import small_network, snapshot, unchanged


def failing_factory(site):
    """Keeps the old block, which must come out of it as it was."""
    if site.channels > 200:
        raise RuntimeError("out of ideas")
    return nn.Sequential(site.module, CaCo(site.channels))


@pytest.mark.parametrize(
    ("block", "kwargs", "error", "message"),
    [
        (CaCo, {"where": "no.such.*"}, LookupError, r"'no\.such\.\*' matches none.*features\.1"),
        (CaCo, {"where": ["features.4.*", "typo"]}, LookupError, "'typo' matches none"),
        (CaCo, {"where": lambda site: False}, LookupError, "selects none"),
        (CaCo, {"where": []}, LookupError, "selects none"),
        (failing_factory, {}, ValueError, r"site 'features\.5\.block\.2'.*out of ideas"),
        (lambda site: site.channels, {}, ValueError, "16 is no nn.Module"),
        (lambda site: None, {"rd_channels": 4}, TypeError, "a function gets the site alone"),
        (Eca, {"match_rd_channels": True}, ValueError, "rd_channels"),
        (CaCo, {"rd_ratio": -1}, ValueError, "rd_ratio must be above 0"),
        (CaCo, {"init": "hot"}, ValueError, "init must be 'inherit' or 'fresh', got 'hot'"),
        ({"features.4.*": CaCo, "typo": Eca}, {}, LookupError, "'typo' matches none"),
        ({"*": CaCo, "features.4.*": Eca}, {}, LookupError, "comes after patterns that take all"),
        ({}, {}, LookupError, "mapping from patterns to blocks is empty"),
        ({"*": CaCo}, {"where": "*"}, TypeError, "leave out where"),
        ("Cacao", {}, ValueError, "Did you mean 'CaCo'"),
        (CaCo, {"dtype": torch.float64}, TypeError, "'dtype'.* those of the site"),
        (CaCo, {"device": "meta"}, TypeError, "'device'.* those of the site"),
        (CaCo, {"init": "warm"}, ValueError, "is called 'inherit' now"),
        (CaCo, {"init": "fitted"}, ValueError, "then call warm_start"),
        (CaCo, {"match_rd_channels": True, "rd_channels": 4}, TypeError, "both set the width"),
        (lambda site: None, {"match_rd_channels": True}, TypeError, "function gets the site alone"),
        (nn.Identity(), {}, TypeError, "block must be"),
        (int, {}, TypeError, "block must be"),
    ],
)
def test_whatever_fails_leaves_the_network_as_it_was(block, kwargs, error, message):
    model = small_network()
    model.features[4].block[2].fc1.train().double()
    model.features[4].block[2].requires_grad_(False)
    before = snapshot(model)
    with pytest.raises(error, match=message):
        replace_se(model, block, **kwargs)
    assert unchanged(model, before)


def test_networks_without_se_say_what_was_looked_for_and_what_is_similar():
    with pytest.raises(LookupError, match=r"of torchvision SqueezeExcitation;.*Nothing"):
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
        "quantizable network .with .*then quantize": quantizable,
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_finished_networks_are_refused_with_advice():
    for message, model in finished_models().items():
        with pytest.raises(TypeError, match=message):
            replace_se(model, CaCo)
    nested = nn.Sequential(torch.compile(SEModule(16)))
    with pytest.raises(TypeError, match="OptimizedModule"):
        replace_se(nested, CaCo)


@pytest.mark.usefixtures("process_group")
def test_wrapped_networks_are_refused():
    ddp = nn.parallel.DistributedDataParallel(SEModule(16))
    with pytest.raises(TypeError, match=r"DistributedDataParallel.*model\.module"):
        replace_se(ddp, CaCo)
    fsdp = nn.Sequential(SEModule(16))
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.fsdp.fully_shard(fsdp, mesh=mesh)
    with pytest.raises(TypeError, match="FSDPModule"):
        replace_se(fsdp, CaCo)


@pytest.mark.parametrize(
    "name",  # what the slow ones consist of, CaCo has too
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("SeCo", "CoordAtt")))
        for name in list_blocks()
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_swapped_network_can_still_be_traced(name):
    model = replace_se(small_network(), name)
    x = torch.rand(2, 3, 64, 64)
    traced = torch.jit.trace(model, torch.rand(1, 3, 96, 64), check_trace=False)  # below
    for finished in (torch.fx.symbolic_trace(model), traced):
        torch.testing.assert_close(finished(x), model(x))
    with pytest.raises(TypeError, match=rf"torch.jit.script.*{name}: use torch.jit.trace"):
        torch.jit.script(model)
    features = create_feature_extractor(model, ["features.4", "avgpool"])(x)
    torch.testing.assert_close(features["features.4"], model.features[:5](x))
    with pytest.raises(ValueError, match="4 dimensions"):
        torch.fx.symbolic_trace(find_se(model)[0].module)(torch.rand(16, 4, 4))
    with pytest.raises(LookupError, match="swap before tracing or exporting it"):
        replace_se(torch.fx.symbolic_trace(small_network()), CaCo)


def test_squeezing_the_maximum_is_no_se():
    model = nn.Sequential(SEModule(16, add_maxpool=True), SEModule(16))
    assert [s.name for s in find_se(model)] == ["1"]
    with pytest.raises(LookupError, match=r"Similar modules in it: SEModule \('0'\)"):
        replace_se(model[:1], SE)


def test_wrong_models_are_named():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got 3"):
        replace_se(3, CaCo)
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got 3"):
        find_se(3)
