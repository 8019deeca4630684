"""Forward time of the blocks at the SE sites of MobileNetV3-Small, as ratios to torchvision's SE.

Run ``python -m benchmarks.blocks``. All blocks are measured in one run, in turn, on the CPU.
"""

import argparse
import statistics
from collections.abc import Callable

import timm.layers
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from attnblocks import create_block, find_se, list_blocks

PEER = "torchvision SE"


def site_maps(batch: int, memory_format: torch.memory_format) -> list[Tensor]:
    """One random map for each SE site of MobileNetV3-Small at 224 pixels."""
    model = torchvision.models.mobilenet_v3_small().eval()
    shapes: list[torch.Size] = []
    for site in find_se(model):
        site.module.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape))
    with torch.no_grad():
        model(torch.rand(1, 3, 224, 224))
    return [torch.rand(batch, *s[1:]).contiguous(memory_format=memory_format) for s in shapes]


def candidates() -> dict[str, Callable[[int], nn.Module]]:
    """What is measured: a function from channels to a block, by name."""
    ours: dict[str, Callable[[int], nn.Module]] = {
        name: lambda channels, name=name: create_block(name, channels)  # type: ignore[misc]
        for name in list_blocks()
    }
    return {
        PEER: lambda channels: torchvision.ops.SqueezeExcitation(channels, max(8, channels // 4)),
        **ours,
        "timm cbam": lambda channels: timm.layers.create_attn("cbam", channels),
        "timm eca": lambda channels: timm.layers.create_attn("eca", channels),
        "timm coord": lambda channels: timm.layers.create_attn("coord", channels),
        "identity": lambda channels: nn.Identity(),
    }


def measure(batch: int, memory_format: torch.memory_format, rounds: int) -> dict[str, float]:
    """Median seconds of one pass over all sites, by name; the rounds are interleaved."""
    maps = site_maps(batch, memory_format)
    timers = {}
    for name, make in candidates().items():
        blocks = [make(x.shape[1]).eval() for x in maps]
        timers[name] = Timer(
            "for block, x in zip(blocks, maps): block(x)",
            globals={"blocks": blocks, "maps": maps},
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
