"""Captions: the settings that differ from the paper's, and the pictures."""

import torchvision

from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.paper.caption import caption, notes
from examples.ham10000.paper.table import write_table
from tests.ham10000.finished import CACO, SE, finish


def test_the_parameters_that_the_notes_correct(results):
    network = torchvision.models.mobilenet_v3_small(num_classes=1000)
    count = sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.3f} M" == "2.543 M"
    assert "the network has 2.543 M." in " ".join(notes(results("table", 5)))


def test_the_caption_of_the_papers_settings(results, tmp_path):
    finish(tmp_path / f"{SE}-paper-seed0", protocol="paper", leak=0.3727)
    finish(
        tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-joint-paper-seed0",
        **CACO,
        protocol="paper",
        loss="joint",
        leak=0.3727,
    )
    assert caption(results("table", 5, protocol="paper")) == [
        "HAM10000 at 600x450, split by image (leak 0.373), test part of 998 images.",
        "All settings that can be read in the paper are as there.",
        "Chosen here, because the paper does not say: --init fitted, --schedule cosine, "
        "--monitor val_mean_recall, --recompute-bn auto. Fitted blocks start as near to the "
        "network's own SE as they get. The joint loss is read as focal loss plus LDAM.",
    ]


def test_the_caption_names_every_setting_that_differs(results, tmp_path):
    options = {
        "model": "timm/tf_mobilenetv3_small_075",
        "weights": "/some/where/own.safetensors",
        "image_size": 112,
        "epochs": 12,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.01,
        "gate_lr": 0.02,
        "gate_weight_decay": 0.0,
        "warmup": 1.0,
        "clip_grad_norm": 1.0,
        "class_weights": "balanced",
        "schedule": "constant",
    }
    finish(
        tmp_path / "tf_mobilenetv3_small_075-pretrained-SE-cross-entropy-lesion-seed0",
        **options,
        pictures="HAM10000 at 200x150",
        images=9_990,
    )
    found = caption(results("table", 5, **options))
    assert found[0].startswith("HAM10000 at 200x150, split by lesion (leak 0.000)")
    start, end = "Not as in the paper: ", ". So the two are not comparable as equals."
    assert found[1].removeprefix(start).removesuffix(end).split("; ") == [
        "HAM10000 at 200x150 (paper: HAM10000 at 600x450)",
        "images 9,990 (paper: 10,015)",
        "image size 112 (paper: 224)",
        "epochs 12 (paper: 100)",
        "batch size 64 (paper: 128)",
        "learning rate 0.001 (paper: 0.0005)",
        "weight decay 0.01 (paper: 0.05)",
        "network timm/tf_mobilenetv3_small_075 (paper: MobileNetV3-Small)",
        "weights from own.safetensors (paper: those of PyTorch)",
        "split by lesion, leak 0.000 (paper: most likely by image, leak 0.39)",
    ]
    assert found[2] == (
        "Chosen here, because the paper does not say: --schedule constant, --monitor "
        "val_mean_recall, --recompute-bn auto, --class-weights balanced, --warmup 1.0, "
        "--clip-grad-norm 1.0, --gate-lr 0.02, --gate-weight-decay 0.0."
    )
    for file in write_table(results("table", 5, **options)):
        text = file.read_text()
        assert found[1] in text
        assert "Not a medical device" in text
        assert ATTRIBUTION in text
        assert "/some/where" not in text


def test_networks_of_other_rows_are_no_difference(results, tmp_path):
    finish(
        tmp_path / "resnet18-pretrained-none-cross-entropy-paper-seed0",
        model="tv/resnet18",
        attention="none",
        protocol="paper",
    )
    assert caption(results("table", 3, protocol="paper"))[1].startswith("All settings")


def test_pictures_of_two_kinds_are_both_named(results, tmp_path):
    finish(tmp_path / f"{SE}-lesion-seed0", leak=0.1)
    finish(
        tmp_path / "mobilenet_v3_small-pretrained-CaCo-fitted-cross-entropy-lesion-seed0",
        **CACO,
        pictures="SYNTHETIC pictures at 128x96",
    )
    found = results("table", 5)
    both = "HAM10000 at 600x450 and SYNTHETIC pictures at 128x96"
    assert (
        caption(found)[0]
        == f"{both}, split by lesion (leak 0.000 to 0.100), test part of 998 images."
    )
    assert f"{both} (paper: HAM10000 at 600x450)" in caption(found)[1]
    for file in write_table(found):
        assert "SYNTHETIC pictures:" in file.read_text()  # the warning of the page
