"""What is loaded on which machine, what `forms` says about it, threads, and forked processes."""

import _ctypes
import ctypes
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch

from attnblocks.ops import Forms, forms
from attnblocks.ops.native import library

FILE = library._load().library and library._load().library._name
needs_kernels = pytest.mark.skipif(FILE is None, reason=forms().why)


@pytest.fixture(autouse=True)
def _loads_anew(monkeypatch):
    """Every test looks for the library, and so does what comes after it."""
    monkeypatch.delenv("ATTNBLOCKS_NATIVE", raising=False)
    for cached in (library.library, library._load):
        cached.cache_clear()
    yield
    for cached in (library.library, library._load):
        cached.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Sets what the processor is."""

    def set_to(name: str, capability: str = "DEFAULT") -> None:
        monkeypatch.setattr(platform, "machine", lambda: name)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    return set_to


def reason() -> str:
    """Why there are no kernels."""
    assert library.library() is None
    assert library.threads() == 1
    found = forms()
    assert (found.cpu, found.other, found.recorded) == ("eager", "eager", "formulas")
    return found.why


def test_the_environment_turns_kernels_off(monkeypatch):
    monkeypatch.setenv("ATTNBLOCKS_NATIVE", "0")
    assert reason() == "ATTNBLOCKS_NATIVE=0 turns the kernels off"


@pytest.mark.parametrize("value", ["", "2", "off"])
def test_other_values_in_the_environment_are_refused(monkeypatch, value):
    monkeypatch.setenv("ATTNBLOCKS_NATIVE", value)
    with pytest.raises(ValueError, match=f"ATTNBLOCKS_NATIVE is '{value}'; it takes 1"):
        forms()


@pytest.mark.parametrize(
    ("name", "capability", "file"),
    [
        ("x86_64", "AVX2", "kernels_avx2"),
        ("AMD64", "AVX512", "kernels_avx512"),
        ("x86_64", "AVX512_VNNI", "kernels_avx512"),
        ("aarch64", "SVE256", "kernels_neon"),
        ("arm64", "DEFAULT", "kernels_neon"),
    ],
)
def test_the_processor_picks_the_file(monkeypatch, machine, tmp_path, name, capability, file):
    machine(name, capability)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert reason().startswith(f"{tmp_path / file}{library.SUFFIX} was not built: ")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x86_64", "the kernels need AVX2, and torch reports 'DEFAULT'"),
        ("riscv64", "there are none for processors of type riscv64"),
    ],
)
def test_other_processors_have_no_kernels(machine, name, why):
    machine(name)
    assert reason() == why


def test_a_file_that_is_no_library(monkeypatch, machine, tmp_path):
    machine("arm64")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    file = tmp_path / f"kernels_neon{library.SUFFIX}"
    file.write_bytes(b"cut off")
    assert reason().startswith(f"{file} does not load: ")


def test_a_library_of_something_else(monkeypatch, machine, tmp_path):
    machine("arm64")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    file = tmp_path / f"kernels_neon{library.SUFFIX}"
    shutil.copy(_ctypes.__file__, file)
    assert reason().startswith(f"{file} was built from other sources (version none, not ")


@needs_kernels
def test_a_library_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(library, "ABI", library.ABI + 1)
    versions = f"version {library.ABI - 1}, not {library.ABI}"
    assert reason() == f"{FILE} was built from other sources ({versions}): install attnblocks again"


@needs_kernels
def test_kernels_that_are_there_are_loaded_once():
    found = library.library()
    assert isinstance(found, ctypes.CDLL)
    assert library.library() is found
    assert all(hasattr(found, name) for name in library.ARGUMENTS)
    assert forms() == Forms("native", "eager", "formulas", forms().why)
    assert forms().why.startswith(FILE)


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="kernels have OpenMP on Linux only")
def test_threads_are_those_of_torch(monkeypatch):
    if not library.library().attnblocks_openmp():
        pytest.skip("built without OpenMP")
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert library.threads() == count
            assert forms().why == f"{FILE}; threads: {count}"
        library._load.cache_clear()
        monkeypatch.setattr(library, "_openmp_is_loaded", lambda: False)
        assert library.threads() == 1
        assert forms().why == f"{FILE}, whose OpenMP is not the one of torch; threads: 1"
    finally:
        torch.set_num_threads(before)


PARALLEL = """
import struct, torch
from attnblocks.ops.native.library import library
torch.set_num_threads(2)
x, means = torch.rand(8, 16, 7, 5), torch.empty(8, 16)
geometry = struct.pack("8q", *x.shape, x.stride(0), 0, 0, 2)
library().attnblocks_statistics(geometry, x.data_ptr(), None, means.data_ptr(), None)
assert torch.allclose(means, x.mean((2, 3)))
"""


def run(code: str) -> str:
    """Run code in a new interpreter, which must end in two minutes."""
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_kernels
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_has_one_openmp():
    code = (
        PARALLEL
        + """
import re
lines = open("/proc/self/maps").read().splitlines()
print(*{line.split()[-1] for line in lines if re.search(r"lib(g|i)?omp", line)}, sep="\\n")
"""
    )
    assert len(run(code).splitlines()) == 1


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_of_a_data_loader_run_blocks():
    code = (
        PARALLEL
        + """
from attnblocks import CaCo
from torch.utils.data import DataLoader
block, maps = CaCo(16).eval(), list(torch.rand(8, 1, 16, 7, 5))
with torch.inference_mode():
    expected = [block(x) for x in maps]

class Outputs(torch.utils.data.Dataset):
    def __len__(self):
        return len(maps)

    def __getitem__(self, index):
        with torch.inference_mode():
            return block(maps[index])

loader = DataLoader(Outputs(), batch_size=None, num_workers=2, multiprocessing_context="fork")
assert all(map(torch.allclose, loader, expected))
print("ran")
"""
    )
    assert run(code) == "ran"
