"""Rate and memory of the example's predict, as the number of images grows.

    python -m benchmarks.predict --run RUN --data DIR --images 2000 20000

The images are links to those of the folder, in turn, under new names. The command
``python -m examples.ham10000 predict`` is timed whole; its peak memory should not depend on the
number.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.settings import machine, positive


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict each number of images and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder with JPEG images")
    parser.add_argument("--images", type=positive, nargs="+", default=[2000, 20000])
    options = parser.parse_args(arguments)
    paths = sorted(options.data.rglob("*.jpg"))
    if not paths:
        parser.error(f"argument --data: there is no .jpg below {options.data}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(", ".join(f"{name} {value}" for name, value in machine(device).items()))
    print(f"{'images':>8}{'seconds':>10}{'images/s':>10}{'peak MiB':>10}")
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            for number, path in enumerate(islice(cycle(paths), count)):
                (Path(folder) / f"{number}.jpg").symlink_to(path.resolve())
            seconds, peak = predict(options.run, Path(folder))
        print(f"{count:8}{seconds:10.1f}{count / seconds:10.0f}{peak / 2**20:10.0f}", flush=True)


def predict(run: Path, folder: Path) -> tuple[float, int]:
    """Seconds of the command, and bytes of its process at most.

    Raises:
        ValueError: it failed, or could not read some image.
    """
    command = [sys.executable, "-m", "examples.ham10000", "predict", "--run", str(run)]
    began = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--out", str(folder / "predictions.csv"), str(folder)],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if child.returncode != 0:
        raise ValueError(f"predict ended with exit code {child.returncode}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
