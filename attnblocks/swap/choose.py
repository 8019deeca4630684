"""Which places of a network the argument ``after`` of ``insert`` names."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from attnblocks.swap.assign import Where
from attnblocks.swap.observe import Seen
from attnblocks.swap.places import ROLES, Place


def choose(
    seen: Mapping[str, Seen], places: Sequence[Place], after: Where | None
) -> Sequence[Place]:
    """The places that ``after`` names.

    Args:
        seen: what the modules of the network return, by name.
        places: those that return a map.
        after: one or several patterns of names or kinds of places, or a predicate.

    Raises:
        TypeError: it is None.
        LookupError: it, or one of its patterns, names no module.
        ValueError: a pattern names a module that returns no map.
    """
    if after is None:
        raise TypeError("after must name the modules behind which blocks are put, got None")
    if callable(after):
        chosen = [place for place in places if after(place)]
        if not chosen:
            raise LookupError("after selects no place; find_places lists them")
        return chosen
    names: set[str] = set()
    for pattern in [after] if isinstance(after, str) else after:
        names |= _names(seen, places, pattern)
    if not names:
        raise LookupError(f"after names no module, got {after!r}")
    return [place for place in places if place.name in names]


def _names(seen: Mapping[str, Seen], places: Sequence[Place], pattern: str) -> set[str]:
    """The names of the places that one pattern names."""
    if pattern in ROLES:
        found = {place.name for place in places if pattern in place.roles}
        if not found:
            raise LookupError(
                f"the network has no place that is the {ROLES[pattern]}: {pattern!r}"
                f"{'' if places else _no_maps(seen)}"
            )
    else:
        found = {place.name for place in places if fnmatchcase(place.name, pattern)}
        for name, one in seen.items():
            if one.channels is None and one.inside is None and name and fnmatchcase(name, pattern):
                raise ValueError(
                    f"no block can be put behind {name!r}, which {pattern!r} names: it returns "
                    f"{one.returned}"
                )
    if not found:
        raise LookupError(
            f"{pattern!r} names no module that returns a map; find_places lists those that do"
        )
    return found


def _no_maps(seen: Mapping[str, Seen]) -> str:
    """Says of a network without any place, such as one of volumes, what it has instead."""
    shown = ", ".join(f"{name!r} {one.returned}" for name, one in [*seen.items()][1:4])
    return f"; it has no maps (N, C, H, W) at all: its modules return, for instance, {shown}"
