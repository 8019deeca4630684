"""The parts of the HAM10000 pipeline on images of your own, in a folder for each class.

``python -m examples.own_images DIR`` takes DIR/cat/1.jpg, DIR/dog/1.jpg, ... A tenth of each class
is tested, a tenth chooses the epoch. Deal out patients, not images, where one has several.
"""

import argparse
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchvision.datasets import ImageFolder

from examples.ham10000.data import batches
from examples.ham10000.data.images import load_image
from examples.ham10000.losses import build_loss
from examples.ham10000.metrics import figures
from examples.ham10000.model import build_network
from examples.ham10000.module import LesionClassifier


def main(folder: Path, model: str, weights: str, epochs: int, size: int = 112) -> dict[str, float]:
    """Train, test once, and give the figures; ``best.ckpt`` lies beside ``folder``."""
    found = ImageFolder(folder)
    labels, names = torch.tensor(found.targets), found.classes
    if labels.bincount().min() < 10:
        raise ValueError(f"{folder} has a class of fewer than 10 images: no tenth of it is whole")
    images = [load_image(Path(path), batches.canvas_size(size)) for path, _ in found.samples]
    pixels = torch.stack(images).numpy()
    rank = torch.empty_like(labels)  # of each image in its class, in random order
    for label in range(len(names)):
        own = (labels == label).nonzero().squeeze(1)
        rank[own] = torch.randperm(len(own), generator=torch.Generator().manual_seed(label))
    test, val, train = (
        batches.SkinLesions(pixels, found.targets, chosen.nonzero().squeeze(1).tolist())
        for chosen in (rank % 10 == 0, rank % 10 == 1, rank % 10 > 1)
    )
    init = "fresh" if weights == "none" else "inherit"  # from the SE blocks that were trained
    network = build_network(model, len(names), weights, "CaCo", init, image_size=size)
    loss = build_loss("cross-entropy", labels[train.positions].bincount().tolist())
    module = LesionClassifier(network, loss, num_classes=len(names), image_size=size)
    best = ModelCheckpoint(folder.parent, "best", monitor="val_mean_recall", mode="max")
    trainer = L.Trainer(max_epochs=epochs, callbacks=[best], logger=False)
    shuffled, once = batches.training_loader, batches.evaluation_loader
    trainer.fit(module, shuffled(train, 32, seed=0), once(val, 32))
    trainer.test(module, once(test, 32), ckpt_path="best")
    positions, logits = module.predictions.compute()
    counts = multiclass_confusion_matrix(logits, labels[positions], len(names))
    return {name: value.item() for name, value in figures(counts, names).items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="with a folder of images for each class")
    parser.add_argument("--model", default="tv/mobilenet_v3_small", help="tv/NAME or timm/NAME")
    parser.add_argument("--weights", default="none", help="none, imagenet, or a file")
    parser.add_argument("--epochs", type=int, default=8)
    print(main(**vars(parser.parse_args())))
