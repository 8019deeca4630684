"""Which runs of a folder are those of the rows, and which keep them from being run."""

import pytest
import torch

from examples.ham10000.reproduce import reproduce as module
from examples.ham10000.training.models import build_network
from tests.ham10000.finished import SE, begin, finish, make_older
from tests.ham10000.runs import MODEL


@pytest.fixture
def launched(monkeypatch):
    """The runs that stand for training."""
    configs = []

    def launch(config, *, resumed):
        configs.append(config)
        finish(config.out, **vars(config))

    monkeypatch.setattr(module, "launch", launch)
    return configs


@pytest.fixture
def call(folder, tmp_path, launched):
    def reproduce(**options):
        return module.reproduce(data=folder, out=tmp_path / "out", **options)

    return reproduce


@pytest.mark.parametrize(("make", "seed"), [(finish, 0), (begin, 0), (finish, 3)])
def test_runs_with_an_older_split_by_lesion_are_refused_at_once(
    make, seed, call, launched, tmp_path
):
    run = tmp_path / "out" / f"{SE}-lesion-seed{seed}"
    make(run, seed=seed)
    make_older(run)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{run} was split before lesions with two ids were j"):
            call(table=5, rows=["CaCo"])
    assert launched == []


def test_splits_by_image_are_as_they_were(call, launched, tmp_path):
    run = tmp_path / "out" / f"{SE}-paper-seed0"
    finish(run, protocol="paper")
    make_older(run)
    assert call(table=5, rows=["SE"], protocol="paper").failures == {}
    assert launched == []


def test_weights_with_blocks_are_for_the_rows_that_have_them(call, launched, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(build_network(MODEL, 7, "none", "CaCo").model.state_dict(), weights)
    options = {"table": 5, "model": MODEL, "weights": str(weights)}
    assert call(rows=["CaCo"], **options).failures == {}
    assert [(c.attention, c.init) for c in launched] == [("CaCo", "loaded")]
    found = call(rows=["SeCo", "CaCo + joint loss"], **options)
    assert list(found.failures) == ["SeCo"]
    assert "holds CaCo blocks at 9 SE sites; --attention SeCo was asked" in found.failures["SeCo"]
    assert f"SeCo: {weights} holds" in (tmp_path / "out" / "table-5-lesion.md").read_text()
    assert [(c.loss, c.init) for c in launched[1:]] == [("joint", "loaded")]
    weights.unlink()
    assert call(rows=["CaCo", "CaCo + joint loss"], **options).failures == {}
    assert len(launched) == 2
