"""The tests of the kernels against a build with AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnblocks.ops import forms
from attnblocks.ops.native.library import library

ROOT = Path(__file__).parents[2]
# One image too many for the memory of the means.
OVERRUN = """
import struct, torch
from attnblocks.ops.native.library import library
x, means = torch.rand(3, 4, 5, 6), torch.empty(2, 4)
geometry = struct.pack("8q", *x.shape, x.stride(0), 0, 0, 1)
library().attnblocks_statistics(geometry, x.data_ptr(), None, means.data_ptr(), None)
"""


def runtime() -> str | None:
    """The library of AddressSanitizer, which has to be loaded before Python."""
    if shutil.which("g++") is None or sys.platform != "linux":
        return None
    command = ["g++", "-print-file-name=libasan.so"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if os.path.isabs(path) else None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of this checkout, whose kernels for this processor have the sanitizers."""
    kernels = library()
    if kernels is None:
        pytest.skip(forms().why)
    if runtime() is None:
        pytest.skip("no g++ with AddressSanitizer here")
    copy = tmp_path_factory.mktemp("sanitized")
    for name in ("attnblocks", "tests"):
        skipped = shutil.ignore_patterns("__pycache__", "kernels_*")
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for name in ("CMakeLists.txt", "conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    options = ["-DCMAKE_CXX_COMPILER=g++", "-DATTNBLOCKS_SANITIZE=ON"]
    target = ["--target", Path(kernels._name).stem, "--parallel", "2"]
    for command in (["-S", ".", "-B", "build", *options], ["--build", "build", *target]):
        subprocess.run(["cmake", *command], cwd=copy, check=True, capture_output=True)
    return copy


def python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a checkout's kernels."""
    env = {**os.environ, "LD_PRELOAD": str(runtime()), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=checkout, env=env, text=True, capture_output=True, check=False
    )


@pytest.mark.slow
def test_an_overrun_is_noticed(checkout):
    done = python(checkout, "-c", OVERRUN)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.mark.slow
def test_the_tests_of_the_kernels_pass(checkout):
    code = "from attnblocks.ops import forms; print(forms())"
    assert f"native', other='eager', recorded='formulas', why='{checkout}" in (
        python(checkout, "-c", code).stdout
    )
    # Not the slow examples: sanitizers slow the others enough. What they report is not captured,
    # since the process ends there.
    tests = ["tests/ops/test_native_kernels.py", "tests/ops/test_native_blocks.py"]
    done = python(checkout, "-m", "pytest", "-q", "--capture=no", *tests)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
