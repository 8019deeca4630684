"""Losses against formulas written out in float64, one number at a time, and what they refuse."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from examples.ham10000.losses import (
    LDAM,
    CosineClassifier,
    DeferredReweighting,
    Focal,
    Joint,
    balanced_weights,
    build_loss,
    drw_weights,
    use_cosine_classifier,
)
from examples.ham10000.model import build_network
from tests.ham10000.runs import MODEL

COUNTS = (327, 514, 1099, 115, 1113, 6705, 142)  # of HAM10000
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 0.125, 4.0])
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 5, 5, 3])
# Scaled cosines in float64, with labels of every class.
LOGITS = torch.from_numpy(np.random.default_rng(0).uniform(-30, 30, (len(LABELS), 7)))


def log_probability(row, label):
    top = max(row)
    return row[label] - top - math.log(math.fsum(math.exp(z - top) for z in row))


def mean(losses, weight):
    chosen = [1.0 if weight is None else float(weight[label]) for label in LABELS]
    return math.fsum(w * x for w, x in zip(chosen, losses, strict=True)) / math.fsum(chosen)


def focal_by_hand(logits, gamma=2.0, weight=None):
    """Equation 4 of Lin et al.: -(1 - p_t)^gamma log(p_t)."""
    losses = []
    for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
        others = [math.exp(log_probability(row, j)) for j in range(7) if j != label]
        losses.append(-(math.fsum(others) ** gamma) * log_probability(row, label))
    return mean(losses, weight)


def ldam_by_hand(logits, weight=None, max_margin=0.5, scale=30.0):
    """Equation 13 of Cao et al., with the margins of kaidic/LDAM-DRW."""
    margins = [n**-0.25 for n in COUNTS]
    margins = [m * max_margin / max(margins) for m in margins]
    losses = []
    for row, label in zip(logits.tolist(), LABELS.tolist(), strict=True):
        cosines = [z / scale for z in row]
        cosines[label] -= margins[label]
        losses.append(-log_probability([scale * x for x in cosines], label))
    return mean(losses, weight)


def by_hand(loss, logits):
    if isinstance(loss, Joint):
        first, second = by_hand(loss.focal, logits), by_hand(loss.ldam, logits)
        return loss.focal_weight * first + loss.ldam_weight * second
    if isinstance(loss, Focal):
        return focal_by_hand(logits, loss.gamma, loss.weight)
    return ldam_by_hand(logits, loss.weight, loss.margins.max().item(), loss.scale)


def all_losses():
    yield from (Focal(gamma, weight) for gamma in (0, 0.5, 2, 3.7) for weight in (None, WEIGHT))
    yield from (LDAM(COUNTS), LDAM(COUNTS, weight=WEIGHT))
    yield LDAM(COUNTS, max_margin=0.2, scale=10, weight=WEIGHT)
    yield Joint(Focal(1.5, WEIGHT), LDAM(COUNTS), 0.3, 1.7)
    yield Joint(Focal(weight=WEIGHT), LDAM(COUNTS), ldam_weight=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_are_the_formulas_of_their_papers(dtype):
    """Half precision loses nothing but what the logits themselves have lost."""
    logits = (LOGITS / 3).to(dtype)
    for loss in all_losses():
        value = loss(logits, LABELS)
        assert value.dtype == (dtype if dtype == torch.float64 else torch.float32)
        assert value.item() == pytest.approx(by_hand(loss, logits.double()), rel=1e-5)


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


def test_gradients_and_labels_out_of_range():
    logits = (LOGITS[:4] / 10).requires_grad_()
    for loss in all_losses():
        torch.autograd.gradcheck(loss, (logits, LABELS[:4]))
        for label in (-100, -1, 7):
            with pytest.raises((RuntimeError, IndexError)):
                loss(LOGITS[:1], torch.tensor([label]))


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "ldam", "joint"])
def test_training_under_autocast(name):
    torch.manual_seed(0)
    classifier, features = CosineClassifier(16, 7), torch.randn(10, 16)
    loss = build_loss(name, COUNTS, weight=None if name == "ldam" else WEIGHT)
    expected = loss(classifier(features), LABELS).item()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(features)
        assert logits.dtype == torch.bfloat16
        value = loss(logits, LABELS)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=0.05)
    assert classifier.weight.grad.isfinite().all()
    assert classifier.weight.grad.abs().amax() > 0


def test_losses_put_nothing_into_a_checkpoint():
    loss = Joint(Focal(weight=WEIGHT), LDAM(COUNTS))
    loss.ldam.weight = WEIGHT
    assert loss.state_dict() == {}
    assert loss.ldam.margins.dtype == torch.float32  # some devices have no float64
    assert loss.double().ldam.weight.dtype == torch.float64  # yet both move with the module
    assert loss.focal.weight.dtype == torch.float64


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_build_loss_by_name(weight):
    focal, ldam = focal_by_hand(LOGITS, weight=weight), ldam_by_hand(LOGITS)
    factors = {"focal_weight": 2, "ldam_weight": 3}
    for name, options, expected in (
        ("cross-entropy", {"weight": weight}, focal_by_hand(LOGITS, 0, weight)),
        ("focal", {"weight": weight}, focal),
        ("ldam", {}, ldam),
        ("joint", {"weight": weight}, focal + ldam),
        ("joint", {"weight": weight, **factors}, 2 * focal + 3 * ldam),
    ):
        loss = build_loss(name, COUNTS, **options)
        assert loss(LOGITS.float(), LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(7), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels)
    for counts in (COUNTS, np.bincount(labels)):
        torch.testing.assert_close(balanced_weights(counts), torch.from_numpy(expected).float())


def test_drw_weights_are_those_of_the_effective_number():
    torch.testing.assert_close(drw_weights([1, 2], beta=0.5), torch.tensor([1.2, 0.8]))
    assert drw_weights([3, 5, 7], beta=0).tolist() == [1, 1, 1]
    # Nearly 1/n, which single precision cannot work out.
    torch.testing.assert_close(drw_weights([1, 2], beta=1 - 1e-9), torch.tensor([4 / 3, 2 / 3]))
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS]
    expected = torch.tensor([7 * r / math.fsum(raw) for r in raw])
    torch.testing.assert_close(drw_weights(COUNTS), expected)


def test_class_weights_are_on_from_their_epoch_on_wherever_a_run_goes_on():
    ldam = LDAM(COUNTS, weight=WEIGHT).to("meta")
    callback = DeferredReweighting(ldam, WEIGHT, 2)
    for epoch in (1, 2, 3, 0):
        callback.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), None)
        on = None if ldam.weight is None else ldam.weight.device.type
        assert on == ("meta" if epoch >= 2 else None)
    callback = DeferredReweighting(ldam := LDAM(COUNTS), WEIGHT, 0)
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    assert torch.equal(ldam.weight, WEIGHT)


def test_cosine_classifier_is_the_scaled_cosine():
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 3, scale=7).double()
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    x, w = features.detach().numpy(), classifier.weight.detach().numpy()
    expected = [[7 * (a @ b) / math.sqrt((a @ a) * (b @ b)) for b in w] for a in x]
    found = classifier(features).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)

    def forward(features, weight):
        return torch.func.functional_call(classifier, {"weight": weight}, features)

    torch.autograd.gradcheck(forward, (features, classifier.weight))


FACTORS = st.floats(-6, 6).map(lambda power: 10**power)


@settings(max_examples=30)
@given(rows=st.lists(FACTORS, min_size=4, max_size=4), classes=st.lists(FACTORS, min_size=3))
def test_cosines_do_not_see_lengths(rows, classes):
    classifier = CosineClassifier(5, len(classes)).double()
    features = torch.randn(4, 5, dtype=torch.float64)
    expected = classifier(features)
    with torch.no_grad():
        classifier.weight.mul_(torch.tensor(classes, dtype=torch.float64)[:, None])
    scaled = features * torch.tensor(rows, dtype=torch.float64)[:, None]
    torch.testing.assert_close(classifier(scaled), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_features_give_zeros_in_the_gradient_too(dtype):
    classifier = CosineClassifier(5, 3).to(dtype)
    features = torch.eye(2, 5, dtype=dtype)
    features[0] = 0
    features.requires_grad_()
    logits = classifier(features)
    logits.sum().backward()
    assert logits[0].tolist() == [0] * 3
    assert features.grad[0].tolist() == [0] * 5
    assert features.grad[1].abs().amax() > 0
    assert classifier.weight.grad.isfinite().all()


def test_class_weights_start_in_all_directions():
    torch.manual_seed(0)
    weight = CosineClassifier(3, 4000).weight.detach()
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4000))
    # In three dimensions each coordinate of a uniform direction is uniform on [-1, 1].
    for coordinate in weight.T:
        counts = torch.histc(coordinate, 10, -1, 1)
        assert (counts.min() > 330) & (counts.max() < 470)


@pytest.mark.parametrize("name", ["tv/mobilenet_v3_small", "tv/resnet18", MODEL])
def test_a_network_gets_a_cosine_classifier(name):
    network = build_network(name, 7, "none", "none")
    model, (head,) = network.model.double().eval(), network.head
    before = dict(model.named_modules())
    use_cosine_classifier(model, network.head, 5)
    after = dict(model.named_modules())
    assert before.keys() == after.keys()
    assert [n for n in before if after[n] is not before[n]] == [head]
    features = []
    after[head].register_forward_hook(lambda _, inputs, __: features.extend(inputs))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        cosines = torch.cosine_similarity(features[0][:, None], after[head].weight[None], dim=2)
    torch.testing.assert_close(logits, 30 * cosines)
    on_meta = nn.Sequential(nn.Linear(3, 2, device="meta", dtype=torch.bfloat16))
    use_cosine_classifier(on_meta, ("0",), 2)
    assert (on_meta[0].weight.device.type, on_meta[0].weight.dtype) == ("meta", torch.bfloat16)


SHAPE, ABOVE, LEAST = (
    "weight must have shape ",
    "must be finite and above 0, got ",
    "must be finite and at least 0, got ",
)
COUNTED = "class_counts must be ints above 0, one per class; got "
JOINT = "focal_weight and ldam_weight are for the joint loss, not for "
HEAD = "a cosine classifier replaces one Linear head; got "
LINEARS, CONV = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Conv2d(3, 7, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: balanced_weights([]), COUNTED + "[]"),
        (lambda: drw_weights([3, 0]), COUNTED + "[3, 0]"),
        (lambda: LDAM([3, 1.5]), COUNTED + "[3, 1.5]"),
        (lambda: build_loss("focal", [-1]), COUNTED + "[-1]"),
        (lambda: drw_weights(COUNTS, 1), "beta must be at least 0 and below 1, got 1"),
        (lambda: drw_weights(COUNTS, -1), "beta must be at least 0 and below 1, got -1"),
        (lambda: Focal(-1), "gamma " + LEAST + "-1"),
        (lambda: Focal(math.inf), "gamma " + LEAST + "inf"),
        (lambda: CosineClassifier(2, 2, scale=0), "scale " + ABOVE + "0"),
        (lambda: LDAM([3], scale=math.nan), "scale " + ABOVE + "nan"),
        (lambda: LDAM([3], max_margin=0), "max_margin " + ABOVE + "0"),
        (lambda: Joint(0, 0, -1), "focal_weight " + LEAST + "-1"),
        (lambda: Joint(0, 0, 1, -1), "ldam_weight " + LEAST + "-1"),
        (lambda: Joint(0, 0, 0, 0), "focal_weight and ldam_weight are both 0: one must be above 0"),
        (lambda: Focal(weight=WEIGHT[None]), SHAPE + "(k,), got (1, 7)"),
        (lambda: LDAM([3, 4], weight=WEIGHT), SHAPE + "(2,), got (7,)"),
        (lambda: build_loss("focal", [3] * 3, weight=WEIGHT), SHAPE + "(3,), got (7,)"),
        (lambda: DeferredReweighting(LDAM([3]), WEIGHT, 1), SHAPE + "(1,), got (7,)"),
        (lambda: Focal(weight=torch.zeros(2)), "weight " + ABOVE + "[0.0, 0.0]"),
        (lambda: LDAM([3], weight=torch.tensor([math.inf])), "weight " + ABOVE + "[inf]"),
        (
            lambda: build_loss("dice", COUNTS),
            "the loss must be one of cross-entropy, focal, ldam, joint; got 'dice'",
        ),
        (lambda: build_loss("focal", COUNTS, ldam_weight=2), JOINT + "focal"),
        (lambda: build_loss("ldam", COUNTS, focal_weight=2), JOINT + "ldam"),
        (
            lambda: build_loss("ldam", COUNTS, weight=WEIGHT),
            "ldam takes no weight: DeferredReweighting gives it class weights",
        ),
        (lambda: LDAM(COUNTS)(LOGITS[:, :6], LABELS), "logits must be (N, 7), got (10, 6)"),
        (lambda: Focal(weight=WEIGHT)(LOGITS[:, :5], LABELS), "logits must be (N, 7), got (10, 5)"),
        (lambda: Focal()(LOGITS[0], LABELS), "logits must be (N, k), got (7,)"),
        (lambda: Focal()(LOGITS, LABELS[:4]), "labels must be (10,), got (4,)"),
        (lambda: use_cosine_classifier(LINEARS, (), 7), HEAD + "no head"),
        (
            lambda: use_cosine_classifier(LINEARS, ("0", "1"), 7),
            HEAD + "0 (Linear), 1 (Linear)",
        ),
        (lambda: use_cosine_classifier(LINEARS, ("fc",), 7), HEAD + "fc (NoneType)"),
        (lambda: use_cosine_classifier(CONV, ("0",), 7), HEAD + "0 (Conv2d)"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
