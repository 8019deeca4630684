"""Networks compiled by AOTInductor."""

import shutil

import pytest

from benchmarks.runtimes import aot_inductor
from tests.runtimes.networks import check_agrees


@pytest.mark.slow  # compiles C++
@pytest.mark.runtimes
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ here")
@pytest.mark.parametrize("name", ["SE", "CaCo"])
def test_a_network_agrees_at_every_size(name):
    found = check_agrees(aot_inductor, name)
    assert found.operators["fused kernel"] >= 1
