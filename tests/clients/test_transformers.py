"""Image networks of transformers: SE classes of their own, and outputs that are no tensors."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from attnblocks import apply_recipe, find_places, find_se, insert, recipe, replace_se, warm_start
from tests.clients.networks import check_swaps
from tests.helpers import randomized

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install '.[clients]'"
)

pytestmark = pytest.mark.clients

SMALL = {  # EfficientNet and the vision half of ALIGN: two stages
    "image_size": 32,
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "kernel_sizes": [3, 5],
    "in_channels": [32, 16],
    "out_channels": [16, 24],
    "strides": [1, 2],
    "num_block_repeats": [1, 2],
    "expand_ratios": [1, 4],
    "drop_connect_rate": 0.0,  # lest a block is dropped in the one step that trains it
    "hidden_dim": 1280,  # of the last convolution, which takes no other width
}
LCNET = [  # kernel size, channels in and out, stride, with SE
    [[3, 16, 16, 1, False]],
    [[3, 16, 24, 2, True], [3, 24, 24, 1, False]],
    [[3, 24, 32, 2, True]],
    [[3, 32, 32, 1, True]],
    [[5, 32, 48, 2, False]],
]


def efficientnet():
    config = transformers.EfficientNetConfig(**SMALL, num_labels=5)
    return transformers.EfficientNetForImageClassification(config)


def regnet(**kwargs):
    config = transformers.RegNetConfig(
        embedding_size=8,
        hidden_sizes=[16, 24],
        depths=[1, 2],
        groups_width=8,
        num_labels=5,
        **kwargs,
    )
    return transformers.RegNetForImageClassification(config)


def align():
    return transformers.AlignVisionModel(transformers.AlignVisionConfig(**SMALL))


def lcnet():
    return transformers.PPLCNetBackbone(transformers.PPLCNetConfig(block_configs=LCNET))


def lcnet_v3():
    return transformers.PPLCNetV3Backbone(transformers.PPLCNetV3Config(block_configs=LCNET))


def lcnet_v4():
    stem = {"stem_channels": [3, 16, 16], "stem_type": "small"}
    return transformers.PPLCNetV4Backbone(
        transformers.PPLCNetV4Config(block_configs=LCNET[:4], **stem)
    )


def first_tensor(model, x):
    """The logits, or the last map of a network without any."""
    output = model(pixel_values=x)
    return output.feature_maps[-1] if "feature_maps" in output else output[0]


SE_CLASSES = {
    efficientnet: "efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer",
    align: "align.modeling_align.AlignVisionSqueezeExciteLayer",
    regnet: "regnet.modeling_regnet.RegNetSELayer",
    lcnet: "pp_lcnet.modeling_pp_lcnet.PPLCNetSqueezeExcitationModule",
    lcnet_v3: "pp_lcnet_v3.modeling_pp_lcnet_v3.PPLCNetV3SqueezeExcitationModule",
    lcnet_v4: "pp_lcnet_v4.modeling_pp_lcnet_v4.PPLCNetV4SqueezeExcitationModule",
}


@pytest.mark.parametrize("build", SE_CLASSES, ids=lambda build: build.__name__)
def test_every_se_is_swapped(build):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    check_swaps(build(), x, f"transformers.models.{SE_CLASSES[build]}", 3, run=first_tensor)


@pytest.fixture
def images():
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_warm_start_runs_on_batches_by_name(images):
    """As their processors make them; what is compared is said by ``forward``."""
    original = randomized(regnet()).eval()
    model = replace_se(original, "CaCo", inplace=False)
    started = distance(model, original, images)
    batches = [{"pixel_values": two} for two in images.split(2)]
    warm_start(
        model,
        original,
        batches,
        epochs=(4, 4),
        forward=lambda network, batch: network(**batch).logits,
        progress=False,
    )
    assert distance(model, original, images) < started


def distance(model, original, images):
    with torch.no_grad():
        return (model(images).logits - original(images).logits).abs().mean()


def test_a_warm_start_without_forward_names_the_output(images):
    original = regnet().eval()
    model = replace_se(original, "CaCo", inplace=False)
    with pytest.raises(ValueError, match=r"returns a ImageClassifierOutput.*tensor from forward="):
        warm_start(model, original, images.split(2), progress=False)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_an_insertion_changes_nothing(images, train):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], layer_type="basic", num_labels=5
    )
    model = randomized(transformers.ResNetForImageClassification(config)).eval()
    plain = copy.deepcopy(model)
    example = {"pixel_values": images}
    ends = [
        f"resnet.encoder.stages.{branch}.layer.1.normalization"
        for branch in ("0.layers.0", "1.layers.0", "1.layers.1")
    ]
    places = find_places(model, example)
    assert [p.name for p in places if "residual" in p.roles and "shortcut" not in p.name] == ends
    insert(model, "CBAM", after=ends, example=example)
    assert [site.after for site in find_se(model)] == ends
    ours, theirs = (m.train(train)(images, labels=torch.arange(4)) for m in (model, plain))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)


def test_save_pretrained_keeps_the_weights_and_apply_recipe_brings_the_blocks(images, tmp_path):
    model = replace_se(regnet(), "CBAM")
    model.save_pretrained(tmp_path)
    config = transformers.RegNetConfig.from_pretrained(tmp_path)
    again = apply_recipe(transformers.RegNetForImageClassification(config), recipe(model))
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.eval()(images).logits, model.eval()(images).logits)
