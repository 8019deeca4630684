"""Networks as TorchScript, which some converters still take."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn


def traced(model: nn.Module, example: Tensor) -> Any:
    """A trace of a network in eval mode.

    Torch warns that tracing is deprecated and that the checks of shapes become constants.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
