"""Drop-in channel and coordinate attention blocks for PyTorch, and the swap that installs them."""

from attnblocks.caco import CaCo, SeCo
from attnblocks.cbam import CBAM
from attnblocks.coord_att import CoordAtt
from attnblocks.eca import Eca
from attnblocks.fit import SiteFit, WarmStart, warm_start
from attnblocks.registry import create_block, list_blocks, register_block
from attnblocks.se import SE
from attnblocks.sites import SELayers, SESite, find_se, register_se
from attnblocks.swap import replace_se

__version__ = "0.1.0"

__all__ = [
    "CBAM",
    "SE",
    "CaCo",
    "CoordAtt",
    "Eca",
    "SELayers",
    "SESite",
    "SeCo",
    "SiteFit",
    "WarmStart",
    "create_block",
    "find_se",
    "list_blocks",
    "register_block",
    "register_se",
    "replace_se",
    "warm_start",
]
