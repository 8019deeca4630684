"""What a tool for quantization is to the comparison."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from benchmarks.int8.setup import Run


class Tool(Protocol):
    """A module of this package, one for each tool; it imports its packages in ``quantize``."""

    NAME: str
    PACKAGES: tuple[str, ...]
    """The distributions that have to be installed."""
    RECIPES: Mapping[str, Mapping[str, Any]]
    """Names of what is compared, with the keyword arguments of ``quantize`` for each."""

    def quantize(self, model: nn.Module, calibration: Tensor, **recipe: Any) -> Run:
        """Quantize a network.

        Args:
            model: in eval mode, gives pooled features (N, F); it is left as it is.
            calibration: images, (N, 3, H, W), without labels.
            recipe: the tool's own arguments, as in ``RECIPES``.

        Returns:
            The quantized network as a function of images of the same height and width, any number.
        """
        ...
