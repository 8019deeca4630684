"""Runs that are killed at a chosen moment, in processes of their own."""

import os
import signal
import sys
from multiprocessing import get_context
from unittest import mock

import lightning as L
import torch

from examples.ham10000.cli import main
from examples.ham10000.data import images, synthetic
from examples.ham10000.evaluation import evaluate
from examples.ham10000.reporting import results
from examples.ham10000.training.lit import LesionClassifier
from examples.ham10000.training.throughput import Throughput

POINTS = {
    "drawing": (synthetic, "_draw", lambda calls, *args: calls == 100),
    "decoding": (images, "load_image", lambda calls, *args: calls == 200),
    "first epoch": (LesionClassifier, "training_step", lambda calls, *args: calls == 3),
    "second epoch": (LesionClassifier, "training_step", lambda calls, *args: calls == 7),
    "validation": (LesionClassifier, "validation_step", lambda calls, *args: calls == 1),
    "best checkpoint": (
        L.Trainer,
        "save_checkpoint",
        lambda calls, trainer, path, *args: trainer.current_epoch == 1,
    ),
    "last checkpoint": (
        L.Trainer,
        "save_checkpoint",
        lambda calls, trainer, path, *args: trainer.current_epoch == 1 and "last" in str(path),
    ),
    "file of the checkpoint": (
        os,
        "replace",  # the old file is there, the new one not yet in its place
        lambda calls, source, target: target.name == "last.ckpt" and target.exists(),
    ),
    "testing": (LesionClassifier, "test_step", lambda calls, *args: calls == 1),
    "figures": (evaluate, "summarise", lambda calls, *args: calls == 1),
    "results": (results, "save_picture", lambda calls, *args: calls == 1),
}
"""For each moment a function, and from its calls the one that does not return."""

BEFORE_THE_FIRST_CHECKPOINT = ("drawing", "decoding", "first epoch", "validation")
FIRST_EPOCH_AGAIN = (
    LesionClassifier,
    "training_step",
    lambda calls, module, *args: module.current_epoch == 0,
)


def call_main(arguments: list[str], point: str | None = None) -> int | None:
    """The exit code of the command line in a new process, killed at ``point``.

    ``point`` is one of :data:`POINTS`, or "again" to be killed where the first epoch is trained.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_child, args=(arguments, point))
    process.start()
    process.join(180)
    process.kill()
    return process.exitcode


def _child(arguments: list[str], point: str | None) -> None:
    torch.set_num_threads(1)
    with mock.patch.object(Throughput, "on_train_batch_end"):  # it takes half of so short a run
        if point is None:
            sys.exit(main(arguments))
        owner, name, moment = FIRST_EPOCH_AGAIN if point == "again" else POINTS[point]
        original, calls = getattr(owner, name), 0

        def until(*args, **kwargs):
            nonlocal calls
            calls += 1
            if moment(calls, *args):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        with mock.patch.object(owner, name, until):
            sys.exit(main(arguments))
