"""Networks in ncnn, on the CPU, converted from a trace by pnnx."""

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.runtimes.runtime import DIMENSIONS, ConversionError, Converted, conversion
from benchmarks.runtimes.tracing import traced

NAME = "ncnn"
PACKAGES = ("ncnn", "pnnx")

OTHER = 32
"""How much larger a free size is in the second example, by which pnnx knows that it is free."""

NOT_RUN = ("Input", "Split")
"""Layers that name a blob and compute nothing."""


def convert(model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
    """Trace, convert and open the network; see :class:`benchmarks.runtimes.runtime.Runtime`."""
    if len(example) != 1 or "batch" in free:
        raise ConversionError("an array of ncnn is one image: it has no batch")
    with TemporaryDirectory() as name, conversion():
        folder = Path(name)
        traced(model, example).save(folder / "network.pt")
        _call_pnnx(folder, example, free)
        types = _layer_types(folder / "network.ncnn.param")
        network = _open(folder, types)

    def run(x: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(np.array(new_run(network, image)())) for image in x])

    def prepare(x: Tensor) -> Callable[[], object]:
        runs = [new_run(network, image) for image in x]
        return lambda: [run() for run in runs]

    return Converted(run, prepare, Counter(kind for kind in types if kind not in NOT_RUN))


def _call_pnnx(folder: Path, example: Tensor, free: frozenset[str]) -> None:
    """Call the program: its Python functions pass over its errors, and import what it wrote."""
    import pnnx

    shape = list(example.shape)
    other = [
        size + OTHER if dimension in {DIMENSIONS[n] for n in free} else size
        for dimension, size in enumerate(shape)
    ]
    command = [pnnx.EXEC_PATH, "network.pt", f"inputshape={_in_words(shape)}", "fp16=0"]
    if other != shape:
        command.append(f"inputshape2={_in_words(other)}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split("#")[-1].split()[1:])  # behind the heads of its passes
        raise ConversionError(f"pnnx ended with {done.returncode}: {said}")


def _in_words(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]f32"


def _layer_types(param: Path) -> list[str]:
    """The types of all layers: the first words of the lines behind number and counts."""
    lines = param.read_text(encoding="utf-8").splitlines()[2:]
    return [line.split(maxsplit=1)[0] for line in lines]


def _open(folder: Path, types: list[str]) -> Any:
    """The network, with as many threads as torch has, and float32 throughout."""
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = torch.get_num_threads()
    network.opt.use_fp16_packed = False
    network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    if network.load_param(str(folder / "network.ncnn.param")):
        # pnnx writes operators that ncnn lacks under their names in torch or in pnnx itself.
        unknown = sorted({kind for kind in types if not kind.isidentifier()})
        raise ConversionError(f"ncnn has no layer {', '.join(unknown) or 'of some type'}")
    network.load_model(str(folder / "network.ncnn.bin"))
    return network


def new_run(network: Any, image: Tensor) -> Callable[[], Any]:
    """A run on one image, (3, H, W), which returns an array of ncnn."""
    import ncnn

    pixels = ncnn.Mat(image.contiguous().numpy()).clone()

    def run() -> Any:
        with network.create_extractor() as extractor:
            extractor.input("in0", pixels)
            failed, output = extractor.extract("out0")
        if failed:
            raise RuntimeError(f"ncnn's extract returned {failed}")
        return output

    return run
