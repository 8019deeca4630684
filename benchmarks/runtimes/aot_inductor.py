"""Networks compiled ahead of time by AOTInductor, which needs a C++ compiler."""

import re
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from benchmarks.runtimes.runtime import Converted, conversion, exported

NAME = "AOTInductor"
PACKAGES = ("torch",)


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Compile and load the network; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    with TemporaryDirectory() as folder, conversion():
        file = str(Path(folder) / "network.pt2")
        torch._inductor.aoti_compile_and_package(exported(model, example, free), package_path=file)
        loaded = torch._inductor.aoti_load_package(file)
        operators = _called(Path(file))

    def run(x: Tensor) -> Tensor:
        return loaded(x)

    return Converted(run, lambda x: lambda: loaded(x), operators)


def _called(package: Path) -> Counter[str]:
    """What the program of a package calls: the kernels made for it, and operators of torch."""
    with ZipFile(package) as files:
        texts = [files.read(f).decode() for f in files.namelist() if f.endswith("wrapper.cpp")]
    (text,) = texts
    program = text[text.index("::run_impl(") :]
    calls = re.findall(r"^\s+(?:\w+\()?(cpp_fused\w*|aoti_torch_cpu_\w+)\(", program, re.MULTILINE)
    return Counter("fused kernel" if call.startswith("cpp") else call for call in calls)
