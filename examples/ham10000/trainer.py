"""A Lightning trainer without side effects of its own, and what signals mean while it runs."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from examples.ham10000 import processes


def new_trainer(**options: Any) -> L.Trainer:
    """A trainer on all processes of the run; ``options`` are Lightning's."""
    # A debugging aid of deterministic mode, which costs a fifth of an epoch on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Those are Lightning's own; and one process is enough to load data that are decoded.
    for message in ("does not have many workers", "exists and is not empty", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    # In a SLURM job Lightning would count its tasks, and load any hpc_ckpt_*.ckpt in the current
    # folder in the place of ours. This is its way to be told that it did not start the processes.
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"
    here = processes.count_here()
    return L.Trainer(
        devices=here,
        num_nodes=processes.count() // here,
        strategy="ddp" if processes.count() > 1 else "auto",
        use_distributed_sampler=False,  # ours lose and double no image
        # On GPUs some layers have no deterministic form: warn of those instead of failing.
        deterministic="warn" if torch.cuda.is_available() else True,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=processes.shows_bars(),
        enable_model_summary=False,
        **options,
    )


@contextmanager
def signals_raised(trainer: L.Trainer) -> Iterator[None]:
    """Raise what a signal means while a trainer runs: KeyboardInterrupt or SIGTERMException."""
    try:
        yield
    except SIGTERMException:
        raise
    except SystemExit as error:  # how Lightning ends after Ctrl-C
        raise KeyboardInterrupt from error
    if trainer.received_sigterm:  # in the last batch, where Lightning does not look any more
        raise SIGTERMException
