"""Networks that tests insert blocks into, and all that an insertion may not touch in them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class Net(nn.Module):
    """A stem in a ``Sequential``, a residual branch, a depthwise convolution, and a head."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.pool((x + self.bn(self.conv(x))).relu())
        return self.head(self.depthwise(x).mean((2, 3)))


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics, weights and biases that are not trivial, in place."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            for value, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.2, 0.2),
            ):
                value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return model


def net(seed: int = 0) -> nn.Module:
    """The small network in eval mode."""
    torch.manual_seed(seed)
    return lively(Net(), seed).eval()


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with its weights of ImageNet."""
    file = WEIGHTS / "tf_efficientnet_lite0_imagenet.safetensors"
    if not file.is_file():
        pytest.skip(f"there are no weights {file.name}")
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(file))
    return model


def of_torchvision(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    """A function that builds a network with random weights and lively statistics."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        made = torchvision.models.get_model(name, weights=None, **kwargs)
        return lively(made)

    return build


def segmentation(name: str) -> Callable[[], nn.Module]:
    return of_torchvision(name, weights_backbone=None, num_classes=4)


def detection(name: str, size: int) -> Callable[[], nn.Module]:
    return of_torchvision(
        name, weights_backbone=None, num_classes=4, min_size=size, max_size=size + size // 2
    )


def bits(output: Any) -> list[torch.Tensor]:
    """All tensors of an output, in the order of its parts."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for value in output.values() for tensor in bits(value)]
    return [tensor for value in output for tensor in bits(value)]


def same_bits(ours: Any, theirs: Any) -> bool:
    """Whether two outputs are equal to the bit; NaN counts as equal to NaN."""
    pairs = list(zip(bits(ours), bits(theirs), strict=True))
    return bool(pairs) and all(
        a.dtype == b.dtype
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in pairs
    )


def anatomy(model: nn.Module) -> dict[str, Any]:
    """All that a network consists of, object by object.

    What its modules are and hold, under which names and in which order, their hooks, modes and
    other attributes; its tensors with their values.
    """
    parts: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        parts[f"{name} is"] = (id(module), type(module))
        parts[f"{name} has"] = list(vars(module))
        for key, value in vars(module).items():
            if isinstance(value, dict):
                parts[f"{name} {key}"] = [(k, id(v)) for k, v in value.items()]
            elif not isinstance(value, torch.Tensor):
                parts[f"{name} {key}"] = (id(value), repr(value))
        for key, value in {**module._parameters, **module._buffers}.items():
            if value is not None:
                about = (value.dtype, value.stride(), value.requires_grad, value._version)
                parts[f"{name} about {key}"] = about
                parts[f"{name} value of {key}"] = value.detach().clone()
    return parts


def same_anatomy(model: nn.Module, before: dict[str, Any]) -> bool:
    """Whether a network is what it was, object by object and to the bit."""
    after = anatomy(model)
    assert list(after) == list(before)
    for key, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert value == after[key], key
    return True
