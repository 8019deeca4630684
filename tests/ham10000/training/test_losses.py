"""Losses against formulas written out in float64, and what they refuse."""

import math
import re

import pytest
import torch
from torch import nn

from examples.ham10000.losses import (
    LDAM,
    DeferredReweighting,
    Focal,
    Joint,
    balanced_weights,
    build_loss,
    drw_weights,
)
from examples.ham10000.model import CosineClassifier, use_cosine_classifier
from tests.ham10000.training.by_hand import (
    COUNTS,
    LABELS,
    WEIGHT,
    cosine_logits,
    focal_by_hand,
    ldam_by_hand,
)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("gamma", [0, 0.5, 2, 3.7])
def test_focal_is_the_formula_of_its_paper(gamma, weight):
    logits = cosine_logits() / 10
    expected = focal_by_hand(logits, LABELS, gamma, weight)
    assert Focal(gamma, weight)(logits, LABELS).item() == pytest.approx(expected, rel=1e-9)
    single = Focal(gamma, weight)(logits.float(), LABELS)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_focal_without_gamma_is_cross_entropy(weight):
    logits = cosine_logits().float().requires_grad_()
    ours, theirs = Focal(0, weight)(logits, LABELS), nn.CrossEntropyLoss(weight)(logits, LABELS)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(("max_margin", "scale"), [(0.5, 30.0), (0.2, 10.0)])
def test_ldam_is_the_formula_of_its_paper(max_margin, scale, weight):
    logits = cosine_logits() / 30 * scale
    loss = LDAM(COUNTS, max_margin=max_margin, scale=scale, weight=weight)
    expected = ldam_by_hand(logits, LABELS, COUNTS, weight, max_margin, scale)
    assert loss(logits, LABELS).item() == pytest.approx(expected, rel=1e-6)
    single = loss(logits.float(), LABELS)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_the_rarest_class_has_the_largest_margin():
    assert LDAM(COUNTS).margins.dtype == torch.float32  # some devices have no float64
    margins = LDAM(COUNTS).margins.tolist()
    assert margins[3] == max(margins) == 0.5
    assert margins[5] == pytest.approx(0.5 * (115 / 6705) ** 0.25)
    assert LDAM([16, 1]).margins.tolist() == [0.25, 0.5]


def test_ldam_without_margin_is_cross_entropy():
    logits = cosine_logits()
    expected = nn.CrossEntropyLoss()(logits, LABELS).item()
    assert LDAM(COUNTS, max_margin=1e-9)(logits, LABELS).item() == pytest.approx(expected, rel=1e-8)
    assert LDAM(COUNTS)(logits, LABELS).item() > expected + 1


def test_joint_is_the_weighted_sum():
    logits = cosine_logits()
    loss = Joint(Focal(1.5, WEIGHT), LDAM(COUNTS), focal_weight=0.3, ldam_weight=1.7)
    expected = 0.3 * focal_by_hand(logits, LABELS, 1.5, WEIGHT)
    expected += 1.7 * ldam_by_hand(logits, LABELS, COUNTS)
    assert loss(logits, LABELS).item() == pytest.approx(expected, rel=1e-6)
    alone = Joint(Focal(1.5, WEIGHT), LDAM(COUNTS), ldam_weight=0)(logits, LABELS)
    assert alone.item() == pytest.approx(focal_by_hand(logits, LABELS, 1.5, WEIGHT), rel=1e-6)


def all_losses():
    yield from (Focal(gamma, weight) for gamma in (0, 0.5, 2) for weight in (None, WEIGHT))
    yield from (LDAM(COUNTS), LDAM(COUNTS, weight=WEIGHT))
    yield Joint(Focal(weight=WEIGHT), LDAM(COUNTS), focal_weight=0.5)


def by_hand(loss, logits):
    if isinstance(loss, Joint):
        first, second = by_hand(loss.focal, logits), by_hand(loss.ldam, logits)
        return loss.focal_weight * first + loss.ldam_weight * second
    if isinstance(loss, Focal):
        return focal_by_hand(logits, LABELS, loss.gamma, loss.weight)
    return ldam_by_hand(logits, LABELS, COUNTS, loss.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [range(10), [2, 5]], ids=["all", "two"])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, wrong):
    logits = torch.full((len(LABELS), 7), -1e4, dtype=dtype)
    for row, label in enumerate(LABELS):
        logits[row, (label + 1) % 7 if row in wrong else label] = 1e4
    logits.requires_grad_()
    for loss in all_losses():
        value = loss(logits, LABELS)
        assert value.item() == pytest.approx(by_hand(loss, logits.detach()), rel=1e-6)
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all()
        assert gradient[list(wrong)].abs().amax(1).gt(0).all()


def test_gradients_in_float64():
    logits = (cosine_logits()[:4] / 10).requires_grad_()
    for loss in all_losses():
        torch.autograd.gradcheck(loss, (logits, LABELS[:4]))


def test_half_precision_logits_lose_nothing_more():
    rounded = cosine_logits().bfloat16()
    for loss in all_losses():
        value = loss(rounded, LABELS)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(by_hand(loss, rounded.double()), rel=1e-5)


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "ldam", "joint"])
def test_training_under_autocast(name):
    torch.manual_seed(0)
    classifier = CosineClassifier(16, 7)
    loss = build_loss(name, COUNTS, weight=None if name == "ldam" else WEIGHT)
    features = torch.randn(10, 16)
    expected = loss(classifier(features), LABELS).item()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(features)
        assert logits.dtype == torch.bfloat16
        value = loss(logits, LABELS)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=0.05)
    assert classifier.weight.grad.isfinite().all()
    assert classifier.weight.grad.abs().amax() > 0


def test_labels_out_of_range_are_errors():
    for loss in all_losses():
        for label in (-100, -1, 7):
            with pytest.raises((RuntimeError, IndexError)):
                loss(cosine_logits()[:1], torch.tensor([label]))


def test_losses_put_nothing_into_a_checkpoint():
    loss = Joint(Focal(weight=WEIGHT), LDAM(COUNTS))
    loss.ldam.weight = WEIGHT
    assert loss.state_dict() == {}
    assert loss.double().ldam.weight.dtype == torch.float64  # yet both move with the module
    assert loss.focal.weight.dtype == torch.float64


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_build_loss_by_name(weight):
    logits = cosine_logits().float()
    cross_entropy = build_loss("cross-entropy", COUNTS, weight=weight)
    assert type(cross_entropy) is nn.CrossEntropyLoss
    focal, ldam = focal_by_hand(logits, LABELS, 2, weight), ldam_by_hand(logits, LABELS, COUNTS)
    values = {
        "cross-entropy": cross_entropy(logits, LABELS),
        "focal": build_loss("focal", COUNTS, weight=weight)(logits, LABELS),
        "ldam": build_loss("ldam", COUNTS)(logits, LABELS),
        "joint": build_loss("joint", COUNTS, weight=weight)(logits, LABELS),
        "twice": build_loss("joint", COUNTS, weight=weight, focal_weight=2, ldam_weight=3)(
            logits, LABELS
        ),
    }
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {
            "cross-entropy": focal_by_hand(logits, LABELS, 0, weight),
            "focal": focal,
            "ldam": ldam,
            "joint": focal + ldam,
            "twice": 2 * focal + 3 * ldam,
        },
        rel=1e-5,
    )


def linears():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))


ONE_HEAD = "a cosine classifier replaces one Linear head; got "
REFUSED = {
    ONE_HEAD + "no head": lambda: use_cosine_classifier(linears(), (), 2),
    ONE_HEAD + "0 (Linear), 1 (Linear)": lambda: use_cosine_classifier(linears(), ("0", "1"), 2),
    ONE_HEAD + "fc (NoneType)": lambda: use_cosine_classifier(linears(), ("fc",), 2),
    "class_counts must be ints above 0, one per class; got []": lambda: balanced_weights([]),
    "class_counts must be ints above 0, one per class; got [3, 0]": lambda: drw_weights([3, 0]),
    "class_counts must be ints above 0, one per class; got [3, 1.5]": lambda: LDAM([3, 1.5]),
    "class_counts must be ints above 0, one per class; got [-1]": lambda: build_loss("focal", [-1]),
    "beta must be at least 0 and below 1, got 1": lambda: drw_weights(COUNTS, 1),
    "beta must be at least 0 and below 1, got -0.5": lambda: drw_weights(COUNTS, -0.5),
    "beta must be at least 0 and below 1, got nan": lambda: drw_weights(COUNTS, math.nan),
    "gamma must be finite and at least 0, got -1": lambda: Focal(-1),
    "gamma must be finite and at least 0, got inf": lambda: Focal(math.inf),
    "gamma must be finite and at least 0, got nan": lambda: Focal(math.nan),
    "scale must be finite and above 0, got 0": lambda: CosineClassifier(2, 2, scale=0),
    "scale must be finite and above 0, got nan": lambda: LDAM(COUNTS, scale=math.nan),
    "max_margin must be finite and above 0, got 0": lambda: LDAM(COUNTS, max_margin=0),
    "max_margin must be finite and above 0, got inf": lambda: LDAM(COUNTS, max_margin=math.inf),
    "focal_weight must be finite and at least 0, got -1": lambda: Joint(
        Focal(), LDAM(COUNTS), focal_weight=-1
    ),
    "ldam_weight must be finite and at least 0, got nan": lambda: build_loss(
        "joint", COUNTS, ldam_weight=math.nan
    ),
    "focal_weight and ldam_weight are both 0: one must be above 0": lambda: build_loss(
        "joint", COUNTS, focal_weight=0, ldam_weight=0
    ),
    "weight must have shape (k,), got (1, 7)": lambda: Focal(weight=WEIGHT[None]),
    "weight must have shape (2,), got (7,)": lambda: LDAM([3, 4], weight=WEIGHT),
    "weight must have shape (3,), got (7,)": lambda: build_loss("focal", [3, 4, 5], weight=WEIGHT),
    "weight must have shape (7,), got (2,)": lambda: DeferredReweighting(
        LDAM(COUNTS), WEIGHT[:2], 1
    ),
    "weight must be finite and above 0, got [1.0, 0.0]": lambda: Focal(
        weight=torch.tensor([1.0, 0.0])
    ),
    "weight must be finite and above 0, got [1.0, inf]": lambda: LDAM(
        [3, 4], weight=torch.tensor([1.0, math.inf])
    ),
    "weight must be finite and above 0, got [nan, 1.0]": lambda: build_loss(
        "cross-entropy", [3, 4], weight=torch.tensor([math.nan, 1.0])
    ),
    "the loss must be one of cross-entropy, focal, ldam, joint; got 'dice'": lambda: build_loss(
        "dice", COUNTS
    ),
    "focal_weight and ldam_weight are for the joint loss, not for focal": lambda: build_loss(
        "focal", COUNTS, ldam_weight=2
    ),
    "focal_weight and ldam_weight are for the joint loss, not for ldam": lambda: build_loss(
        "ldam", COUNTS, focal_weight=2
    ),
    "ldam takes no weight: DeferredReweighting gives it class weights": lambda: build_loss(
        "ldam", COUNTS, weight=WEIGHT
    ),
    "logits must be (N, 7), got (10, 6)": lambda: LDAM(COUNTS)(cosine_logits()[:, :6], LABELS),
    "logits must be (N, 7), got (10, 5)": lambda: Focal(weight=WEIGHT)(
        cosine_logits()[:, :5], LABELS
    ),
    "logits must be (N, k), got (7,)": lambda: Focal()(cosine_logits()[0], LABELS),
    "labels must be (10,), got (4,)": lambda: Focal()(cosine_logits(), LABELS[:4]),
    "labels must be (10,), got (1,)": lambda: LDAM(COUNTS)(cosine_logits(), LABELS[:1]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused_with_its_reason(message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        REFUSED[message]()
