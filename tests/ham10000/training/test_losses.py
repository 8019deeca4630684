"""Losses against formulas written out in float64, and when their class weights are on."""

import math
import re
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from examples.ham10000.training.class_weights import balanced_weights, drw_weights
from examples.ham10000.training.cosine import CosineClassifier, use_cosine_classifier
from examples.ham10000.training.losses import LDAM, DeferredReweighting, Focal, Joint, build_loss
from examples.ham10000.training.models import build_network

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


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat(np.arange(7), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(7), y=labels)
    torch.testing.assert_close(balanced_weights(COUNTS), torch.from_numpy(expected).float())
    torch.testing.assert_close(balanced_weights(np.bincount(labels)), balanced_weights(COUNTS))


def test_drw_weights_are_those_of_the_effective_number():
    torch.testing.assert_close(drw_weights([1, 2], beta=0.5), torch.tensor([1.2, 0.8]))
    assert drw_weights([3, 5, 7], beta=0).tolist() == [1, 1, 1]
    # Nearly 1/n, which single precision cannot work out.
    torch.testing.assert_close(drw_weights([1, 2], beta=1 - 1e-9), torch.tensor([4 / 3, 2 / 3]))
    raw = [(1 - 0.9999) / (1 - 0.9999**n) for n in COUNTS]
    expected = torch.tensor([7 * r / math.fsum(raw) for r in raw])
    assert drw_weights(COUNTS).sum().item() == pytest.approx(7, rel=1e-6)
    torch.testing.assert_close(drw_weights(COUNTS), expected)


def test_cosine_classifier_is_the_scaled_cosine():
    torch.manual_seed(0)
    classifier = CosineClassifier(5, 3, scale=7, dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64)
    x, w = features.numpy(), classifier.weight.detach().numpy()
    expected = [[7 * (a @ b) / math.sqrt((a @ a) * (b @ b)) for b in w] for a in x]
    np.testing.assert_allclose(
        classifier(features).detach().numpy(), expected, rtol=1e-9, atol=1e-12
    )
    assert classifier(3 * classifier.weight).diagonal().tolist() == pytest.approx([7] * 3)


def test_gradients_of_the_cosine_classifier():
    classifier = CosineClassifier(5, 3, dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def forward(features, weight):
        return torch.func.functional_call(classifier, {"weight": weight}, features)

    torch.autograd.gradcheck(forward, (features, classifier.weight))


FACTORS = st.floats(-6, 6).map(lambda power: 10**power)


@settings(max_examples=30)
@given(rows=st.lists(FACTORS, min_size=4, max_size=4), classes=st.lists(FACTORS, min_size=3))
def test_cosines_do_not_see_lengths(rows, classes):
    classifier = CosineClassifier(5, len(classes), dtype=torch.float64)
    features = torch.randn(4, 5, dtype=torch.float64)
    expected = classifier(features)
    with torch.no_grad():
        classifier.weight.mul_(torch.tensor(classes, dtype=torch.float64)[:, None])
    scaled = features * torch.tensor(rows, dtype=torch.float64)[:, None]
    torch.testing.assert_close(classifier(scaled), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_features_give_zeros_in_the_gradient_too(dtype):
    classifier = CosineClassifier(5, 3, dtype=dtype)
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
        assert counts.min() > 330
        assert counts.max() < 470


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
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[DeferredReweighting(module.loss.ldam, WEIGHT, start)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
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


@pytest.mark.parametrize(
    "name", ["tv/mobilenet_v3_small", "tv/resnet18", "timm/mobilenetv3_small_050"]
)
def test_a_network_gets_a_cosine_classifier(name):
    network = build_network(name, 7, "none", "none")
    model = network.model.double().eval()
    (head,) = network.head
    before = dict(model.named_modules())
    use_cosine_classifier(model, network.head, 5)
    after = dict(model.named_modules())
    assert [n for n in before if after[n] is not before[n]] == [head]
    assert before.keys() == after.keys()

    features = []
    model.get_submodule(head).register_forward_hook(lambda _, inputs, __: features.extend(inputs))
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        weight = after[head].weight
        cosines = torch.cosine_similarity(features[0][:, None], weight[None], dim=2)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(logits, 30 * cosines)


def test_the_cosine_classifier_is_made_where_the_linear_layer_was():
    model = nn.Sequential(nn.Linear(3, 2, device="meta", dtype=torch.bfloat16))
    use_cosine_classifier(model, ("0",), 2)
    assert isinstance(model[0], CosineClassifier)
    assert (model[0].weight.device.type, model[0].weight.dtype) == ("meta", torch.bfloat16)


def test_a_convolution_as_head_is_refused():
    network = build_network("tv/squeezenet1_0", 7, "none", "none")
    message = r"^a cosine classifier replaces one Linear head; got classifier\.1 \(Conv2d\)$"
    with pytest.raises(ValueError, match=message):
        use_cosine_classifier(network.model, network.head, 7)


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
