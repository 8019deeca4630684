"""Two processes train one network, and evaluate it as one process does."""

import csv
import json

import numpy as np
import pytest
import torch

from examples.ham10000.cli import main
from examples.ham10000.data.batches import SkinLesions, evaluation_loader, training_loader
from tests.ham10000.children import call_main_in_two
from tests.ham10000.runs import QUICK

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    run = tmp_path_factory.mktemp("two") / "run"
    options = ["--epochs", "2", "--batch-size", "30", "--out", str(run)]
    codes, printed, errors = call_main_in_two([*QUICK, *options], run.parent / "printed")
    assert codes == [0, 0], errors
    for said in ("Run folder", "epoch 1/2: ", "epoch 2/2: "):
        assert printed.count(said) == 1  # one of them talks
    return run


def probabilities(file):
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    return [row[0] for row in rows], np.array([[float(v) for v in row[1:]] for row in rows])


def test_one_and_two_processes_evaluate_alike(run_of_two, tmp_path):
    options = ["--run", str(run_of_two), "--data", str(run_of_two / "synthetic"), "--out"]
    evaluate = ["evaluate", *options, str(tmp_path / "two")]
    codes, _, errors = call_main_in_two(evaluate, tmp_path / "printed")
    assert codes == [0, 0], errors
    assert main(["evaluate", *options, str(tmp_path / "one")]) == 0
    folders = (tmp_path / "one", tmp_path / "two", run_of_two)
    (names, one), *others = [probabilities(folder / "test.csv") for folder in folders]
    with (run_of_two / "split.csv").open(newline="") as stream:
        test = [row["image_id"] for row in csv.DictReader(stream) if row["split"] == "test"]
    assert sorted(names) == sorted(test)  # none lost, none doubled
    assert len(names) % 2 == 1  # so that the two have different numbers of images
    for other_names, other in others:
        assert other_names == names
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    one, *others = [json.loads((folder / "test.json").read_text()) for folder in folders]
    for other in others:
        assert other.keys() == one.keys()
        for name in ("accuracy", "mean_recall", "bacc_formula", "macro_f1", "calibration_error"):
            assert other[name] == pytest.approx(one[name], abs=1e-5)


def test_both_processes_train(run_of_two):
    """Each step sees half of the batch in each process: 9 steps of 30 images, not 19."""
    state = torch.load(run_of_two / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2 * (295 // 30)


def test_a_batch_that_cannot_be_shared_is_an_error(tmp_path):
    options = ["--batch-size", "33", "--out", str(tmp_path / "run")]
    codes, _, errors = call_main_in_two([*QUICK, *options], tmp_path / "printed")
    assert codes == [2, 2]
    assert "--batch-size 33 cannot be shared by 2 processes" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("count", "batch"), [(1, 6), (2, 6), (3, 6), (1, 1), (2, 2), (8, 8)])
@pytest.mark.parametrize("images", [8, 9, 29, 64])
def test_every_image_is_in_one_batch_of_one_process(monkeypatch, count, batch, images):
    part = SkinLesions(np.zeros((images, 3, 2, 2), np.uint8), [0] * images, range(images))
    monkeypatch.setattr("examples.ham10000.processes.count", lambda: count)
    seen, numbers = [], set()
    trained = []
    for rank in range(count):
        monkeypatch.setattr("examples.ham10000.processes.rank", lambda rank=rank: rank)
        batches = [positions.tolist() for *_, positions in evaluation_loader(part, batch)]
        numbers.add(len(batches))
        assert all(1 <= len(own) <= batch // count + 1 for own in batches)
        seen += [i for own in batches for i in own]
        trained.append([p.tolist() for *_, p in training_loader(part, batch, seed=0)])
    assert sorted(seen) == list(range(images))
    assert len(numbers) == 1  # no process waits for another
    steps = [{i for part in parts for i in part} for parts in zip(*trained, strict=True)]
    alone = [p.tolist() for *_, p in training_loader(part, batch, seed=0, shared=False)]
    if images // count * count >= batch:  # the batches of one process, shared out
        assert steps == [set(step) for step in alone[: len(steps)]]
