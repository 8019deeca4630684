"""Three runs to compare."""

import shutil

import numpy as np
import pytest

from tests.ham10000.comparison.by_hand import guesses, some_changed, some_truth, write_run


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
