"""Options: defaults, errors before anything is imported or trained, images that are left out."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.ham10000 import given
from examples.ham10000.arguments import parse
from examples.ham10000.cli import main
from examples.ham10000.config import ATTENTION
from examples.ham10000.data.index import read_index
from examples.ham10000.given import train_config
from examples.ham10000.rules import gates_with_rate
from examples.ham10000.run import IMAGES
from tests.ham10000.runs import QUICK

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


# Weights, other options, and what follows: init, gate_lr, warmup, clip_grad_norm.
NEW = [
    ("", "fresh", 1e-3),
    ("--init inherit", "inherit", 1e-3),
    ("--attention SE", None, 1e-3),
    ("--insert layer1", "identity", 1e-3),
    ("--attention identity", None, None),
]
TUNED = [
    ("", "fitted", 1e-2, 1, 1),
    ("--init inherit", "inherit", 1e-2, 1, 1),
    ("--init fresh", "fresh", 1e-3, 1, 1),
    ("--weights w.pth --init loaded", "loaded", 1e-3, 1, 1),
    ("--insert layer1", "identity", 1e-2, 1, 1),
    ("--insert layer1 --init fresh", "fresh", 1e-3, 1, 1),
    ("--attention SE", None, 1e-3, 1, 1),
    ("--insert layer1 --attention SE", "identity", 1e-3, 1, 1),
    ("--attention Eca", "fitted", None, 1, 1),
    ("--attention none", None, None, 1, 1),
    ("--epochs 4", "fitted", 1e-2, 0.5, 1),
    ("--epochs 100", "fitted", 1e-2, 1, 1),
    ("--gate-lr 3e-3", "fitted", 3e-3, 1, 1),
    ("--warmup 0", "fitted", 1e-2, 0, 1),
    ("--clip-grad-norm none", "fitted", 1e-2, 1, None),
    ("--clip-grad-norm 5", "fitted", 1e-2, 1, 5),
]


@pytest.mark.parametrize(
    ("options", "init", "gate_lr", "warmup", "clip"),
    [
        *((options, *start, 0, None) for options, *start in NEW),
        *((f"--weights imagenet {options}", *start) for options, *start in TUNED),
    ],
)
def test_start_rates_warm_up_and_clipping_go_by_weights(options, init, gate_lr, warmup, clip):
    made = config("--lr", "1e-3", "--weight-decay", "0.2", "--epochs", "8", *options.split())
    made.check()
    assert (made.init, made.warmup, made.clip_grad_norm) == (init, warmup, clip)
    assert made.gate_lr == (gate_lr if gate_lr is None else pytest.approx(gate_lr))
    assert made.gate_weight_decay == (None if gate_lr is None else 0.2)


def test_gates_with_a_rate_of_their_own_are_those_of_places():
    places = dict.fromkeys(("CaCo", "CoordAtt", "SeCo"), ("rows", "columns"))
    places |= {"CBAM": ("positions",), "SE": ("channel",)}
    assert {name: gates_with_rate(name) for name in ATTENTION if gates_with_rate(name)} == places


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


LIGHT = [
    ("--help", None),
    ("train --help", None),
    ("reproduce --help", None),
    ("evaluate --help", None),
    ("train --lrr 1", "unrecognized arguments: --lrr 1"),
    ("train --protoco lesion", "unrecognized arguments: --protoco lesion"),  # no abbreviations
    ("train --skip", "unrecognized arguments: --skip"),
    ("train --split paper", "unrecognized arguments: --split paper"),
    ("train --init warm", "argument --init: invalid choice: 'warm'"),
    ("train --epochs x", "argument --epochs: invalid int value: 'x'"),
    ("train --clip-grad-norm x", "'x' must be a number above 0, or none"),
    # As Python reads the bytes of another encoding:
    *(
        (f"train --{name} caf\udce9", f"argument --{name}: 'caf\\udce9' is not UTF-8: rename it")
        for name in ("data", "out", "weights", "split-file")
    ),
    ("train --init fitted", "--init fitted keeps what weights have learned: give --weights"),
    ("train --init loaded", "--init loaded takes blocks from a file: give --weights FILE"),
    ("train --init inherit --attention SE", "is for swapped blocks, not for --attention SE"),
    ("train --init identity", "is for blocks of --insert, not for swapped ones"),
    ("train --attention Constant", "is the mean of what weights have learned: give --weights"),
    ("train --epochs 0", "--epochs must be at least 1, got 0"),
    ("train --image-size -1", "--image-size must be at least 1, got -1"),
    ("train --image-size 1000000000", "--image-size must be at most 4096, got 1000000000"),
    ("train --batch-size 0", "--batch-size must be at least 1"),
    ("evaluate --run x --data x --workers -1", "--workers must be at least 0, got -1"),
    ("train --workers 1000", "--workers must be at most 256, got 1000"),
    ("train --seed -1", "--seed must be at least 0"),
    ("train --seed 4294967296", "--seed must be below 4294967296, got 4294967296"),
    ("train --lr 0", "error: --lr must be above 0, got 0.0"),
    ("train --lr nan", "--lr must be a finite number, got nan"),
    ("train --lr inf", "--lr must be a finite number, got inf"),
    ("train --lr 1e308 --weights imagenet", "error: --gate-lr must be a finite number, got inf"),
    ("train --weight-decay -1", "--weight-decay must be at least 0"),
    ("train --clip-grad-norm 0", "--clip-grad-norm must be above 0"),
    ("train --gate-lr 0", "--gate-lr must be above 0, got 0"),
    ("train --gate-lr 1 --attention Eca", "--gate-lr is for gates of rows, columns or positions"),
    ("train --gate-lr 1 --attention none", "--attention none has none of them"),
    ("train --gate-weight-decay 0 --attention identity", "--gate-weight-decay is for gates"),
    ("train --gate-weight-decay -1", "--gate-weight-decay must be at least 0, got -1"),
    ("train --warmup -1", "--warmup must be at least 0, got -1"),
    ("train --warmup 3 --epochs 3", "--warmup must be below the 3 epochs, got 3"),
    ("train --drw-start 2 --loss ldam", "--drw-start must be at most 1, got 2"),
    ("train --drw-start 0.5", "--drw-start is for --loss ldam, joint, not for cross-entropy"),
    ("train --class-weights balanced --loss ldam", "--class-weights is for --loss"),
    ("train --ldam-weight 2 --loss ldam", "--ldam-weight is for --loss joint"),
    ("train --loss joint --focal-weight 0 --ldam-weight 0", "are both 0: one must be above 0"),
    ("train --fold 3", "--fold 3 needs --folds, the number of all folds"),
    ("train --split-file x.csv --folds 2 --fold 0", "both say what is tested: leave out one"),
    ("train --data x --out x/run", "--out x/run is inside --data"),
    ("evaluate --run x --data x --out x/out", "--out x/out is inside --data"),
    ("split --data x --out y --fold 3", "--fold 3 needs --folds, the number of all folds"),
    ("reproduce --table 5 --data x --epochs 0", "--epochs must be at least 1, got 0"),
    ("reproduce --table 5 --minutes 3", "--minutes is for --study"),
]
PROGRAM = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(("torch", "lightning", "numpy", "PIL")))  # not to be imported
from examples.ham10000.cli import main
found = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                code = main(words.split())
            except (SystemExit, ImportError) as stop:
                code = getattr(stop, "code", str(stop))
    found.append((code, errors.getvalue()))
print(json.dumps(found))
"""


def test_what_is_mistyped_or_out_of_range_is_said_before_anything_heavy_is_imported():
    """Importing PyTorch, Lightning and what else a run needs takes seconds."""
    lines = json.dumps([line for line, _ in LIGHT])
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (line, message), (code, errors) in zip(LIGHT, json.loads(done.stdout), strict=True):
        assert (line, code) == (line, 0 if message is None else 2)
        assert (message or "") in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data nowhere", "nowhere: give the HAM10000 folder"),
        ("--split-file nowhere.csv", "nowhere.csv: write one with the split command"),
        ("--model tv/resnet18", "use --attention none"),
        ("--weights nowhere.pth", "nowhere.pth: no such file"),
        ("--loss ldam --model tv/squeezenet1_0 --attention none", "one Linear"),
        ("--recompute-bn yes --model tv/convnext_tiny --attention none", "no batch"),
        ("--batch-size 1 --image-size 32", "cannot be trained at --image-size 32"),
        ("--precision 16-mixed", "needs a GPU"),
        ("--out {here}/taken", "exists: name a new folder, or --resume it"),
        ("--out {here}/taken/precious/run", "{here}/taken/precious"),
        ("--out {here}/dangling/run", "{here}/dangling"),
    ],
)
def test_unusable_input_ends_before_training(options, message, folder, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    before = sorted(tmp_path.rglob("*"))
    words = f"train --data {folder} --out {tmp_path}/run {options}".format(here=tmp_path).split()
    assert main(words) == 2
    assert message.format(here=tmp_path) in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_images_are_an_error_or_left_out(folder, tmp_path, capsys):
    split = tmp_path / "$split{$.csv"  # which pictures would take for a formula
    assert main(["split", "--data", str(folder), "--out", str(split)]) == 0
    bad = [row["image_id"] for row in csv.DictReader(split.open()) if row["split"] == "train"][:3]
    paths = {image.image_id: image.path for image in read_index(folder)}
    paths[bad[0]].unlink()
    paths[bad[1]].write_bytes(b"")
    paths[bad[2]].write_bytes(paths[bad[2]].read_bytes()[:-200])
    options = [*QUICK, "--data", str(folder), "--out", str(tmp_path / "r")]
    assert main(options) == 2
    assert re.search(rf"1 of 70 images are not in .*: {bad[0]}", capsys.readouterr().err)
    assert main([*options, "--split-file", str(split), "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "left out 3 of 70 images" in printed
    assert "53 train, 7 val, 7 test images, $split{$.csv, leak 0.000" in printed
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
