"""The rows of a table: each is run once, whatever is killed, fails or runs beside it."""

import csv
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from examples.ham10000.cli import main
from examples.ham10000.data.synthetic import write_synthetic
from examples.ham10000.model import build_network
from tests.ham10000.finished import SE, begin, finish, make_older
from tests.ham10000.runs import MODEL

TABLE_5 = ["SE", "CBAM", "SeCo", "Eca", "CaCo", "CaCo + joint loss"]


def not_run(out: Path, table: str = "table-5-lesion") -> list[str]:
    with (out / f"{table}.csv").open(newline="") as file:
        return [row["row"] for row in csv.DictReader(file) if row["seeds"] == "0"]


def locked_elsewhere(run: Path) -> FileLock:
    """The lock of a run, which another thread holds: in this one, waiting for it is an error."""
    lock = FileLock(f"{run}.lock", thread_local=False)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock.acquire).result()
    return lock


def test_the_command_of_the_papers_protocol_has_its_settings(launches, call):
    """With ImageNet weights, with which ``train`` has other defaults."""
    assert call("--table", "5", "--protocol", "paper") == 0
    settings = {"image_size": 224, "epochs": 100, "batch_size": 128, "lr": 5e-4}
    settings |= {"weight_decay": 5e-2, "warmup": 0.0, "clip_grad_norm": None, "seed": 0}
    settings |= {"model": "tv/mobilenet_v3_small", "weights": "imagenet", "protocol": "paper"}
    assert launches.options(*settings) == [tuple(settings.values())] * 6
    assert {config.gate_lr for config in launches.configs} == {5e-4, None}
    names = ["SE", "CBAM-fitted", "SeCo-fitted", "Eca-fitted", "CaCo-fitted"]
    assert launches.names == [
        f"mobilenet_v3_small-pretrained-{name}-paper-seed0"
        for name in (*(f"{name}-cross-entropy" for name in names), "CaCo-fitted-joint")
    ]


GATES = ["--gate-lr", "0.005", "--gate-weight-decay", "0", "--warmup", "2"]
LOSSES = ["--ldam-weight", "2", "--drw-start", "0.5", "--class-weights", "balanced"]


@pytest.mark.parametrize(
    ("calls", "names", "expected"),
    [
        (
            [["4", *LOSSES, "--init", "inherit"]],
            ("loss", "ldam_weight", "drw_start", "class_weights", "init"),
            [
                ("cross-entropy", 1, 0.8, "balanced", None),
                ("cross-entropy", 1, 0.8, "balanced", "inherit"),
                ("focal", 1, 0.8, "balanced", "inherit"),
                ("ldam", 1, 0.5, "none", "inherit"),
                ("joint", 2, 0.5, "balanced", "inherit"),
            ],
        ),
        (
            [["5", "--rows", "SE", "Eca", "CaCo", *GATES], ["3", "--rows", "ResNet18", *GATES]],
            ("attention", "gate_lr", "gate_weight_decay", "warmup"),
            [
                ("SE", 5e-3, 0.0, 2.0),
                ("Eca", None, None, 2.0),
                ("CaCo", 5e-3, 0.0, 2.0),
                ("none", None, None, 2.0),
            ],
        ),
        (
            [[number, "--model", "timm/own", "--weights", "/w.pt"] for number in "23"],
            ("model", "weights", "attention"),
            [
                ("tv/resnet18", "none", "none"),
                ("tv/resnet18", "imagenet", "none"),
                ("timm/own", "none", "SE"),
                ("timm/own", "/w.pt", "SE"),
                # The other rows of Table 3 are done.
                ("tv/shufflenet_v2_x2_0", "imagenet", "none"),
                ("timm/ghostnetv2_100", "imagenet", "SE"),
                ("tv/efficientnet_b0", "imagenet", "SE"),
            ],
        ),
    ],
    ids=["losses", "gates", "networks"],
)
def test_a_row_takes_the_options_that_it_has_a_use_for(calls, names, expected, launches, call):
    for options in calls:
        assert call("--table", *options) == 0
    assert launches.options(*names) == expected


def test_weights_with_blocks_are_for_the_rows_that_have_them(launches, call, tmp_path, capsys):
    weights = tmp_path / "w.pth"
    torch.save(build_network(MODEL, 7, "none", "CaCo").model.state_dict(), weights)
    options = ["--table", "5", "--model", MODEL, "--weights", str(weights)]
    assert call(*options, "--rows", "CaCo") == 0
    assert call(*options, "--rows", "SeCo", "CaCo + joint loss") == 1
    error = "holds CaCo blocks at 2 SE sites; --attention SeCo was asked"
    assert error in capsys.readouterr().err
    assert f"SeCo: {weights} holds" in (tmp_path / "out" / "table-5-lesion.md").read_text()
    found = launches.options("loss", "init")
    assert found == [("cross-entropy", "loaded"), ("joint", "loaded")]
    weights.unlink()
    assert call(*options, "--rows", "CaCo", "CaCo + joint loss") == 0
    assert len(launches.configs) == 2


def test_every_row_is_run_once(launches, call, folder, tmp_path, capsys):
    assert call("--table", "5") == 0
    assert len(launches.configs) == len(set(launches.names)) == 6
    assert launches.resumed == [False] * 6
    table = tmp_path / "out" / "table-5-lesion.md"
    assert str(table) in capsys.readouterr().out
    table.unlink()
    # Where data lie and who loads them makes no difference.
    moved = folder.rename(tmp_path / "moved")
    options = ["--data", str(moved), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert main(["reproduce", "--table", "5", *options]) == 0
    assert len(launches.configs) == 6
    assert table.exists()  # written from runs that were finished already
    assert main(["reproduce", "--table", "4", *options]) == 0  # three rows are those of Table 5
    assert [config.loss for config in launches.configs[6:]] == ["focal", "ldam"]


def test_a_killed_run_is_gone_on_with(launches, call, tmp_path):
    def kill_caco(config):
        begin(config.out, **vars(config))
        if config.attention == "SeCo":
            raise KeyboardInterrupt

    launches.before = kill_caco
    assert call("--table", "5") == 130
    assert not_run(tmp_path / "out") == TABLE_5[2:]  # written after each run
    launches.before = lambda config: None
    assert call("--table", "5") == 0
    assert launches.resumed == [False] * 3 + [True] + [False] * 3
    assert [config.attention for config in launches.configs[2:4]] == ["SeCo", "SeCo"]
    assert not_run(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "50"], "seed0 was begun with epochs 100, not 50: name another --out"),
        (["--monitor", "val_loss"], "was begun with monitor val_mean_recall, not val_loss"),
        (["--rows", "SE", "ECA"], "Table 5 has no row 'ECA'; it has SE, CBAM, SeCo, Eca, CaCo, "),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--weights", "none"], "--weights none: give those of the rows with pre-training"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_used_run_nothing(options, message, launches, call, capsys):
    assert call("--table", "5", "--rows", "SE") == 0
    assert call("--table", "5", *options) == 2
    assert message in capsys.readouterr().err
    assert len(launches.configs) == 1


@pytest.mark.parametrize(("make", "seed"), [(finish, 0), (begin, 0), (finish, 3)])
@pytest.mark.parametrize("protocol", ["lesion", "paper"])
def test_runs_of_an_older_version_are_refused_at_once(
    make, seed, protocol, launches, call, tmp_path, capsys
):
    run = tmp_path / "out" / f"{SE}-{protocol}-seed{seed}"
    make(run, seed=seed, protocol=protocol)
    make_older(run)
    assert call("--table", "5", "--rows", "CaCo", "--protocol", protocol) == 2
    error = f"{run} was begun by an older version, in which bias"
    assert error in capsys.readouterr().err
    assert launches.configs == []


def test_data_that_are_not_there_run_nothing(launches, tmp_path, capsys):
    options = ["--table", "5", "--data", str(tmp_path / "no"), "--out", str(tmp_path / "out")]
    assert main(["reproduce", *options]) == 2
    assert "give the HAM10000 folder" in capsys.readouterr().err
    assert launches.configs == []
    assert not (tmp_path / "out").exists()


def test_some_rows_and_several_seeds(launches, call, tmp_path):
    assert call("--table", "5", "--rows", "CaCo", "SE", "--seeds", "2") == 0
    expected = [(0, "SE"), (0, "CaCo"), (1, "SE"), (1, "CaCo")]
    assert launches.options("seed", "attention") == expected
    assert call("--table", "5", "--rows", "Eca") == 0
    assert len(launches.configs) == 5
    with (tmp_path / "out" / "table-5-lesion.csv").open(newline="") as file:
        seeds = {row["row"]: row["seeds"] for row in csv.DictReader(file)}
    # All that are finished, and not only those of the last call.
    assert list(seeds.values()) == ["2", "0", "0", "1", "2", "0"]


def test_a_failing_row_does_not_stop_the_others(launches, call, tmp_path, capsys):
    def fail(config):
        if config.attention == "CBAM":
            raise FileNotFoundError("cannot download\n  the weights")
        if config.attention == "Eca":
            begin(config.out, **vars(config))
            raise FloatingPointError("the loss is not finite")

    launches.before = fail
    assert call("--table", "5") == 1
    assert len(launches.configs) == 6
    errors = capsys.readouterr().err
    assert "CBAM could not be run: cannot download the weights" in errors
    assert "Eca could not be run: the loss is not finite" in errors
    assert not_run(tmp_path / "out") == ["CBAM", "Eca"]
    for end in ("md", "html"):
        text = (tmp_path / "out" / f"table-5-lesion.{end}").read_text()
        assert "CBAM: cannot download the weights" in text
    table = (tmp_path / "out" / "table-5-lesion.md").read_text()
    assert re.search(r"\| CBAM .* not run \|.*\n.*\n\| Eca .* not finished \|", table)
    launches.before = lambda config: None
    assert call("--table", "5") == 0
    assert launches.names[6:] == [launches.names[1], launches.names[3]]


def test_a_row_that_another_process_is_at_is_left_to_it(launches, call, tmp_path, capsys):
    run = tmp_path / "out" / "mobilenet_v3_small-pretrained-CBAM-fitted-cross-entropy-lesion-seed0"
    run.parent.mkdir()
    lock = locked_elsewhere(run)

    def other_process():
        finish(run, attention="CBAM", init="fitted")
        lock.release()

    def begin_the_end(config):
        if config.loss == "joint":  # the last row
            threading.Timer(0.3, other_process).start()

    launches.before = begin_the_end
    assert call("--table", "5") == 0
    assert "CBAM: another process is at it" in capsys.readouterr().out
    assert [c.attention for c in launches.configs] == ["SE", "SeCo", "Eca", "CaCo", "CaCo"]
    assert not_run(tmp_path / "out") == []  # it was waited for


def test_a_row_that_another_process_has_left_is_taken_over(launches, call, tmp_path):
    run = tmp_path / "out" / f"{SE}-lesion-seed0"
    begin(run)
    lock = locked_elsewhere(run)
    launches.before = lambda config: lock.release()  # killed while the second row is run
    assert call("--table", "5", "--rows", "SE", "CBAM") == 0
    assert [config.attention for config in launches.configs] == ["CBAM", "SE"]
    assert launches.resumed == [False, True]


def test_two_that_share_a_folder_run_each_row_once(launches, call, tmp_path):
    launches.before = lambda config: time.sleep(0.05)
    with ThreadPoolExecutor(2) as pool:
        codes = [pool.submit(call, "--table", "5") for _ in range(2)]
    assert [code.result() for code in codes] == [0, 0]
    assert len(launches.names) == len(set(launches.names)) == 6
    assert not_run(tmp_path / "out") == []


def test_networks_with_a_dot_in_their_name_have_a_lock_for_each_row(launches, call, tmp_path):
    assert call("--table", "5", "--model", "timm/mobilenetv3_small_050.lamb_in1k") == 0
    assert len({f"{name}.lock" for name in launches.names}) == 6
    if sys.platform != "win32":  # which removes them
        assert all((tmp_path / "out" / f"{name}.lock").exists() for name in launches.names)


def test_from_pictures_to_the_table(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    write_synthetic(data)
    command = ["reproduce", "--table", "2", "--rows", "MobileNetV3, without", "--epochs", "1"]
    command += ["--data", str(data), "--out", str(out), "--model", MODEL, "--image-size", "32"]
    assert main(command) == 0
    assert "Run folder" in capsys.readouterr().out
    others = ["ResNet18, without", "ResNet18, with", "MobileNetV3, with"]
    assert not_run(out, "table-2-lesion") == others
    for end in ("md", "html"):
        text = (out / f"table-2-lesion.{end}").read_text()
        assert "SYNTHETIC pictures" in text
        assert "Tschandl" not in text
    assert main(command) == 0
    assert "Run folder" not in capsys.readouterr().out
