"""What tests do in processes of their own: runs that are killed, and two that work together.

They are forked from a server that has imported everything, which takes seconds. Forked from the
process of the tests, whose threads may hold locks, they could hang.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_all_start_methods, get_context, set_start_method
from multiprocessing.context import BaseContext
from pathlib import Path
from unittest import mock

import lightning as L
import torch

from examples.ham10000 import evaluate, run
from examples.ham10000.cli import main
from examples.ham10000.data import load as cache
from examples.ham10000.data import synthetic
from examples.ham10000.metrics import Predictions
from examples.ham10000.module import LesionClassifier
from examples.ham10000.report import results
from tests.ham10000.undrawn import undrawn

POINTS = {
    "drawing": (synthetic, "_draw", lambda calls, *args: calls == 100),
    "decoding": (cache, "load_image", lambda calls, *args: calls == 200),
    "first epoch": (LesionClassifier, "training_step", lambda calls, *args: calls == 3),
    "second epoch": (LesionClassifier, "training_step", lambda calls, *args: calls == 7),
    "validation": (LesionClassifier, "validation_step", lambda calls, *args: calls == 1),
    "description": (run, "write_json", lambda calls, file, *args: file.stem == "description"),
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

BEFORE_THE_FIRST_CHECKPOINT = ("drawing", "decoding", "description", "first epoch", "validation")
FIRST_EPOCH_AGAIN = (
    LesionClassifier,
    "training_step",
    lambda calls, module, *args: module.current_epoch == 0,
)


def call_main(arguments: list[str], point: str | None = None, seconds: float = 600) -> int | None:
    """The exit code of the command line in a new process, killed at ``point`` or after a time.

    ``point`` is one of :data:`POINTS`, or "again" to be killed where the first epoch is trained.
    """
    process = _server().Process(target=_child, args=(arguments, point))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def _child(arguments: list[str], point: str | None) -> None:
    torch.set_num_threads(1)
    # Its workers start as elsewhere: those of a server outlive a run that is killed.
    set_start_method("fork", force=True)
    with undrawn():
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


def call_main_in_two(arguments: list[str], folder: Path) -> tuple[list[int | None], str, str]:
    """The exit codes of two processes that run one command line, as if torchrun started them.

    Also all that the two write to standard output, and to standard error.
    """
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes = _in_two(_one_of_two, port, arguments, folder, seconds=300)
    printed, errors = ((folder / name).read_text() for name in ("stdout", "stderr"))
    return codes, printed, errors


def _in_two(work: Callable[..., None], *args: object, seconds: float) -> list[int | None]:
    """The exit codes of two new processes, whose ranks ``work`` is called with."""
    children = [_server().Process(target=work, args=(rank, *args)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(seconds)
        child.kill()
        child.join()
    return [child.exitcode for child in children]


def _one_of_two(rank: int, port: int, arguments: list[str], folder: Path) -> None:
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "",  # without a GPU, gloo
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"),
    }
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    _child(arguments, None)


def collect_in_two(folder: Path) -> None:
    """Write to 0.pt and 1.pt what two processes collect of nine predictions, shared in two ways."""
    _in_two(_collect, folder, seconds=60)


def _collect(rank: int, folder: Path) -> None:
    """First, the two have five and four of the images; then, all of them and none."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=30),
    )
    values = torch.arange(63.0).view(9, 7)
    found = []
    for own in (torch.arange(rank, 9, 2), torch.arange(9 * rank, 9)):
        predictions = Predictions()
        for chosen in own.split(3):
            predictions.update(chosen, values[chosen])
        found.append(predictions.compute())
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _server() -> BaseContext:
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
