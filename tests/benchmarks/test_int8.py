"""What the int8 benchmark reads off a quantized network, against figures made otherwise."""

import copy
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.int8 import __main__, pt2e
from benchmarks.int8.search import search
from benchmarks.int8.setup import Probe, cosine, features, load_images
from benchmarks.warm_start.features import PROBED
from benchmarks.warm_start.setup import Lesions


class Net(nn.Module):
    """A convolution, a depthwise one and a linear layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.deep(self.stem(x).relu()).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def quantize(net, **arguments):
    pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[runtimes]'")
    from benchmarks.int8 import x86

    return x86.quantize(net, torch.rand(4, 3, 16, 16), **arguments)


def test_cosine_is_the_mean_over_images():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 9))
    expected = np.mean([x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)])
    assert cosine(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected)


def test_recall_of_a_probe_is_the_mean_over_classes():
    """Two classes, one of them rare; of other features only one image of it is found."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [90, 10])
    shown = generator.normal(size=(100, 3)) + 5 * labels[:, None]
    probe = Probe(torch.from_numpy(shown), labels)
    assert probe.recall(torch.from_numpy(shown), labels) == 1
    read = np.array([[0.0] * 3, [0.0] * 3, [0.0] * 3, [5.0] * 3, [0.0] * 3])
    found = probe.recall(torch.from_numpy(read), np.array([0, 0, 0, 1, 1]))
    assert found == pytest.approx((1 + 1 / 2) / 2)


def test_features_are_read_in_batches_of_any_size(net):
    images = torch.rand(37, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(features(net, images), net(images).double())


@pytest.mark.parametrize("count", [0, 1, 11])
def test_a_count_of_images_that_there_are_not_is_refused(count):
    lesions = Lesions([], np.zeros((0, 3, 1, 1), np.uint8), list(range(PROBED + 10)), [])
    with pytest.raises(ValueError, match=rf"for calibration must be 2 to 10, got {count}"):
        load_images(lesions, None, count)


def test_depthwise_convolutions_are_found(net):
    assert pt2e.depthwise(net) == ["deep"]


def test_the_share_in_int8_is_that_of_the_multiply_adds(net):
    """At 16 px: stem 8 x 8 x 8 outputs of 27, depthwise as many of 9, linear 5 of 8."""
    stem, deep, fc = 512 * 27, 512 * 9, 40
    every = stem + deep + fc
    assert pt2e.int8_share(quantize(net)) == pytest.approx(1)
    assert pt2e.int8_share(quantize(net, depthwise=False)) == pytest.approx((stem + fc) / every)
    left = quantize(net, depthwise=False, but=("stem",))
    assert pt2e.int8_share(left) == pytest.approx(fc / every)


def test_the_network_is_left_as_it_is(net):
    before = copy.deepcopy(net.state_dict())
    quantize(net)
    torch.testing.assert_close(net.state_dict(), before)
    assert type(net.stem) is nn.Conv2d


def test_the_search_finds_the_tensor_that_loses_most(net):
    """One channel of the stem is 1,000 times the others, and is ignored behind it."""
    with torch.no_grad():
        net.stem.weight[0] = net.stem.weight[0].abs() * 1000
        net.deep.weight[0] = 0
        net.deep.bias.zero_()
        net.fc.bias.zero_()
    images = torch.rand(8, 3, 16, 16)
    wanted = features(net, images)
    graph = quantize(net, fold=False)
    found = search(graph, images, wanted)
    worst = found[0]
    assert worst.tensor.endswith(": relu")
    assert worst.alone < 0.9 < worst.without
    whole = cosine(features(graph, images), wanted)
    assert whole == pytest.approx(worst.alone, abs=0.05)
    weights = {row.tensor for row in found if row.step is None}
    assert weights == {"stem.weight", "deep.weight", "fc.weight"}
    assert [row.alone for row in found] == sorted(row.alone for row in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tool", "x86"], r"--tool x86 needs torchao: pip install"),
        (["--search", "--tool", "openvino"], "--search: takes --tool x86, xnnpack, not openvino"),
        (["--out", "nowhere/at/all.json"], "--out: there is no folder"),
        (["--weights", "nowhere.safetensors"], "--weights: there is no file"),
        (["--only", "ResNet"], "--only: invalid choice"),
    ],
)
def test_what_cannot_be_done_is_said_before_images_are_read(
    options, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(__main__, "missing", lambda packages: list(packages[:1]))
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    given = ["int8", "--data", "nowhere", "--weights", str(weights), *options]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit):
        __main__.main()
    assert re.search(message, capsys.readouterr().err)
