"""The functions that blocks call, and the one place that decides in which form they run.

All forms compute the same numbers. :mod:`attnblocks.ops.formulas` has plain operators, the
definition; :mod:`attnblocks.ops.eager` keeps little for backward; :mod:`attnblocks.ops.pooled` is
for export with fixed sizes; :mod:`attnblocks.ops.native` has compiled kernels, which make one pass
over a map on the CPU.
"""

from types import ModuleType

import torch
import torch.fx
from torch import Tensor
from torch.autograd import forward_ad
from torch.jit import is_tracing  # type: ignore[attr-defined]

from attnblocks.ops import eager, formulas, pooled
from attnblocks.ops.native import functions as native
from attnblocks.ops.native import kernels

STATISTICS = ("coordinate_means", "channel_means", "channel_maxima")
"""The names of what :func:`statistics` computes."""


def has_free_sizes(x: Tensor) -> bool:
    """Whether operators are recorded for a runtime, and the map may have another size there.

    Args:
        x: the map.

    Returns:
        True in ``torch.jit.trace``, and in ``torch.export`` where height or width are free.
    """
    if is_tracing():  # type: ignore[no-untyped-call]
        return True
    return _is_exported() and not all(isinstance(size, int) for size in x.shape[2:])


def _is_exported() -> bool:
    """Whether ``torch.export`` records operators, in the mode that tells which sizes are free.

    A strict export runs Dynamo, where all sizes look fixed.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def form(x: Tensor) -> ModuleType:
    """The form that runs on a map.

    Args:
        x: the map.

    Returns:
        The native form where the kernels know the map and nothing follows the operators; where
        ``torch.export`` records operators, poolings if the map's height and width are fixed; the
        formulas where they are free, where operators are recorded by ``torch.compile``,
        ``torch.jit.trace`` or a symbolic trace, and under forward-mode derivatives, which the
        eager form does not define; else the eager form.
    """
    if _is_exported():
        return formulas if has_free_sizes(x) else pooled
    if torch.compiler.is_compiling() or is_tracing():  # type: ignore[no-untyped-call]
        return formulas
    if kernels.runs(x):
        return native
    # No public name reports forward-mode differentiation.
    if forward_ad._current_level >= 0 or isinstance(x, torch.fx.Proxy):
        return formulas
    return eager


@torch.fx.wrap
def statistics(x: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Several statistics of a map, in as few passes over it as there can be.

    Args:
        x: the map; (N, C, H, W).
        names: which: ``"coordinate_means"``, ``"channel_means"`` or ``"channel_maxima"``, as the
            functions of these names compute them.

    Returns:
        A tensor for each name, in the same order.

    Raises:
        ValueError: no name, one that there is not, or one given twice.

    Example:
        >>> means, maxima = statistics(torch.rand(2, 8, 7, 7), "channel_means", "channel_maxima")
        >>> means.shape, maxima.shape
        (torch.Size([2, 8, 1, 1]), torch.Size([2, 8, 1, 1]))
    """
    if not names or len({*names}) < len(names) or not {*names} <= {*STATISTICS}:
        raise ValueError(f"names must be one or more of {STATISTICS}, each once; got {names}")
    result: tuple[Tensor, ...] = form(x).statistics(x, names)
    return result


@torch.fx.wrap
def channel_means(x: Tensor) -> Tensor:
    """The mean of every channel.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, 1, 1).
    """
    return statistics(x, "channel_means")[0]


@torch.fx.wrap
def channel_maxima(x: Tensor) -> Tensor:
    """The maximum of every channel; positions that tie for it share the gradient.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, 1, 1).
    """
    return statistics(x, "channel_maxima")[0]


@torch.fx.wrap
def coordinate_means(x: Tensor) -> Tensor:
    """The mean of every row, then of every column, of every channel.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, H + W, 1).
    """
    return statistics(x, "coordinate_means")[0]


@torch.fx.wrap
def cut(x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The first rows of a tensor, and the others.

    Args:
        x: (N, C, L, 1).
        rows: how many are the first.

    Returns:
        (N, C, rows, 1) and (N, C, L - rows, 1).
    """
    if torch.compiler.is_exporting() or is_tracing():  # type: ignore[no-untyped-call]
        # Runtimes take slices; many fail at a split.
        return x[:, :, :rows], x[:, :, rows:]
    first, others = torch.split(x, [rows, x.shape[2] - rows], dim=2)
    return first, others


def row_and_column_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of every row and of every column, apart.

    Args:
        x: the map; (N, C, H, W).

    Returns:
        (N, C, H, 1) and (N, C, 1, W).
    """
    found: tuple[Tensor, Tensor] = form(x).row_and_column_means(x)
    return found


@torch.fx.wrap
def position_statistics(x: Tensor, gate: Tensor | None = None) -> Tensor:
    """Maximum and mean over the channels of a map, or of ``x * gate``.

    Args:
        x: the map; (N, C, H, W).
        gate: (N, C, 1, 1), in the dtype of the map; None for 1.

    Returns:
        (N, 2, H, W): the maximum, then the mean.
    """
    result: Tensor = form(x).position_statistics(x, gate)
    return result


@torch.fx.wrap
def apply_gates(x: Tensor, gates: list[Tensor]) -> Tensor:
    """Multiply a map by its gates.

    Args:
        x: the map; (N, C, H, W).
        gates: at least one tensor of 4 dimensions that broadcast to the map. All but the last one
            are small when multiplied together, such as a gate per channel and one per row.

    Returns:
        (N, C, H, W), with dtype and memory format of the map.
    """
    result: Tensor = form(x).apply_gates(x, [gate.to(x.dtype) for gate in gates])
    return result
