"""What happens in the steps of a training."""

import pickle
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from examples.ham10000 import module as lit
from examples.ham10000.callbacks import RecomputeBatchNorm, recomputes_bn
from examples.ham10000.data.batches import SkinLesions, evaluation_loader, training_loader
from examples.ham10000.model import Network, build_network
from examples.ham10000.module import LesionClassifier
from tests.ham10000.runs import MODEL


def order(part: SkinLesions, seed: int, epoch: int, workers: int = 0) -> list[int]:
    batches = training_loader(part, 8, seed=seed, workers=workers)
    batches.sampler.set_epoch(epoch)
    return [i for *_, positions in batches for i in positions.tolist()]


def test_the_order_is_a_function_of_seed_and_epoch():
    part = SkinLesions(np.zeros((40, 3, 4, 4), np.uint8), [0] * 40, range(40))
    orders = [order(part, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(one) == list(range(40)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(part, 1, 1) == order(part, 1, 1, workers=2) == orders[3]
    batches = training_loader(SkinLesions(part.pixels, part.labels, range(13)), 8, seed=0)
    assert [len(labels) for _, labels, _ in batches] == [8]  # whole batches only


@pytest.mark.parametrize("mapped", [True, False])
def test_a_part_holds_its_images_and_a_worker_opens_their_file_again(mapped, tmp_path):
    pixels = np.arange(10, dtype=np.uint8).repeat(3 * 64 * 64).reshape(10, 3, 64, 64)
    np.save(tmp_path / "pixels.npy", pixels)
    given = np.load(tmp_path / "pixels.npy", mmap_mode="r") if mapped else pixels
    part = SkinLesions(given, [10 + i for i in range(10)], [7, 2, 5])
    pickled = pickle.dumps(part)
    assert (len(pickled) < 10_000) == mapped
    for held in (part, pickle.loads(pickled)):
        found = [(set(image.flatten().tolist()), *rest) for image, *rest in held]
        assert found == [({7}, 17, 7), ({2}, 12, 2), ({5}, 15, 5)]
        seen = [i for *_, positions in evaluation_loader(held, 2) for i in positions.tolist()]
        assert seen == [7, 2, 5]


def new_module(**options) -> LesionClassifier:
    network = build_network(MODEL, options.get("num_classes", 7), "none", "SE")
    given = {"image_size": 8, "num_classes": 7, **options}
    return LesionClassifier(network, nn.CrossEntropyLoss(), **given)


@pytest.mark.filterwarnings("ignore")  # Lightning warns of slow loaders
def test_any_trainer_trains_any_number_of_classes(tmp_path):
    """Three classes that differ in brightness, as a plain data set gives them."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 60, (48, 3, 36, 36), dtype=torch.uint8)
    labels = torch.arange(48) % 3
    images = pixels + 90 * labels[:, None, None, None].to(torch.uint8)
    batches = DataLoader([*zip(images, labels, range(48), strict=True)], batch_size=8)
    module = new_module(num_classes=3, image_size=32, lr=5e-3)
    trainer = L.Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches, batches)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = ("loss", "accuracy", "mean_recall", "macro_f1")
    assert {*found} == {"train_loss", *(f"val_{name}" for name in names)}
    trainer.test(module, batches, verbose=False)
    positions, logits = module.predictions.compute()
    assert positions == list(range(48))
    hits = logits.argmax(dim=1) == labels
    assert found["val_accuracy"] == pytest.approx(hits.double().mean().item())
    recalls = [hits[labels == label].double().mean().item() for label in range(3)]
    assert found["val_mean_recall"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(("ids", "named"), [(["a", "b", "c", "d"], "d, b"), ([], "3, 1")])
def test_a_loss_that_is_not_finite_names_the_images(monkeypatch, ids, named):
    module = new_module(image_ids=ids)
    monkeypatch.setattr(module.loss, "forward", lambda logits, labels: logits.sum() * torch.nan)
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(FloatingPointError, match=rf"the loss is nan .*, step 6: .*step: {named}$"):
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
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]
    assert scheduler["interval"] == "step"
    seen = {group["name"]: [] for group in optimizer.param_groups}
    for _ in range(steps):
        for group in optimizer.param_groups:
            seen[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler["scheduler"].step()
    return seen


def cosine(steps: int) -> list[float]:
    """The shares of PyTorch's own schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    shares = []
    for _ in range(steps):
        shares += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return shares


@pytest.mark.parametrize(
    ("steps", "epochs", "options", "shares"),
    [
        # Three of eleven steps to warm up; then torch's cosine over the others.
        (11, 4, {"warmup_epochs": 1.1}, [0.25, 0.5, 0.75, *cosine(8)]),
        (10, 5, {}, cosine(10)),
        (6, 3, {"schedule": "constant", "warmup_epochs": 0.5}, [0.5, 1, 1, 1, 1, 1]),
        (6, 3, {"schedule": "constant"}, [1] * 6),
        # A warm-up leaves one of few steps.
        (1, 1, {"warmup_epochs": 0.9}, [1]),
        (2, 1, {"warmup_epochs": 0.9}, [0.5, 1]),
    ],
)
def test_rates_rise_and_fall_step_by_step(monkeypatch, steps, epochs, options, shares):
    own = {"lr": 0.4, "gate_lr": 4.0, "gates": ("channel",)}
    seen = rates(monkeypatch, steps, epochs, **own, **options)
    assert [*seen] == ["weights", "no decay", "gates", "gates no decay"]
    for name, found in seen.items():
        full = 4.0 if name.startswith("gates") else 0.4
        assert found == pytest.approx([full * share for share in shares], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"warmup_epochs": v}, rf"warmup_epochs must be .* {v:g}") for v in (-1, np.nan, np.inf)),
        ({"warmup_epochs": 3}, "warmup_epochs must be below the 3 epochs .* 3"),
        ({"schedule": "x"}, "schedule must be one of cosine, constant; got 'x'"),
        ({"gate_lr": 0.02}, "gate_lr is for layers that make gates of rows"),
    ],
)
def test_rates_that_cannot_be_are_refused(monkeypatch, options, message):
    with pytest.raises(ValueError, match=message):
        rates(monkeypatch, 6, 3, **options)


def test_layers_of_gates_and_biases_have_groups_of_their_own(monkeypatch):
    """The network's own SE blocks, as the control of what makes gates of places."""
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


def test_recomputed_statistics_are_those_of_the_training_images_as_the_network_sees_them():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 10, 10), dtype=np.uint8)
    norm, mean, std = nn.BatchNorm2d(3, momentum=0.01), (0.485, 0.456, 0.406), (0.2, 0.3, 0.4)
    network, loss = Network(norm, mean, std, ()), nn.CrossEntropyLoss()
    module = LesionClassifier(network, loss, num_classes=3, image_size=8).eval()
    part = SkinLesions(pixels, [0] * 8, range(8))
    RecomputeBatchNorm(part, 4, 8, seed=0).on_validation_start(None, module)
    seen = (pixels[:, :, 1:9, 1:9] / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    expected = np.mean([seen[h].var((0, 2, 3), ddof=1) for h in (slice(4), slice(4, 8))], axis=0)
    np.testing.assert_allclose(norm.running_var, expected, rtol=0.02)
    assert not module.training


def test_only_slow_averages_are_recomputed_unless_asked():
    def recomputed(choice: str, model: nn.Module) -> bool:
        return recomputes_bn(SimpleNamespace(recompute_bn=choice, model="a/b"), model)

    slow = build_network("tv/mobilenet_v3_small", 7, "none", "SE").model
    usual = build_network("tv/resnet18", 7, "none", "none").model
    for choice, expected in {"auto": [True, False], "yes": [True] * 2, "no": [False] * 2}.items():
        assert [recomputed(choice, slow), recomputed(choice, usual)] == expected
    with pytest.raises(ValueError, match="--recompute-bn yes: a/b has no batch norm"):
        recomputed("yes", nn.Linear(2, 2))
