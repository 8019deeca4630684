"""What stands where in a network, as a table for the terminal."""

from collections.abc import Sequence, Set

from torch import nn
from torch.nn.parameter import is_lazy

from attnblocks.swap.sites import SESite, find_se
from attnblocks.swap.wrappers import unwrap


def summary(model: nn.Module, original: nn.Module | None = None) -> str:
    """Tabulate the SE sites of a network: block, channels, squeeze width and parameters.

    Args:
        model: the network; of a wrapped one, the network inside, as for
            :func:`attnblocks.find_se`.
        original: the same network before a swap or an insertion; adds what stood there and its
            parameters.

    Returns:
        The table; print it. A plus after a count says that lazy layers, which have not run yet,
        will add to it.

    Raises:
        ValueError: the two networks do not have the same sites, or an SE block cannot be read.
        TypeError: a network that is scripted, exported or sharded.

    Example:
        >>> from attnblocks import SE, CaCo, replace_se
        >>> model = nn.Sequential(SE(64))
        >>> print(summary(replace_se(model, CaCo, inplace=False), model))
        site     block  channels  width  parameters  before  parameters before
        0        CaCo         64      4        2268  SE                   2128
        network                                2268                       2128
    """
    model = unwrap(model, "summary")
    header = ["site", "block", "channels", "width", "parameters"]
    sites = find_se(model)
    rows = [_cells(site) for site in sites]
    totals = ["network", "", "", "", _count(model)]
    if original is not None:
        original = unwrap(original, "summary")
        header += ["before", "parameters before"]
        before = {site.name: site for site in find_se(original)}
        swapped = [site.name for site in sites if site.after is None or site.name in before]
        if before.keys() != set(swapped):
            raise ValueError(f"model has the sites {swapped}, original has {list(before)}")
        for row in rows:
            old = before.get(row[0])
            row += ["", "0"] if old is None else [type(old.module).__name__, _count(old.module)]
        totals += ["", _count(original)]
    return lay_out([header, *rows, totals], words={"site", "block", "before"})


def lay_out(table: Sequence[Sequence[str]], words: Set[str]) -> str:
    """Write a table in columns.

    Args:
        table: its rows; the first is the header.
        words: which columns hold words; the others hold numbers, and are aligned to the right.
    """
    header = table[0]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in words else cell.rjust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ).rstrip()
        for row in table
    )


def _cells(site: SESite) -> list[str]:
    width = "" if site.rd_channels is None else str(site.rd_channels)
    kind = type(site.module).__name__
    return [site.name, kind, str(site.channels), width, _count(site.module)]


def _count(module: nn.Module) -> str:
    """How many parameters there are; with a plus where lazy layers will have more."""
    parameters = list(module.parameters())
    there = [p for p in parameters if not is_lazy(p)]
    return f"{sum(p.numel() for p in there)}{'+' if len(there) < len(parameters) else ''}"
