"""What is a map, by three runs or by the operations that made it, and what is said of the rest."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnblocks.swap.observe import observe

IMAGES = torch.rand(2, 3, 32, 24)


class Form(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x: Tensor):
        return self.form(x)


class Returns(nn.Module):
    """Gives a tensor in other forms, and a map at the end."""

    def __init__(self, form):
        super().__init__()
        self.form = Form(form)

    def forward(self, x: Tensor) -> Tensor:
        self.form(x)
        return x * 2


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (lambda x: (x, x), "a tuple"),
        (lambda x: {"a": x}, "a dict"),
        (lambda x: None, "nothing"),
        (lambda x: 3, "an int"),
        (lambda x: x.flatten(2), "a tensor of shape (2, 3, 768)"),
        (
            lambda x: x.permute(0, 2, 3, 1),
            "a tensor of shape (2, 32, 24, 3), whose channels are not at axis 1",
        ),
        (
            lambda x: x.mean(3, keepdim=True),
            "a tensor of shape (2, 3, 32, 1), which does not follow the height and width of the "
            "input",
        ),
    ],
)
def test_what_is_no_map_is_said_in_words(form, words):
    seen = observe(Returns(form), IMAGES)
    assert seen["form"].returned == words
    assert (seen["form"].channels, seen["form"].height, seen["form"].width) == (None, 0, 0)
    assert seen[""].channels == 3


class OneSize(nn.Module):
    """Takes 32 x 24 only; returns one map as it is and one with the channels at the end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.act = nn.Hardswish()
        self.block = Form(lambda x: x + x.clamp(min=0))
        self.last = Form(lambda x: x.permute(0, 2, 3, 1))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (32, 24), "other size"
        return self.norm(self.last(self.block(self.act(self.conv(x)))))


def test_a_network_of_one_size_has_the_maps_that_operations_tell():
    seen = observe(OneSize(), IMAGES)
    assert [n for n, s in seen.items() if s.channels is not None] == ["conv", "act", "block"]
    assert seen["norm"].returned == (
        "a tensor of shape (2, 32, 24, 8), whose axes cannot be told apart, as the network does "
        "not run at another size"
    )


def test_a_network_that_stops_half_way_at_other_sizes(caplog, capfd):
    """And PyTorch's log of the failures is not heard, nor silenced afterwards."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Form(torch.relu), nn.Flatten(), nn.Linear(2640, 2))
    seen = observe(model, IMAGES)
    assert [n for n, s in seen.items() if s.channels is not None] == ["0", "1"]
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("torch._subclasses.fake_tensor").disabled


class ShortSide(nn.Module):
    """Scales its images to a shorter side of 16, as detection networks do."""

    def __init__(self):
        super().__init__()
        self.scale = Form(lambda x: F.interpolate(x, scale_factor=16 / min(x.shape[2:])))
        self.unknown = Form(torch.abs)
        self.last = Form(lambda x: x.abs().movedim(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.unknown(self.scale(x)))


def test_a_network_that_scales_its_images_to_a_shorter_side():
    seen = observe(ShortSide(), torch.rand(1, 3, 32, 32))
    assert [n for n, s in seen.items() if s.channels is not None] == ["scale", "unknown"]
    assert seen["last"].returned.endswith("whose channels are not at axis 1")
