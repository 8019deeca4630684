"""Detectors and segmenters of torchvision: SE of their backbones swapped, blocks inserted."""

import copy

import pytest
import torch
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from attnblocks import CaCo, find_se, insert, replace_se
from tests.clients.networks import check_swaps
from tests.helpers import randomized
from tests.swap.inserted import same_bits

pytestmark = pytest.mark.clients

SE_CLASS = "torchvision.ops.misc.SqueezeExcitation"
SMALL = {"weights": None, "weights_backbone": None, "num_classes": 3}
IMAGES = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
TARGETS = [
    {"boxes": torch.tensor([[4.0, 4.0, 40.0, 48.0]]), "labels": torch.tensor([label])}
    for label in (1, 2)
]


def ssdlite():
    return detection.ssdlite320_mobilenet_v3_large(**SMALL)


def faster_rcnn_mobilenet():
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(**SMALL, min_size=64, max_size=64)


@pytest.mark.parametrize("build", [ssdlite, faster_rcnn_mobilenet])
def test_a_swap_in_a_detector_is_exact_and_trains(build):
    torch.manual_seed(0)
    model = build().eval()
    kinds = [site.kind for site in find_se(model)]
    assert kinds == [SE_CLASS] * 8
    backbone = copy.deepcopy(model.backbone).double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for site in find_se(backbone):
            randomized(site.module)
        before = backbone(x)
        after = replace_se(backbone, "SE")(x)
    assert before.keys() == after.keys()
    for name, value in before.items():
        scale = value.abs().max().item()
        torch.testing.assert_close(after[name], value, rtol=1e-12, atol=1e-12 * scale)

    replace_se(model, "CaCo").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model(IMAGES, TARGETS)
    sum(losses.values()).backward()
    for site in find_se(model):
        assert type(site.module) is CaCo
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in site.module.parameters())
    optimizer.step()
    found = model.eval()(IMAGES)
    assert [one.keys() for one in found] == [{"boxes", "labels", "scores"}] * 2
    assert all(one["boxes"].isfinite().all() for one in found)


@pytest.mark.parametrize(
    "build", [segmentation.lraspp_mobilenet_v3_large, segmentation.deeplabv3_mobilenet_v3_large]
)
def test_every_se_of_a_segmenter_is_swapped(build):
    """The backbone returns a dictionary, as the network does."""
    check_swaps(
        build(**SMALL),
        torch.rand(2, 3, 64, 64),
        SE_CLASS,
        8,
        run=lambda model, x: model(x)["out"],
        blocks=["CaCo"],
    )


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("build", [detection.RetinaNet, detection.FasterRCNN])
def test_an_insertion_into_a_detector_changes_nothing_and_trains(build, train):
    """Behind frozen norms, as detectors with pre-trained weights have, and behind the pyramid."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=2
    )
    model = build(backbone, num_classes=3, min_size=64, max_size=64).eval()
    plain = copy.deepcopy(model)
    ends = [f"backbone.body.layer{stage}.1.bn2" for stage in (1, 3, 4)]
    assert {type(model.get_submodule(name)) for name in ends} == {FrozenBatchNorm2d}
    pyramid = [f"backbone.fpn.layer_blocks.{level}" for level in range(4)]
    insert(model, "CBAM", after=ends + pyramid, example=([IMAGES[0]],))
    assert [site.after for site in find_se(model)] == ends + pyramid
    outputs = []
    for network in (model, plain):
        torch.manual_seed(1)  # of the anchors that are sampled in training
        outputs.append(network.train(train)(IMAGES, TARGETS) if train else network(IMAGES))
    assert same_bits(*outputs)
    if train:
        sum(outputs[0].values()).backward()
        for site in find_se(model):
            gradients = [p.grad for p in site.module.parameters() if p.grad is not None]
            assert any(g.abs().max() > 0 for g in gradients), site.name
