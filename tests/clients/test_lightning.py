"""Lightning: checkpoints, averages of weights, and Fabric."""

import lightning as L
import pytest
import torch
from lightning.fabric import Fabric
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attnblocks import apply_recipe, find_se, recipe, replace_se
from tests.clients.attended import IMAGES, attended, plain

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


class Task(L.LightningModule):
    """As on the page of the docs: the recipe is a hyperparameter, and so in every checkpoint."""

    def __init__(self, blocks: list):
        super().__init__()
        self.save_hyperparameters()
        self.model = apply_recipe(plain(), blocks)

    def training_step(self, batch, index):
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fitted(folder, *callbacks):
    network = attended()
    task = Task(recipe(network))
    task.model.load_state_dict(network.state_dict())
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    labels = torch.arange(len(IMAGES)) % 5
    trainer.fit(task, DataLoader(TensorDataset(IMAGES, labels), batch_size=2))
    return trainer, task


def test_a_checkpoint_builds_its_blocks_and_goes_on(tmp_path):
    trainer, task = fitted(tmp_path)
    path = trainer.checkpoint_callback.best_model_path
    loaded = Task.load_from_checkpoint(path, weights_only=True)
    assert recipe(loaded.model) == recipe(task.model)
    assert torch.equal(loaded.model.eval()(IMAGES), task.model.eval()(IMAGES))


def test_an_average_of_weights_ends_in_the_network(tmp_path):
    seen = []

    class Notes(EMAWeightAveraging):
        def on_train_batch_end(self, trainer, module, *args):
            seen.append({k: v.clone() for k, v in module.model.state_dict().items()})
            super().on_train_batch_end(trainer, module, *args)

    start = {k: v.clone() for k, v in attended().state_dict().items()}
    _, task = fitted(tmp_path, Notes(decay=0.5))
    assert len(seen) == 4
    key = "se.coord.conv_h.weight"
    wanted = None
    for state in seen:
        wanted = state[key] if wanted is None else 0.5 * wanted + 0.5 * state[key]
    assert not torch.equal(wanted, start[key])
    torch.testing.assert_close(task.model.state_dict()[key], wanted)
    assert recipe(task.model) == recipe(attended())


def test_fabric_is_looked_into_and_refused_where_it_would_be_changed():
    network = attended()
    wrapped = Fabric(accelerator="cpu", devices=1).setup(network)
    assert recipe(wrapped) == recipe(network)
    assert [site.name for site in find_se(wrapped)] == [site.name for site in find_se(network)]
    with pytest.raises(TypeError, match=r"cannot change a _FabricModule: .*model\.module"):
        replace_se(wrapped, "SE")
