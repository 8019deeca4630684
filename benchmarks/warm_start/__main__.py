"""Measure what a swap costs and what warm start gives back: ``python -m benchmarks.warm_start``.

Started again, it goes on with what is missing; started twice at once, the two share the work.
Several hours on two cores.
"""

import argparse
import itertools
import logging
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from attnblocks import load_model, save_model
from benchmarks.files import write_json
from benchmarks.jobs import job
from benchmarks.lesions import CLASSES, Lesions, Network
from benchmarks.warm_start.features import fit, measure
from benchmarks.warm_start.report import report
from benchmarks.warm_start.setup import (
    COMPARED,
    MODEL,
    Arm,
    load_lesions,
    original,
    swapped,
)


def main() -> None:
    """Do what is not done yet, then draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="HAM10000 folder")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"argument --seeds: must be at least 2, for a spread; got {options.seeds}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    options.out.mkdir(parents=True, exist_ok=True)
    lesions = load_lesions(options.data, options.out / "cache")
    seeds = range(options.seeds)
    for seed, arm in itertools.product(seeds, COMPARED):
        with job(options.out / f"{arm.name} {seed}.json") as file:
            if file is not None:
                print(file.name, flush=True)
                start = network(arm, options.weights, seed, lesions, options.out)
                write_json(file, measure(start, original(options.weights, seed), lesions))
    files = [options.out / f"{arm.name} {seed}.json" for seed in seeds for arm in COMPARED]
    if missing := [file.name for file in files if not file.exists()]:
        print(f"another process is at {', '.join(missing)}: start again for the report")
    else:
        report(options.out, seeds)


def network(arm: Arm, weights: Path, seed: int, lesions: Lesions, out: Path) -> Network:
    """The network of an arm before it is trained; a fitted one is kept in a file."""
    own = original(weights, seed)
    new = swapped(own, arm)
    if arm.is_fitted:
        file = out / f"{arm.name} {seed}.safetensors"
        with FileLock(file.with_suffix(".fit.lock")):
            if not file.exists():
                write_json(file.with_suffix(".fit.json"), fit(new, own, lesions, seed))
                save_model(new.model, file, base=MODEL, base_kwargs={"num_classes": len(CLASSES)})
        new = replace(new, model=load_model(file).to(memory_format=torch.channels_last))
    return new


if __name__ == "__main__":
    main()
