"""Which modules of a network return maps (N, C, H, W)."""

from collections.abc import Sequence

from attnblocks.swap.trace import Shape, Trace


def why_no_map(name: str, runs: Sequence[Trace]) -> str:
    """Why what a module returns is no map, in words for errors; "" if it is one.

    A map keeps axis 1 and changes axes 2 and 3 with the size of the input. Where a network scales
    its images to a fixed size, or takes one size only, maps are what convolutions and other
    operations on maps return, and what pointwise operations make of these.

    Args:
        name: name of the module.
        runs: the run on the example, and those on larger ones as far as they came.
    """
    calls = runs[0].calls.get(name)
    if calls is None:
        return "nothing, as it does not run"
    channels: set[int] = set()
    for i, call in enumerate(calls):
        if call.shape is None:
            article = "an" if call.kind[0].lower() in "aeiou" else "a"
            return "nothing" if call.kind == "NoneType" else f"{article} {call.kind}"
        words = f"a tensor of shape {call.shape}"
        if len(call.shape) != 4:
            return words
        channels_first = call.node is not None and call.node.channels_first
        shapes = _at_other_sizes(name, i, runs)
        if not shapes and not channels_first:
            return (
                f"{words}, whose axes cannot be told apart, as the network does not run at "
                "another size"
            )
        if any(shape[1] != call.shape[1] for shape in shapes):
            return f"{words}, whose channels are not at axis 1"
        fixed = bool(shapes) and not _follows(call.shape, shapes)
        if fixed and (not channels_first or 1 in call.shape[2:]):
            return f"{words}, which does not follow the height and width of the input"
        channels.add(call.shape[1])
    if len(channels) > 1:
        return f"maps of {len(channels)} different numbers of channels: {sorted(channels)}"
    return ""


def follows(name: str, runs: Sequence[Trace]) -> bool:
    """Whether the size of the map that a module returns follows that of the input."""
    shape = runs[0].calls[name][0].shape
    shapes = _at_other_sizes(name, 0, runs)
    return shape is not None and (not shapes or _follows(shape, shapes))


def one_axis_changed(runs: Sequence[Trace]) -> bool:
    """Whether axis 2 or 3 alone of what some module returned changed in the second run."""
    return any(
        call.shape is not None
        and len(call.shape) == 4
        and (call.shape[2] != other[2]) != (call.shape[3] != other[3])
        for name, calls in runs[0].calls.items()
        for i, call in enumerate(calls)
        for other in _at_other_sizes(name, i, runs[:2])
    )


def _at_other_sizes(name: str, call: int, runs: Sequence[Trace]) -> list[Shape]:
    calls = [run.calls[name][call] for run in runs[1:] if call < len(run.calls.get(name, []))]
    return [c.shape for c in calls if c.shape is not None and len(c.shape) == 4]


def _follows(shape: Shape, others: list[Shape]) -> bool:
    return all(any(other[axis] != shape[axis] for other in others) for axis in (2, 3))
