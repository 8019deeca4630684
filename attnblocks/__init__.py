"""Drop-in channel and coordinate attention blocks for PyTorch, and the swap that installs them."""

from attnblocks._block import AttentionBlock
from attnblocks._version import __version__
from attnblocks.caco import CaCo, SeCo
from attnblocks.cbam import CBAM
from attnblocks.coord_att import CoordAtt
from attnblocks.eca import Eca
from attnblocks.fit import SiteFit, WarmStart, warm_start
from attnblocks.recipes import apply_recipe, recipe
from attnblocks.registry import create_block, list_blocks, register_block
from attnblocks.saving import load_model, save_model
from attnblocks.se import SE
from attnblocks.sites import SELayers, SESite, find_se, register_se
from attnblocks.sites_table import summary
from attnblocks.swap import replace_se

__all__ = [
    "CBAM",
    "SE",
    "AttentionBlock",
    "CaCo",
    "CoordAtt",
    "Eca",
    "SELayers",
    "SESite",
    "SeCo",
    "SiteFit",
    "WarmStart",
    "__version__",
    "apply_recipe",
    "create_block",
    "find_se",
    "list_blocks",
    "load_model",
    "recipe",
    "register_block",
    "register_se",
    "replace_se",
    "save_model",
    "summary",
    "warm_start",
]
