"""The plan of a block: for one class, and for one process."""

import pickle

import pytest
import torch

from attnblocks import SE, AttentionBlock, CaCo
from attnblocks.blocks.plain import PlainStage
from attnblocks.blocks.se import SE_LAYERS
from attnblocks.blocks.whole import Whole
from tests.blocks.test_whole import BATCH
from tests.helpers import random_block, random_map


@pytest.mark.parametrize("block", [SE, CaCo])
def test_a_pickle_holds_no_addresses(block):
    sent = pickle.dumps(block.whole)
    assert block.whole.plans not in sent
    back = pickle.loads(sent)
    assert back.plans == block.whole.plans  # the same process has the same addresses
    made, x = random_block(block.__name__, 16), random_map(*BATCH)
    with torch.no_grad():
        found, wanted = back.run(made, x), block.whole.run(made, x)
    assert (found is None) == (wanted is None)
    assert found is None or torch.equal(found, wanted)


def test_errors_name_class_and_attribute():
    with pytest.raises((TypeError, RuntimeError)) as caught:
        type("Own", (SE,), {"whole": Whole(PlainStage(SE_LAYERS))})
    assert "Own.whole" in str(caught.value.__cause__ or caught.value)
    with pytest.raises((TypeError, RuntimeError)) as caught:
        type("Other", (AttentionBlock,), {"gates": SE.gates, "whole": SE.whole})
    assert "Other.whole belongs to SE" in str(caught.value.__cause__ or caught.value)
