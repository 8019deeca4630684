"""Fine-tuning: mean recall on the validation part, epoch by epoch."""

from pathlib import Path

from torch import nn

from benchmarks.warm_start.setup import BATCH_SIZE, IMAGE_SIZE, Lesions
from examples.ham10000.data.dataset import evaluation_loader, training_loader
from examples.ham10000.evaluation.evaluate import new_trainer
from examples.ham10000.training.epoch_log import EpochLog
from examples.ham10000.training.lit import LesionClassifier
from examples.ham10000.training.models import Network

EPOCHS = 8


def finetune(network: Network, lesions: Lesions, seed: int, file: Path) -> None:
    """Train at a constant rate (AdamW, the pipeline's defaults) and write the log of the epochs."""
    module = LesionClassifier(
        network, nn.CrossEntropyLoss(), image_size=IMAGE_SIZE, seed=seed, schedule="constant"
    )
    partial = file.with_suffix(".partial")
    trainer = new_trainer(
        max_epochs=EPOCHS, callbacks=[EpochLog(partial)], enable_checkpointing=False
    )
    trainer.fit(
        module,
        training_loader(lesions.part(lesions.train), BATCH_SIZE, seed=seed),
        evaluation_loader(lesions.part(lesions.val), BATCH_SIZE),
    )
    partial.replace(file)
