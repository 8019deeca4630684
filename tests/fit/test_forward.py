"""warm_start on what loaders of detection and segmentation give."""

import copy
from collections import UserDict

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import CaCo, SeCo, replace_se, warm_start
from tests.helpers import randomized

FAST = {"epochs": (1, 1), "progress": False}


def network() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3), SqueezeExcitation(16, 4), nn.AdaptiveAvgPool2d(1)]
    return randomized(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5))).eval()


class Returning(nn.Module):
    """A network whose output is something around a tensor."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.body, self.wrap = network(), wrap

    def forward(self, x):
        return self.wrap(self.body(x))


def images(*sizes: tuple[int, int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def stacked(seed: int = 0) -> list[torch.Tensor]:
    return list(torch.stack(images(*[(12, 12)] * 16, seed=seed)).split(4))


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


@pytest.mark.parametrize(
    ("wrap", "forward"),
    [
        (lambda x: {"image": x, "path": ["a.jpg"] * len(x)}, lambda net, b: net(b["image"])),
        (lambda x: UserDict(pixels=x), lambda net, b: net(b["pixels"])),
        (lambda x: (list(x), [{}] * len(x)), lambda net, b: net(torch.stack(b[0]))),
        (lambda x: list(x), lambda net, b: net(torch.stack(b))),
        (lambda x: (torch.zeros(len(x)), x), lambda net, b: net(b[1])),
    ],
    ids=["dict", "mapping", "tuple of lists", "list of images", "labels first"],
)
def test_it_is_the_fit_on_the_same_images_as_tensors(wrap, forward):
    original = network()
    plain = replace_se(original, SeCo, inplace=False)
    model = copy.deepcopy(plain)
    expected = warm_start(plain, original, stacked(), **FAST)
    loader = (wrap(x) for x in stacked())
    assert warm_start(model, original, loader, forward=forward, **FAST) == expected
    assert expected.compared == "the input of '4'"
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), atol=0, rtol=0)


def test_batches_of_forward_are_not_merged():
    original, seen = network(), []

    def forward(network, batch):
        seen.append(len(batch["x"]))
        return network(batch["x"])

    x = torch.cat(stacked())
    model = replace_se(original, CaCo, inplace=False)
    warm_start(model, original, [{"x": x[:14]}, {"x": x[14:]}], forward=forward, **FAST)
    assert set(seen) == {14, 2}


def test_a_segmentation_network():
    original = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    loader = [{"image": torch.stack(images((64, 48), (64, 48), seed=i))} for i in (1, 2)]
    model = replace_se(original, SeCo, inplace=False)
    start = copy.deepcopy(model)
    with pytest.raises(ValueError, match="returns a OrderedDict, no tensor to compare: name the"):
        warm_start(model, original, loader, forward=lambda net, b: net(b["image"]), **FAST)
    with pytest.raises(TypeError, match=r"lambda network, batch: network\(batch\['image'\]\)"):
        warm_start(model, original, loader, **FAST)
    fit = warm_start(
        model, original, loader, forward=lambda net, batch: net(batch["image"])["out"], **FAST
    )
    x = torch.cat([batch["image"] for batch in loader])
    with torch.no_grad():
        before, after = (error(net(x)["out"], original(x)["out"]) for net in (start, model))
    assert fit.compared == "the output"
    assert [fit.before, fit.after] == pytest.approx([before, after], rel=1e-4)
    assert len(fit.sites) == 8


def test_a_detection_network_with_images_of_several_sizes():
    original = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    loader = [
        (images((48, 64), (40, 40), seed=1), [{"labels": torch.tensor([1])}] * 2),
        (images((30, 64), seed=2), [{"labels": torch.tensor([2])}]),
    ]
    model = replace_se(original, SeCo, inplace=False)
    start = copy.deepcopy(model)
    with pytest.raises(TypeError, match="got a tuple that begins with a list"):
        warm_start(model, original, loader, **FAST)
    with pytest.raises(ValueError, match="returns a list, no tensor to compare: name the layer"):
        warm_start(model, original, loader, forward=lambda net, b: net(b[0]), **FAST)
    with pytest.raises(ValueError, match="what enters head='head' is a list"):
        warm_start(model, original, loader, forward=lambda net, b: net(b[0]), head="head", **FAST)
    head = "head.regression_head.module_list.0"
    fit = warm_start(model, original, loader, forward=lambda net, b: net(b[0]), head=head, **FAST)

    def features(net):
        with torch.no_grad():
            maps = [net.backbone(net.transform(batch)[0].tensors)["0"] for batch, _ in loader]
        return torch.cat(maps)

    theirs = features(original)
    found = [error(features(net), theirs) for net in (start, model)]
    assert fit.compared == f"the input of {head!r}"
    assert [fit.before, fit.after] == pytest.approx(found, rel=1e-4)
    other = warm_start(
        start,
        original,
        [batch for batch, _ in loader],
        forward=lambda net, b: net.backbone(net.transform(b)[0].tensors)["0"],
        **FAST,
    )
    assert other.before == pytest.approx(found[0], rel=1e-4)
    assert other.compared == "the output"


def test_mixed_precision_inside_of_forward():
    def forward(network, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return network(batch)

    original, x = network(), torch.cat(stacked())
    model = replace_se(original, SeCo, init="fresh", inplace=False)
    with torch.no_grad():
        expected = error(forward(model[:4], x), forward(original[:4], x))
    fit = warm_start(model, original, stacked(), forward=forward, epochs=(3, 3), progress=False)
    assert fit.before == pytest.approx(expected, rel=1e-2)
    assert fit.after < fit.before
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_an_output_of_another_precision_still_names_its_linear_layer():
    original = network()
    model = replace_se(original, SeCo, inplace=False)
    fit = warm_start(model, original, stacked(), forward=lambda net, x: net(x).double(), **FAST)
    assert fit.compared == "the input of '4'"


def test_a_tensor_of_three_dimensions_with_labels_is_a_batch():
    layers = [nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 8, 3), SqueezeExcitation(8, 4), nn.Flatten()]
    original = randomized(nn.Sequential(*layers)).eval()
    model = replace_se(original, SeCo, inplace=False)
    loader = [[torch.rand(4, 8, 9), torch.zeros(4)] for _ in range(2)]
    assert warm_start(model, original, loader, **FAST).compared == "the output"


IMAGE = torch.rand(3, 12, 12)
SUCH_AS = r".* Say how a network runs on it, such as forward=lambda network, batch: network"


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"name": "a.jpg", "pixels": IMAGE[None]},
            rf"got a dict with the keys \['name', 'pixels'\]\.{SUCH_AS}\(batch\['pixels'\]\)",
        ),
        ({}, rf"got a dict with the keys \[\]\.{SUCH_AS}\(batch\['image'\]\)"),
        (UserDict(pixels=IMAGE), rf"got a UserDict .*{SUCH_AS}\(batch\['pixels'\]\)"),
        (
            images((12, 12), (9, 15)),
            rf"list that begins with a tensor of shape \(3, 12, 12\), and may be a list of images"
            rf"\.{SUCH_AS}\(batch\)",
        ),
        ((IMAGE, IMAGE, IMAGE), rf"got a tuple .* may be a list of images\.{SUCH_AS}\(batch\)"),
        ([IMAGE], rf"got a list .* may be a list of images\.{SUCH_AS}\(batch\)"),
        ((IMAGE, 4), rf"may be one image and what belongs to it\.{SUCH_AS}\(batch\[0\]\[None\]\)"),
        ((IMAGE, {"boxes": IMAGE}), "may be one image and what belongs to it"),
        (([IMAGE], [{}]), rf"got a tuple that begins with a list\.{SUCH_AS}\(batch\[0\]\)"),
        (((IMAGE,), ({},)), rf"got a tuple that begins with a tuple\.{SUCH_AS}\(batch\[0\]\)"),
        ([(IMAGE, {})], r"got a list that begins with a tuple\."),
        ("a.jpg", rf"got a str\.{SUCH_AS}\(\.\.\.\)"),
        (["a.jpg"], rf"got a list\.{SUCH_AS}\(\.\.\.\)"),
        ([], rf"got a list\.{SUCH_AS}\(\.\.\.\)"),
        (None, rf"got a NoneType\.{SUCH_AS}\(\.\.\.\)"),
    ],
)
def test_what_is_no_plain_batch_is_named_with_the_function_that_would_do(batch, message):
    original = network()
    model = replace_se(original, SeCo, inplace=False)
    with pytest.raises(TypeError, match=message):
        warm_start(model, original, [batch], **FAST)


@pytest.mark.parametrize(
    ("make", "kwargs", "error", "message"),
    [
        (network, {"forward": "net"}, TypeError, "forward must be a function of a network and a"),
        (network, {"forward": lambda net, x: x}, ValueError, "none of the blocks '1' of orig"),
        (network, {"batches": [], "forward": lambda net, x: x}, ValueError, "batches are empty"),
        (
            lambda: Returning(lambda y: {"logits": y}),
            {},
            ValueError,
            "the network returns a dict, no tensor to compare: name the layer whose input is "
            "compared as head=, or return a tensor from forward=",
        ),
        (
            network,
            {"forward": lambda net, x: net[:2](x), "head": "4"},
            LookupError,
            "head='4' does not run, or forward runs another network",
        ),
    ],
)
def test_wrong_functions_are_named(make, kwargs, error, message):
    original = make()
    model = replace_se(original, SeCo, inplace=False)
    with pytest.raises(error, match=message):
        warm_start(model, original, **{"batches": stacked(), **FAST, **kwargs})


def test_a_function_that_runs_another_network_is_named():
    original = network()
    model = replace_se(original, SeCo, inplace=False)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LookupError, match="head='4' does not run, or forward runs another net"):
        warm_start(model, original, stacked(), forward=lambda _, x: original(x), **FAST)
    with pytest.raises(ValueError, match=r"1: model gives the shape None, and original \(4, 16"):
        warm_start(model, original, stacked(), forward=lambda _, x: original[:3](x), **FAST)
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_a_loader_that_is_read_in_inference_mode():
    """Its tensors enter a block at once, which keeps them for its gradients."""
    original = randomized(nn.Sequential(SqueezeExcitation(3, 3), nn.Flatten())).eval()
    model = replace_se(original, SeCo, inplace=False)
    other = copy.deepcopy(model)
    expected = warm_start(model, original, stacked(), **FAST)
    with torch.inference_mode():
        loader = ({"x": x.clone()} for x in stacked())
        found = warm_start(other, original, loader, forward=lambda net, b: net(b["x"]), **FAST)
    assert found == expected
