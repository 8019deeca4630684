"""The losses once more, one number at a time in float64, from the equations of their papers."""

import math

import numpy as np
import torch

COUNTS = (327, 514, 1099, 115, 1113, 6705, 142)  # of HAM10000
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 0.125, 4.0])
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 5, 5, 3])


def cosine_logits(seed=0):
    """Scaled cosines in float64, with labels of every class."""
    return torch.from_numpy(np.random.default_rng(seed).uniform(-30, 30, (len(LABELS), 7)))


def probabilities(row):
    """Softmax in float64, one class after the other."""
    top = max(row)
    parts = [math.exp(z - top) for z in row]
    return [part / math.fsum(parts) for part in parts]


def log_probability(row, label):
    top = max(row)
    return row[label] - top - math.log(math.fsum(math.exp(z - top) for z in row))


def mean(losses, labels, weight):
    if weight is None:
        return math.fsum(losses) / len(losses)
    chosen = [float(weight[label]) for label in labels]
    return math.fsum(w * x for w, x in zip(chosen, losses, strict=True)) / math.fsum(chosen)


def focal_by_hand(logits, labels, gamma, weight=None):
    """Equation 4 of Lin et al.: -(1 - p_t)^gamma log(p_t)."""
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        others = math.fsum(p for j, p in enumerate(probabilities(row)) if j != label)
        losses.append(-(others**gamma) * log_probability(row, label))
    return mean(losses, labels, weight)


def ldam_by_hand(logits, labels, counts, weight=None, max_margin=0.5, scale=30.0):
    """Equation 13 of Cao et al., with the margins of kaidic/LDAM-DRW."""
    margins = [n**-0.25 for n in counts]
    margins = [m * max_margin / max(margins) for m in margins]
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        cosines = [z / scale for z in row]
        cosines[label] -= margins[label]
        losses.append(-log_probability([scale * x for x in cosines], label))
    return mean(losses, labels, weight)
