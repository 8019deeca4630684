"""Losses for classes of very different sizes, class weights, and the head that margins need."""

import math
from collections.abc import Sequence
from numbers import Integral

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.ham10000.config import LOSSES


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Class weights n / (k n_j), scikit-learn's ``balanced``; float32 of shape (k,)."""
    counts = _checked_counts(class_counts)
    return (counts.sum() / (len(counts) * counts)).float()


def drw_weights(class_counts: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n_j), scaled to sum to k; float32 of shape (k,).

    Cui et al. 2019, https://arxiv.org/abs/1901.05555; kaidic/LDAM-DRW switches them on late.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be at least 0 and below 1, got {beta}")
    weights = (1 - beta) / (1 - beta ** _checked_counts(class_counts))
    return (weights * len(weights) / weights.sum()).float()


def check_numbers(*, zero: bool = False, **values: float) -> None:
    """Raise ValueError, with the name, for a number that is not finite and above 0, or 0."""
    for name, value in values.items():
        if not (value > 0 or (zero and value == 0)) or value == math.inf:
            least = "at least 0" if zero else "above 0"
            raise ValueError(f"{name} must be finite and {least}, got {value}")


def _checked_counts(class_counts: Sequence[int]) -> Tensor:
    """The counts in float64."""
    counts = list(class_counts)  # an array too
    if not counts or not all(isinstance(n, Integral) and n > 0 for n in counts):
        raise ValueError(f"class_counts must be ints above 0, one per class; got {counts}")
    return torch.tensor(counts, dtype=torch.float64)


def _check_weight(weight: Tensor | None, classes: int | None) -> None:
    if weight is None:
        return
    if weight.ndim != 1 or classes not in (None, len(weight)):
        raise ValueError(f"weight must have shape ({classes or 'k'},), got {tuple(weight.shape)}")
    if not (torch.isfinite(weight) & (weight > 0)).all():
        raise ValueError(f"weight must be finite and above 0, got {weight.tolist()}")


def _checked(logits: Tensor, labels: Tensor, classes: int | None) -> Tensor:
    """The logits, if their shape fits; margins and powers need more digits than 16 bits have."""
    if logits.ndim != 2 or classes not in (None, logits.shape[1]):
        raise ValueError(f"logits must be (N, {classes or 'k'}), got {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must be ({len(logits)},), got {tuple(labels.shape)}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Focal(nn.Module):
    """(1 - p)^gamma times cross entropy, p the unweighted probability of the label.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002. Logits (N, k) and labels (N,) give the mean
    over the batch, with class weights (k,) a weighted one: gamma 0 is cross entropy.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None) -> None:
        super().__init__()
        check_numbers(gamma=gamma, zero=True)
        _check_weight(weight, None)
        self.gamma = gamma
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar; ValueError where shapes do not fit."""
        logits = _checked(logits, labels, None if self.weight is None else len(self.weight))
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)  # (N,)
        # Above 0 even where p is 1: there a power below 1 has an infinite derivative.
        miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)  # 1 - p
        losses = -(miss**self.gamma) * log_p
        if self.weight is None:
            return losses.mean()
        weights = self.weight[labels]
        return (weights * losses).sum() / weights.sum()


class LDAM(nn.Module):
    """Cross entropy with a margin at the true class, the larger the rarer the class.

    Cao et al. 2019, https://arxiv.org/abs/1906.07413. Logits (N, k) and labels (N,) give the mean
    over the batch. The logits must be those of a cosine classifier of the same scale: the logits
    of a linear layer have no bound, and training on them is reported to end in NaN. ``max_margin``
    is that of the rarest class, as a cosine; that of class j goes with n_j^(-1/4).
    """

    margins: Tensor
    weight: Tensor | None

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        counts = _checked_counts(class_counts)
        check_numbers(max_margin=max_margin, scale=scale)
        _check_weight(weight, len(counts))
        self.scale = scale
        margins = max_margin * (counts.min() / counts) ** 0.25
        self.register_buffer("margins", margins.float(), persistent=False)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar; ValueError where shapes do not fit."""
        logits = _checked(logits, labels, len(self.margins))
        margins = F.one_hot(labels, len(self.margins)) * self.margins.to(logits.dtype)  # (N, k)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        return F.cross_entropy(logits - self.scale * margins, labels, weight)


class Joint(nn.Module):
    """The weighted sum of focal loss and LDAM, both of the same scaled logits.

    The exact form of the CaCo paper's joint loss is not known: the section that defines it cannot
    be read in the copy at hand. This is the reading taken.
    """

    def __init__(
        self, focal: Focal, ldam: LDAM, focal_weight: float = 1.0, ldam_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_numbers(focal_weight=focal_weight, ldam_weight=ldam_weight, zero=True)
        if focal_weight == ldam_weight == 0:
            raise ValueError("focal_weight and ldam_weight are both 0: one must be above 0")
        self.focal, self.ldam = focal, ldam
        self.focal_weight, self.ldam_weight = focal_weight, ldam_weight

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar; ValueError where shapes do not fit."""
        focal, ldam = self.focal(logits, labels), self.ldam(logits, labels)
        loss: Tensor = self.focal_weight * focal + self.ldam_weight * ldam
        return loss


class CosineClassifier(nn.Module):
    """Features (N, in_features) to logits (N, num_classes): ``scale`` times cosines with weights.

    Features shorter than 1e-12 give zeros, in the gradient too.
    """

    def __init__(self, in_features: int, num_classes: int, *, scale: float = 30.0) -> None:
        super().__init__()
        check_numbers(scale=scale)
        self.scale = scale
        # Uniform directions. The length does not show in the logits, but the longer a weight, the
        # less one step turns it: LDAM's authors start from length 1.
        self.weight = nn.Parameter(_unit(torch.randn(num_classes, in_features)))

    def forward(self, features: Tensor) -> Tensor:
        """Logits from -scale to scale."""
        return self.scale * F.linear(_unit(features), _unit(self.weight))


def _unit(x: Tensor) -> Tensor:
    # Division by infinity gives zeros in both directions; by 1e-12 it blows the gradient up.
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill(norm <= 1e-12, math.inf)


def use_cosine_classifier(model: nn.Module, head: tuple[str, ...], num_classes: int) -> None:
    """Replace, in place, the one ``nn.Linear`` named in ``head``; ValueError if it is not that."""
    modules = dict(model.named_modules())
    old = modules.get(head[0]) if len(head) == 1 else None
    if not isinstance(old, nn.Linear):
        found = ", ".join(f"{name} ({type(modules.get(name)).__name__})" for name in head)
        raise ValueError(f"a cosine classifier replaces one Linear head; got {found or 'no head'}")
    model.set_submodule(head[0], CosineClassifier(old.in_features, num_classes).to(old.weight))


class DeferredReweighting(L.Callback):
    """Give LDAM class weights (k,) from the epoch ``start`` on, counted from 0, and none before."""

    def __init__(self, ldam: LDAM, weight: Tensor, start: int) -> None:
        _check_weight(weight, len(ldam.margins))
        self.ldam, self.weight, self.start = ldam, weight, start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the weights by the epoch alone, so that a resumed run has the same ones."""
        on = trainer.current_epoch >= self.start
        self.ldam.weight = self.weight.to(self.ldam.margins.device) if on else None


def build_loss(
    name: str,
    class_counts: Sequence[int],
    *,
    weight: Tensor | None = None,
    focal_weight: float = 1.0,
    ldam_weight: float = 1.0,
) -> nn.Module:
    """Make one of :data:`LOSSES`; ``ldam`` and ``joint`` need a cosine classifier.

    ``weight`` is for cross entropy, focal loss and the focal term of ``joint``; the factors of its
    terms are for ``joint`` alone. ValueError says what is unknown, out of range or not used.
    """
    _check_weight(weight, len(_checked_counts(class_counts)))
    if name not in LOSSES:
        raise ValueError(f"the loss must be one of {', '.join(LOSSES)}; got {name!r}")
    if name == "joint":
        return Joint(Focal(weight=weight), LDAM(class_counts), focal_weight, ldam_weight)
    if (focal_weight, ldam_weight) != (1, 1):
        raise ValueError(f"focal_weight and ldam_weight are for the joint loss, not for {name}")
    if name == "ldam":
        if weight is not None:
            raise ValueError("ldam takes no weight: DeferredReweighting gives it class weights")
        return LDAM(class_counts)
    return Focal(weight=weight) if name == "focal" else nn.CrossEntropyLoss(weight)
