"""Module names of version 0.1.0: pickles of whole networks look their classes up there."""

import sys

from attnblocks.blocks import base, caco, cbam, coord_att, eca, se

sys.modules.update(
    {
        "attnblocks._block": base,
        "attnblocks.se": se,
        "attnblocks.eca": eca,
        "attnblocks.cbam": cbam,
        "attnblocks.coord_att": coord_att,
        "attnblocks.caco": caco,
    }
)
