"""A run that was killed goes on, and ends as one that was left alone."""

import json
import random
import re
import shutil
import signal
import sys
import time

import pytest
import torch

from examples.ham10000.cli import main
from examples.ham10000.config import read_description
from tests.ham10000.children import BEFORE_THE_FIRST_CHECKPOINT, POINTS, call_main
from tests.ham10000.finished import make_older
from tests.ham10000.runs import QUICK

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and forkserver"),
    pytest.mark.usefixtures("undrawn"),
]

# Dropout, recomputed batch norm statistics, class weights from the last epoch on, and rates that
# rise until the second epoch.
OPTIONS = ["--model", "MobileNetV3-Small", "--image-size", "32", "--batch-size", "64"]
OPTIONS += ["--epochs", "3", "--loss", "joint", "--drw-start", "0.67", "--clip-grad-norm", "5"]
OPTIONS += ["--gate-lr", "5e-3", "--gate-weight-decay", "0.2", "--warmup", "1.5"]
OPTIONS += ["--workers", "1"]  # it loads batches before the first step


def outcome(run):
    """All that a run ends with."""
    states = [torch.load(run / f"{name}.ckpt", weights_only=True) for name in ("best", "last")]
    texts = [
        (run / name).read_text() for name in ("metrics.csv", "test.csv", "test.json", "gates.json")
    ]
    return [state["state_dict"] for state in states], states[1]["epoch"], texts


def assert_same(found, expected):
    states, epoch, texts = found
    expected_states, expected_epoch, expected_texts = expected
    assert epoch == expected_epoch
    assert texts == expected_texts
    for state, expected_state in zip(states, expected_states, strict=True):
        assert state.keys() == expected_state.keys()
        assert all(torch.equal(state[name], expected_state[name]) for name in state)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call_main(["train", *OPTIONS, "--out", str(run)]) == 0
    return outcome(run)


QUICK_POINTS = ("last checkpoint",)


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=() if p in QUICK_POINTS else pytest.mark.slow) for p in POINTS],
)
def test_a_killed_run_ends_as_one_left_alone(undisturbed, tmp_path, point):
    run = tmp_path / "run"
    assert call_main(["train", *OPTIONS, "--out", str(run)], point) == -signal.SIGKILL
    assert not (run / "test.json").exists()
    trap = None if point in BEFORE_THE_FIRST_CHECKPOINT else "again"
    assert call_main(["train", "--resume", str(run)], trap) == 0
    assert_same(outcome(run), undisturbed)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_left_alone(undisturbed, tmp_path):
    """Twenty runs, each killed somewhere between its first moment and its last one."""
    began = time.monotonic()
    assert call_main(["train", *OPTIONS, "--out", str(tmp_path / "timed")]) == 0
    length = time.monotonic() - began
    moments, killed = random.Random(0), 0
    for number in range(20):
        run = tmp_path / f"run{number}"
        seconds = (number + moments.random()) / 20 * length
        code = call_main(["train", *OPTIONS, "--out", str(run)], seconds=seconds)
        killed += code == -signal.SIGKILL
        left = sorted(path.name for path in run.glob("*"))
        print(f"after {seconds:.2f} s of {length:.2f}: exit code {code}, {left}")
        again = ["--resume", str(run)] if run.exists() else [*OPTIONS, "--out", str(run)]
        assert call_main(["train", *again]) == 0
        assert (run / "report.html").exists()
        assert_same(outcome(run), undisturbed)
    assert killed >= 15  # at a quicker moment of the machine, some are over in time


def test_a_run_that_is_over_is_not_trained_again(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["train", "--resume", str(run)]) == 0
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


def copy_of(run, folder, **options):
    """Just so much of a run that it could be resumed, as an older version wrote it."""
    folder.mkdir()
    for name in ("last.ckpt", "best.ckpt", "split.csv"):
        shutil.copy(run / name, folder)
    description = read_description(run)
    description["options"].update(data=str(run / "synthetic"), **options)
    (folder / "config.json").write_text(json.dumps(description))
    return folder


def test_a_run_goes_on_where_its_images_were_moved_to(run, tmp_path, capsys):
    data, moved = tmp_path / "data", tmp_path / "moved"
    shutil.copytree(run / "synthetic", data)
    out = tmp_path / "run"
    assert main([*QUICK, "--data", str(data), "--out", str(out)]) == 0
    (out / "test.json").unlink()  # as if it had been killed before
    figures = (out / "test.csv").read_bytes()
    shutil.rmtree(tmp_path / "ham10000-cache")
    data.rename(moved)
    assert main(["train", "--resume", str(out)]) == 2
    assert "data: give the HAM10000 folder" in capsys.readouterr().err
    image = next(moved.rglob("*.jpg"))
    pixels = image.read_bytes()
    image.write_bytes(next(p for p in moved.rglob("*.jpg") if p != image).read_bytes())
    assert main(["train", "--resume", str(out), "--data", str(moved)]) == 2
    assert f"the images of {moved} have changed" in capsys.readouterr().err
    image.write_bytes(pixels)
    assert main(["train", "--resume", str(out), "--data", str(moved)]) == 0
    assert (out / "test.csv").read_bytes() == figures


def test_a_run_of_an_older_version_goes_on_as_it_was_described(run, tmp_path):
    """In one file, and without what it did not know: its split was made without it."""
    out = tmp_path / "run"
    assert main([*QUICK, "--data", str(run / "synthetic"), "--out", str(out)]) == 0
    figures = (out / "test.csv").read_bytes()
    (out / "config.json").write_text(json.dumps(read_description(out)))
    make_older(out)
    for name in ("description.json", "test.json", "test.csv"):  # as if it had been killed before
        (out / name).unlink()
    before = (out / "config.json").read_bytes()
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "test.csv").read_bytes() == figures
    assert (out / "config.json").read_bytes() == before
    assert not (out / "description.json").exists()


def test_a_run_whose_optimizer_had_one_group_is_told_apart(run, tmp_path, capsys):
    """As in version 0.1.0, where all parameters decayed; what it has can be evaluated."""
    older = copy_of(run, tmp_path / "older", out=str(tmp_path / "older"))
    make_older(older)
    checkpoint = torch.load(older / "last.ckpt", weights_only=True)
    for state in checkpoint["callbacks"].values():
        if "dirpath" in state:
            state["dirpath"] = str(older.resolve())
    (optimizer,) = checkpoint["optimizer_states"]
    count = len(optimizer["state"])
    optimizer["param_groups"] = [{**optimizer["param_groups"][0], "params": [*range(count)]}]
    torch.save(checkpoint, older / "last.ckpt")
    before = (older / "config.json").read_bytes()
    assert main(["train", "--resume", str(older)]) == 2
    message = capsys.readouterr().err
    assert f"has the state of an optimizer with groups of [{count}] parameters" in message
    assert "go on with the version of attnblocks that its config.json or" in message
    assert (older / "config.json").read_bytes() == before
    assert main(["evaluate", "--run", str(older), "--data", str(run / "synthetic")]) == 0


def test_what_keeps_a_run_from_going_on_is_said(run, tmp_path, capsys):
    def error(*options: str) -> str:
        assert main(["train", *options]) == 2
        return capsys.readouterr().err

    assert "no run in" in error("--resume", str(tmp_path))
    assert "leave out --epochs" in error("--resume", str(run), "--epochs", "3")
    assert "leave out --data" in error("--resume", str(run), "--data", str(tmp_path))
    moved = copy_of(run, tmp_path / "moved")
    assert f"move it back to {run.resolve()}" in error("--resume", str(moved))
    (moved / "last.ckpt").write_bytes(b"")
    assert "last.ckpt cannot be loaded" in error("--resume", str(moved))
    config = moved / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"processes": 1', '"processes": 2'))
    assert "was begun by 2 processes" in error("--resume", str(moved))
    config.write_text(re.sub(r'"train": "\w', '"train": "', text))
    assert "have changed since the run" in error("--resume", str(moved))
    config.write_text(text.replace('"epochs"', '"epoch"'))
    assert "of another version" in error("--resume", str(moved))
    config.write_text(text[:100])
    assert "config.json is damaged" in error("--resume", str(moved))
    config.write_text(text)
    (moved / "description.json").write_text("[]")
    assert "description.json is damaged" in error("--resume", str(moved))
    (moved / "description.json").unlink()
    (moved / "best.ckpt").unlink()
    assert "best.ckpt is gone: put it back" in error("--resume", str(moved))
