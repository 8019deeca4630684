"""The SE classes of other libraries that are known, and which of their layers are which.

A class is looked up only where its module is imported already. An adapter names the layers of one
block that computes ``x * gate(expand(act(squeeze(mean(x)))))`` of a map (N, C, H, W); options of
some classes make it compute something else, and then it returns None.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from attnblocks.blocks.se_layers import SELayers

Adapter = Callable[[Any], SELayers | None]
"""Names the layers of one block, or returns None for a block that is not an SE after all."""


def _layers(squeeze: nn.Module, act: nn.Module, expand: nn.Module, gate: nn.Module) -> SELayers:
    layer: Any = squeeze  # what wraps a layer has neither width, and is refused by that
    channels = layer.in_features if isinstance(squeeze, nn.Linear) else layer.in_channels
    return SELayers(channels, gate, expand, squeeze, act)


def _named(squeeze: str, act: str, expand: str, gate: str) -> Adapter:
    """The adapter of a class with its four layers under these names."""

    def read(m: nn.Module) -> SELayers:
        return _layers(*(getattr(m, name) for name in (squeeze, act, expand, gate)))

    return read


def _in_sequence(name: str, condition: Callable[[Any], bool] = lambda m: True) -> Adapter:
    """The adapter of a class with its four layers in one sequence, if a condition holds."""

    def read(m: Any) -> SELayers | None:
        if not condition(m):
            return None
        squeeze, act, expand, gate = getattr(m, name)
        return _layers(squeeze, act, expand, gate)

    return read


# With add_maxpool, timm's two modules squeeze the maximum as well: then they are not SE.
def _timm_se(m: Any) -> SELayers | None:
    if m.add_maxpool:
        return None
    return SELayers(m.fc1.in_channels, m.gate, m.fc2, m.fc1, m.act, m.bn)


def _timm_effective_se(m: Any) -> SELayers | None:
    if m.add_maxpool:
        return None
    return SELayers(m.fc.in_channels, m.gate, m.fc)


def _timm_ese(m: Any) -> SELayers:
    return SELayers(m.conv.in_channels, m.sigmoid, m.conv)


def _mobileone_se(m: Any) -> SELayers:
    return _layers(m.reduce, nn.ReLU(), m.expand, nn.Sigmoid())


# Of MONAI's, those for other maps than (N, C, H, W) and those that add the map are not SE.
def _is_plain(m: Any) -> bool:
    return isinstance(m.avg_pool, nn.AdaptiveAvgPool2d) and not m.add_residual


def _pytorchcv_se(m: Any) -> SELayers:
    if m.use_conv:
        return _layers(m.conv1, m.activ, m.conv2, m.sigmoid)
    return _layers(m.fc1, m.activ, m.fc2, m.sigmoid)


def _mmpretrain_se(m: Any) -> SELayers | None:
    if m.return_weight:  # the gates alone
        return None
    return _layers(m.conv1.conv, m.conv1.activate, m.conv2.conv, m.conv2.activate)


_CADENE = _named("fc1", "relu", "fc2", "sigmoid")
_HF_EFFICIENTNET = _named("reduce", "act_reduce", "expand", "act_expand")
_HF_LCNET = _in_sequence("convolutions")

LIBRARY_ADAPTERS: dict[tuple[str, str], Adapter] = {
    ("torchvision.ops.misc", "SqueezeExcitation"): _named(
        "fc1", "activation", "fc2", "scale_activation"
    ),
    ("timm.models._efficientnet_blocks", "SqueezeExcite"): _named(
        "conv_reduce", "act1", "conv_expand", "gate"
    ),
    ("timm.layers.squeeze_excite", "SEModule"): _timm_se,
    ("timm.layers.squeeze_excite", "EffectiveSEModule"): _timm_effective_se,
    ("timm.models.senet", "SEModule"): _CADENE,
    ("timm.models.hgnet", "EseModule"): _timm_ese,
    ("segmentation_models_pytorch.encoders._senet", "SEModule"): _CADENE,
    ("segmentation_models_pytorch.encoders.mobileone", "SEBlock"): _mobileone_se,
    ("pretrainedmodels.models.senet", "SEModule"): _CADENE,
    ("transformers.models.efficientnet.modeling_efficientnet", "EfficientNetSqueezeExciteLayer"): (
        _HF_EFFICIENTNET
    ),
    ("transformers.models.align.modeling_align", "AlignVisionSqueezeExciteLayer"): _HF_EFFICIENTNET,
    ("transformers.models.regnet.modeling_regnet", "RegNetSELayer"): _in_sequence("attention"),
    ("transformers.models.pp_lcnet.modeling_pp_lcnet", "PPLCNetSqueezeExcitationModule"): _HF_LCNET,
    ("transformers.models.pp_lcnet_v3.modeling_pp_lcnet_v3", "PPLCNetV3SqueezeExcitationModule"): (
        _HF_LCNET
    ),
    ("transformers.models.pp_lcnet_v4.modeling_pp_lcnet_v4", "PPLCNetV4SqueezeExcitationModule"): (
        _HF_LCNET
    ),
    ("monai.networks.blocks.squeeze_and_excitation", "ChannelSELayer"): _in_sequence(
        "fc", _is_plain
    ),
    ("fvcore.nn.squeeze_excitation", "SqueezeExcitation"): _in_sequence(
        "block", lambda m: not m.is_3d
    ),
    ("pytorchcv.models.common.att", "SEBlock"): _pytorchcv_se,
    ("mmpretrain.models.utils.se_layer", "SELayer"): _mmpretrain_se,
}
