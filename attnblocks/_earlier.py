"""The module names of version 0.1.0, by which its pickles of networks look up their classes."""

import sys
from types import ModuleType

from torch import nn

from attnblocks.blocks import base, caco, cbam, coord_att, eca, se

_MODULES: dict[str, dict[str, type[nn.Module]]] = {
    "_block": {"AttentionBlock": base.AttentionBlock, "Pointwise": nn.Conv2d},
    "se": {"SE": se.SE},
    "eca": {"Eca": eca.Eca},
    "cbam": {
        "CBAM": cbam.CBAM,
        "ChannelAttention": cbam.ChannelGate,
        "SpatialAttention": cbam.SpatialGate,
    },
    "coord_att": {"CoordAtt": coord_att.CoordAtt},
    "caco": {"CaCo": caco.CaCo, "SeCo": caco.SeCo},
}

for _name, _classes in _MODULES.items():
    _module = ModuleType(f"attnblocks.{_name}", "A module of version 0.1.0, for its pickles.")
    vars(_module).update(_classes)
    sys.modules[_module.__name__] = _module
