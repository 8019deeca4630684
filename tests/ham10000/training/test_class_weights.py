"""Weights of the classes: their formulas, and from which epoch on they are on."""

import math
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from examples.ham10000.losses import (
    LDAM,
    DeferredReweighting,
    Focal,
    Joint,
    balanced_weights,
    drw_weights,
)
from examples.ham10000.model import CosineClassifier
from tests.ham10000.training.by_hand import COUNTS, WEIGHT


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
