"""Three runs to compare, and rows of a table that are run without training."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from examples.ham10000 import cli, pipeline
from examples.ham10000.cli import main
from examples.ham10000.config import Config
from examples.ham10000.paper.results import Results, collect
from examples.ham10000.paper.rows import FIGURES, TABLES
from tests.ham10000.finished import finish
from tests.ham10000.paper.by_hand import guesses, some_changed, some_truth, write_run


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """Truth, predictions and folders of three runs: a first, one like it, and a better one."""
    generator = np.random.default_rng(0)
    truth = some_truth(generator)
    first = guesses(generator, truth, 0.6)
    alike = some_changed(generator, first, truth, 0.3, 0.6)
    better = some_changed(generator, first, truth, 0.5, 1)
    root = tmp_path_factory.mktemp("compare")
    options = {"first": {}, "alike": {"attention": "SE", "init": None}, "better": {"loss": "focal"}}
    guessed = {"first": first, "alike": alike, "better": better}
    folders = {n: write_run(root / n, truth, guessed[n], **options[n]) for n in guessed}
    return truth, guessed, folders


@pytest.fixture
def pair(case, tmp_path):
    """Two runs that a test may damage."""
    return [shutil.copytree(case[2][name], tmp_path / name) for name in ("first", "alike")]


class Launches:
    """Stands for the training: writes a finished run, and keeps what it was called with."""

    def __init__(self):
        self.configs: list[Config] = []
        self.resumed: list[bool] = []
        self.before = lambda config: None

    def __call__(self, config: Config, *, resumed: bool) -> None:
        self.configs.append(config)
        self.resumed.append(resumed)
        assert resumed == config.out.exists()
        self.before(config)
        finish(config.out, **vars(config))

    @property
    def names(self) -> list[str]:
        return [config.out.name for config in self.configs]

    def options(self, *names: str) -> list[tuple]:
        return [tuple(getattr(config, name) for name in names) for config in self.configs]


@pytest.fixture
def launches(monkeypatch) -> Launches:
    fake = Launches()
    monkeypatch.setattr(pipeline, "complete", fake)
    monkeypatch.setattr(cli, "complete", fake, raising=False)
    return fake


@pytest.fixture
def call(folder, tmp_path, launches):
    """The exit code of ``reproduce`` on the small data folder, in ``out``."""

    def reproduce(*options: str) -> int:
        out = str(tmp_path / "out")
        return main(["reproduce", *options, "--data", str(folder), "--out", out])

    return reproduce


@pytest.fixture
def row(tmp_path):
    """A finished run of a row, in the folder where a table looks for it."""

    def finish_row(
        attention="SE",
        *,
        model="tv/mobilenet_v3_small",
        loss="cross-entropy",
        protocol="lesion",
        seed=0,
        **more,
    ) -> Path:
        init = None if attention in ("SE", "none") else "fitted"
        name, parts = model.split("/")[1], [attention, init, loss, protocol, f"seed{seed}"]
        run = tmp_path / "-".join([name, "pretrained", *filter(None, parts)])
        given = {"attention": attention, "init": init, "model": model, "loss": loss}
        finish(run, **given, protocol=protocol, seed=seed, **more)
        return run

    return finish_row


@pytest.fixture
def results(tmp_path):
    """What is finished in ``tmp_path``."""

    def read(kind: str, number: int, failures: dict[str, str] | None = None, **options) -> Results:
        wanted = (TABLES if kind == "table" else FIGURES)[number]
        return collect(wanted, tmp_path, Path("/data"), options, failures or {})

    return read
