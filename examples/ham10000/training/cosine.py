"""The classifier that LDAM needs: cosines instead of unbounded logits."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.ham10000.training.class_weights import check_number


class CosineClassifier(nn.Module):
    """Features (N, in_features) to logits (N, num_classes): scaled cosines with class weights.

    Their softmax are the probabilities, whatever the loss. Features shorter than 1e-12 give
    zeros, in the gradient too.

    Args:
        in_features: length of a feature vector.
        num_classes: number of classes.
        scale: the logit of features that point in the direction of the class.
        device: where to create the weight.
        dtype: type of the weight.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 30.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_number("scale", scale)
        self.scale = scale
        # Uniform directions. The length does not show in the logits, but the longer a weight, the
        # less one step turns it: LDAM's authors start from length 1.
        weight = torch.randn(num_classes, in_features, device=device, dtype=dtype)
        self.weight = nn.Parameter(_unit(weight))

    def forward(self, features: Tensor) -> Tensor:
        """Logits from -scale to scale."""
        return self.scale * F.linear(_unit(features), _unit(self.weight))


def use_cosine_classifier(model: nn.Module, head: tuple[str, ...], num_classes: int) -> None:
    """Replace, in place, the linear layer named in ``head`` by a :class:`CosineClassifier`.

    Raises:
        ValueError: the head is not exactly one ``nn.Linear``.
    """
    modules = dict(model.named_modules())
    old = modules.get(head[0]) if len(head) == 1 else None
    if not isinstance(old, nn.Linear):
        found = ", ".join(f"{name} ({type(modules.get(name)).__name__})" for name in head)
        raise ValueError(f"a cosine classifier replaces one Linear head; got {found or 'no head'}")
    weight = old.weight
    new = CosineClassifier(old.in_features, num_classes, device=weight.device, dtype=weight.dtype)
    model.set_submodule(head[0], new)


def _unit(x: Tensor) -> Tensor:
    # Division by infinity gives zeros in both directions; by 1e-12 it blows the gradient up.
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill(norm <= 1e-12, math.inf)
