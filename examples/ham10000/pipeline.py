"""A whole run: its folder, its data, its training, its test and its report."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from examples.ham10000 import processes
from examples.ham10000.config import Config
from examples.ham10000.data.splits import leak
from examples.ham10000.evaluate import evaluate_part, load_best
from examples.ham10000.gates import record_gates, save_start
from examples.ham10000.report.plots import curves, save_picture
from examples.ham10000.report.results import write_results
from examples.ham10000.run import create_run, data_folder, prepare
from examples.ham10000.train import train


def complete(config: Config, *, resumed: bool, crowded: bool = False) -> dict[str, Any]:
    """Begin a run, or go on with it, to its end: train, test once, write what came out.

    ``crowded`` says that many runs share the machine: images are then augmented on the CPU, which
    leaves a GPU to the networks, and nothing is drawn. Returns the content of ``test.json``.
    ValueError or OSError if the options or the data cannot be used, or another process is at the
    run; a run that was to begin then leaves no folder behind. FloatingPointError if the loss is
    not finite.
    """
    out = config.out
    if not resumed:
        processes.once(lambda: create_run(config))
    with _alone(out):
        first = processes.rank() == 0
        try:
            data, network = prepare(config)
        except (ValueError, OSError):
            if not resumed and first:
                shutil.rmtree(out, ignore_errors=True)
            raise
        sizes = ", ".join(f"{len(positions)} {part}" for part, positions in data.split.items())
        shared = leak(data.images, data.split)
        processes.say(f"{data.name}: {sizes} images, {config.split_name}, leak {shared:.3f}")
        processes.say(f"Run folder: {out}")
        has_blocks = config.init is not None  # of the library
        if first and has_blocks and not (out / "last.ckpt").exists():
            save_start(out, network.model)
        train(config, data, network, crowded=crowded)
        best, folder = load_best(out), data_folder(config)
        evaluation = evaluate_part(best, data, "test", config, folder, config.workers, shared)
        if first:
            if has_blocks:
                record_gates(out, best, data, config.batch_size)
            if not crowded:
                title = f"{data.name}, {config.split_name}\n{config.network_name}"
                save_picture(curves(out / "metrics.csv", data.label, title), out / "curves.png")
            write_results(out, evaluation, drawn=not crowded)
        return evaluation.summary


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Keep others away from a run: two that go on with it would mix their epochs."""
    lock = FileLock(run / ".lock")

    def acquire() -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"another process is at the run {run}: wait for its end") from error
        for left in run.glob(".*.partial"):  # half-written by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    processes.once(acquire)
    try:
        yield
    finally:
        if processes.rank() == 0:
            lock.release()
            (run / ".lock").unlink(missing_ok=True)
