"""The published blocks, written from their definitions, with the layer names of their code.

These are ``houqb/CoordAttention`` (``mbv2_ca.py``, ``coordatt.py``), ``Jongchan/attention-module``
(``MODELS/cbam.py``) and ``BangguWu/ECANet`` (``models/eca_module.py``).
"""

import torch
from torch import Tensor, nn


class PublishedCoordAtt(nn.Module):
    """``mbv2_ca.py``: the layer of the rows is ``conv2``, that of the columns ``conv3``."""

    rows, columns = "conv2", "conv3"

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(8, channels // 32)
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width)
        setattr(self, self.rows, nn.Conv2d(width, channels, 1))
        setattr(self, self.columns, nn.Conv2d(width, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        means = torch.cat([x.mean(3), x.mean(2)], dim=2)  # (N, C, H + W)
        v = self.bn1(self.conv1(means[..., None]))
        v = v * (v + 3).clamp(0, 6) / 6
        a_h = getattr(self, self.rows)(v[:, :, :height]).sigmoid()  # (N, C, H, 1)
        a_w = getattr(self, self.columns)(v[:, :, height:]).sigmoid()  # (N, C, W, 1)
        return x * a_w.transpose(2, 3) * a_h


class PublishedCoordAttByItself(PublishedCoordAtt):
    """``coordatt.py``, with the names that are used here too."""

    rows, columns = "conv_h", "conv_w"


class PublishedChannelGate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        width = channels // 16
        layers = [nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, channels)]
        self.mlp = nn.Sequential(nn.Flatten(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * logits.sigmoid()[:, :, None, None]


class PublishedSpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Module()
        self.spatial.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([x.amax(1), x.mean(1)], dim=1)
        return x * self.spatial.bn(self.spatial.conv(both)).sigmoid()


class PublishedCBAM(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate, self.SpatialGate = PublishedChannelGate(channels), PublishedSpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class PublishedEca(nn.Module):
    def __init__(self, channels: int) -> None:  # 3 is the size of their module for any C
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]
