"""Rate and memory of predict, as the number of images grows.

    python -m benchmarks.predict --run RUN --data DIR --images 2000 20000

The images are links to those of the folder, in turn, under new names. Each number of images has a
process of its own; its peak memory should not depend on the number.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.settings import machine, positive
from examples.ham10000.predict import find_images, predict


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict each number of images and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a run")
    parser.add_argument("--data", type=Path, required=True, help="folder with images")
    parser.add_argument("--images", type=positive, nargs="+", default=[2000, 20000])
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(", ".join(f"{name} {value}" for name, value in machine(device).items()))
    paths, _ = find_images([options.data])
    print(f"{'images':>8}{'seconds':>10}{'images/s':>10}{'peak MiB':>10}")
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            for number, path in enumerate(islice(cycle(paths), count)):
                (Path(folder) / f"{number}{path.suffix}").symlink_to(path.resolve())
            seconds, peak = in_a_process(options.run, Path(folder))
        print(f"{count:8}{seconds:10.1f}{count / seconds:10.0f}{peak / 2**20:10.0f}", flush=True)


def in_a_process(run: Path, folder: Path) -> tuple[float, int]:
    """Seconds of a prediction, and bytes of its process at most."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_measure, args=(run, folder, theirs))
    child.start()
    theirs.close()
    seconds, peak = ours.recv()
    child.join()
    return seconds, peak


def _measure(run: Path, folder: Path, pipe: Connection) -> None:
    began = time.perf_counter()
    outcome = predict(run, [folder], folder / "predictions.csv")
    seconds = time.perf_counter() - began
    if outcome.problems:
        raise ValueError(f"{len(outcome.problems)} images cannot be read: {outcome.problems[0]}")
    unit = 1 if sys.platform == "darwin" else 1024
    pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))


if __name__ == "__main__":
    main()
