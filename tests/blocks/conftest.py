"""Shared by the tests of blocks that run in one call."""

import pytest
import torch

from attnblocks.ops.native import host
from tests.blocks.test_whole import BATCH, note_calls
from tests.helpers import random_map


@pytest.fixture
def in_one_call(monkeypatch):
    """A function from a block to whether it runs in one call, on a map where it could."""
    calls = note_calls(monkeypatch)

    def runs(block, x=None):
        calls.clear()
        with torch.no_grad():
            block(random_map(*BATCH) if x is None else x)
        return bool(calls) and calls != ["infer_gates"]  # a stage of CBAM alone

    return runs


@pytest.fixture(params=["by C", "by Python"])
def checking(request, monkeypatch):
    """Who checks the tensors of the layers: an older torch describes none to C."""
    if request.param == "by Python":
        monkeypatch.setattr(host, "view", lambda: 0)
    host.host.cache_clear()
    yield
    host.host.cache_clear()
