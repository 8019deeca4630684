"""What a runtime is to the comparison: it converts a network, and runs it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

SIZES = ("batch", "height", "width")
"""The sizes of images that may be free, in their order."""


class ConversionError(Exception):
    """A runtime does not take a network; the message says what it said."""


@dataclass(frozen=True)
class Converted:
    """A network in a runtime.

    Attributes:
        run: the network's answer to images; None where the runtime cannot run on this machine.
        prepare: gives what runs the network on these images again and again, to be timed: what
            can be done with them beforehand is done. None likewise.
        operators: how many operators of each name there are in what runs.
        delegates: parts that another engine runs as a whole; None for runtimes without such.
    """

    run: Callable[[Tensor], Tensor] | None
    prepare: Callable[[Tensor], Callable[[], object]] | None
    operators: Counter[str]
    delegates: int | None = None


class Runtime(Protocol):
    """A module of this package, one for each runtime; it imports its packages in ``convert``."""

    NAME: str
    PACKAGES: tuple[str, ...]
    """The distributions that have to be installed; the first one's version is the runtime's."""

    def convert(self, model: nn.Module, example: Tensor, free: frozenset[str]) -> Converted:
        """Convert a network in eval mode.

        Args:
            model: the network; it is left as it is.
            example: images, (N, 3, H, W).
            free: which of :data:`SIZES` may differ from the example in what is converted.

        Raises:
            ConversionError: the network cannot be converted in this way.
        """
        ...
