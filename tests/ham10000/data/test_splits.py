"""The two protocols: sizes, groups, leak."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.ham10000.config import PARTS
from examples.ham10000.data.index import CLASSES, Image, read_index
from examples.ham10000.data.splits import PROTOCOLS, by_image, by_lesion, leak


def parts_of_classes(images, split):
    return {part: Counter(images[i].label for i in split[part]) for part in PARTS}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_real_data_splits_into_the_papers_sizes(ham10000, protocol):
    images = read_index(ham10000)
    split = PROTOCOLS[protocol](images, 0)
    total = Counter(image.label for image in images)
    counts = parts_of_classes(images, split)
    assert len(split["test"]) == len(split["val"]) == 998  # the paper's test set
    assert len(split["train"]) == 10_015 - 2 * 998
    assert all(counts["test"][c] == counts["val"][c] == total[c] // 10 for c in total)


def test_a_split_without_a_test_part_has_no_leak():
    with pytest.raises(ValueError, match="no test images"):
        leak([Image("i", "l", 0, Path())], {"train": [0], "val": [], "test": []})


def test_the_leak_of_the_real_data(ham10000):
    images = read_index(ham10000)
    assert leak(images, by_lesion(images, 0)) == 0
    assert leak(images, by_image(images, 0)) == pytest.approx(0.37, abs=0.03)


@st.composite
def indexes(draw):
    """Images of seven classes whose lesions have one to four images, in random order."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=25, max_size=35))
    images = [
        Image(f"i{label}-{lesion}-{k}", f"l{label}-{lesion}", label, Path())
        for label in range(len(CLASSES))
        for lesion, size in enumerate(sizes[label:])
        for k in range(size)
    ]
    random.Random(draw(st.integers(0, 99))).shuffle(images)
    return images


@given(indexes(), st.integers(0, 2**32), st.sampled_from(list(PROTOCOLS)))
def test_every_image_is_in_one_part_and_lesions_stay_whole(images, seed, protocol):
    split = PROTOCOLS[protocol](images, seed)
    assert sorted(i for part in PARTS for i in split[part]) == list(range(len(images)))
    assert split == PROTOCOLS[protocol](images, seed)
    total = Counter(image.label for image in images)
    counts = parts_of_classes(images, split)
    for label, count in total.items():
        for part in ("test", "val"):
            assert count // 10 - 3 <= counts[part][label] <= count // 10
    if protocol == "lesion":
        lesions = [{images[i].lesion for i in split[part]} for part in PARTS]
        assert sum(map(len, lesions)) == len(set.union(*lesions))


def test_the_split_does_not_depend_on_the_order_of_the_rows(ham10000):
    images = read_index(ham10000)
    backwards = images[::-1]
    one, other = by_lesion(images, 3), by_lesion(backwards, 3)
    for part in PARTS:
        assert {images[i].image_id for i in one[part]} == {
            backwards[i].image_id for i in other[part]
        }
    assert one != by_lesion(images, 4)


def test_too_few_images_of_a_class_are_an_error():
    images = [Image(f"i{n}", f"l{n}", n % 7, Path()) for n in range(63)]
    with pytest.raises(ValueError, match=r"class akiec has 9 images, of which 9 can .* too few"):
        by_image(images, 0)
    one_lesion = [Image(f"i{n}", f"l{n if n % 7 else 0}", n % 7, Path()) for n in range(140)]
    with pytest.raises(ValueError, match=r"class akiec has 20 images, of which 1 can .* too few"):
        by_lesion(one_lesion, 0)
