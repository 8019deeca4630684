"""The blocks as their papers' code writes them: what most users copy, and ours is measured against.

Written from the formulas, with the operators of the published code: adaptive pooling, the shared
MLP run twice, ``relu6(x + 3) / 6``, and one multiplication of the map per gate. Parameter names and
shapes are those of :mod:`attnblocks`, so that both load the same weights.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import relu6, sigmoid

from attnblocks import SESite, create_block


class PublishedSE(nn.Module):
    """Squeeze-and-excitation as in MobileNetV3: a hard sigmoid behind two 1x1 convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        y = self.fc2(torch.relu(self.fc1(self.pool(x))))
        return x * (relu6(y + 3) / 6)


class PublishedEca(nn.Module):
    """ECA-Net's module: the means as a sequence, which a convolution runs along."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        y = self.conv(self.pool(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * sigmoid(y).expand_as(x)


class PublishedChannelGate(nn.Module):
    """CBAM's first stage: the MLP runs on the mean and again on the maximum."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.average, self.maximum = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.fc1 = nn.Conv2d(channels, width, 1)
        self.fc2 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        y = self._mlp(self.average(x)) + self._mlp(self.maximum(x))
        return x * sigmoid(y).expand_as(x)

    def _mlp(self, v: Tensor) -> Tensor:
        logits: Tensor = self.fc2(torch.relu(self.fc1(v)))
        return logits


class PublishedSpatialGate(nn.Module):
    """CBAM's second stage: maximum and mean over the channels, and a 7x7 convolution."""

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every position."""
        planes = torch.cat([x.max(1)[0].unsqueeze(1), x.mean(1).unsqueeze(1)], dim=1)
        return x * sigmoid(self.bn(self.conv(planes)))


class PublishedCoordAtt(nn.Module):
    """Coordinate attention: pooled rows and columns share a layer, and each has a gate."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv_h = nn.Conv2d(width, channels, 1)
        self.conv_w = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every row and every column."""
        height, width = x.shape[2:]
        y = torch.cat([self.rows(x), self.columns(x).permute(0, 1, 3, 2)], dim=2)
        y = self.bn1(self.conv1(y))
        y = y * (relu6(y + 3) / 6)
        y_h, y_w = torch.split(y, [height, width], dim=2)
        a_h = sigmoid(self.conv_h(y_h))
        a_w = sigmoid(self.conv_w(y_w.permute(0, 1, 3, 2)))
        return x * a_w * a_h


class InTurn(nn.Module):
    """Two stages, one after the other, under the names that they have in :mod:`attnblocks`."""

    def __init__(self, **stages: nn.Module) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages."""
        for stage in self.children():
            x = stage(x)
        return x


def published(name: str, site: SESite) -> nn.Module:
    """The published form of one of our blocks at a site, in the widths and weights of a fresh one.

    Args:
        name: a name out of :func:`attnblocks.list_blocks`.
        site: where it is to stand.
    """
    ours = create_block(name, site.channels)
    shapes = {key: value.shape for key, value in ours.named_parameters()}

    def coord(prefix: str = "") -> nn.Module:
        return PublishedCoordAtt(site.channels, shapes[f"{prefix}conv1.weight"][0])

    def channel_gate() -> nn.Module:
        return PublishedChannelGate(site.channels, shapes["channel.fc1.weight"][0])

    def se(prefix: str = "") -> nn.Module:
        return PublishedSE(site.channels, shapes[f"{prefix}fc1.weight"][0])

    makers: dict[str, Callable[[], nn.Module]] = {
        "SE": se,
        "Eca": lambda: PublishedEca(shapes["conv.weight"][-1]),
        "CBAM": lambda: InTurn(
            channel=channel_gate(), spatial=PublishedSpatialGate(shapes["spatial.conv.weight"][-1])
        ),
        "CoordAtt": coord,
        "SeCo": lambda: InTurn(se=se("se."), coord=coord("coord.")),
        "CaCo": lambda: InTurn(channel=channel_gate(), coord=coord("coord.")),
    }
    module = makers[name]()
    module.load_state_dict(ours.state_dict())
    return module
