"""Drop-in channel and coordinate attention blocks for PyTorch, and the swap that installs them."""

from attnblocks import _earlier as _earlier
from attnblocks._version import __version__
from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.caco import CaCo, SeCo
from attnblocks.blocks.cbam import CBAM
from attnblocks.blocks.coord_att import CoordAtt
from attnblocks.blocks.eca import Eca
from attnblocks.blocks.registry import create_block, list_blocks, register_block
from attnblocks.blocks.se import SE
from attnblocks.blocks.se_layers import SELayers
from attnblocks.files.recipes import apply_recipe, recipe
from attnblocks.files.saving import load_model, save_model
from attnblocks.fit.param_groups import param_groups
from attnblocks.fit.warm_start import SiteFit, WarmStart, warm_start
from attnblocks.gates.report import GateReport, SiteGates, gate_report
from attnblocks.swap.adapters import register_se
from attnblocks.swap.insert import insert, remove
from attnblocks.swap.places import Place, Places, find_places
from attnblocks.swap.pruning import customized_pruners
from attnblocks.swap.replace import replace_se
from attnblocks.swap.sites import SESite, find_se
from attnblocks.swap.table import summary

__all__ = [
    "CBAM",
    "SE",
    "AttentionBlock",
    "CaCo",
    "CoordAtt",
    "Eca",
    "GateReport",
    "Place",
    "Places",
    "SELayers",
    "SESite",
    "SeCo",
    "SiteFit",
    "SiteGates",
    "WarmStart",
    "__version__",
    "apply_recipe",
    "create_block",
    "customized_pruners",
    "find_places",
    "find_se",
    "gate_report",
    "insert",
    "list_blocks",
    "load_model",
    "param_groups",
    "recipe",
    "register_block",
    "register_se",
    "remove",
    "replace_se",
    "save_model",
    "summary",
    "warm_start",
]
