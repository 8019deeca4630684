"""What a benchmark is told: its options, checked, and the description of the machine it runs on."""

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PACKAGES = ("torch", "torchvision", "timm", "onnxruntime")
SEED = 0
"""Of weights, maps and the order in the rounds."""


class UsageError(ValueError):
    """Options that cannot be followed; its text names the argument and its value."""


@dataclass(frozen=True)
class Settings:
    """What decides a measured time, besides what a row of the result says of itself.

    Attributes:
        network: name of the network.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: name of the dtype of weights and maps; nothing is autocast.
        compile: whether everything is compiled, with static sizes.
        backward: whether a training step is timed, and not a forward pass.
        cuda_graph: whether it is replayed from a CUDA graph.
        flush_l2: whether the L2 cache of the GPU is overwritten before each run.
        onnx: whether ONNX Runtime runs it.
        rounds: how often everything is measured in turn.
        min_run_time: seconds of each measurement, at least.
    """

    network: str
    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    backward: bool = False
    cuda_graph: bool = False
    flush_l2: bool = False
    onnx: bool = False
    rounds: int = 5
    min_run_time: float = 0.1

    @property
    def place(self) -> dict[str, Any]:
        """Device and dtype, for ``Tensor.to`` and ``Module.to``."""
        return {"device": torch.device(self.device), "dtype": DTYPES[self.dtype]}

    def __str__(self) -> str:
        what = "training step" if self.backward else "forward"
        how = [
            word
            for word, on in (
                ("ONNX Runtime", self.onnx),
                ("compiled", self.compile),
                ("CUDA graph", self.cuda_graph),
                ("L2 flushed", self.flush_l2),
            )
            if on
        ]
        return ", ".join([self.network, what, self.dtype, self.device, *how])


@dataclass(frozen=True)
class Extent:
    """What is measured one after the other; each combination is a group of rows.

    Attributes:
        batches: images in a batch.
        image_sizes: height and width of the square images.
        formats: names of memory formats.
        only: patterns of the names to measure, beside those that others are compared with.
        per_site: whether each site is a group.
        sweep: which of ``"image_size"``, ``"batch"`` and ``"channels"`` grows, at one site.
        site: name of that site.
        channels: what its channels are set to; empty leaves them.
    """

    batches: Sequence[int]
    image_sizes: Sequence[int]
    formats: Sequence[str] = tuple(FORMATS)
    only: Sequence[str] = ("*",)
    per_site: bool = False
    sweep: str | None = None
    site: str | None = None
    channels: Sequence[int] = ()

    def select(self, names: Sequence[str], always: Sequence[str]) -> list[str]:
        """The names that fit, and those in ``always``.

        Raises:
            UsageError: a pattern fits none.
        """
        for pattern in self.only:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(f"argument --only: {pattern!r} fits none of {', '.join(names)}")
        return [n for n in names if n in always or any(fnmatchcase(n, p) for p in self.only)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both benchmarks have."""
    add = parser.add_argument
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=["cpu", "cuda"], default=default, help=f"here {default} if left out")
    add("--dtype", choices=list(DTYPES), default="float32", help="of weights and maps")
    add("--memory-format", choices=list(FORMATS), nargs="+", help="both if left out")
    add("--batch", type=positive, nargs="+", metavar="N", help="images; 1 and 32 if left out")
    add("--image-size", type=positive, nargs="+", metavar="PIXELS", help="224 if left out")
    add("--compile", action="store_true", help="torch.compile everything, with static sizes")
    add("--backward", action="store_true", help="time forward and backward, in train mode")
    add("--cuda-graph", action="store_true", help="on CUDA: replay from a graph, without launches")
    add("--flush-l2", action="store_true", help="on CUDA: overwrite the L2 cache before each run")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="such as '*CaCo'")
    add("--rounds", type=positive, default=5, help="how often all are timed in turn (5)")
    add("--min-run-time", type=seconds, default=0.1, help="seconds of each timing (0.1)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures of every round")
    add("--plots", type=Path, metavar="DIR", help="draw them into this folder")


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings that the options ask for.

    Raises:
        UsageError: options that this machine cannot follow, or that do not fit together.
    """
    onnx = getattr(options, "onnx", False)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("argument --device: 'cuda', but torch finds no CUDA device here")
    for name in ("cuda_graph", "flush_l2"):
        if getattr(options, name) and options.device != "cuda":
            option = name.replace("_", "-")
            raise UsageError(f"argument --{option}: needs --device cuda, got {options.device!r}")
    if onnx:
        given = {
            "--device": options.device if options.device != "cpu" else None,
            "--dtype": options.dtype if options.dtype != "float32" else None,
            "--compile": options.compile or None,
            "--backward": options.backward or None,
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"argument --onnx: runs float32 forward on the CPU, but {option} is {value!r}"
                )
    return Settings(
        network=options.network,
        device=options.device,
        dtype=options.dtype,
        compile=options.compile,
        backward=options.backward,
        cuda_graph=options.cuda_graph,
        flush_l2=options.flush_l2,
        onnx=onnx,
        rounds=options.rounds,
        min_run_time=options.min_run_time,
    )


def check_output(out: Path | None, plots: Path | None) -> None:
    """Raise UsageError where a folder is missing: better now than after an hour."""
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"argument --out: there is no folder {str(out.parent)!r}")
    if plots is not None and not plots.is_dir():
        raise UsageError(f"argument --plots: there is no folder {str(plots)!r}")


def positive(text: str) -> int:
    """An int of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def seconds(text: str) -> float:
    """A time above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def factor(text: str) -> float:
    """A ratio of at least 1."""
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 1 and finite, got {text}")
    return value


def machine(device: str) -> dict[str, Any]:
    """What a time depends on besides the code: processor, threads, versions, and the GPU."""
    about: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: _version_of(name) for name in PACKAGES},
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "gpu": properties.name,
            "gpu_bytes": properties.total_memory,
            "l2_bytes": properties.L2_cache_size,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
            "matrix_products": torch.get_float32_matmul_precision(),
        }
    return about


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The name that the processor gives itself, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
