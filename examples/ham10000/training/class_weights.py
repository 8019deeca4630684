"""Weights for classes of very different sizes."""

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Class weights n / (k n_j), scikit-learn's ``balanced``; float32 of shape (k,).

    Example:
        >>> balanced_weights([1, 3])
        tensor([2.0000, 0.6667])
    """
    counts = checked_counts(class_counts)
    return (counts.sum() / (len(counts) * counts)).float()


def drw_weights(class_counts: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Class weights (1 - beta) / (1 - beta^n_j), scaled to sum to k; float32 of shape (k,).

    Cui et al. 2019, https://arxiv.org/abs/1901.05555; kaidic/LDAM-DRW switches them on late.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be at least 0 and below 1, got {beta}")
    weights = (1 - beta) / (1 - beta ** checked_counts(class_counts))
    return (weights * len(weights) / weights.sum()).float()


def checked_counts(class_counts: Sequence[int]) -> Tensor:
    """The counts in float64; ValueError for one that is no int above 0."""
    counts = list(class_counts)  # an array too
    if not counts or not all(isinstance(n, Integral) and n > 0 for n in counts):
        raise ValueError(f"class_counts must be ints above 0, one per class; got {counts}")
    return torch.tensor(counts, dtype=torch.float64)


def check_weight(weight: Tensor | None, classes: int | None) -> None:
    """Raise ValueError for class weights of a wrong shape or out of range; None is fine."""
    if weight is None:
        return
    if weight.ndim != 1 or classes not in (None, len(weight)):
        raise ValueError(f"weight must have shape ({classes or 'k'},), got {tuple(weight.shape)}")
    if not (torch.isfinite(weight) & (weight > 0)).all():
        raise ValueError(f"weight must be finite and above 0, got {weight.tolist()}")


def check_number(name: str, value: float, *, zero: bool = False) -> None:
    """Raise ValueError, with the name, for a number out of range."""
    if not (value > 0 or (zero and value == 0)) or value == math.inf:
        least = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} must be finite and {least}, got {value}")
