"""Measure what a swap costs and what warm start gives back: ``python -m benchmarks.warm_start``.

Started again, it goes on with what is missing; started twice at once, the two share the work.
Several hours on two cores.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors.torch import load_model, save_model

from benchmarks.warm_start.features import fit, measure
from benchmarks.warm_start.finetune import finetune
from benchmarks.warm_start.setup import (
    COMPARED,
    FINETUNED,
    Arm,
    Lesions,
    load_lesions,
    original,
    swapped,
)
from examples.ham10000.files import write_json
from examples.ham10000.training.models import Network


def main() -> None:
    """Do what is not done yet, then draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="HAM10000 folder")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    lesions = load_lesions(options.data, options.out / "cache")
    for seed in range(options.seeds):
        for arm in FINETUNED:
            _once(
                options.out / f"{arm.name} {seed}.csv",
                lambda file, arm=arm, seed=seed: finetune(
                    network(arm, options.weights, seed, lesions, options.out), lesions, seed, file
                ),
            )
    for seed in range(options.seeds):
        for arm in COMPARED:
            _once(
                options.out / f"{arm.name} {seed}.json",
                lambda file, arm=arm, seed=seed: write_json(
                    file,
                    measure(
                        network(arm, options.weights, seed, lesions, options.out),
                        original(options.weights, seed),
                        lesions,
                    ),
                ),
            )


def network(arm: Arm, weights: Path, seed: int, lesions: Lesions, out: Path) -> Network:
    """The network of an arm before it is trained; a fitted one is kept in a file."""
    own = original(weights, seed)
    new = swapped(own, arm)
    if arm.init == "fitted":
        file = out / f"{arm.name} {seed}.safetensors"
        with FileLock(file.with_suffix(".fit.lock")):
            if not file.exists():
                report = fit(new, own, lesions, seed)
                save_model(new.model, str(file.with_suffix(".partial")))
                write_json(file.with_suffix(".fit.json"), report)
                file.with_suffix(".partial").replace(file)
        load_model(new.model, str(file))
    return new


def _once(file: Path, work: Callable[[Path], None]) -> None:
    """Do some work unless its file is there, or another process is at it."""
    try:
        with FileLock(file.with_suffix(f"{file.suffix}.lock"), timeout=0):
            if not file.exists():
                print(file.name, flush=True)
                work(file)
    except Timeout:
        pass


if __name__ == "__main__":
    main()
