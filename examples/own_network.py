"""A network of your own with attention built in: a small ResNet, on scikit-learn's digits.

``python -m examples.own_network`` trains it with and without CaCo, some seconds each.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attnblocks import CaCo
from attnblocks.visualize import attention_maps, site_statistics


class Residual(nn.Module):
    """Two 3x3 convolutions, attention to what they add, and the way past both.

    Args:
        in_channels: channels of the map that comes in.
        channels: channels of the map that goes out.
        stride: of the first convolution.
        attention: whether CaCo gates what the convolutions add.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, attention: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.attention = CaCo(channels) if attention else nn.Identity()
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        return torch.relu(self.shortcut(x) + self.attention(self.branch(x)))


def small_resnet(in_channels: int, classes: int, attention: bool = True) -> nn.Sequential:
    """A stem, three residual blocks of 32, 64 and 96 channels, and a linear head."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1),
        Residual(32, 32, 1, attention),
        Residual(32, 64, 2, attention),
        Residual(64, 96, 2, attention),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, classes),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, batch: int = 64) -> None:
    """Train with AdamW and one rise and fall of the rate; torch's seed decides the order."""
    steps = epochs * -(-len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(images)), batch):
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(model(images[chosen]), labels[chosen]))
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that are classified right."""
    right: Tensor = model(images).argmax(dim=1) == labels
    return right.double().mean().item()


def main(epochs: int = 8, seed: int = 0) -> dict[str, float]:
    """Train both networks and print how they do; the same seed gives the same numbers.

    Returns:
        Accuracy on the test images, by network.
    """
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float()[:, None] / 16  # (N, 1, 8, 8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        pixels, torch.from_numpy(digits.target), test_size=450, random_state=0
    )
    found = {}
    for name, attention in {"plain": False, "CaCo": True}.items():
        torch.manual_seed(seed)
        model = small_resnet(in_channels=1, classes=10, attention=attention)
        train(model, train_images, train_labels, epochs)
        found[name] = accuracy(model, test_images, test_labels)
        print(f"{name:5}  accuracy {found[name]:.3f} on {len(test_images)} test images")
    print("One seed: a difference of a few images says nothing about the blocks.")
    for gate in site_statistics(attention_maps(model, test_images)):
        print(f"{gate.site:11}  {gate.gate:7} mean {gate.mean:.2f}  spread {gate.spread:.3f}")
    return found


if __name__ == "__main__":
    main()
