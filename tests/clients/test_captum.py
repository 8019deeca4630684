"""Captum: attributions equal those of networks of plain modules, each of which is called once."""

import copy

import pytest
import torch
from torch import nn

from attnblocks import create_block, insert
from tests.helpers import BLOCKS, randomized

attr = pytest.importorskip(
    "captum.attr", reason="captum is not installed: pip install '.[clients]'"
)

pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings("ignore:.*(backward hook|required_grads|gradients)"),
]

IMAGES = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(0)).double()
BASELINES = torch.randn(2, 3, 10, 12, generator=torch.Generator().manual_seed(1)).double() / 4
TARGET = 1

every_block = pytest.mark.parametrize("block", BLOCKS)


def mlp(stage, act=nn.ReLU):
    """Its own copy of the layers of a stage, so that no module is called twice."""
    return nn.Sequential(copy.deepcopy(stage.fc1), act(), copy.deepcopy(stage.fc2))


class PlainSE(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.mlp, self.gate = mlp(block), nn.Hardsigmoid()

    def forward(self, x):
        return x * self.gate(self.mlp(x.mean((2, 3), keepdim=True)))


class PlainChannel(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.of_means, self.of_maxima, self.gate = mlp(block), mlp(block), nn.Sigmoid()

    def forward(self, x):
        means, maxima = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * self.gate(self.of_means(means) + self.of_maxima(maxima))


class PlainSpatial(nn.Module):
    def __init__(self, block):
        super().__init__()
        layers = (copy.deepcopy(block.conv), copy.deepcopy(block.bn), nn.Sigmoid())
        self.gates = nn.Sequential(*layers)

    def forward(self, x):
        return x * self.gates(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1))


class PlainEca(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.gates = nn.Sequential(copy.deepcopy(block.conv), nn.Sigmoid())

    def forward(self, x):
        return x * self.gates(x.mean((2, 3))[:, None])[:, 0, :, None, None]


class PlainCoord(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.rows, self.columns = (
            nn.Sequential(
                *(copy.deepcopy(block.conv1), copy.deepcopy(block.bn1), nn.Hardswish()),
                *(copy.deepcopy(last), nn.Sigmoid()),
            )
            for last in (block.conv_h, block.conv_w)
        )

    def forward(self, x):
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        return x * self.rows(rows) * self.columns(columns)


PLAIN = {
    "SE": PlainSE,
    "Eca": PlainEca,
    "CoordAtt": PlainCoord,
    "CBAM": lambda b: nn.Sequential(PlainChannel(b.channel), PlainSpatial(b.spatial)),
    "SeCo": lambda b: nn.Sequential(PlainSE(b.se), PlainCoord(b.coord)),
    "CaCo": lambda b: nn.Sequential(PlainChannel(b.channel), PlainCoord(b.coord)),
}


def networks(block):
    """A network with the block, and with the plain modules in its place."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), create_block(block, 8)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *head),
    )
    model = randomized(model).double().eval()
    plain = copy.deepcopy(model)
    plain[2] = PLAIN[block](model[2])
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=1e-12, atol=1e-12)
    return model, plain


def attributions(method, model):
    """Of one method; those for a layer are for the block."""
    made = getattr(attr, method)
    explainer = made(model, model[2]) if method.startswith("Layer") else made(model)
    given = {
        "DeepLift": {"baselines": BASELINES},
        "LayerDeepLift": {"baselines": BASELINES},
        "DeepLiftShap": {"baselines": BASELINES},
        "IntegratedGradients": {"baselines": BASELINES, "n_steps": 20},
        "LayerConductance": {"baselines": BASELINES, "n_steps": 20},
        "Occlusion": {"sliding_window_shapes": (3, 5, 5), "strides": (3, 5, 5)},
    }
    return explainer.attribute(IMAGES, target=TARGET, **given.get(method, {}))


@every_block
@pytest.mark.parametrize(
    "method",
    [
        *("DeepLift", "DeepLiftShap", "IntegratedGradients", "InputXGradient", "GuidedBackprop"),
        *("Deconvolution", "Occlusion", "LayerDeepLift", "LayerGradCam", "LayerConductance"),
    ],
)
def test_attributions_are_those_of_plain_modules(method, block):
    model, plain = networks(block)
    found, expected = attributions(method, model), attributions(method, plain)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    assert expected.abs().max() > 1e-4


@every_block
def test_integrated_gradients_sum_to_the_difference_of_the_outputs(block):
    model, _ = networks(block)
    explainer = attr.IntegratedGradients(model)
    options = {"baselines": BASELINES, "target": TARGET, "n_steps": 400}
    sums = explainer.attribute(IMAGES, **options).sum((1, 2, 3))
    differences = (model(IMAGES) - model(BASELINES))[:, TARGET]
    torch.testing.assert_close(sums, differences, rtol=1e-2, atol=1e-4)


@every_block
def test_gradcam_on_a_block_by_hand(block):
    model, _ = networks(block)
    found = attr.LayerGradCam(model, model[2]).attribute(IMAGES, target=TARGET)
    maps = model[:3](IMAGES).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(model[3:](maps)[:, TARGET].sum(), maps)
    expected = (slopes.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_deeplift_on_a_block_behind_a_container_is_that_of_a_block_in_a_row():
    torch.manual_seed(0)
    block = randomized(create_block("SE", 8))
    front, head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (nn.Flatten(), nn.Linear(640, 3))
    plain = nn.Sequential(*copy.deepcopy(front), copy.deepcopy(block), *copy.deepcopy(head))
    model = insert(
        nn.Sequential(front, *head),
        lambda channels, **_: block,
        after="0",
        example=IMAGES.float(),
        init="fresh",
    )
    plain, model = plain.eval().double(), model.eval().double()
    torch.testing.assert_close(model(IMAGES), plain(IMAGES))
    for found, expected in zip(
        attributions("DeepLift", model), attributions("DeepLift", plain), strict=True
    ):
        torch.testing.assert_close(found, expected)
