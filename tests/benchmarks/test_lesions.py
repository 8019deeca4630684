"""The images of the benchmarks are those of the example, and so are their parts."""

from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import lesions
from benchmarks.warm_start.setup import keep_from_test
from examples.ham10000.data.images import load_image
from examples.ham10000.data.index import read_index
from examples.ham10000.data.splits import draw_split
from examples.ham10000.model import build_network


def test_index_splits_and_pixels_are_those_of_the_example(ham10000, tmp_path):
    images, expected = lesions.read_index(ham10000), read_index(ham10000)
    for name in ("image_id", "lesion_id", "lesion", "label", "path"):
        assert [getattr(i, name) for i in images] == [getattr(i, name) for i in expected]
    assert lesions.split(images, 1) == draw_split(expected, 1, "lesion")
    for fold in range(lesions.FOLDS):
        assert lesions.split(images, 2, fold) == draw_split(expected, 2, "lesion", 5, fold)
    some = images[::900]
    decoded = lesions.load_all(some, 56, tmp_path)
    for pixels, image in zip(decoded, some, strict=True):
        np.testing.assert_array_equal(pixels, load_image(image.path, 64))
    assert not decoded.flags.writeable
    (file,) = tmp_path.glob("*.npy")
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(lesions.load_all(some, 56, tmp_path), decoded)
    assert file.stat().st_mtime_ns == written


def test_no_lesion_is_in_two_parts_and_the_test_part_is_in_none(ham10000):
    images = lesions.read_index(ham10000)
    kept, train, val = keep_from_test(images)
    test = {images[i].image_id for i in lesions.split(images, seed=0)["test"]}
    shown = [{kept[i].lesion for i in part} for part in (train, val)]
    assert not shown[0] & shown[1]
    assert not test & {image.image_id for image in kept}
    assert sorted(train + val) == list(range(len(kept))) == list(range(len(images) - len(test)))
    assert abs(len(val) / len(kept) - 0.2) < 0.01
    folds = lesions.deal(images)
    of_lesion = {(image.lesion, fold) for image, fold in zip(images, folds, strict=True)}
    assert len(of_lesion) == len({image.lesion for image in images})
    assert max(Counter(folds).values()) - min(Counter(folds).values()) <= 1


def test_networks_are_those_of_the_example(imagenet_weights, tmp_path):
    name = "timm/tf_mobilenetv3_small_075"
    L.seed_everything(1, verbose=False)
    expected = build_network(name, 7, str(imagenet_weights), "SE")
    L.seed_everything(1, verbose=False)
    found = lesions.build_network(name, imagenet_weights)
    torch.testing.assert_close(
        found.model.state_dict(), expected.model.state_dict(), rtol=0, atol=0
    )
    assert (found.mean, found.std, (found.head,)) == (expected.mean, expected.std, expected.head)
    for change in ({"none.weight": torch.ones(1)}, {"conv_stem.weight": None}):
        state = {k: v for k, v in {**found.model.state_dict(), **change}.items() if v is not None}
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=f"do not fit {name}: {next(iter(change))}"):
            lesions.build_network(name, tmp_path / "w.safetensors")


def test_what_a_folder_lacks_is_named(tmp_path):
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_text("lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\n")
    with pytest.raises(FileNotFoundError, match=r"no file ISIC_1\.jpg below"):
        lesions.read_index(tmp_path)
    (tmp_path / "ISIC_1.jpg").touch()
    assert [image.label for image in lesions.read_index(tmp_path)] == [5]
    table.write_text("lesion_id,image_id,dx\nHAM_1,ISIC_1,xyz\n")
    with pytest.raises(ValueError, match="unknown diagnosis 'xyz'"):
        lesions.read_index(tmp_path)
