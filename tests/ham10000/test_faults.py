"""Signals, full disks and processes that die: a clear end, and a run that can go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.ham10000.children import call_main
from tests.ham10000.runs import MODEL

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and resource limits")

OPTIONS = ["--model", MODEL, "--image-size", "32", "--batch-size", "64", "--epochs", "3"]
MAIN = [sys.executable, "-m", "tests.ham10000.undrawn"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
ROOT = Path(__file__).parents[2]


def start(*command: object, **options) -> subprocess.Popen:
    # The progress bar goes to stdout, and would fill a pipe that nobody reads.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [*map(str, command)], env=ENVIRONMENT, cwd=ROOT, text=True, **quiet, **options
    )


def end(process: subprocess.Popen, seconds: float) -> tuple[int, str]:
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, errors


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def data(run) -> Path:
    """Drawn pictures; they are only read."""
    return run / "synthetic"


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict[str, torch.Tensor]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call_main(["train", *OPTIONS, "--data", str(data), "--out", str(run)]) == 0
    return weights(run)


def assert_goes_on(run: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    assert call_main(["train", "--resume", str(run)]) == 0
    assert (run / "report.html").exists()
    found = weights(run)
    assert all(torch.equal(found[name], value) for name, value in undisturbed.items())


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    "stop", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_ends_a_run_that_then_goes_on(data, undisturbed, stop, tmp_path):
    run = tmp_path / "run"
    process = start(*MAIN, "train", *OPTIONS, "--data", data, "--out", run)
    wait_for((run / "last.ckpt").exists)
    process.send_signal(stop)
    code, errors = end(process, 60)
    assert code == 128 + stop
    assert "train --resume" in errors
    assert "Traceback" not in errors
    assert not (run / "test.json").exists()
    assert_goes_on(run, undisturbed)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_good_one(data, undisturbed, tmp_path):
    import resource

    run = tmp_path / "run"
    command = ["train", *OPTIONS, "--data", str(data), "--out", str(run)]
    assert call_main(command, "second epoch") == -signal.SIGKILL
    good = (run / "last.ckpt").read_bytes()
    limit = len(good) // 2  # of the size of any file that is written

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, errors = end(start(*MAIN, "train", "--resume", run, preexec_fn=full), 120)
    assert code == 2
    assert "cannot write the checkpoint" in errors
    assert "Traceback" not in errors
    assert (run / "last.ckpt").read_bytes() == good
    assert not list(run.glob(".*"))
    assert_goes_on(run, undisturbed)


def test_a_process_that_dies_takes_the_other_one_with_it(data, tmp_path):
    run = tmp_path / "run"
    command = [*TORCHRUN, "-m", "--", "tests.ham10000.undrawn", "train", *OPTIONS, "--epochs", "50"]
    process = start(*command, "--data", data, "--out", run)
    wait_for((run / "last.ckpt").exists)
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    first, second = map(int, listed.stdout.split())
    os.kill(second, signal.SIGKILL)
    code, errors = end(process, 60)
    assert code != 0
    assert "SIGKILL" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert (run / "last.ckpt").exists()
