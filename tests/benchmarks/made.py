"""What tests of the benchmarks are made of: a site, a map, results, and their tables read back."""

import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import find_se
from benchmarks.results import Result, Row
from benchmarks.settings import Settings

ROUNDS = [0.010, 0.012, 0.011, 0.013, 0.009]  # median 11 ms, quartiles 10 and 12


def row(name: str, seconds: list[float], **figures: float) -> Row:
    return Row(name, "contiguous", 4, 224, "all sites", None, seconds, figures)


def result(rows: list[Row], benchmark: str = "blocks", **settings) -> Result:
    machine = {"processor": "Example", "threads": 2, "torch": "2.99"}
    return Result(benchmark, machine, Settings("mobilenet_v3_small", **settings), rows)


def cells(text: str) -> dict[str, dict[str, str]]:
    """The cells of the only table of a text in Markdown, by row and column."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line] for line in lines]
    assert all(len(line) == len(head) + 1 or len(line) == len(head) for line in body)
    return {line[0]: dict(zip(head[-len(line) + 1 :], line[1:], strict=True)) for line in body}


def site_of(channels: int):
    return find_se(SqueezeExcitation(channels, 8))[0]


def tiny_network() -> nn.Module:
    """With two SE blocks; exporting it takes seconds less than any network that has a name."""
    stem = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), SqueezeExcitation(8, 4)
    head = nn.Conv2d(8, 8, 3), SqueezeExcitation(8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*stem, *head, nn.Linear(8, 5)).eval()


MAP = torch.rand(2, 3, 8, 8)
