"""Networks of segmentation_models_pytorch: SE of its encoders swapped, blocks in both halves."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from attnblocks import apply_recipe, find_places, find_se, insert, recipe, remove, replace_se
from tests.clients.networks import check_swaps
from tests.helpers import randomized

smp = pytest.importorskip(
    "segmentation_models_pytorch",
    reason="segmentation_models_pytorch is not installed: pip install '.[dev]'",
)

from segmentation_models_pytorch.encoders.mobileone import MobileOne  # noqa: E402

pytestmark = pytest.mark.clients

STAGES = [f"encoder.layer{stage}" for stage in (1, 2, 3, 4)]
DECODER = [f"decoder.blocks.{block}.conv2" for block in range(3)]


def make_unet(**kwargs):
    return smp.Unet(
        "resnet18",
        encoder_weights=None,
        classes=2,
        decoder_channels=(64, 32, 16),
        encoder_depth=3,
        **kwargs,
    )


@pytest.fixture
def unet():
    return randomized(make_unet()).eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Not the identity, so that it shows who gets its output."""

    def forward(self, x):
        return 2 * x


def test_places_are_in_both_halves(unet, images):
    places = {place.name: place for place in find_places(unet, images)}
    assert {*DECODER, *STAGES[:2], "encoder.layer1.0.bn2"} <= places.keys()
    assert places["decoder.blocks.0.conv2"].channels == 64
    assert "residual" in places["encoder.layer1.0.bn2"].roles


def test_a_stage_that_the_depth_leaves_out_is_named(unet, images):
    """With ``encoder_depth=3`` the encoder keeps its layer3, and does not run it."""
    with pytest.raises(ValueError, match=r"'encoder\.layer3'.*does not run"):
        insert(unet, "CBAM", after=STAGES, example=images)
    assert find_se(unet) == ()


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "after",
    [DECODER, STAGES[:2], ["encoder.layer[12].?.bn2", "decoder.blocks.*.conv2"]],
    ids=["decoder", "stages", "both"],
)
def test_the_masks_stay_to_the_bit(unet, images, after, train):
    plain = copy.deepcopy(unet)
    names = dict(unet.named_modules())
    insert(unet, "CBAM", after=after, example=images)
    assert unet.state_dict().keys() > plain.state_dict().keys()
    assert all(dict(unet.named_modules())[name] is module for name, module in names.items())
    assert torch.equal(unet.train(train)(images), plain.train(train)(images))
    remove(unet)
    assert dict(unet.named_modules()) == names


def test_a_block_behind_a_stage_is_in_the_skip_connection_too(unet, images):
    encoder = unet.encoder
    first = encoder.relu(encoder.bn1(encoder.conv1(images)))
    second = 2 * encoder.layer1(encoder.maxpool(first))
    features = [images, first, second, encoder.layer2(second)]
    expected = unet.segmentation_head(unet.decoder(features))
    insert(unet, lambda place: Twice(), after="encoder.layer1", example=images, init="fresh")
    torch.testing.assert_close(unet(images), expected)


def test_encoder_weights_load_afterwards(unet, images):
    """Those of torchvision, with the loader of the library, which takes the classifier out."""
    weights = randomized(torchvision.models.resnet18()).state_dict()
    plain = copy.deepcopy(unet)
    plain.encoder.load_state_dict(dict(weights))
    after = ["encoder.layer[12].?.bn2", *STAGES[:2], *DECODER]
    insert(unet, "CBAM", after=after, example=images)
    blocks = tuple(f"{site.name.removeprefix('encoder.')}." for site in find_se(unet))
    with pytest.raises(RuntimeError, match="Missing key") as refusal:
        unet.encoder.load_state_dict(dict(weights))
    assert "Unexpected" not in str(refusal.value)
    unet.encoder.load_state_dict(dict(weights), strict=False)
    own = {name for name in unet.encoder.state_dict() if not name.startswith(blocks)}
    assert own == weights.keys() - {"fc.weight", "fc.bias"}
    assert torch.equal(unet(images), plain(images))


def test_a_frozen_encoder_freezes_its_blocks_and_the_decoder_trains(unet, images):
    insert(unet, "CBAM", after=["encoder.layer1", *DECODER], example=images)
    unet.freeze_encoder()
    unet.train()
    optimizer = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    state = copy.deepcopy(unet.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(unet(images), torch.ones(2, 32, 64).long()).backward()
        optimizer.step()
    moved = [name for name, p in unet.named_parameters() if not torch.equal(p, state[name])]
    assert not any(name.startswith("encoder.") for name in moved)
    encoder, *decoder = find_se(unet)
    assert encoder.after == "encoder.layer1"
    assert encoder.name.startswith("encoder.")
    assert torch.equal(encoder.module.spatial.bn.running_mean, torch.zeros(1))  # frozen, too
    for site in decoder:
        assert any(name.startswith(f"{site.name}.") for name in moved), site.name


def test_a_name_that_the_library_uses_is_left_alone(unet, images):
    """Its decoder blocks hold an ``Attention``, whose child is called ``attention``."""
    plain = randomized(make_unet(decoder_attention_type="scse")).eval()
    theirs = plain.decoder.blocks[0].attention2.attention
    model = copy.deepcopy(plain)
    insert(model, "CBAM", after="decoder.blocks.*.attention2", example=images)
    assert type(model.decoder.blocks[0].attention2.attention) is type(theirs)
    assert torch.equal(model(images), plain(images))
    again = apply_recipe(make_unet(decoder_attention_type="scse"), recipe(model)).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images), plain(images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_and_trace_run_at_another_size(unet, images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    insert(unet, "CoordAtt", after=["encoder.layer1.?.bn2", *DECODER], example=images)
    randomized(unet)  # gates that are not constant
    other = torch.rand(3, 3, 64, 32)
    with torch.no_grad():
        expected = unet(other)
        traced = torch.jit.trace(unet, images)
        torch.testing.assert_close(traced(other), expected, atol=1e-4, rtol=1e-4)
    sizes = {"x": {0: "batch", 2: "height", 3: "width"}}
    path = str(tmp_path / "unet.onnx")
    torch.onnx.export(  # by a trace, as it takes a tenth of the time of dynamo=True
        unet, (images,), path, input_names=["x"], dynamic_axes=sizes, dynamo=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (masks,) = session.run(None, {"x": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(masks), expected, atol=1e-4, rtol=1e-4)


def se_resnet():
    """Up to its second stage: with ``encoder_depth=3`` the others would stay and not run."""
    options = {"encoder_weights": None, "encoder_depth": 3, "decoder_channels": (32, 16, 8)}
    model = smp.Unet("se_resnet50", **options)
    model.encoder.layer3, model.encoder.layer4 = nn.Identity(), nn.Identity()
    return model


def mobileone():
    """The encoder alone: the smallest one with SE has 13 million weights."""
    channels = (3, 16, 16, 24, 32, 32)
    return MobileOne(
        channels, [1, 1, 2, 1], width_multipliers=(0.25, 0.25, 0.125, 0.0625), use_se=True
    )


@pytest.mark.parametrize(
    ("build", "kind", "count"),
    [
        (se_resnet, "segmentation_models_pytorch.encoders._senet.SEModule", 7),
        (mobileone, "segmentation_models_pytorch.encoders.mobileone.SEBlock", 4),
    ],
    ids=["se_resnet", "mobileone"],
)
def test_every_se_of_an_encoder_is_swapped(build, kind, count):
    def last(model, x):
        output = model(x)
        return output[-1] if isinstance(output, list) else output

    check_swaps(build(), torch.rand(2, 3, 64, 64), kind, count, run=last)


@pytest.mark.parametrize("architecture", [smp.FPN, smp.DeepLabV3Plus])
def test_every_se_of_an_encoder_of_timm_is_swapped(architecture):
    model = architecture("timm-mobilenetv3_small_075", encoder_weights=None)
    kind = "timm.models._efficientnet_blocks.SqueezeExcite"
    check_swaps(model, torch.rand(2, 3, 64, 64), kind, 9, blocks=["CaCo"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: smp.Unet("efficientnet-b0", encoder_weights=None),
            r"_se_reduce and _se_expand of MBConvBlock \('encoder\._blocks\.0' and 15 more\)",
        ),
        (
            lambda: smp.MAnet("resnet18", encoder_weights=None),
            r"SE_ll and SE_hl of MFABBlock \('decoder\.blocks\.0' and 3 more\)",
        ),
        (
            lambda: make_unet(decoder_attention_type="scse"),
            r"Similar modules in it:.*SCSEModule \('decoder\.blocks\.0\.attention1\.attention'",
        ),
    ],
    ids=["efficientnet", "manet", "scse"],
)
def test_what_is_no_se_module_is_named(build, message):
    with pytest.raises(LookupError, match=message):
        replace_se(build(), "CaCo")
