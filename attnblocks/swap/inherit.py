"""The mathematics of taking over the weights of an SE block.

An SE block computes ``gate(W2 act(W1 mean + b1) + b2)``. A block whose ``se_layers`` have the same
form gets these weights, as closely as width, activation and gate function allow, and its channel
gate makes up for what the gates of its other stages take away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnblocks.blocks.base import AttentionBlock
from attnblocks.blocks.gain import shapes, stages_of, without_gains
from attnblocks.blocks.layers import LOGITS, float64_copy
from attnblocks.blocks.se_layers import MAX_OVER_MEAN, SELayers, linear_weight
from attnblocks.swap.sites import SESite, holds, own_layers

LEAST_GATE = 1e-3
"""What a gate that is usually closed counts as: gains are above 0."""

_F64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}


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


@dataclass(frozen=True)
class _Old:
    """MLP, gate function and gain of the replaced block: an ``OldGate`` for ``inherit``."""

    mlp: _MLP
    gate: nn.Module
    gain: Tensor | None = None

    def usual_gates(self) -> Tensor:
        """The old gates for usual means, times their gain; (C,), at least ``LEAST_GATE``."""
        usual: Tensor = self.gate(self.mlp.logits(_probes(self.mlp.w1.shape[1], 1024))).mean(0)
        return (usual if self.gain is None else usual * self.gain).clamp(min=LEAST_GATE)

    def usual_logits(self, gate: nn.Module, count: int = 1, gain: Tensor | None = None) -> Tensor:
        """Logits (C,) at which ``count`` equal gates multiply to the old gate for usual means."""
        own = float64_copy(gate)
        others = self.gain_ratio(gain, count)
        scale, shift = _match_gate(self.gate, lambda z: own(z) ** count, others)
        usual = self.mlp.logits(_probes(self.mlp.w1.shape[1], 1024)).mean(0)
        return scale * usual + shift

    def gain_ratio(self, gain: Tensor | None, count: int = 1) -> float:
        """The gain of ``count`` gates together over the old, both as means over the channels."""
        one = torch.ones((), **_F64)
        new, old = (one if g is None else g.to(**_F64) for g in (gain, self.gain))
        return float((new**count).mean() / old.mean())


@torch.inference_mode(False)  # whatever the mode of the caller: gains are made here
@torch.no_grad()
def inherit(new: nn.Module, site: SESite) -> None:
    """Start a fresh block from the block of a site, as ``replace_se`` describes.

    Args:
        new: the fresh block, changed in place. One like the old block gets its weights; any other
            that is not an :class:`attnblocks.AttentionBlock`, or that is on the meta device, stays
            as it is.
        site: where it will stand.
    """
    old = site.module
    if any(p.is_meta for module in (new, old) for p in module.parameters()):
        return
    if _alike(new, old):
        for stage, old_stage in zip(stages_of(new), stages_of(old), strict=True):
            stage.take_gain(old_stage.gain)
        new.load_state_dict(old.state_dict())
    elif isinstance(new, AttentionBlock) and (old_gate := _read(site.layers)) is not None:
        others = new.inherit(old_gate) if holds(type(new), "inherit") else 1.0
        layers = own_layers(new)
        if None not in (layers.squeeze, layers.expand, layers.gate):
            _write(layers, old_gate, others)


def _alike(new: nn.Module, old: nn.Module) -> bool:
    """Whether the new block can be a copy: it differs from the old in missing gains, if at all."""
    if type(new) is not type(old) or _text(new) != _text(old) or shapes(new) != shapes(old):
        return False
    return all(
        stage.gain is None
        or (old_stage.gain is not None and torch.equal(stage.gain, old_stage.gain.to(stage.gain)))
        for stage, old_stage in zip(stages_of(new), stages_of(old), strict=True)
    )


def _text(module: nn.Module) -> str:
    """What a block is, but for its gain; synchronised norms compute the same as plain ones."""
    return without_gains(repr(module).replace("SyncBatchNorm(", "BatchNorm2d("))


def _read(layers: SELayers) -> _Old | None:
    """MLP and gate of a block; None without them, or with a norm that cannot be folded in."""
    if layers.expand is None or layers.gate is None:
        return None
    gate = float64_copy(layers.gate)
    gain = None if layers.stage is None else layers.stage.gain
    gain = None if gain is None else gain.to(**_F64)
    channels, width = layers.channels, layers.rd_channels or layers.channels
    w2, b2 = _linear(layers.expand, width, channels)
    if layers.squeeze is None:
        w1, b1 = torch.eye(channels, **_F64), torch.zeros(channels, **_F64)
        return _Old(_MLP(w1, b1, nn.Identity(), w2, b2), gate, gain)
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
    if layers.uses_max:
        w1, w2, b2 = w1 * (1 + MAX_OVER_MEAN) / 2, w2 * 2, b2 * 2
    return _Old(_MLP(w1, b1, float64_copy(layers.act or nn.Identity()), w2, b2), gate, gain)


def _linear(layer: nn.Module, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer in float64 on the CPU."""
    weight = linear_weight(layer, inputs, outputs).cpu().double()
    bias = cast(Tensor | None, layer.bias)
    return weight, weight.new_zeros(outputs) if bias is None else bias.cpu().double()


def _write(layers: SELayers, old: _Old, others: float) -> None:
    """Fill the layers with the old MLP; ``others`` is the product of the gates of other stages.

    With the old gain, function and logits are matched as without one; a stage that has another,
    given by its maker, or cannot have any, makes up for the ratio of their means.
    """
    if layers.stage is not None:
        layers.stage.take_gain(old.gain)
    others *= old.gain_ratio(None if layers.stage is None else layers.stage.gain)
    act, gate = layers.act or nn.Identity(), cast(nn.Module, layers.gate)
    mlp = _resize(old.mlp, cast(int, layers.rd_channels), act)
    scale, shift = _match_gate(old.gate, float64_copy(gate), others)
    w1, w2, b2 = mlp.w1, scale * mlp.w2, scale * mlp.b2 + shift
    if layers.uses_max:  # the logits of mean and maximum are summed
        w1, w2, b2 = w1 * 2 / (1 + MAX_OVER_MEAN), w2 / 2, b2 / 2
    for layer, weight, bias in ((layers.squeeze, w1, mlp.b1), (layers.expand, w2, b2)):
        linear = cast(nn.Conv2d, layer)
        if linear.bias is None:
            raise ValueError(f"{linear} has no bias that could take over the old one's")
        linear.weight.copy_(weight.reshape(linear.weight.shape))
        linear.bias.copy_(bias)


def _resize(mlp: _MLP, width: int, act: nn.Module) -> _MLP:
    """The nearest MLP with ``width`` hidden units and another activation, by its logits.

    The units with the largest weights are kept, and the second layer is solved again by least
    squares on random means.
    """
    act, wide = float64_copy(act), 20 * LOGITS
    if width == len(mlp.b1) and torch.allclose(act(wide.clone()), mlp.act(wide.clone()), rtol=1e-9):
        return mlp
    means = _probes(mlp.w1.shape[1], max(1024, 4 * width))
    if isinstance(mlp.act, nn.Identity):
        # A linear map: its strongest directions, biased into the activation's linear range.
        w1 = torch.linalg.svd(mlp.w2 @ mlp.w1)[2][:width]
        b1 = 4 * (means @ w1.T).std(0)
    else:
        strength = mlp.w1.norm(dim=1) * mlp.w2.norm(dim=0)
        kept = strength.argsort(descending=True)[:width].sort().values
        w1, b1 = mlp.w1[kept], mlp.b1[kept]
    if len(w1) < width:  # more units, along random directions
        more = _probes(mlp.w1.shape[1], width - len(w1)) / mlp.w1.shape[1] ** 0.5
        w1, b1 = torch.cat([w1, more]), torch.cat([b1, b1.new_zeros(len(more))])
    small = _MLP(w1, b1, act, mlp.w2, mlp.b2)
    hidden = torch.cat([small.hidden(means), torch.ones(len(means), 1, **_F64)], dim=1)
    moment = hidden.T @ hidden
    ridge = 1e-3 * moment.diagonal().mean() * torch.eye(width + 1, **_F64)
    solution = torch.linalg.solve(moment + ridge, hidden.T @ mlp.logits(means))
    return _MLP(w1, b1, act, solution[:-1].T, solution[-1])


def _probes(channels: int, count: int) -> Tensor:
    """Random means (count, channels), always the same ones: N(1/2, 1), as after an activation."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(count, channels, generator=generator, **_F64) + 0.5


def _match_gate(
    old: Callable[[Tensor], Tensor], new: Callable[[Tensor], Tensor], others: float = 1.0
) -> tuple[float, float]:
    """Scale and shift of the logits with which ``others * new`` fits ``old`` best."""
    z, target = LOGITS, old(LOGITS.clone())  # copies: some functions work in place
    if torch.allclose(others * new(z.clone()), target, rtol=1e-9):
        return 1.0, 0.0
    with torch.inference_mode(False), torch.enable_grad():
        z, target = z.clone(), target.clone()  # autograd does not take inference tensors
        scale, shift = torch.ones((), **_F64), torch.zeros((), **_F64)
        fit = torch.optim.LBFGS(
            [scale.requires_grad_(), shift.requires_grad_()],
            max_iter=100,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            fit.zero_grad()
            error = (others * new(scale * z + shift) - target).square().mean()
            torch.autograd.backward(error)
            return error

        fit.step(loss)  # type: ignore[no-untyped-call]
    return float(scale), float(shift)
