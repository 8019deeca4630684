"""What a runtime is to the comparison: it converts a network, and runs it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

SIZES = ("batch", "height", "width")
"""The sizes of images that may be free, in their order."""


class ConversionError(Exception):
    """A runtime does not take a network; the message says in one line what it said."""


@contextmanager
def conversion() -> Iterator[None]:
    """Turn whatever a converter raises into a ConversionError.

    Converters wrap the errors of each other; the first one says what was wrong.
    """
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        lines = [line.strip() for line in str(first).splitlines() if line.strip()]
        said = f": {lines[0]}" if lines else ""
        raise ConversionError(f"{type(first).__name__}{said}") from error


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


DIMENSIONS = dict(zip(SIZES, (0, 2, 3), strict=True))
"""The dimension of a tensor of images that each size is."""


def exported(
    model: nn.Module, example: Tensor, free: frozenset[str], bounds: Mapping[str, Any] | None = None
) -> ExportedProgram:
    """Export a network with :func:`torch.export.export`.

    Args:
        model: the network, in eval mode.
        example: images.
        free: the sizes that stay free.
        bounds: what each free size is; anything, if left out.
    """
    sizes = {DIMENSIONS[name]: bounds[name] if bounds else Dim.DYNAMIC for name in sorted(free)}
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(sizes,))


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The version of each distribution; None of those that are not installed."""

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: version_of(package) for package in packages}


def missing(packages: Sequence[str]) -> list[str]:
    """Those that are not installed."""
    return [package for package, found in versions(packages).items() if found is None]
