"""Where in a network attention blocks could go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnblocks.swap.observe import Seen, observe
from attnblocks.swap.table import lay_out
from attnblocks.swap.wrappers import unwrap

ROLES = {
    "residual": "end of a residual branch",
    "stages": "end of a stage",
    "depthwise": "depthwise convolution",
}


@dataclass(frozen=True)
class Place:
    """A module of a network that returns a map, behind which a block could go.

    Attributes:
        name: qualified name of the module.
        module: the module.
        kind: name of its class.
        channels: channels of the map.
        height: height of the map on the example.
        width: width of the map on the example.
        calls: how often the module runs in one forward pass.
        roles: what the map is: ``"residual"``, of the two operands of an addition the one with
            more layers before it; ``"stages"``, the last map before its height times width falls to
            half or less, and the last one of all, before a classifier pools it or a U-Net enlarges
            it; ``"depthwise"``, the output of a depthwise convolution.
    """

    name: str
    module: nn.Module = field(repr=False)
    kind: str
    channels: int
    height: int
    width: int
    calls: int
    roles: frozenset[str]


class Places(tuple[Place, ...]):
    """The places of a network; printed as a table."""

    def __str__(self) -> str:
        rows = [
            [p.name, p.kind, str(p.channels), f"{p.height} x {p.width}", _words(p)] for p in self
        ]
        header = ["place", "class", "channels", "height x width", "what it is"]
        return lay_out([header, *rows], words={"place", "class", "what it is"})


def find_places(model: nn.Module, example: Any) -> Places:
    """List the modules of a network that return a map (N, C, H, W).

    The network, or a copy of it without weights, runs on the example and on larger ones: a map is
    what keeps its channels at axis 1, while its height and width follow the size of the input.
    Nothing of the network is changed, nor is the random state. Modules inside attention and SE
    blocks are not listed, the blocks are.

    Args:
        model: the network. Of a compiled or parallel network, and of an average of weights, the
            network inside is read, and the names are those in it.
        example: what the network is called with: one argument, such as a batch of images, a tuple
            of arguments, or a mapping of keyword arguments.

    Returns:
        The places in the order in which the modules return; print it for a table.

    Raises:
        ValueError: the network does not run on the example, has lazy layers that have not run yet,
            or has an SE block that cannot be read.
        TypeError: ``model`` is not an ``nn.Module``, or is scripted, exported or sharded; or the
            example holds no tensor.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> print(find_places(model, torch.rand(1, 3, 32, 32)))
        place  class      channels  height x width  what it is
        0      Conv2d            8         32 x 32
        1      ReLU              8         32 x 32  end of a stage
        2      MaxPool2d         8         16 x 16  end of a stage
    """
    return places_in(observe(unwrap(model, "find_places"), example))


def places_in(seen: Mapping[str, Seen]) -> Places:
    """The places among the modules of a network.

    Args:
        seen: what they return, see :func:`attnblocks.swap.observe.observe`.
    """
    maps = [one for one in seen.values() if one.channels is not None]
    return Places(
        Place(
            name=one.name,
            module=one.module,
            kind=type(one.module).__name__,
            channels=one.channels or 0,
            height=one.height,
            width=one.width,
            calls=one.calls,
            roles=one.roles,
        )
        for one in sorted(maps, key=lambda one: one.position)
        if one.name and one.inside is None
    )


def _words(place: Place) -> str:
    words = [ROLES[role] for role in ROLES if role in place.roles]
    return ", ".join([*words, f"runs {place.calls} times"] if place.calls > 1 else words)
