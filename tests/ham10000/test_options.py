"""Options: defaults, errors before anything is trained, images that are left out."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch

from examples.ham10000.cli import main
from examples.ham10000.config import (
    gates_with_rate,
    options_for_json,
    read_description,
    read_options,
    train_config,
)
from examples.ham10000.data.index import read_index
from examples.ham10000.options import parse
from examples.ham10000.run import IMAGES
from tests.ham10000.finished import finish
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


def test_blocks_start_fitted_where_there_are_weights():
    assert config("--weights", "imagenet").init == "fitted"
    assert config("--weights", "imagenet", "--init", "inherit").init == "inherit"
    assert config("--init", "inherit").init == "inherit"
    assert config().init == "fresh"
    assert config("--weights", "imagenet", "--attention", "SE").init is None
    assert config("--attention", "identity").network_name.endswith("attention identity")
    assert config("--weights", "imagenet").network_name.endswith("attention CaCo (fitted)")


def test_gates_have_the_rate_of_the_rest_unless_one_is_given():
    plain = config("--lr", "1e-3", "--weight-decay", "0.2")
    assert (plain.gate_lr, plain.gate_weight_decay) == (1e-3, 0.2)
    own = config("--attention", "SE", "--gate-lr", "0.01", "--gate-weight-decay", "0")
    assert (own.gate_lr, own.gate_weight_decay) == (0.01, 0.0)
    for attention in ("none", "identity", "Eca"):
        without = config("--attention", attention)
        assert (without.gate_lr, without.gate_weight_decay) == (None, None)
        without.check()


IMAGENET = ["--weights", "imagenet"]
INSERT = ["--insert", "layer1"]


@pytest.mark.parametrize(
    ("options", "gate_lr", "warmup", "clip"),
    [
        ([], 1e-3, 0, None),
        (["--init", "inherit"], 1e-3, 0, None),
        (["--attention", "SE"], 1e-3, 0, None),
        ([*INSERT], 1e-3, 0, None),
        (["--attention", "none"], None, 0, None),
        ([*IMAGENET], 1e-2, 1, 1),
        ([*IMAGENET, "--init", "fitted"], 1e-2, 1, 1),
        ([*IMAGENET, "--init", "inherit"], 1e-2, 1, 1),
        ([*IMAGENET, "--init", "fresh"], 1e-3, 1, 1),
        ([*IMAGENET, *INSERT], 1e-2, 1, 1),
        ([*IMAGENET, *INSERT, "--init", "fresh"], 1e-3, 1, 1),
        ([*IMAGENET, "--attention", "SE"], 1e-3, 1, 1),
        ([*IMAGENET, *INSERT, "--attention", "SE"], 1e-3, 1, 1),
        ([*IMAGENET, "--attention", "Eca"], None, 1, 1),
        ([*IMAGENET, "--attention", "none"], None, 1, 1),
        ([*IMAGENET, "--epochs", "4"], 1e-2, 0.5, 1),
        ([*IMAGENET, "--epochs", "1"], 1e-2, 0.125, 1),
        ([*IMAGENET, "--epochs", "100"], 1e-2, 1, 1),
        ([*IMAGENET, "--gate-lr", "3e-3"], 3e-3, 1, 1),
        ([*IMAGENET, "--warmup", "0"], 1e-2, 0, 1),
        ([*IMAGENET, "--warmup", "2"], 1e-2, 2, 1),
        ([*IMAGENET, "--clip-grad-norm", "none"], 1e-2, 1, None),
        ([*IMAGENET, "--clip-grad-norm", "5"], 1e-2, 1, 5),
    ],
)
def test_rates_warm_up_and_clipping_go_by_weights_and_start(options, gate_lr, warmup, clip):
    made = config("--lr", "1e-3", "--epochs", "8", *options)
    made.check()
    assert made.gate_lr == (gate_lr if gate_lr is None else pytest.approx(gate_lr))
    assert (made.warmup, made.clip_grad_norm) == (warmup, clip)
    assert options_for_json(made)["warmup"] == warmup  # not an option that is found out later


def test_blocks_of_a_file_have_the_rate_of_the_rest(run):
    made = config("--lr", "1e-3", "--model", MODEL, "--weights", str(run / "best.ckpt"))
    assert (made.init, made.gate_lr, made.warmup, made.clip_grad_norm) == ("loaded", 1e-3, 1, 1)


@pytest.mark.parametrize(
    ("attention", "gates"),
    [
        ("CBAM", ("positions",)),
        ("CaCo", ("rows", "columns")),
        ("CoordAtt", ("rows", "columns")),
        ("Eca", ()),
        ("SE", ("channel",)),
        ("SeCo", ("rows", "columns")),
        ("identity", ()),
        ("none", ()),
    ],
)
def test_gates_with_a_rate_of_their_own_are_those_of_places(attention, gates):
    state = torch.get_rng_state()
    assert gates_with_rate(attention) == gates
    assert torch.equal(torch.get_rng_state(), state)


def test_the_help_says_the_defaults_with_weights_and_without(capsys):
    def said(command: str, option: str) -> str:
        with pytest.raises(SystemExit):
            parse([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        return re.search(rf" {option} [A-Z_]+ .*?default: (.*?) --[a-z-]+ [A-Z{{]", shown)[1]

    assert said("train", "--gate-lr") == (
        "with --weights --lr times 10 (inherit), 10 (fitted), 10 (identity); else --lr"
    )
    assert said("train", "--warmup") == "with --weights 0.125 of the epochs, at most 1; else 0"
    assert said("train", "--clip-grad-norm") == "with --weights 1; else none"
    with pytest.raises(SystemExit):
        parse(["train", "--help"])
    assert f"on {IMAGES:,} training images" in " ".join(capsys.readouterr().out.split())
    rows = [said("reproduce", f"--{name}") for name in ("gate-lr", "warmup", "clip-grad-norm")]
    assert rows == ["--lr", "0", "none"]


def test_clipping_can_be_left_out():
    assert config().clip_grad_norm is config("--clip-grad-norm", "none").clip_grad_norm is None
    assert config("--clip-grad-norm", "2").clip_grad_norm == 2.0


def test_a_run_of_version_0_1_0_says_inherit(tmp_path, capsys):
    """It called that warm, which is no word of the command line any more."""
    finish(tmp_path, attention="CaCo", init="warm")
    assert read_options(tmp_path).init == "inherit"
    assert read_description(tmp_path)["options"]["init"] == "inherit"
    with pytest.raises(SystemExit):
        main(["train", "--init", "warm"])
    assert "invalid choice: 'warm' (choose from fresh, inherit, fitted, identity, loaded)" in (
        re.sub("'([a-z]+)'([,)])", r"\1\2", capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--init", "fitted"], "--init fitted keeps what weights have learned: give --weights"),
        (["--init", "loaded"], "--init loaded takes blocks from a file: give --weights FILE"),
        (
            ["--init", "inherit", "--attention", "SE"],
            "--init is for swapped blocks, not for --attent",
        ),
        (["--data", "nowhere"], "nowhere: give the HAM10000 folder"),
        (["--model", "tv/resnet18"], "use --attention none"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--image-size", "-1"], "--image-size must be at least 1, got -1"),
        (["--image-size", "1000000000"], "--image-size must be at most 4096, got 1000000000"),
        (["--workers", "-1"], "--workers must not be negative, nor above 256, got -1"),
        (["--workers", "1000000000"], "--workers must not be negative, nor above 256, got 1000"),
        (["--seed", "4294967296"], "--seed must be below 2**32"),
        (["--clip-grad-norm", "nan"], "--clip-grad-norm must be above 0 and finite, got nan"),
        (["--weight-decay", "inf"], "--weight-decay must be finite and not below 0: inf"),
        (["--gate-lr", "0"], "--gate-lr must be above 0 and finite, got 0"),
        (["--gate-lr", "nan"], "--gate-lr must be above 0 and finite, got nan"),
        (
            ["--gate-lr", "1", "--attention", "Eca"],
            "--gate-lr is for gates of rows, columns or pos",
        ),
        (["--gate-lr", "1", "--attention", "none"], "--attention none has none of them"),
        (
            ["--gate-weight-decay", "0", "--attention", "identity"],
            "--gate-weight-decay is for gates",
        ),
        (["--gate-weight-decay", "-1"], "--gate-weight-decay must be finite and not below 0: -1"),
        (["--warmup", "-1"], "--warmup must be finite and not below 0: -1"),
        (["--warmup", "inf"], "--warmup must be finite and not below 0: inf"),
        (["--warmup", "3", "--epochs", "3"], "--warmup must be below the 3 epochs, got 3"),
        (["--drw-start", "nan", "--loss", "ldam"], "--drw-start is a share of the epochs"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--lr", "0"], "--lr must be above 0"),
        (["--lr", "nan"], "--lr must be above 0"),
        (["--lr", "inf"], "--lr must be above 0 and finite"),
        (["--weight-decay", "-1"], "--weight-decay must be finite and not below 0"),
        (["--batch-size", "1", "--image-size", "32"], "cannot be trained at --image-size 32"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--clip-grad-norm", "0"], "--clip-grad-norm must be above 0"),
        (["--drw-start", "2", "--loss", "ldam"], "--drw-start is a share of the epochs"),
        (["--drw-start", "0.5"], "--drw-start is for --loss ldam, joint, not for cross-entropy"),
        (["--class-weights", "balanced", "--loss", "ldam"], "--class-weights is for --loss"),
        (["--ldam-weight", "2", "--loss", "ldam"], "--ldam-weight is for --loss joint"),
        (
            ["--loss", "joint", "--focal-weight", "0", "--ldam-weight", "0"],
            "--focal-weight and --ldam-weight are both 0",
        ),
        (["--loss", "ldam", "--model", "tv/squeezenet1_0", "--attention", "none"], "one Linear"),
        (["--split-file", "nowhere.csv"], "nowhere.csv: write one with the split command"),
        (
            ["--recompute-bn", "yes", "--model", "tv/convnext_tiny", "--attention", "none"],
            "no batch",
        ),
        (["--precision", "16-mixed"], "needs a GPU"),
    ],
)
def test_unusable_input_ends_before_training(options, message, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *options, "--out", str(out)]) == 2
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


def test_options_are_not_abbreviated():
    with pytest.raises(SystemExit):
        parse(["train", "--split", "paper"])
