"""Every augmented image is one that the paper's augmentation can make, with draws of its own."""

from collections import Counter

import numpy as np
import torch
from PIL import Image, ImageEnhance

from examples.ham10000.data import batches as module
from examples.ham10000.data.batches import augment, canvas_size, center_crop


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_crops_and_turns_have_the_frequencies_of_their_draws(monkeypatch):
    """Each of two flips by a fair coin, one of three turns: 12 draws for 8 views, 2 or 1 each."""
    monkeypatch.setattr(module, "COLOUR_CHANGES", [None])
    pixels = np.arange(7 * 7, dtype=np.uint8).reshape(7, 7)
    share = {}
    for top in range(3):
        for left in range(3):
            crop = pixels[top : top + 5, left : left + 5]
            for flips in (crop, crop[:, ::-1], crop[::-1], crop[::-1, ::-1]):
                for k in range(3):
                    view = np.rot90(flips, k).tobytes()
                    share[view] = share.get(view, 0) + 1 / (9 * 12)
    assert len(share) == 9 * 8
    count = 10_800
    out = augment(torch.from_numpy(pixels).expand(count, 3, 7, 7), 5, generator())
    assert torch.equal(out[:, 0], out[:, 1])
    seen = Counter(image.numpy().tobytes() for image in out[:, 0])
    assert seen.keys() == share.keys()
    assert all(abs(seen[v] - count * p) < 5 * (count * p) ** 0.5 for v, p in share.items())


def test_colour_changes_are_those_of_pillow(monkeypatch):
    monkeypatch.setattr(module, "TURNS", [None])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    pixels = np.concatenate([pixels, pixels[:, ::-1]], axis=1)  # flips change nothing
    pixels = np.concatenate([pixels, pixels[::-1]], axis=0)
    image = Image.fromarray(pixels)
    variants = [pixels] + [
        np.asarray(enhance(image).enhance(factor))
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for factor in (0.8, 0.9, 1.1, 1.2)
    ]
    batch = torch.from_numpy(pixels).permute(2, 0, 1).expand(400, 3, 12, 12)
    out = augment(batch, 12, generator()).permute(0, 2, 3, 1).numpy().astype(int)
    distance = np.stack([np.abs(out - v).max((1, 2, 3)) for v in variants])
    assert (distance.min(0) <= 2).all()
    assert set(distance.argmin(0)) == set(range(13))


def test_the_generator_is_the_only_source_of_randomness():
    batch = torch.randint(0, 256, (16, 3, 12, 12), dtype=torch.uint8, generator=generator())
    before = batch.clone()
    state = torch.get_rng_state()
    one, same, other = (augment(batch, 8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(batch, before)


def test_evaluation_sees_the_centre():
    assert (canvas_size(224), canvas_size(112)) == (256, 128)
    batch = torch.arange(36, dtype=torch.uint8).reshape(1, 1, 6, 6).expand(2, 3, 6, 6)
    assert torch.equal(center_crop(batch, 2)[0, 0], torch.tensor([[14, 15], [20, 21]]).byte())
