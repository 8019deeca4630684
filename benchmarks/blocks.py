"""Forward time of the blocks at the SE sites of MobileNetV3-Small, as ratios to torchvision's SE.

Run ``python -m benchmarks.blocks``. All blocks are measured in one run, in turn, on the CPU.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torchvision
from timm.layers import create_attn  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from attnblocks import SESite, create_block, find_se, list_blocks

PEER = "torchvision SE"


def sites_and_maps(batch: int, memory_format: torch.memory_format) -> list[tuple[SESite, Tensor]]:
    """The SE sites of MobileNetV3-Small, each with a random map of its size at 224 pixels."""
    model = torchvision.models.mobilenet_v3_small().eval()
    sites = find_se(model)
    shapes: list[torch.Size] = []
    for site in sites:
        site.module.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    with torch.no_grad():
        model(torch.rand(1, 3, 224, 224))
    maps = [torch.rand(batch, *s[1:]).contiguous(memory_format=memory_format) for s in shapes]
    return list(zip(sites, maps, strict=True))


def candidates() -> dict[str, Callable[[SESite], nn.Module]]:
    """What is measured: a function from site to block, by name."""

    def ours(name: str, site: SESite) -> nn.Module:
        return create_block(name, site.channels)

    def timms(name: str, site: SESite, **kwargs: Any) -> nn.Module:
        return cast(nn.Module, create_attn(name, site.channels, **kwargs))  # type: ignore[no-untyped-call]

    return {
        PEER: lambda site: copy.deepcopy(site.module),
        **{name: partial(ours, name) for name in list_blocks()},
        "timm eca": partial(timms, "eca"),
        "timm cbam": lambda s: timms("cbam", s, rd_channels=max(1, s.channels // 16)),
        "timm coord": lambda s: timms("coord", s, rd_channels=max(8, s.channels // 32)),
        "identity": lambda site: nn.Identity(),
    }


def measure(batch: int, memory_format: torch.memory_format, rounds: int) -> dict[str, float]:
    """Median seconds of one pass over all sites, by name; the rounds are interleaved."""
    sites = sites_and_maps(batch, memory_format)
    timers = {}
    for name, make in candidates().items():
        pairs = [(make(site).eval(), x) for site, x in sites]
        timers[name] = Timer(
            "for block, x in pairs: block(x)",
            globals={"pairs": pairs},
            num_threads=torch.get_num_threads(),
        )
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    with torch.no_grad():
        for _ in range(rounds):
            for name, timer in timers.items():
                seconds[name].append(timer.blocked_autorange(min_run_time=0.1).median)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print one table per memory format."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocks", description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    for name, memory_format in formats.items():
        seconds = measure(options.batch, memory_format, options.rounds)
        print(f"\n{name}, batch {options.batch}, {torch.get_num_threads()} threads")
        for block, value in seconds.items():
            print(f"  {block:15}{1e3 * value:8.2f} ms{value / seconds[PEER]:8.2f} x {PEER}")


if __name__ == "__main__":
    main()
