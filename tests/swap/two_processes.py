"""Processes that train one network together, as torchrun starts them."""

from datetime import timedelta
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import torch
from torch import nn

from attnblocks import find_se


def train_in_two(processes: int, folder: Path) -> None:
    """Take a step on what is in ``start``, and write the network of each process to RANK.pt."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    children = [
        context.Process(target=_step, args=(rank, processes, folder)) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        child.kill()


def _step(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    model, x = torch.load(folder / "start", weights_only=False)
    parallel = nn.parallel.DistributedDataParallel(model)
    parallel(x[rank::processes]).square().mean().backward()
    torch.optim.SGD(parallel.parameters(), lr=0.1).step()
    found = [(site.name, site.after) for site in find_se(parallel)]
    torch.save((model.state_dict(), found), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
