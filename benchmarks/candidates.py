"""What stands at a site and is measured: our blocks, their peers, and the floor."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import timm
import torch
from timm.layers import create_attn  # type: ignore[attr-defined]
from torch import Tensor, nn
from torchvision.models import list_models
from torchvision.ops import SqueezeExcitation

from attnblocks import SE, SESite, create_block, find_se
from benchmarks.coverage import timm_model, torchvision_model
from benchmarks.published import published
from benchmarks.results import BLOCKS, COPY, IDENTITY, OWN_SE, PUBLISHED, TIMM, TORCHVISION_SE
from benchmarks.settings import SEED, UsageError

Make = Callable[[SESite], nn.Module]


class Copy(nn.Module):
    """One read and one write of the map: the least that a block can cost that returns a new one."""

    def forward(self, x: Tensor) -> Tensor:
        """Copy the map."""
        return x.clone()


def in_networks() -> dict[str, Make]:
    """What stands at the sites of whole networks: function from site to block, by name."""
    return {
        OWN_SE: lambda site: copy.deepcopy(site.module),
        **{n: make for block in BLOCKS for n, make in _both_forms(block).items()},
        IDENTITY: lambda site: nn.Identity(),
    }


def at_sites() -> dict[str, Make]:
    """What is measured by itself at the sites of a network of torchvision."""
    timm = _timms()
    makers: dict[str, Make] = {TORCHVISION_SE: lambda site: copy.deepcopy(site.module)}
    for block in BLOCKS:
        makers |= _both_forms(block)
        if block in timm:
            makers[TIMM[block]] = timm[block]
    return {**makers, COPY: lambda site: Copy(), IDENTITY: lambda site: nn.Identity()}


def _both_forms(block: str) -> dict[str, Make]:
    return {block: partial(_ours, block), PUBLISHED + block: partial(published, block)}


def _ours(name: str, site: SESite) -> nn.Module:
    return create_block(name, site.channels)


def _timms() -> dict[str, Make]:
    """The blocks of timm, as wide as ours; it has no biases in the last two."""

    def create(name: str, site: SESite, **kwargs: Any) -> nn.Module:
        return cast(nn.Module, create_attn(name, site.channels, **kwargs))  # type: ignore[no-untyped-call]

    return {
        "SE": lambda site: create("se", site, rd_channels=site.rd_channels),
        "Eca": lambda site: create("eca", site),
        "CBAM": lambda site: create("cbam", site, rd_channels=max(1, site.channels // 16)),
        "CoordAtt": lambda site: create("coord", site, rd_channels=max(8, site.channels // 32)),
    }


def seeded(make: Make) -> Make:
    """The same maker with weights drawn from the seed; the random state stays as it is."""

    def made(site: SESite) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return make(site)

    return made


@dataclass(frozen=True)
class Place:
    """A site, and the shape (C, H, W) of its map at some image size."""

    site: SESite
    shape: tuple[int, int, int]

    @property
    def channels(self) -> int:
        """Channels of the map."""
        return self.site.channels

    def with_channels(self, channels: int) -> "Place":
        """The same place with an SE block and map of other channels, in MobileNetV3's widths."""
        block = SqueezeExcitation(
            channels, SE(channels).rd_channels, scale_activation=nn.Hardsigmoid
        )
        site = replace(find_se(block)[0], name=self.site.name)
        return Place(site, (channels, *self.shape[1:]))


def build_network(name: str) -> nn.Module:
    """A network of torchvision or timm with random weights out of the seed, in eval mode.

    Args:
        name: ``torchvision/NAME`` or ``timm/NAME``; of a bare name torchvision's comes first.

    Raises:
        UsageError: there is no such network, or it has no SE block.
    """
    library, _, bare = name.rpartition("/")
    build = {"torchvision": torchvision_model, "timm": timm_model}
    known: dict[str, Callable[[], Sequence[str]]] = {
        "torchvision": list_models,
        "timm": timm.list_models,
    }
    wanted = [library] if library else list(known)
    found = [key for key in wanted if key in known and bare in known[key]()]
    if not found:
        raise UsageError(f"argument --network: {name!r} is no network of torchvision or timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build[found[0]](bare).eval()
    if not find_se(network):
        raise UsageError(f"argument --network: {name!r} has no SE block")
    return network


def places(network: nn.Module, image_size: int) -> list[Place]:
    """The SE sites of a network, each with the shape of its map. Nothing is computed."""
    model = copy.deepcopy(network).to("meta")
    shapes: dict[str, tuple[int, int, int]] = {}

    def note(name: str, args: tuple[Tensor, ...]) -> None:
        _, channels, height, width = args[0].shape
        shapes[name] = (channels, height, width)

    for site in find_se(model):
        site.module.register_forward_pre_hook(lambda _, args, name=site.name: note(name, args))
    with torch.no_grad():
        model(torch.empty(1, 3, image_size, image_size, device="meta"))
    return [Place(site, shapes[site.name]) for site in find_se(network)]


def random_maps(
    places: Sequence[Place],
    batch: int,
    memory_format: torch.memory_format,
    to: Mapping[str, Any],
    *,
    seed: int = SEED,
) -> list[Tensor]:
    """A map of values between 0 and 1 for every place."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(batch, *place.shape, generator=generator) for place in places]
    return [x.to(**to).contiguous(memory_format=memory_format) for x in maps]
