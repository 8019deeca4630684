"""What happens in the steps of a training."""

import csv
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from examples.ham10000 import module as lit
from examples.ham10000.callbacks import RecomputeBatchNorm, statistics_lag
from examples.ham10000.cli import main
from examples.ham10000.data.batches import SkinLesions, evaluation_loader, training_loader
from examples.ham10000.model import build_network
from examples.ham10000.module import LesionClassifier
from tests.ham10000.runs import MODEL, QUICK

pytestmark = pytest.mark.usefixtures("undrawn")


def test_a_part_holds_the_images_and_classes_of_its_positions():
    pixels = np.arange(10, dtype=np.uint8).repeat(3 * 4 * 4).reshape(10, 3, 4, 4)
    part = SkinLesions(pixels, [10 + i for i in range(10)], [7, 2, 5])
    assert [(int(image[0, 0, 0]), *rest) for image, *rest in part] == [
        (7, 17, 7),
        (2, 12, 2),
        (5, 15, 5),
    ]
    batches = training_loader(part, 2, seed=0)
    assert [len(labels) for _, labels, _ in batches] == [2]  # whole batches only
    seen = [i for *_, positions in evaluation_loader(part, 2) for i in positions.tolist()]
    assert seen == [7, 2, 5]


def test_the_order_is_a_function_of_seed_and_epoch():
    part = SkinLesions(np.zeros((40, 3, 4, 4), np.uint8), [0] * 40, range(40))

    def order(seed: int, epoch: int, workers: int = 0) -> list[int]:
        batches = training_loader(part, 8, seed=seed, workers=workers)
        batches.sampler.set_epoch(epoch)
        return [i for *_, positions in batches for i in positions.tolist()]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(one) == list(range(40)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(1, 1) == order(1, 1, workers=2) == orders[3]


def new_module(**options) -> LesionClassifier:
    network = build_network(MODEL, 7, "none", "SE")
    return LesionClassifier(network, nn.CrossEntropyLoss(), **{"image_size": 8, **options})


def test_the_network_sees_normalised_pixels(monkeypatch):
    module = new_module()
    monkeypatch.setattr(module, "model", nn.Identity())
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (pixels.permute(0, 2, 3, 1).numpy() / 255 - mean) / std
    np.testing.assert_allclose(module(pixels).permute(0, 2, 3, 1), expected, atol=1e-5)


def test_a_loss_that_is_not_finite_names_the_images(monkeypatch):
    module = new_module(image_ids=["a", "b", "c", "d"])
    monkeypatch.setattr(module.loss, "forward", lambda logits, labels: logits.sum() * torch.nan)
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(FloatingPointError, match=r"the loss is nan .*, step 6: .*step: d, b$"):
        module.training_step((pixels, torch.tensor([0, 1]), torch.tensor([3, 1])), 5)


def test_augmentation_and_dropout_are_functions_of_seed_epoch_and_step(monkeypatch):
    seen = []

    def record(pixels, image_size, generator):
        seen.append([int(torch.randint(2**31, (), generator=generator))])
        return pixels

    class Loss(nn.Module):
        def forward(self, logits, labels):
            seen[-1].append(int(torch.randint(2**31, ())))  # where dropout would draw
            return logits.sum()

    monkeypatch.setattr(lit, "augment", record)
    monkeypatch.setattr(LesionClassifier, "log", lambda *args, **kwargs: None)
    batch = (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), torch.arange(2))
    for seed, epoch, step in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0)]:
        monkeypatch.setattr(LesionClassifier, "current_epoch", epoch)
        module = new_module(seed=seed)
        module.loss = Loss()
        torch.rand(1)  # the state before a step does not matter
        module.training_step(batch, step)
    for draws in zip(*seen, strict=True):
        assert len(set(draws[:4])) == 4
        assert draws[4] == draws[0]
    assert all(images != dropout for images, dropout in seen)


def rates(monkeypatch, steps: int, epochs: int, **options) -> dict[str, list[float]]:
    """The rate of each group in each step of a training."""
    trainer = SimpleNamespace(estimated_stepping_batches=steps, max_epochs=epochs)
    monkeypatch.setattr(LesionClassifier, "trainer", trainer)
    made = new_module(**options).configure_optimizers()
    if isinstance(made, torch.optim.Optimizer):
        return {group["name"]: [group["lr"]] * steps for group in made.param_groups}
    scheduler = made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    seen = {group["name"]: [] for group in made["optimizer"].param_groups}
    for _ in range(steps):
        for group in made["optimizer"].param_groups:
            seen[group["name"]].append(group["lr"])
        made["optimizer"].step()
        scheduler.step()
    return seen


def test_rates_rise_and_fall_step_by_step(monkeypatch):
    """Three of eleven steps to warm up; then half a cosine over the other eight."""
    seen = rates(monkeypatch, 11, 4, lr=0.4, gate_lr=4.0, gates=("channel",), warmup_epochs=1.1)
    falls = [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]
    expected = [0.25, 0.5, 0.75, *falls]
    assert [*seen] == ["weights", "no decay", "gates", "gates no decay"]
    for name, found in seen.items():
        full = 4.0 if name.startswith("gates") else 0.4
        assert found == pytest.approx([full * share for share in expected], rel=1e-5)


def test_without_warm_up_the_rates_are_those_of_torch(monkeypatch):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    expected = []
    for _ in range(10):
        expected.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert rates(monkeypatch, 10, 5, lr=0.4)["weights"] == pytest.approx(expected)


def test_a_constant_rate_may_be_warmed_up(monkeypatch):
    seen = rates(monkeypatch, 6, 3, lr=0.4, schedule="constant", warmup_epochs=0.5)["weights"]
    assert seen == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4, 0.4])
    assert rates(monkeypatch, 6, 3, lr=0.4, schedule="constant")["no decay"] == [0.4] * 6


@pytest.mark.parametrize(("steps", "shares"), [(1, [1]), (2, [0.5, 1])])
def test_a_warm_up_leaves_one_of_few_steps(monkeypatch, steps, shares):
    seen = rates(monkeypatch, steps, 1, lr=0.4, warmup_epochs=0.9)["weights"]
    assert seen == pytest.approx([0.4 * share for share in shares])


@pytest.mark.parametrize("warmup", [-1, float("nan"), float("inf"), 3])
def test_a_warm_up_that_leaves_no_epoch_is_refused(monkeypatch, warmup):
    with pytest.raises(ValueError, match=f"warmup_epochs must be .* {warmup:g}"):
        rates(monkeypatch, 6, 3, warmup_epochs=warmup)


def test_layers_of_gates_and_biases_have_groups_of_their_own(monkeypatch):
    """The network's own SE blocks, as the control of what makes gates of places."""
    monkeypatch.setattr(LesionClassifier, "trainer", None)
    options = {"lr": 1e-3, "weight_decay": 0.1, "schedule": "constant"}
    module = new_module(**options, gate_lr=0.02, gate_weight_decay=0.3, gates=("channel",))
    optimizer = module.configure_optimizers()
    known = {p: name for name, p in module.named_parameters()}
    assert {p for group in optimizer.param_groups for p in group["params"]} == known.keys()
    for group in optimizer.param_groups:
        for p in group["params"]:
            of_gate, vector = ".se." in known[p], p.ndim == 1
            assert group["lr"] == (0.02 if of_gate else 1e-3)
            assert group["weight_decay"] == (0 if vector else 0.3 if of_gate else 0.1)
    with pytest.raises(ValueError, match="gate_lr is for layers that make gates of rows"):
        new_module(gate_lr=0.02)


def test_recomputed_statistics_are_those_of_the_training_images():
    class Module(nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3, momentum=0.01)

        def forward(self, pixels):
            return self.bn(pixels.double())

    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 10, 10), dtype=np.uint8)
    module = Module().double().eval()
    part = SkinLesions(pixels, [0] * 8, range(8))
    RecomputeBatchNorm(part, 4, 8, seed=0).on_validation_start(None, module)
    seen = pixels[:, :, 1:9, 1:9].astype(float)
    np.testing.assert_allclose(module.bn.running_mean, seen.mean((0, 2, 3)))
    expected = np.mean([seen[h].var((0, 2, 3), ddof=1) for h in (slice(4), slice(4, 8))], axis=0)
    np.testing.assert_allclose(module.bn.running_var, expected, rtol=0.02)
    assert not module.training


@pytest.mark.parametrize(("choice", "count"), [("yes", 2), ("no", 0), ("auto", 0)])
def test_statistics_are_recomputed_before_each_validation_if_asked(
    run, tmp_path, monkeypatch, choice, count
):
    calls = []
    monkeypatch.setattr(RecomputeBatchNorm, "on_validation_start", lambda *args: calls.append(1))
    options = ["--epochs", "2", "--recompute-bn", choice, "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(tmp_path / "r")]) == 0
    assert len(calls) == count


def test_only_slow_averages_are_recomputed():
    assert statistics_lag(build_network("tv/mobilenet_v3_small", 7, "none", "SE").model)
    assert not statistics_lag(build_network("tv/resnet18", 7, "none", "none").model)


@pytest.mark.parametrize(
    "loss", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("focal", "ldam")), "joint"]
)
def test_every_loss_trains(run, tmp_path, loss):
    data = ["--data", str(run / "synthetic"), "--batch-size", "16", "--lr", "1e-3"]
    options = ["--loss", loss, "--epochs", "6", "--drw-start", "0.9", "--monitor", "val_loss"]
    if loss == "focal":
        options[4:6] = ["--class-weights", "balanced"]
    out = tmp_path / "r"
    assert main([*QUICK, *data, *options, "--recompute-bn", "yes", "--out", str(out)]) == 0
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    train = [float(row["SYNTHETIC_train_loss"]) for row in rows]
    assert train[-2] < train[0]
    assert loss == "focal" or train[-1] > train[-2]  # class weights, from the last epoch on
    val = [float(row["SYNTHETIC_val_loss"]) for row in rows]
    checkpoint = torch.load(out / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == int(np.argmin(val))
    assert ("model.classifier.bias" in checkpoint["state_dict"]) == (loss == "focal")


def test_mixed_precision_trains_in_bfloat16(run, tmp_path, monkeypatch):
    seen = []
    forward = LesionClassifier.forward

    def record(self, pixels):
        logits = forward(self, pixels)
        seen.append((self.training, self.trainer.testing, logits.dtype))
        return logits

    monkeypatch.setattr(LesionClassifier, "forward", record)
    options = ["--precision", "bf16-mixed", "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(tmp_path / "r")]) == 0
    assert {dtype for training, _, dtype in seen if training} == {torch.bfloat16}
    assert {dtype for _, testing, dtype in seen if testing} == {torch.float32}


def test_the_gradient_is_clipped_to_its_norm(run, tmp_path, monkeypatch):
    norms = []

    def record(self, optimizer):
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        if grads[0] is not None:  # before the first step there are none
            norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    monkeypatch.setattr(LesionClassifier, "on_before_zero_grad", record)
    options = ["--clip-grad-norm", "0.01", "--data", str(run / "synthetic")]
    assert main([*QUICK, *options, "--out", str(tmp_path / "r")]) == 0
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_the_loop_and_the_network_alone_are_timed(run, tmp_path, capsys):
    options = ["--data", str(run / "synthetic"), "--batch-size", "32"]
    assert main([*QUICK, *options, "--out", str(tmp_path / "r")]) == 0
    (line,) = re.findall(
        r"images per second: (\d+) in the loop, (\d+) by the network alone .*ratio (\d\.\d\d)",
        capsys.readouterr().out,
    )
    loop, alone, ratio = map(float, line)
    assert loop / alone == pytest.approx(ratio, abs=0.02)


def test_the_validation_loss_is_that_of_the_whole_part_without_class_weights(run, tmp_path):
    """Batches of few classes: weights that each batch divides by their own sum would cancel."""
    data, out = ["--data", str(run / "synthetic")], tmp_path / "r"
    options = ["--class-weights", "balanced", "--batch-size", "16", "--image-size", "64"]
    assert main([*QUICK, *data, *options, "--lr", "1e-5", "--out", str(out)]) == 0
    options = ["--run", str(out), "--split", "val", "--out", str(tmp_path / "val")]
    assert main(["evaluate", *data, *options]) == 0
    split = csv.DictReader((out / "split.csv").open())
    truth = {row["image_id"]: row["dx"].upper() for row in split}
    rows = csv.DictReader((tmp_path / "val" / "val.csv").open())
    expected = -np.mean([np.log(float(row[truth[row["image"]]])) for row in rows])
    (row,) = csv.DictReader((out / "metrics.csv").open())
    assert float(row["SYNTHETIC_val_loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_worker_opens_the_file_of_the_images_again(tmp_path):
    pixels = np.arange(9 * 3 * 64 * 64, dtype=np.uint8).reshape(9, 3, 64, 64)
    np.save(tmp_path / "pixels.npy", pixels)
    part = SkinLesions(np.load(tmp_path / "pixels.npy", mmap_mode="r"), list(range(9)), [8, 2])
    pickled = pickle.dumps(part)
    assert len(pickled) < 10_000
    for (image, *rest), (expected, *others) in zip(pickle.loads(pickled), part, strict=True):
        assert torch.equal(image, expected)
        assert rest == others
    assert torch.equal(
        pickle.loads(pickle.dumps(SkinLesions(pixels, [0] * 9, [3])))[0][0],
        torch.from_numpy(pixels[3]),
    )
