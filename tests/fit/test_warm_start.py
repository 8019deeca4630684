"""Fitting replaced blocks to the network that they came from."""

import copy
from importlib import import_module

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.ops import SqueezeExcitation
from torchvision.transforms import v2

from attnblocks import SE, CaCo, CoordAtt, SeCo, find_se, replace_se, warm_start
from examples.ham10000.data.images import load_image
from tests.fit.networks import interrupted
from tests.helpers import randomized, snapshot, unchanged

FAST = {"epochs": (10, 10), "progress": False}
BRIEF = {"epochs": (1, 2), "progress": False}  # where it need not come near


def network(seed: int = 0) -> nn.Module:
    """A small network with two SE blocks whose gates differ much from image to image."""
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        SqueezeExcitation(32, 8),
        nn.Conv2d(32, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        SqueezeExcitation(32, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, 5),
    )
    return randomized(model, seed).eval()


def batches(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    brightness = torch.rand(64, 3, 1, 1, generator=generator) * 2
    return list((torch.randn(64, 3, 16, 16, generator=generator) * brightness).split(16))


@torch.no_grad()
def relative_error(model: nn.Module, original: nn.Module, x: torch.Tensor, upto: int) -> float:
    ours, theirs = model[:upto](x).double(), original[:upto](x).double()
    return float(((ours - theirs) ** 2).sum().sqrt() / (theirs**2).sum().sqrt())


@pytest.mark.parametrize("block", [SeCo, CaCo, CoordAtt])
def test_the_features_come_nearer_and_the_report_is_true(block):
    original, x = network(), torch.cat(batches())
    torch.manual_seed(0)
    model = replace_se(original, block, inplace=False)
    before = [relative_error(model, original, x, upto) for upto in (4, 8, 10)]
    fit = warm_start(model, original, batches(), **FAST)
    after = [relative_error(model, original, x, upto) for upto in (4, 8, 10)]
    assert after[-1] < 0.5 * before[-1]
    assert [site.name for site in fit.sites] == ["3", "7"]
    assert fit.compared == "the input of '11'"
    assert [*(s.before for s in fit.sites), fit.before] == pytest.approx(before, rel=1e-4)
    assert [*(s.after for s in fit.sites), fit.after] == pytest.approx(after, rel=1e-4)
    assert f"{fit.after:.3f}" in str(fit).splitlines()[-1]


@pytest.mark.parametrize("epochs", [(10, 0), (0, 10)])
def test_each_stage_helps_alone(epochs):
    original = network()
    model = replace_se(original, SeCo, inplace=False)
    fit = warm_start(model, original, batches(), epochs=epochs, progress=False)
    assert fit.after < 0.8 * fit.before


def test_the_rest_of_the_network_and_the_original_stay_as_they_are():
    original = network().train()
    original[0].requires_grad_(False)
    original[5].eval()
    model = replace_se(original, CaCo, inplace=False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    random_state = torch.get_rng_state()
    rest = {f"{name}." for name, _ in model.named_children()} - {"3.", "7."}
    before, untouched = snapshot(model), snapshot(original)
    for place in (3, 7):  # one number before, one per channel after it
        before[f"about {place}.coord.gain"] = (torch.float32, (1,), False)
    with torch.no_grad():  # it asks for gradients itself
        warm_start(model, original, batches(), **BRIEF)
    assert unchanged(original, untouched)
    for name, value in snapshot(model).items():
        kind, _, place = name.partition(" ")
        if kind != "value" or place.startswith(tuple(rest)):
            old = before[name]
            same = torch.equal(value, old) if isinstance(value, torch.Tensor) else value == old
            assert same, name
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert all(p.grad is None for place in (3, 7) for p in model[place].parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(("count", "epochs"), [(4, (3, 5)), (3, (4, 7))])
def test_by_default_it_takes_as_many_steps_for_few_batches(count, epochs, monkeypatch):
    """96 and 160, of which an eighth is made; a few more where the batches do not divide them."""
    module = import_module("attnblocks.fit.warm_start")  # its name in the package is the function
    assert module.STEPS == (96, 160)
    monkeypatch.setattr(module, "STEPS", (12, 20))
    original, found = network(), []
    for given in ({}, {"epochs": epochs}):
        torch.manual_seed(0)
        model = replace_se(original, SE, init="fresh", inplace=False)
        found.append(warm_start(model, original, batches()[:count], progress=False, **given))
    assert found[0] == found[1]


def test_a_seed_repeats_it():
    original = network()
    start = replace_se(original, CaCo, inplace=False)
    fitted = []
    for seed in (0, 0, 1):
        model = copy.deepcopy(start)
        warm_start(model, original, batches(), seed=seed, epochs=(2, 2), progress=False)
        fitted.append(model[3].coord.conv1.weight)
    assert torch.equal(fitted[0], fitted[1])
    assert not torch.equal(fitted[0], fitted[2])


def test_the_batch_norms_of_the_blocks_have_the_statistics_of_all_batches():
    original = network()
    model = replace_se(original, CoordAtt, inplace=False)
    warm_start(model, original, batches(), **BRIEF)
    block = model[3]
    found = []
    with torch.no_grad():
        for x in batches():
            x = model[:3](x)
            y = torch.cat([x.mean(3), x.mean(2)], dim=2)  # rows, then columns
            y = torch.einsum("oc,ncl->nol", block.conv1.weight.flatten(1), y)
            found.append(y.mean((0, 2)) + block.conv1.bias)
    assert torch.allclose(block.bn1.running_mean, torch.stack(found).mean(0), atol=1e-4)
    assert block.bn1.momentum == 0.1
    assert not block.training


def test_an_exact_block_is_left_alone():
    original = network()
    model = replace_se(original, SE, inplace=False)
    replace_se(model, CaCo, where="7")
    before = copy.deepcopy(model[3].state_dict())
    fit = warm_start(model, original, batches(), **FAST)
    assert all(torch.equal(value, before[name]) for name, value in model[3].state_dict().items())
    assert fit.sites[0].after < 1e-5
    assert fit.after < fit.before


def test_a_block_that_runs_twice_and_pairs_of_images_and_labels():
    shared = SqueezeExcitation(16, 4)
    layers = [nn.Conv2d(3, 16, 3), shared, nn.Conv2d(16, 16, 3), shared, nn.Flatten()]
    original = randomized(nn.Sequential(*layers)).eval()
    model = replace_se(original, SeCo, inplace=False)
    pairs = [(x, torch.zeros(len(x))) for x in batches()]
    fit = warm_start(model, original, pairs, **FAST)
    assert [site.name for site in fit.sites] == ["1"]
    assert fit.compared == "the output"
    assert fit.after < 0.5 * fit.before


class Shortcut(nn.Module):
    """As in timm's residual networks: the output of the block is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.se = SqueezeExcitation(3, 3)

    def forward(self, x):
        y = self.se(x)
        y += 100 * x
        return y


def test_outputs_that_are_changed_in_place_are_seen_as_they_were():
    original, x = randomized(Shortcut()).eval(), torch.cat(batches())
    model = replace_se(original, SeCo, inplace=False)
    with torch.no_grad():
        ours, theirs = model.se(x), original.se(x)
    wanted = float((ours - theirs).norm() / theirs.norm())
    fit = warm_start(model, original, batches(), **BRIEF)
    assert fit.sites[0].before == pytest.approx(wanted, rel=1e-4)


def test_an_original_that_was_compiled_and_has_run_is_read():
    original = network()
    model = replace_se(original, CaCo, inplace=False)
    expected = warm_start(copy.deepcopy(model), copy.deepcopy(original), batches(), **BRIEF)
    original.compile(backend="eager")
    with torch.no_grad():
        original(batches()[0])
    assert warm_start(model, original, batches(), **BRIEF) == expected


def test_what_got_worse_is_put_back():
    original = network()
    model = copy.deepcopy(original)
    model[3].fc2.weight.data *= 1.001
    before = snapshot(model)
    with pytest.warns(UserWarning, match="the features came no nearer"):
        fit = warm_start(model, original, batches(), lr=(1e3, 1e3), **FAST)
    assert unchanged(model, before)
    assert fit.after == fit.before
    with pytest.warns(UserWarning, match="nan after"):
        warm_start(model, original, [batches()[0] * torch.nan], **FAST)
    assert unchanged(model, before)


def test_what_fails_half_way_leaves_the_blocks_as_they_were():
    original = network()
    model = replace_se(original, SeCo, inplace=False)
    before = snapshot(model)
    with interrupted(model[3], 40):
        warm_start(model, original, batches(), **FAST)
    assert unchanged(model, before)


def changed(layer: int) -> nn.Module:
    model = replace_se(network(), CaCo)
    nn.init.ones_(model[layer].weight)
    return model


def with_another_head() -> nn.Module:
    model = replace_se(network(), CaCo)
    model[11] = nn.Linear(32, 2)
    return model


def with_a_shared_parameter() -> nn.Module:
    model = replace_se(network(), CaCo)
    model[3].channel.fc2.bias = model[1].bias
    return model


@torch.inference_mode()
def made_in_inference_mode() -> nn.Module:
    return changed(11)


def test_a_caller_in_inference_mode_gets_the_same():
    model = replace_se(network(), CaCo)
    other = copy.deepcopy(model)
    fit = warm_start(model, network(), batches(), **BRIEF)
    original = network()
    with torch.inference_mode():
        assert warm_start(other, original, [x.clone() for x in batches()], **BRIEF) == fit
    assert not any(p.is_inference() for p in other.parameters())


def test_a_short_last_batch_counts_by_its_images():
    x = torch.cat(batches())
    found = []
    for parts in ([x[:33]], [x[:32], x[32:33]]):
        torch.manual_seed(0)
        model = replace_se(network(), CoordAtt, init="fresh")
        warm_start(model, network(), parts, epochs=(1, 1), progress=False)
        found.append(model[3].bn1.running_mean)
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_another_head_is_no_hindrance():
    fit = warm_start(with_another_head(), network(), batches(), epochs=(1, 1), progress=False)
    assert fit.compared == "the input of '11'"


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "message"),
    [
        (network, {}, ValueError, "no block of model stands in place of another"),
        (lambda: changed(4), {}, ValueError, r"model and original differ at '4\.weight'"),
        (lambda: replace_se(network(), CaCo)[:8], {}, ValueError, "model has no module '11'"),
        (lambda: replace_se(network()[:4], CaCo), {}, ValueError, "model has no module '7'"),
        (lambda: replace_se(network(), CaCo).bfloat16(), {}, ValueError, "differ at '0.weight'"),
        (lambda: changed(11), {"head": "12"}, LookupError, "head='12' is no layer"),
        (lambda: changed(11), {"batches": []}, ValueError, "batches are empty"),
        (lambda: changed(11), {"batches": [{}]}, TypeError, "each of batches must be a tensor"),
        (lambda: changed(11), {"batches": torch.rand(2, 3, 9, 9)}, TypeError, "list of batches"),
        (lambda: changed(11), {"epochs": (1, -1)}, ValueError, "epochs must not be negative"),
        (lambda: changed(11), {"epochs": (0, 0)}, ValueError, "nor both 0"),
        (lambda: changed(11), {"epochs": 5}, TypeError, "epochs must be two numbers"),
        (lambda: changed(11), {"epochs": (1, 0.5)}, TypeError, r"two numbers.*; got \(1, 0.5\)"),
        (lambda: changed(11), {"lr": (0.1,)}, TypeError, "lr must be two numbers"),
        (lambda: changed(11), {"lr": (0.1, float("nan"))}, ValueError, "lr must be above 0 and"),
        (lambda: changed(11), {"lr": (0, 0.1)}, ValueError, "lr must be above 0 and finite"),
        (made_in_inference_mode, {}, ValueError, "'0.weight' of model was made in inference mode"),
        (with_a_shared_parameter, {}, ValueError, "'3' shares parameters with the rest of model"),
    ],
)
def test_wrong_arguments_are_named(model, kwargs, error, message):
    with pytest.raises(error, match=message):
        warm_start(model(), network(), **{"batches": batches(), **FAST, **kwargs})


def test_shared_parameters_and_half_precision_are_refused():
    original = network()
    model = copy.copy(original)
    model._modules = dict(original._modules)
    replace_se(model, lambda site: nn.Sequential(site.module, CoordAtt(site.channels)))
    with pytest.raises(ValueError, match="'3' shares parameters with original"):
        warm_start(model, original, batches(), **FAST)
    half = network().bfloat16()
    with pytest.raises(ValueError, match="'3' must be in float32 or float64"):
        warm_start(
            replace_se(half, CaCo, inplace=False), half, [b.bfloat16() for b in batches()], **FAST
        )


def test_on_real_weights_and_images(imagenet_weights, ham10000):
    """A tenth of what it takes; on images that the fit has not seen."""
    original = timm.create_model("tf_mobilenetv3_small_075", num_classes=0).eval()
    original.load_state_dict(load_file(imagenet_weights), strict=False)
    files = sorted(ham10000.rglob("*.jpg"))[:192]
    pixels = torch.stack([load_image(file, 112) for file in files])
    images = v2.functional.normalize(pixels / 255, [0.5] * 3, [0.5] * 3)
    torch.manual_seed(0)
    model = replace_se(original, CaCo, match_rd_channels=True, inplace=False)

    def error() -> float:
        with torch.no_grad():
            wanted = original(images[128:])
            return float((model(images[128:]) - wanted).norm() / wanted.norm())

    warm = error()
    few = {"epochs": (3, 5), "lr": (4e-3, 2e-3)}  # 20 steps, and rates for as few
    warm_start(model, original, images[:128].split(32), **few, progress=False)
    assert error() < 0.6 < 0.9 < warm
    assert {type(site.module) for site in find_se(model)} == {CaCo}
