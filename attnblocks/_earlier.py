"""Pickles of whole networks from version 0.1.0: its module names, loaded as today's blocks.

A pickle names each class by its module. The modules of that version are found under their old
names, with classes that take the old state and then turn into the current classes.
"""

import sys
from types import ModuleType
from typing import Any

from torch import nn

from attnblocks.blocks import base, caco, cbam, coord_att, eca, se

_STAGES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "se": (se.SE, se.SEGate),
    "coord": (coord_att.CoordAtt, coord_att.CoordGate),
}
"""Stages that used to be blocks of their own, by their names in a block: old class, new class."""


def _earlier(cls: type[nn.Module]) -> type[nn.Module]:
    """A class whose objects take a state of that version, and then become objects of ``cls``."""

    def set_state(self: nn.Module, state: dict[str, Any]) -> None:
        self.__class__ = cls
        self.__setstate__(state)  # type: ignore[no-untyped-call]
        for name, (then, now) in _STAGES.items():
            if isinstance(stage := self._modules.get(name), then):
                stage.__class__ = now

    return type(cls.__name__, (cls,), {"__setstate__": set_state})


_MODULES: dict[str, dict[str, type[nn.Module]]] = {
    "_block": {"AttentionBlock": base.AttentionBlock, "Pointwise": nn.Conv2d},
    "se": {"SE": _earlier(se.SE)},
    "eca": {"Eca": _earlier(eca.Eca)},
    "cbam": {
        "CBAM": _earlier(cbam.CBAM),
        "ChannelAttention": _earlier(cbam.ChannelGate),
        "SpatialAttention": _earlier(cbam.SpatialGate),
    },
    "coord_att": {"CoordAtt": _earlier(coord_att.CoordAtt)},
    "caco": {"CaCo": _earlier(caco.CaCo), "SeCo": _earlier(caco.SeCo)},
}

for _name, _classes in _MODULES.items():
    _module = ModuleType(f"attnblocks.{_name}", "A module of version 0.1.0, for its pickles.")
    vars(_module).update(_classes)
    sys.modules[_module.__name__] = _module
