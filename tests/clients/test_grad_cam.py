"""pytorch-grad-cam with a block as the target layer."""

import numpy as np
import pytest
import torch
from torch import nn

from attnblocks import SE, find_se, insert, replace_se
from tests.helpers import BLOCKS, randomized

cam = pytest.importorskip(
    "pytorch_grad_cam", reason="grad-cam is not installed: pip install '.[clients]'"
)

from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

pytestmark = pytest.mark.clients

IMAGES = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))

every_block = pytest.mark.parametrize("block", BLOCKS)
every_way = pytest.mark.parametrize("way", ["swapped", "inserted"])


def network(block, way):
    """A network with a block that returns a map as large as the image, and the block."""
    model = nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            SE(8),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )
    if way == "swapped":
        replace_se(model, block)
    else:
        insert(model, block, after="1", example=IMAGES)
    (target,) = (
        s.module for s in find_se(model) if s.after == ("1" if way == "inserted" else None)
    )
    randomized(model, seed=3)[-1].weight.data *= 1e4  # the tool adds 1e-7 to the largest value
    return model.eval(), target


def map_and_slopes(model, target, wanted):
    """What the block returns, and the gradient of a class with respect to it."""
    kept = []
    handle = target.register_forward_hook(lambda _, args, y: kept.append(y))
    score = model(IMAGES)[:, wanted].sum()
    handle.remove()
    (slopes,) = torch.autograd.grad(score, kept)
    return kept[0].detach().double().numpy(), slopes.double().numpy()


def scaled(maps):
    """As the tool shows them: what is above 0, from 0 to 1."""
    shown = np.maximum(maps, 0)
    shown = shown - shown.min((1, 2), keepdims=True)
    return shown / (1e-7 + shown.max((1, 2), keepdims=True))


def by_hand(method, maps, slopes):
    """The map of each image before it is clipped, (N, H, W)."""
    if method == "GradCAM":
        return np.einsum("nchw,nc->nhw", maps, slopes.mean((2, 3)))
    if method == "HiResCAM":
        return (maps * slopes).sum(1)
    if method == "LayerCAM":
        return (maps * np.maximum(slopes, 0)).sum(1)
    positions = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)  # EigenCAM: (N, HW, C)
    positions = positions - positions.mean(1, keepdims=True)
    # The direction in which positions differ the most, by the small one of the two products.
    _, vectors = np.linalg.eigh(positions @ positions.transpose(0, 2, 1))
    spread = np.linalg.norm(positions.transpose(0, 2, 1) @ vectors[..., -1:], axis=(1, 2))
    return (vectors[..., -1] * spread[:, None]).reshape(-1, *maps.shape[2:])


@every_block
@every_way
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "LayerCAM", "EigenCAM"])
def test_the_map_of_a_block_by_hand(method, way, block):
    model, target = network(block, way)
    by_class = [by_hand(method, *map_and_slopes(model, target, wanted)) for wanted in range(4)]
    # One that shows something: what is below 0 is not shown.
    wanted = max(range(4), key=lambda wanted: by_class[wanted].max())
    expected = by_class[wanted]
    targets = [ClassifierOutputTarget(wanted)] * 2
    with getattr(cam, method)(model=model, target_layers=[target]) as explainer:
        found = explainer(input_tensor=IMAGES, targets=targets)
    assert found.shape == (2, 12, 16)
    assert found.max() > 0.99
    if method == "EigenCAM":  # a direction has no sign
        for image, one in zip(found, expected, strict=True):
            signs = [scaled(sign * one[None])[0] for sign in (1, -1)]
            assert min(np.abs(image - shown).max() for shown in signs) < 1e-3
    else:
        np.testing.assert_allclose(found, scaled(expected), atol=1e-3)


@every_way
def test_methods_that_change_the_map_run(way):
    """AblationCAM puts its own layer where the block is, and the block back."""
    model, target = network("CaCo", way)
    before = model(IMAGES)
    for method in ("AblationCAM", "ScoreCAM"):
        with getattr(cam, method)(model=model, target_layers=[target]) as explainer:
            found = explainer(input_tensor=IMAGES, targets=[ClassifierOutputTarget(1)] * 2)
        assert np.isfinite(found).all()
    assert any(site.module is target for site in find_se(model))
    assert torch.equal(model(IMAGES), before)
