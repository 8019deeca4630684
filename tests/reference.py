"""The blocks once more, in float64 numpy, written from their formulas.

Nothing here is shared with the library: means are sums over counts, layers are einsums over
weights that ``weights`` reads off a block, convolutions are windows.
"""

import numpy as np
from torch import nn

Array = np.ndarray


def weights(block: nn.Module) -> dict[str, Array]:
    """The state dict of a block as float64 arrays of their own."""
    return {k: v.detach().double().cpu().numpy().copy() for k, v in block.state_dict().items()}


def stage(w: dict[str, Array], name: str) -> dict[str, Array]:
    """The part of the weights that belongs to one submodule."""
    return {k.removeprefix(f"{name}."): v for k, v in w.items() if k.startswith(f"{name}.")}


def sigmoid(v: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * v))


def hard_sigmoid(v: Array) -> Array:
    return np.clip(v + 3.0, 0.0, 6.0) / 6.0


def hard_swish(v: Array) -> Array:
    return v * hard_sigmoid(v)


def relu(v: Array) -> Array:
    return np.where(v > 0, v, 0.0)


def dense(w: dict[str, Array], name: str, v: Array) -> Array:
    """A 1x1 convolution on (N, C, ...)."""
    kernel = w[f"{name}.weight"]
    kernel = kernel.reshape(kernel.shape[:2])
    bias = w[f"{name}.bias"].reshape(-1, *[1] * (v.ndim - 2))
    return np.einsum("oc,nc...->no...", kernel, v) + bias


def batch_norm(w: dict[str, Array], name: str, v: Array, train: bool, eps: float = 1e-5) -> Array:
    """Batch norm over all axes but the second."""
    axes = (0, *range(2, v.ndim))
    shape = [1, -1] + [1] * (v.ndim - 2)
    mean = v.mean(axes) if train else w[f"{name}.running_mean"]
    var = ((v - v.mean(axes).reshape(shape)) ** 2).mean(axes) if train else w[f"{name}.running_var"]
    scale = w[f"{name}.weight"] / np.sqrt(var + eps)
    return (v - mean.reshape(shape)) * scale.reshape(shape) + w[f"{name}.bias"].reshape(shape)


def channel_mean(x: Array) -> Array:
    return np.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])


def se(w: dict[str, Array], x: Array, train: bool) -> Array:
    gate = hard_sigmoid(dense(w, "fc2", relu(dense(w, "fc1", channel_mean(x)))))
    return np.einsum("nchw,nc->nchw", x, gate)


def channel_attention(w: dict[str, Array], x: Array, train: bool) -> Array:
    peak = np.sort(x.reshape(*x.shape[:2], -1), axis=-1)[..., -1]
    logits = sum(dense(w, "fc2", relu(dense(w, "fc1", v))) for v in (channel_mean(x), peak))
    return np.einsum("nchw,nc->nchw", x, sigmoid(logits))


def spatial_attention(w: dict[str, Array], x: Array, train: bool) -> Array:
    planes = np.stack([np.sort(x, axis=1)[:, -1], x.sum(1) / x.shape[1]], axis=1)
    kernel = w["conv.weight"]
    k = kernel.shape[-1]
    padded = np.pad(planes, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
    logits = np.einsum("nphwij,opij->nohw", windows, kernel)
    return x * sigmoid(batch_norm(w, "bn", logits, train))


def cbam(w: dict[str, Array], x: Array, train: bool) -> Array:
    y = channel_attention(stage(w, "channel"), x, train)
    return spatial_attention(stage(w, "spatial"), y, train)


def eca(w: dict[str, Array], x: Array, train: bool) -> Array:
    kernel = w["conv.weight"].ravel()
    half = len(kernel) // 2
    mean = channel_mean(x)
    logits = np.zeros_like(mean)
    for channel in range(mean.shape[1]):
        for tap, weight in enumerate(kernel):
            neighbour = channel + tap - half
            if 0 <= neighbour < mean.shape[1]:
                logits[:, channel] += weight * mean[:, neighbour]
    return np.einsum("nchw,nc->nchw", x, sigmoid(logits))


def coord_att(w: dict[str, Array], x: Array, train: bool) -> Array:
    height, width = x.shape[2:]
    rows = np.einsum("nchw->nch", x) / width
    columns = np.einsum("nchw->ncw", x) / height
    y = dense(w, "conv1", np.concatenate([rows, columns], axis=-1))
    y = hard_swish(batch_norm(w, "bn1", y, train))
    a_h = sigmoid(dense(w, "conv_h", y[..., :height]))
    a_w = sigmoid(dense(w, "conv_w", y[..., height:]))
    return np.einsum("nchw,nch,ncw->nchw", x, a_h, a_w)


def seco(w: dict[str, Array], x: Array, train: bool) -> Array:
    return coord_att(stage(w, "coord"), se(stage(w, "se"), x, train), train)


def caco(w: dict[str, Array], x: Array, train: bool) -> Array:
    return coord_att(stage(w, "coord"), channel_attention(stage(w, "channel"), x, train), train)


REFERENCE = {
    "SE": se,
    "CBAM": cbam,
    "Eca": eca,
    "CoordAtt": coord_att,
    "SeCo": seco,
    "CaCo": caco,
}
