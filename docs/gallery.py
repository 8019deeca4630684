"""The pictures of ``docs/attention.md``, into ``docs/images/attention``.

``python -m docs.gallery`` trains a small network with CaCo on one set of SYNTHETIC pictures, some
minutes on one core, and draws what its blocks do to pictures of another set.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.v2.functional import pad

from attnblocks import gate_report
from attnblocks.visualize import attention_maps, show_attention
from examples.ham10000.data.batches import augment
from examples.ham10000.data.images import load_image
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.synthetic import write_synthetic
from examples.own_network import small_resnet

FOLDER = Path(__file__).parent / "images" / "attention"
SIZE = 96
MARGIN = 16  # how far a lesion moves in training


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    """Synthetic pictures, uint8 (N, 3, SIZE, SIZE), and their labels."""
    with TemporaryDirectory() as folder:
        write_synthetic(Path(folder), seed)
        images = read_index(Path(folder))
        pixels = torch.stack([load_image(image.path, SIZE) for image in images])
    return pixels, torch.tensor([image.label for image in images])


def as_input(pixels: Tensor) -> Tensor:
    """What the network takes: uint8 to floats around 0."""
    return pixels.float() / 127.5 - 1


def train(model: nn.Module, pixels: Tensor, labels: Tensor, epochs: int, batch: int = 32) -> None:
    """Train with the augmentation of the pipeline, on lesions that lie anywhere."""
    generator = torch.Generator().manual_seed(0)
    canvas = pad(pixels, [MARGIN], padding_mode="edge")
    steps = epochs * -(-len(pixels) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(pixels), generator=generator), batch):
            optimizer.zero_grad()
            outputs = model(as_input(augment(canvas[chosen], SIZE, generator)))
            torch.autograd.backward(cross_entropy(outputs, labels[chosen]))
            optimizer.step()
            schedule.step()
    model.eval()


def draw(model: nn.Module, picture: Tensor, site: str, path: Path) -> None:
    """Write what the block at a site does to one picture, uint8 (3, SIZE, SIZE)."""
    attention = attention_maps(model, as_input(picture[None]))[site]
    figure = show_attention(picture, attention)
    figure.savefig(path, dpi=90, pil_kwargs={"quality": 85})


def main(folder: Path = FOLDER, epochs: int = 30) -> None:
    """Train, print what the gates do, and write all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    # Half the size is enough, and four times as fast.
    model = nn.Sequential(nn.AvgPool2d(2), *small_resnet(in_channels=3, classes=len(CLASSES)))
    model.eval()
    shown, labels = pictures(seed=1)
    samples = {dx: shown[labels == label][2] for label, dx in enumerate(CLASSES)}
    first, second, third = (f"{index}.attention" for index in (2, 3, 4))
    draw(model, samples["nv"], second, folder / "untrained.jpg")
    train(model, *pictures(seed=0), epochs)
    with torch.no_grad():
        right = model(as_input(shown)).argmax(dim=1) == labels
    print(f"accuracy on other synthetic pictures: {right.double().mean().item():.3f}")
    print(gate_report(model, as_input(shown[::4]), labels=labels[::4]))
    for number, site in enumerate((first, second, third), start=1):
        draw(model, samples["nv"], site, folder / f"block-{number}.jpg")
    for dx in ("mel", "bkl", "vasc"):
        draw(model, samples[dx], second, folder / f"block-2-{dx}.jpg")
    # The same picture, with its lesion in the lower right.
    moved = pad(samples["nv"], [MARGIN, MARGIN, 0, 0], padding_mode="reflect")[:, :SIZE, :SIZE]
    draw(model, moved, second, folder / "block-2-moved.jpg")


if __name__ == "__main__":
    main()
