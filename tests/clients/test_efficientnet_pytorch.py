"""EfficientNets of efficientnet_pytorch, whose SE is inlined: named, and blocks go elsewhere."""

import copy

import pytest
import torch

from attnblocks import find_places, find_se, insert, replace_se
from tests.helpers import randomized, snapshot, unchanged

pytest.importorskip(
    "efficientnet_pytorch", reason="efficientnet_pytorch is not installed: pip install '.[clients]'"
)
from efficientnet_pytorch import EfficientNet

pytestmark = pytest.mark.clients


@pytest.fixture
def model():
    return randomized(EfficientNet.from_name("efficientnet-b0", num_classes=5)).eval()


def test_the_inlined_se_is_named(model):
    before = snapshot(model)
    named = r"_se_reduce and _se_expand of MBConvBlock \('_blocks\.0' and 15 more\)"
    with pytest.raises(LookupError, match=f"inlined SE are no modules.*{named}.*register_se") as e:
        replace_se(model, "CaCo")
    assert "insert blocks behind other modules" in str(e.value)
    assert unchanged(model, before)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_an_insertion_changes_nothing(model, train):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.set_swish(memory_efficient=False)
    plain = copy.deepcopy(model)
    places = [place.name for place in find_places(model, x)]
    assert {"_blocks.0", "_blocks.3._bn2", "_blocks.3._depthwise_conv"} <= {*places}
    after = [f"_blocks.{number}._bn1" for number in (1, 3, 15)]
    insert(model, "CoordAtt", after=after, example=x)
    assert [site.after for site in find_se(model)] == after
    ours, theirs = [], []
    for outputs, network in ((ours, model), (theirs, plain)):
        torch.manual_seed(0)  # of dropped branches
        outputs.append(network.train(train)(x))
    assert torch.equal(ours[0], theirs[0])
