"""Options: defaults, errors before anything is imported or trained, images that are left out."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples.ham10000 import given
from examples.ham10000.arguments import parse
from examples.ham10000.cli import main
from examples.ham10000.config import MONITORS
from examples.ham10000.data.index import read_index
from examples.ham10000.given import train_config
from examples.ham10000.rules import gates_with_rate
from examples.ham10000.run import IMAGES
from tests.ham10000.runs import MODEL, QUICK

pytestmark = pytest.mark.usefixtures("undrawn")


def config(*options: str):
    return train_config(vars(parse(["train", *options])))


def test_defaults_are_the_papers_with_data_and_small_without():
    real, synthetic = config("--data", "x"), config()
    assert (real.image_size, real.epochs, real.batch_size) == (224, 100, 128)
    assert (real.lr, real.weight_decay, real.protocol) == (5e-4, 5e-2, "lesion")
    assert (real.model, real.attention) == ("tv/mobilenet_v3_small", "CaCo")
    assert synthetic.image_size < 100
    assert config("--epochs", "3").epochs == 3
    assert config("--model", "ShuffleNetV2").model == "tv/shufflenet_v2_x2_0"
    assert config("--attention", "identity").network_name.endswith("attention identity")
    assert config("--weights", "imagenet").network_name.endswith("attention CaCo (fitted)")


IMAGENET = ["--weights", "imagenet"]
INSERT = ["--insert", "layer1"]
SE, NONE = ["--attention", "SE"], ["--attention", "none"]


@pytest.mark.parametrize(
    ("options", "init", "gate_lr", "warmup", "clip"),
    [
        ([], "fresh", 1e-3, 0, None),
        (["--init", "inherit"], "inherit", 1e-3, 0, None),
        (SE, None, 1e-3, 0, None),
        ([*SE, "--gate-lr", "0.01"], None, 0.01, 0, None),
        (INSERT, "identity", 1e-3, 0, None),
        (NONE, None, None, 0, None),
        (["--attention", "identity"], None, None, 0, None),
        (IMAGENET, "fitted", 1e-2, 1, 1),
        ([*IMAGENET, "--init", "inherit"], "inherit", 1e-2, 1, 1),
        ([*IMAGENET, "--init", "fresh"], "fresh", 1e-3, 1, 1),
        ([*IMAGENET, *INSERT], "identity", 1e-2, 1, 1),
        ([*IMAGENET, *INSERT, "--init", "fresh"], "fresh", 1e-3, 1, 1),
        ([*IMAGENET, *SE], None, 1e-3, 1, 1),
        ([*IMAGENET, *INSERT, *SE], "identity", 1e-3, 1, 1),
        ([*IMAGENET, "--attention", "Eca"], "fitted", None, 1, 1),
        ([*IMAGENET, *NONE], None, None, 1, 1),
        ([*IMAGENET, "--epochs", "4"], "fitted", 1e-2, 0.5, 1),
        ([*IMAGENET, "--epochs", "100"], "fitted", 1e-2, 1, 1),
        ([*IMAGENET, "--gate-lr", "3e-3"], "fitted", 3e-3, 1, 1),
        ([*IMAGENET, "--warmup", "0"], "fitted", 1e-2, 0, 1),
        ([*IMAGENET, "--warmup", "2"], "fitted", 1e-2, 2, 1),
        ([*IMAGENET, "--clip-grad-norm", "none"], "fitted", 1e-2, 1, None),
        ([*IMAGENET, "--clip-grad-norm", "5"], "fitted", 1e-2, 1, 5),
    ],
)
def test_start_rates_warm_up_and_clipping_go_by_weights(options, init, gate_lr, warmup, clip):
    made = config("--lr", "1e-3", "--weight-decay", "0.2", "--epochs", "8", *options)
    made.check()
    assert (made.init, made.warmup, made.clip_grad_norm) == (init, warmup, clip)
    assert made.gate_lr == (gate_lr if gate_lr is None else pytest.approx(gate_lr))
    assert made.gate_weight_decay == (None if gate_lr is None else 0.2)


def test_blocks_of_a_file_have_the_rate_of_the_rest(run):
    made = config("--lr", "1e-3", "--model", MODEL, "--weights", str(run / "best.ckpt"))
    assert (made.init, made.gate_lr, made.warmup, made.clip_grad_norm) == ("loaded", 1e-3, 1, 1)


def test_gates_with_a_rate_of_their_own_are_those_of_places():
    places = dict.fromkeys(("CaCo", "CoordAtt", "SeCo"), ("rows", "columns"))
    places |= {"CBAM": ("positions",), "SE": ("channel",)}
    names = (*places, "Eca", "Constant", "identity", "none")
    assert {name: gates_with_rate(name) for name in names if gates_with_rate(name)} == places


def test_the_help_says_the_defaults_with_weights_and_without(capsys):
    starts = f"--lr times {given.FASTER} ({', '.join(given.FASTER_STARTS)})"
    share, most, norm = given.WARMUP_SHARE, given.MOST_WARMUP, given.CLIP_GRAD_NORM
    both = "--lr LR learning rate of AdamW; default: 0.0005 as in the paper; 0.002 if synthetic --"
    texts = {
        "train": (
            f"SE blocks; default: with --weights {starts}; else --lr --gate-w",
            f"default: with --weights {share} of the epochs, at most {most:g}; else 0 --schedule",
            f"default: with --weights {norm:g}; else none --precision",
            f"on {IMAGES:,} training images",
            "processes that load data; default: 0 network:",
            both,
        ),
        "reproduce": (
            "of the SE blocks; default: --lr --gate-weight-decay",
            "0: none; default: 0 --schedule",
            "or none; default: none --precision",
            both,
        ),
    }
    for command, expected in texts.items():
        with pytest.raises(SystemExit):
            parse([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert [text for text in expected if text not in shown] == []


def test_what_can_choose_the_checkpoint_can_be_asked_for():
    assert [config("--monitor", name).monitor for name in MONITORS] == list(MONITORS)


def test_what_is_mistyped_or_out_of_range_is_said_before_anything_heavy_is_imported():
    """Importing PyTorch, Lightning and what else a run needs takes seconds."""
    program = """
import sys
from examples.ham10000.cli import main
for words in (
    "--help", "train --help", "reproduce --help", "evaluate --help", "train --lrr 1",
    "train --lr 0", "train --init fitted", "train --fold 3", "train --drw-start 0.5",
    "reproduce --table 5 --data x --epochs 0", "reproduce --table 5 --minutes 3",
    "evaluate --run x --data x --workers -1", "split --data x --out y --fold 3",
):
    try:
        code = main(words.split())
    except SystemExit as stop:
        code = stop.code
    assert code == (0 if "--help" in words else 2), (words, code)
assert not {"torch", "lightning", "numpy", "PIL"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for message in ("unrecognized arguments: --lrr 1", "--lr must be above 0, got 0.0"):
        assert message in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--init fitted", "--init fitted keeps what weights have learned: give --weights"),
        ("--init loaded", "--init loaded takes blocks from a file: give --weights FILE"),
        ("--init inherit --attention SE", "--init is for swapped blocks, not for --attention SE"),
        ("--init identity", "--init identity is for blocks of --insert, not for swapped ones"),
        ("--attention Constant", "is the mean of what weights have learned: give --weights"),
        ("--data nowhere", "nowhere: give the HAM10000 folder"),
        ("--model tv/resnet18", "use --attention none"),
        ("--weights nowhere.pth", "nowhere.pth: no such file"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--image-size -1", "--image-size must be at least 1, got -1"),
        ("--image-size 1000000000", "--image-size must be at most 4096, got 1000000000"),
        ("--batch-size 0", "--batch-size must be at least 1"),
        ("--workers -1", "--workers must be at least 0, got -1"),
        ("--workers 1000", "--workers must be at most 256, got 1000"),
        ("--seed -1", "--seed must be at least 0"),
        ("--seed 4294967296", "--seed must be below 4294967296, got 4294967296"),
        ("--lr 0", "--lr must be above 0, got 0.0"),
        ("--lr nan", "--lr must be a finite number, got nan"),
        ("--lr inf", "--lr must be a finite number, got inf"),
        ("--weight-decay -1", "--weight-decay must be at least 0"),
        ("--clip-grad-norm 0", "--clip-grad-norm must be above 0"),
        ("--gate-lr 0", "--gate-lr must be above 0, got 0"),
        ("--gate-lr 1 --attention Eca", "--gate-lr is for gates of rows, columns or positions"),
        ("--gate-lr 1 --attention none", "--attention none has none of them"),
        ("--gate-weight-decay 0 --attention identity", "--gate-weight-decay is for gates"),
        ("--gate-weight-decay -1", "--gate-weight-decay must be at least 0, got -1"),
        ("--warmup -1", "--warmup must be at least 0, got -1"),
        ("--warmup 3 --epochs 3", "--warmup must be below the 3 epochs, got 3"),
        ("--drw-start 2 --loss ldam", "--drw-start must be at most 1, got 2"),
        ("--drw-start 0.5", "--drw-start is for --loss ldam, joint, not for cross-entropy"),
        ("--class-weights balanced --loss ldam", "--class-weights is for --loss"),
        ("--ldam-weight 2 --loss ldam", "--ldam-weight is for --loss joint"),
        ("--loss joint --focal-weight 0 --ldam-weight 0", "are both 0: one must be above 0"),
        ("--loss ldam --model tv/squeezenet1_0 --attention none", "one Linear"),
        ("--split-file nowhere.csv", "nowhere.csv: write one with the split command"),
        ("--split-file x.csv --folds 2 --fold 0", "both say what is tested: leave out one"),
        ("--recompute-bn yes --model tv/convnext_tiny --attention none", "no batch"),
        ("--batch-size 1 --image-size 32", "cannot be trained at --image-size 32"),
        ("--precision 16-mixed", "needs a GPU"),
    ],
)
def test_unusable_input_ends_before_training(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *options.split(), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*run*")) == []


def test_a_folder_that_exists_is_not_written_to(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    for path, message in [
        (out, "exists: name a new folder, or --resume it"),
        (folder / "r", "inside --data"),
    ]:
        assert main([*QUICK, "--data", str(folder), "--out", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["precious"]
    assert not (folder / "r").exists()


def test_bad_images_are_an_error_or_left_out(run, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(run / "synthetic", data)
    split = tmp_path / "$split{$.csv"  # which pictures would take for a formula
    assert main(["split", "--data", str(data), "--out", str(split)]) == 0
    bad = [row["image_id"] for row in csv.DictReader(split.open()) if row["split"] == "train"][:3]
    paths = {image.image_id: image.path for image in read_index(data)}
    paths[bad[0]].unlink()
    paths[bad[1]].write_bytes(b"")
    paths[bad[2]].write_bytes(paths[bad[2]].read_bytes()[:-200])
    options = [*QUICK, "--data", str(data), "--out", str(tmp_path / "r")]
    assert main(options) == 2
    assert re.search(rf"1 of 361 images are not in .*: {bad[0]}", capsys.readouterr().err)
    assert main([*options, "--split-file", str(split), "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "left out 3 of 361 images" in printed
    assert "292 train, 33 val, 33 test images, $split{$.csv, leak 0.000" in printed
    with (tmp_path / "r" / "left_out.csv").open() as file:
        left_out = {row["image_id"]: row["problem"] for row in csv.DictReader(file)}
    assert left_out == dict(zip(bad, ("missing", "unreadable", "truncated"), strict=True))
    used = {row["image_id"] for row in csv.DictReader((tmp_path / "r" / "split.csv").open())}
    assert used == set(paths) - set(bad)


def test_paths_are_kept_whole_so_that_a_run_can_be_resumed_from_anywhere():
    made = config("--data", "x", "--split-file", "s.csv", "--weights", "w.pth")
    assert (made.data, made.split_file) == (Path.cwd() / "x", Path.cwd() / "s.csv")
    assert made.weights == str(Path.cwd() / "w.pth")
    assert config("--weights", "imagenet").weights == "imagenet"


@pytest.mark.parametrize("option", ["--data", "--out", "--weights", "--split-file"])
def test_a_path_that_no_report_can_hold_is_refused(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        config(option, "caf\udce9")  # as Python reads the bytes of another encoding
    assert stopped.value.code == 2
    assert f"argument {option}: 'caf\\udce9' is not UTF-8: rename it" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--split paper", "--skip", "--init warm", "--protoco lesion"])
def test_options_are_not_abbreviated_nor_renamed(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["train", *words.split()])
    assert stopped.value.code == 2
    assert words.split()[-1] in capsys.readouterr().err
