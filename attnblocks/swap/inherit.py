"""Start a block from the SE block that it replaces.

An SE block computes ``gate(W2 act(W1 mean + b1) + b2)``. The channel stage of SE, SeCo, CaCo and
CBAM has the same form and takes over the weights. The stages after it have no counterpart: their
gates start open, at ``sigmoid(OPEN)``, and the channel gate makes up for the little they take.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnblocks.blocks.caco import CaCo, SeCo
from attnblocks.blocks.cbam import CBAM, ChannelAttention, SpatialAttention
from attnblocks.blocks.coord_att import CoordAtt
from attnblocks.blocks.eca import Eca
from attnblocks.blocks.se import SE
from attnblocks.swap.sites import SELayers, SESite

OPEN = 5.0
"""Logit of a gate that does next to nothing: sigmoid(5) is 0.993."""

LEAST_SLOPE = 0.006
"""What an open gate keeps of its slope, so that gradients flow; sigmoid has 0.0066 at 5."""

PEAK = 3.0
"""Maximum over mean of a channel, assumed: from 1.7 to 6.5 at the sites of a trained network."""

SMALL = 0.1
"""What the weights behind an open gate keep of their published initialisation."""

_F64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}

_LOGITS = torch.linspace(-6, 6, 241, **_F64)
"""Where functions of a logit are compared."""


@dataclass(frozen=True)
class _MLP:
    """The channel MLP of an SE block, in float64 on the CPU: from means to logits."""

    w1: Tensor  # (S, C)
    b1: Tensor  # (S,)
    act: nn.Module
    w2: Tensor  # (C, S)
    b2: Tensor  # (C,)

    def hidden(self, means: Tensor) -> Tensor:
        """The squeezed vectors (N, S) of means (N, C)."""
        y: Tensor = self.act(means @ self.w1.T + self.b1)
        return y

    def logits(self, means: Tensor) -> Tensor:
        """The logits (N, C) of means (N, C)."""
        return self.hidden(means) @ self.w2.T + self.b2


@torch.no_grad()
def carry_over(new: nn.Module, site: SESite) -> None:
    """Start a fresh block from the block of a site, as ``replace_se`` describes.

    Args:
        new: the fresh block, changed in place. One that is no block of this library, or one on
            the meta device, stays as it is.
        site: where it will stand.
    """
    old = site.module
    if any(p.is_meta for module in (new, old) for p in module.parameters()):
        return
    if type(new) is type(old) and repr(new) == repr(old) and _shapes(new) == _shapes(old):
        new.load_state_dict(old.state_dict())
    elif type(new) in _STARTS and (mlp := _read(site.layers)) is not None:
        _STARTS[type(new)](new, mlp, _function(site.layers.gate))


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _read(layers: SELayers) -> _MLP | None:
    """The MLP of a block; None where it has none, or a norm that cannot be taken into it."""
    if layers.expand is None:
        return None
    channels, width = layers.channels, layers.rd_channels or layers.channels
    w2, b2 = _linear(layers.expand, width, channels)
    if layers.squeeze is None:
        w1, b1 = torch.eye(channels, **_F64), torch.zeros(channels, **_F64)
        return _MLP(w1, b1, nn.Identity(), w2, b2)
    w1, b1 = _linear(layers.squeeze, channels, width)
    norm = layers.norm
    if isinstance(norm, _BatchNorm) and norm.running_var is not None:
        scale = (norm.running_var.cpu().double() + norm.eps).rsqrt()
        shift = -cast(Tensor, norm.running_mean).cpu().double() * scale
        if norm.affine:
            weight, bias = norm.weight.cpu().double(), norm.bias.cpu().double()
            scale, shift = scale * weight, shift * weight + bias
        w1, b1 = scale[:, None] * w1, scale * b1 + shift
    elif norm is not None and not isinstance(norm, nn.Identity):
        return None
    if layers.peak:
        w1, w2, b2 = w1 * (1 + PEAK) / 2, w2 * 2, b2 * 2
    return _MLP(w1, b1, _function(layers.act or nn.Identity()), w2, b2)


def linear_weight(layer: nn.Module, inputs: int, outputs: int) -> Tensor:
    """The weight of a linear layer or 1x1 convolution; (outputs, inputs).

    Raises:
        ValueError: the layer is something else, or of another size.
    """
    weight = cast(Tensor, layer.weight)
    if weight.shape[:2] != (outputs, inputs) or weight[0, 0].numel() != 1:
        raise ValueError(
            f"{type(layer).__name__} with a weight of shape {tuple(weight.shape)} is no linear "
            f"map from {inputs} to {outputs} channels"
        )
    return rearrange(weight, "o i ... -> o (i ...)")


def _linear(layer: nn.Module, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer in float64 on the CPU."""
    weight = linear_weight(layer, inputs, outputs).cpu().double()
    bias = cast(Tensor | None, layer.bias)
    return weight, weight.new_zeros(outputs) if bias is None else bias.cpu().double()


def _function(module: nn.Module) -> nn.Module:
    """A copy of an activation or gate for float64 on the CPU."""
    return copy.deepcopy(module).cpu().double().eval()


def _start_se(new: SE, mlp: _MLP, gate: nn.Module, later: float = 1.0) -> None:
    """The MLP in the width of ``new``; ``later`` is the product of the gates of later stages."""
    mlp = _resize(mlp, new.rd_channels, new.act)
    scale, shift = _match_gate(gate, _function(new.gate), later)
    _write(new, mlp.w1, mlp.b1, scale * mlp.w2, scale * mlp.b2 + shift)


def _start_channel(new: ChannelAttention, mlp: _MLP, gate: nn.Module, later: float = 1.0) -> None:
    """As for SE; here mean and maximum go through the MLP and their logits are summed."""
    mlp = _resize(mlp, new.rd_channels, new.act)
    scale, shift = _match_gate(gate, _function(new.gate), later)
    w1, w2, b2 = mlp.w1 * 2 / (1 + PEAK), scale * mlp.w2 / 2, (scale * mlp.b2 + shift) / 2
    _write(new, w1, mlp.b1, w2, b2)


def _start_seco(new: SeCo, mlp: _MLP, gate: nn.Module) -> None:
    _start_se(new.se, mlp, gate, _open_coord(new.coord))


def _start_caco(new: CaCo, mlp: _MLP, gate: nn.Module) -> None:
    _start_channel(new.channel, mlp, gate, _open_coord(new.coord))


def _start_cbam(new: CBAM, mlp: _MLP, gate: nn.Module) -> None:
    _start_channel(new.channel, mlp, gate, _open_spatial(new.spatial))


def _start_coord(new: CoordAtt, mlp: _MLP, gate: nn.Module) -> None:
    """Both gates constant at first: their product is the gate of the site for usual means."""
    own = _function(new.gate)
    scale, shift = _match_gate(gate, lambda z: own(z) ** 2)
    usual = mlp.logits(_probes(mlp.w1.shape[1], 1024)).mean(0)
    for conv in (new.conv_h, new.conv_w):
        conv.weight.mul_(SMALL)
        conv.bias.copy_(scale * usual + shift)


def _start_eca(new: Eca, mlp: _MLP, gate: nn.Module) -> None:
    """Nothing of an MLP fits into a convolution over the channels: every gate starts the same."""
    new.conv.weight.mul_(SMALL)


_STARTS: dict[type[nn.Module], Callable[[Any, _MLP, nn.Module], None]] = {
    SE: _start_se,
    SeCo: _start_seco,
    CaCo: _start_caco,
    CBAM: _start_cbam,
    CoordAtt: _start_coord,
    Eca: _start_eca,
}


def _open_coord(coord: CoordAtt) -> float:
    """Open the gates of rows and columns; returns their product."""
    logit, gate = _open(coord.gate)
    for conv in (coord.conv_h, coord.conv_w):
        conv.weight.mul_(SMALL)
        conv.bias.fill_(logit)
    return gate**2


def _open_spatial(spatial: SpatialAttention) -> float:
    """Open the gate of the positions, which needs the bias of a norm; returns it."""
    weight, bias = getattr(spatial.bn, "weight", None), getattr(spatial.bn, "bias", None)
    spatial.conv.weight.mul_(SMALL)
    if weight is None or bias is None:
        return float(_function(spatial.gate)(_LOGITS.new_zeros(())))
    logit, gate = _open(spatial.gate)
    weight.mul_(SMALL)
    bias.fill_(logit)
    return gate


def _open(function: nn.Module) -> tuple[float, float]:
    """The logit, up to ``OPEN``, where a gate is open and has a slope yet; and the gate there."""
    values = _function(function)(_LOGITS.clone())
    slopes = values.diff() / _LOGITS.diff()
    usable = (slopes > LEAST_SLOPE) & (_LOGITS[:-1] < OPEN + 0.01)
    place = int(usable.nonzero()[-1])
    return float(_LOGITS[place]), float(values[place])


def _resize(mlp: _MLP, width: int, act: nn.Module) -> _MLP:
    """The same logits from ``width`` hidden units with another activation, as near as they can be.

    Units are kept by the norm of their weights, and the second layer is solved again by least
    squares on random means.
    """
    act, wide = _function(act), 20 * _LOGITS
    if width == len(mlp.b1) and torch.allclose(act(wide.clone()), mlp.act(wide.clone()), rtol=1e-9):
        return mlp
    means = _probes(mlp.w1.shape[1], max(1024, 4 * width))
    if isinstance(mlp.act, nn.Identity):
        # A linear map: its strongest directions, shifted to where the activation is straight.
        w1 = torch.linalg.svd(mlp.w2 @ mlp.w1)[2][:width]
        b1 = 4 * (means @ w1.T).std(0)
    else:
        strength = mlp.w1.norm(dim=1) * mlp.w2.norm(dim=0)
        kept = strength.argsort(descending=True)[:width].sort().values
        w1, b1 = mlp.w1[kept], mlp.b1[kept]
    if len(w1) < width:  # units that do nothing yet, along random directions
        more = _probes(mlp.w1.shape[1], width - len(w1)) / mlp.w1.shape[1] ** 0.5
        w1, b1 = torch.cat([w1, more]), torch.cat([b1, b1.new_zeros(len(more))])
    small = _MLP(w1, b1, act, mlp.w2, mlp.b2)
    hidden = torch.cat([small.hidden(means), torch.ones(len(means), 1, **_F64)], dim=1)
    moment = hidden.T @ hidden
    ridge = 1e-3 * moment.diagonal().mean() * torch.eye(width + 1, **_F64)
    solution = torch.linalg.solve(moment + ridge, hidden.T @ mlp.logits(means))
    return _MLP(w1, b1, act, solution[:-1].T, solution[-1])


def _probes(channels: int, count: int) -> Tensor:
    """Random means (count, channels), always the same: N(1/2, 1), as after an activation."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(count, channels, generator=generator, **_F64) + 0.5


def _match_gate(
    old: Callable[[Tensor], Tensor], new: Callable[[Tensor], Tensor], later: float = 1.0
) -> tuple[float, float]:
    """Scale and shift of the logits with which ``later * new`` follows ``old`` best."""
    z, target = _LOGITS, old(_LOGITS.clone())  # copies: some functions work in place
    if torch.allclose(later * new(z.clone()), target, rtol=1e-9):
        return 1.0, 0.0
    with torch.inference_mode(False), torch.enable_grad():
        z, target = z.clone(), target.clone()  # inference tensors cannot be fitted to
        scale, shift = torch.ones((), **_F64), torch.zeros((), **_F64)
        fit = torch.optim.LBFGS(
            [scale.requires_grad_(), shift.requires_grad_()],
            max_iter=100,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            fit.zero_grad()
            error = (later * new(scale * z + shift) - target).square().mean()
            torch.autograd.backward(error)
            return error

        fit.step(loss)  # type: ignore[no-untyped-call]
    return float(scale), float(shift)


def _write(new: Any, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> None:
    for layer, weight, bias in ((new.fc1, w1, b1), (new.fc2, w2, b2)):
        layer.weight.copy_(rearrange(weight, "o i -> o i 1 1"))
        layer.bias.copy_(bias)
