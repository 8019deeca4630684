"""Losses against formulas written out in float64, one number at a time, and what they refuse."""

import math
import re
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
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
from examples.ham10000.model import CosineClassifier

COUNTS = (327, 514, 1099, 115, 1113, 6705, 142)  # of HAM10000
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0, 0.25, 0.125, 4.0])
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 5, 5, 3])
# Scaled cosines in float64, with labels of every class.
LOGITS = torch.from_numpy(np.random.default_rng(0).uniform(-30, 30, (len(LABELS), 7)))

weighted_or_not = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])


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


@weighted_or_not
def test_without_gamma_or_margin_they_are_cross_entropy(weight):
    logits = LOGITS.float().requires_grad_()
    losses = [nn.CrossEntropyLoss(weight), Focal(0, weight), LDAM(COUNTS, max_margin=1e-9)]
    losses[2].weight = weight
    theirs, *ours = (loss(logits, LABELS) for loss in losses)
    (expected,) = torch.autograd.grad(theirs, logits)
    for value in ours:
        torch.testing.assert_close(value, theirs)
        torch.testing.assert_close(torch.autograd.grad(value, logits)[0], expected)
    assert LDAM(COUNTS)(logits, LABELS).item() > theirs.item() + 1 or weight is not None


def test_the_rarest_class_has_the_largest_margin():
    assert LDAM([16, 1]).margins.tolist() == [0.25, 0.5]
    assert LDAM(COUNTS).margins.dtype == torch.float32  # some devices have no float64


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
    assert loss.double().ldam.weight.dtype == torch.float64  # yet both move with the module
    assert loss.focal.weight.dtype == torch.float64


@weighted_or_not
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


class Tiny(L.LightningModule):
    """Three batches an epoch; keeps the weights of LDAM at each step, and saves once."""

    def __init__(self, path=None):
        super().__init__()
        self.classifier = CosineClassifier(4, 7)
        self.loss = Joint(Focal(), LDAM(COUNTS))
        self.path, self.seen = path, {}

    def training_step(self, batch, batch_idx):
        weight = self.loss.ldam.weight
        step = (self.current_epoch, batch_idx)
        self.seen[step] = None if weight is None else weight.tolist()
        return self.loss(self.classifier(batch), torch.arange(len(batch)))

    def on_train_epoch_end(self):
        if self.path is not None and self.current_epoch == 2:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, start, checkpoint=None):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    callback = DeferredReweighting(module.loss.ldam, WEIGHT, start)
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", callbacks=callback, enable_model_summary=False, **quiet
    )
    batches = torch.utils.data.DataLoader(torch.randn(21, 4), batch_size=7)
    trainer.fit(module, batches, ckpt_path=checkpoint, weights_only=False)
    return module.seen


@pytest.mark.filterwarnings("ignore")  # Lightning warns of slow loaders and of resuming
def test_class_weights_are_on_from_their_epoch_on_and_after_resuming(tmp_path):
    path = tmp_path / "last.ckpt"
    seen = fit(Tiny(path), start=2)
    steps = [(epoch, step) for epoch in range(4) for step in range(3)]
    assert seen == {at: WEIGHT.tolist() if at[0] >= 2 else None for at in steps}
    resumed = fit(Tiny(), start=2, checkpoint=path)
    assert resumed == {at: seen[at] for at in steps if at[0] == 3}


def test_deferred_weights_follow_the_loss_to_its_device_and_back_in_time():
    ldam = LDAM(COUNTS, weight=WEIGHT).to("meta")
    callback = DeferredReweighting(ldam, WEIGHT, 1)
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=1), None)
    assert ldam.weight.device.type == "meta"
    callback.on_train_epoch_start(SimpleNamespace(current_epoch=0), None)
    assert ldam.weight is None


SHAPE, RANGE = "weight must have shape ", "weight must be finite and above 0, got "
SIZE = "logits must be (N, 7), got "
COUNTED = "class_counts must be ints above 0, one per class; got "
JOINT = "focal_weight and ldam_weight are for the joint loss, not for "


def refuses(make, message):
    return pytest.param(make, message, id=message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        refuses(lambda: balanced_weights([]), COUNTED + "[]"),
        refuses(lambda: drw_weights([3, 0]), COUNTED + "[3, 0]"),
        refuses(lambda: LDAM([3, 1.5]), COUNTED + "[3, 1.5]"),
        refuses(lambda: build_loss("focal", [-1]), COUNTED + "[-1]"),
        refuses(lambda: drw_weights(COUNTS, 1), "beta must be at least 0 and below 1, got 1"),
        refuses(lambda: drw_weights(COUNTS, -1), "beta must be at least 0 and below 1, got -1"),
        refuses(lambda: Focal(-1), "gamma must be finite and at least 0, got -1"),
        refuses(lambda: Focal(math.inf), "gamma must be finite and at least 0, got inf"),
        refuses(lambda: CosineClassifier(2, 2, scale=0), "scale must be finite and above 0, got 0"),
        refuses(lambda: LDAM([3], scale=math.nan), "scale must be finite and above 0, got nan"),
        refuses(lambda: LDAM([3], max_margin=0), "max_margin must be finite and above 0, got 0"),
        refuses(lambda: Joint(0, 0, -1), "focal_weight must be finite and at least 0, got -1"),
        refuses(lambda: Joint(0, 0, 1, -1), "ldam_weight must be finite and at least 0, got -1"),
        refuses(
            lambda: build_loss("joint", COUNTS, focal_weight=0, ldam_weight=0),
            "focal_weight and ldam_weight are both 0: one must be above 0",
        ),
        refuses(lambda: Focal(weight=WEIGHT[None]), SHAPE + "(k,), got (1, 7)"),
        refuses(lambda: LDAM([3, 4], weight=WEIGHT), SHAPE + "(2,), got (7,)"),
        refuses(lambda: build_loss("focal", [3] * 3, weight=WEIGHT), SHAPE + "(3,), got (7,)"),
        refuses(lambda: DeferredReweighting(LDAM([3]), WEIGHT, 1), SHAPE + "(1,), got (7,)"),
        refuses(lambda: Focal(weight=torch.zeros(2)), RANGE + "[0.0, 0.0]"),
        refuses(lambda: LDAM([3], weight=torch.tensor([math.inf])), RANGE + "[inf]"),
        refuses(
            lambda: build_loss("dice", COUNTS),
            "the loss must be one of cross-entropy, focal, ldam, joint; got 'dice'",
        ),
        refuses(lambda: build_loss("focal", COUNTS, ldam_weight=2), JOINT + "focal"),
        refuses(lambda: build_loss("ldam", COUNTS, focal_weight=2), JOINT + "ldam"),
        refuses(
            lambda: build_loss("ldam", COUNTS, weight=WEIGHT),
            "ldam takes no weight: DeferredReweighting gives it class weights",
        ),
        refuses(lambda: LDAM(COUNTS)(LOGITS[:, :6], LABELS), SIZE + "(10, 6)"),
        refuses(
            lambda: Focal(weight=WEIGHT)(LOGITS[:, :5], LABELS),
            "logits must be (N, 7), got (10, 5)",
        ),
        refuses(lambda: Focal()(LOGITS[0], LABELS), "logits must be (N, k), got (7,)"),
        refuses(lambda: Focal()(LOGITS, LABELS[:4]), "labels must be (10,), got (4,)"),
        refuses(lambda: LDAM(COUNTS)(LOGITS, LABELS[:1]), "labels must be (10,), got (1,)"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
