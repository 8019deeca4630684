"""Run folders, checkpoints and command lines that are wrong or hostile: a clear error each."""

import csv
import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from examples.ham10000.cli import main
from examples.ham10000.config import read_description, read_options
from examples.ham10000.data import load as cache_module
from examples.ham10000.data.index import read_index
from examples.ham10000.data.layouts import IMAGE_FOLDERS
from examples.ham10000.data.splits import by_lesion, write_split
from examples.ham10000.model import build_network
from examples.ham10000.run import create_run
from tests.ham10000.finished import OPTIONS, finish, make_older
from tests.ham10000.runs import MODEL
from tests.helpers import file_size_limit

OWN = {"model": MODEL, "image_size": 32, "batch_size": 8, "weights": "none"}
FIRST = "model.conv_stem.weight"
DESCRIBED = {"data": "HAM10000", "images": {}, "parameters": 1, "versions": {}}
DESCRIBED |= {"training_transform": [], "evaluation_transform": [], "leak": 0.0}


@pytest.fixture(scope="module")
def state():
    model = build_network(MODEL, 7, "none", "SE").model
    return {f"model.{name}": value for name, value in model.state_dict().items()}


@pytest.fixture
def made(folder, state, tmp_path) -> Path:
    """A run folder on the small data folder, with all that `evaluate` and `predict` read."""
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    write_config(run)
    images = read_index(folder)
    write_split(run / "split.csv", images, by_lesion(images, 0))
    torch.save({"state_dict": state}, run / "best.ckpt")
    return run


def write_config(run, options=None, **changes):
    content = {"options": {**OPTIONS, **OWN, "out": str(run), **(options or {})}, **DESCRIBED}
    (run / "config.json").write_text(json.dumps({**content, **changes}))


@pytest.fixture
def evaluate(folder, made):
    """The exit code of `evaluate` for this run and this data folder."""

    def code(*options: str) -> int:
        return main(["evaluate", "--run", str(made), "--data", str(folder), *options])

    return code


@pytest.fixture
def predict(folder, made, tmp_path, capsys):
    """What `predict` prints as its error, having written nothing."""

    def errors() -> str:
        image, out = folder / IMAGE_FOLDERS[0] / "ISIC_00.jpg", tmp_path / "out"
        assert main(["predict", "--run", str(made), str(image), "--out", str(out)]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    return errors


@pytest.fixture
def refused(evaluate, predict, tmp_path, capsys):
    """The message of `predict` and `evaluate`, which both refuse the run and write nothing."""

    def errors() -> str:
        predicting = predict()
        assert evaluate("--out", str(tmp_path / "out")) == 2
        assert capsys.readouterr().err.splitlines()[-1] == predicting.splitlines()[-1]
        assert not (tmp_path / "out").exists()
        return predicting

    return errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10**9}, "--image-size must be at most 4096, got 1000000000"),
        ({"image_size": "32"}, "version: --image-size must be a valid integer, got '32'"),
        ({"image_size": True}, "--image-size must be a valid integer, got True"),
        ({"epochs": float("inf")}, "--epochs must be a valid integer, got inf"),
        ({"lr": 10**400}, "--lr must be a finite number, got 1000"),
        ({"lr": float("nan")}, "--lr must be a finite number, got nan"),
        ({"skip_bad": "no"}, "--skip-bad must be a valid boolean, got 'no'"),
        ({"data": 3}, "--data must be a valid string, got 3"),
        ({"model": ["tv"]}, "--model must be a valid string, got ['tv']"),
        ({"model": "os/system"}, "--model must be tv/NAME or timm/NAME, got 'os/system'"),
        ({"model": "tv/../../x"}, "torchvision has no model '../../x'"),
        ({"model": "timm/hf-hub:a/b"}, "timm has no model 'hf-hub:a/b'"),
        ({"model": "timm/local-dir:/tmp"}, "timm has no model 'local-dir:/tmp'"),
        ({"attention": "os.system"}, "--attention must be 'CBAM', 'CaCo'"),
        ({"protocol": "x"}, "--protocol must be 'lesion' or 'paper', got 'x'"),
        ({"more": 1}, "--more is no option of this version"),
        ({"model": [[[[]]] * 300]}, "--model must be a valid string"),
        ({"init": "fitted"}, "--init is for swapped blocks, not for --attention SE"),
    ],
)
def test_options_of_a_stranger_are_checked(made, refused, options, message):
    write_config(made, options)
    assert message in refused()


NONE = ["", "[]", "[" * 100_000, '{"options":' * 100_000, '{"options": []}', "{}"]


@pytest.mark.parametrize("text", [*NONE, '{"options": {"lr": 1}}'])
def test_descriptions_that_are_none(made, refused, text):
    (made / "config.json").write_text(text)
    assert "config.json" in refused()


def test_what_was_derived_later_is_read_too(made, refused):
    """The options count as they were written first; older runs have all in one file."""
    write_config(made, {"lr": 1, "clip_grad_norm": 5})  # numbers may be written without a point
    (made / "description.json").write_text('{"options": {"lr": 2}, "processes": 3}')
    description, options = read_description(made), read_options(made)
    assert (description["processes"], description["leak"]) == (3, 0.0)
    assert (options.lr, options.clip_grad_norm) == (description["options"]["lr"], 5.0) == (1.0, 5.0)
    assert isinstance(options.lr, float)
    (made / "description.json").write_text('{"processes": 3')
    assert "description.json is damaged: " in refused()


def test_a_run_of_version_0_1_0_says_inherit(tmp_path):
    """It called that warm; it knew no folds, no pairs of images and no rates of gates."""
    finish(tmp_path, attention="CaCo", init="warm")
    make_older(tmp_path)
    options = read_options(tmp_path)
    assert (options.init, options.folds, options.warmup) == ("inherit", None, 0)
    assert read_description(tmp_path)["options"]["init"] == "inherit"


@pytest.mark.parametrize("digests", [None, ["x"]])
def test_facts_of_a_run_are_checked(made, evaluate, digests, capsys):
    write_config(made, images_sha256=digests)
    assert evaluate() == 2
    assert "config.json is damaged: images_sha256" in capsys.readouterr().err


def test_lesions_are_joined_as_the_run_did(made, evaluate, capsys):
    write_config(made, {"same_lesion": "/gone.csv"})
    assert evaluate() == 2
    assert "no table" in (printed := capsys.readouterr().err)
    assert f"{made / 'same_lesion.csv'} of images that show one lesion" in printed
    rows = list(csv.DictReader((made / "split.csv").open()))
    melanomas = [row for row in rows if row["dx"] == "mel"]
    trained, another, *_ = (row["image_id"] for row in melanomas if row["split"] == "train")
    tested = next(row["image_id"] for row in melanomas if row["split"] == "test")
    pairs = f"image_id_1,image_id_2\n{trained},{tested}\n{trained},{another}\n"
    (made / "same_lesion.csv").write_text(pairs)
    assert evaluate("--split", "train") == 0
    assert "leak 0.143, " in (printed := capsys.readouterr().out)
    assert "56 images of 55 lesions" in printed


class Exploit:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_checkpoints_that_are_none_are_refused_and_run_nothing(made, refused, monkeypatch):
    monkeypatch.chdir(made)
    file = made / "best.ckpt"
    whole = file.read_bytes()
    file.write_bytes(pickle.dumps(Exploit(), 2))
    assert "io.open, which could run code" in refused()
    for content in (whole[: len(whole) // 2], b"", bytes(1000)):
        file.write_bytes(content)
        assert "it is damaged, or holds more than weights" in refused()
    for content in ({"state_dict": Exploit()}, {"state_dict": {FIRST: Exploit()}}):
        torch.save(content, file)
        printed = refused()
        assert "holds more than weights" in printed
        assert "weights_only" not in printed  # torch's advice to run it
    assert not Path("executed").exists()
    for content in ([1], {}, {"state_dict": [1]}, {"state_dict": {1: 2}}, {"state_dict": {}}):
        torch.save(content, file)
        assert "best.ckpt cannot be loaded" in refused()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.long(), "conv_stem.weight is torch.int64, not torch.float32"),
        (lambda value: value.half(), "conv_stem.weight is torch.float16, not torch.float32"),
        (lambda value: value * float("nan"), "conv_stem.weight is not finite"),
        (lambda value: value + float("inf"), "conv_stem.weight is not finite"),
        (lambda value: value.to("meta"), "cannot be loaded"),
        (lambda value: value.to_sparse(), "cannot be loaded"),
        (lambda value: torch.ones(1).expand(10**9, 3), "size mismatch for conv_stem.weight"),
        (lambda value: "text", "cannot be loaded"),
    ],
)
def test_weights_that_are_none_are_refused(made, refused, state, change, message):
    torch.save({"state_dict": {**state, FIRST: change(state[FIRST])}}, made / "best.ckpt")
    assert message in refused()


def test_weights_that_overflow_give_no_probabilities(made, predict, state):
    huge = {**state, FIRST: torch.full_like(state[FIRST], 3e38)}
    torch.save({"state_dict": huge}, made / "best.ckpt")
    assert f"the network of {made} overflows" in predict()


def test_evaluation_leaves_no_half_results(evaluate, tmp_path, capsys):
    assert evaluate("--out", str(tmp_path / "out")) == 2  # there is no log to draw
    assert "metrics.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cached", [True, False])
def test_a_run_beside_which_nothing_can_be_written_is_evaluated(
    made, evaluate, cached, monkeypatch, capsys
):
    assert evaluate() == 0
    _, _, expected = capsys.readouterr().out.partition("Test part")
    cache = made.parent / "ham10000-cache"
    if not cached:
        shutil.rmtree(cache)
    before = sorted(made.parent.rglob("*"))
    monkeypatch.setattr(cache_module.os, "access", lambda *args: False)
    monkeypatch.setattr(cache_module, "FileLock", None)
    assert evaluate() == 0
    assert capsys.readouterr().out.endswith(expected)
    assert sorted(made.parent.rglob("*")) == before


def test_a_run_that_another_process_is_at_is_left_alone(made, capsys):
    with FileLock(made / ".lock"):
        assert main(["train", "--resume", str(made)]) == 2
    assert f"another process is at the run {made}" in capsys.readouterr().err
    assert (made / "best.ckpt").exists()


def test_of_two_runs_that_begin_in_one_folder_one_does(made, monkeypatch):
    config = read_options(made)
    shutil.rmtree(made)
    moves, begun = {"rename": os.rename, "replace": os.replace}, []

    def second(name, source, target):
        if not begun:
            begun.append(target)
            create_run(config)  # between the look and the move of the first
        moves[name](source, target)

    for name in moves:
        monkeypatch.setattr(os, name, partial(second, name))
    with pytest.raises(FileExistsError, match=r"--out .*run was made by another run meanwhile"):
        create_run(config)
    assert [path.name for path in made.parent.iterdir()] == ["run"]


def test_a_full_disk_is_an_error_and_leaves_nothing(folder, made, tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    commands = [
        ["split", "--data", folder],
        ["predict", "--run", made, folder],
        ["evaluate", "--run", made, "--data", folder],
    ]
    before = sorted(made.parent.rglob("*"))
    with file_size_limit(100):
        for command in commands:
            assert main([*map(str, command), "--out", str(results / "out")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("File too large") == 3
    assert "Traceback" not in errors
    assert list(results.iterdir()) == []
    left = {path.suffix for path in set(made.parent.rglob("*")) - set(before)}
    assert left <= {"", ".lock"}  # the folder of the cache
