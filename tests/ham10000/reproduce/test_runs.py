"""Which runs of a folder are those of the rows, and which keep them from being run."""

import pytest
import torch

from examples.ham10000.model import build_network
from examples.ham10000.paper import reproduce as module
from tests.ham10000.finished import SE, begin, finish, make_older
from tests.ham10000.runs import MODEL


@pytest.fixture
def launched(monkeypatch):
    """The runs that stand for training."""
    configs = []

    def complete(config, *, resumed):
        configs.append(config)
        finish(config.out, **vars(config))

    monkeypatch.setattr(module, "complete", complete)
    return configs


@pytest.fixture
def call(folder, tmp_path, launched):
    def reproduce(**options):
        return module.reproduce(data=folder, out=tmp_path / "out", **options)

    return reproduce


@pytest.mark.parametrize(("make", "seed"), [(finish, 0), (begin, 0), (finish, 3)])
@pytest.mark.parametrize("protocol", ["lesion", "paper"])
def test_runs_of_an_older_version_are_refused_at_once(
    make, seed, protocol, call, launched, tmp_path
):
    run = tmp_path / "out" / f"{SE}-{protocol}-seed{seed}"
    make(run, seed=seed, protocol=protocol)
    make_older(run)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{run} was begun by an older version, in which bias"):
            call(table=5, rows=["CaCo"], protocol=protocol)
    assert launched == []


def test_rates_of_gates_are_for_the_rows_that_have_them(call, launched):
    options = {"gate_lr": 5e-3, "gate_weight_decay": 0.0, "warmup": 2.0}
    assert call(table=5, rows=["SE", "Eca", "CaCo"], **options).failures == {}
    assert call(table=3, rows=["ResNet18"], **options).failures == {}
    assert [(c.attention, c.gate_lr, c.gate_weight_decay, c.warmup) for c in launched] == [
        ("SE", 5e-3, 0.0, 2.0),
        ("Eca", None, None, 2.0),
        ("CaCo", 5e-3, 0.0, 2.0),
        ("none", None, None, 2.0),
    ]


def test_rows_are_trained_as_the_paper_says_unless_options_do(call, launched):
    """With ImageNet weights, with which ``train`` has other defaults."""
    assert call(table=5, rows=["SE", "CaCo"]).failures == {}
    assert [(c.weights, c.gate_lr, c.warmup, c.clip_grad_norm) for c in launched] == [
        ("imagenet", 5e-4, 0.0, None),
        ("imagenet", 5e-4, 0.0, None),
    ]


def test_weights_with_blocks_are_for_the_rows_that_have_them(call, launched, tmp_path):
    weights = tmp_path / "w.pth"
    torch.save(build_network(MODEL, 7, "none", "CaCo").model.state_dict(), weights)
    options = {"table": 5, "model": MODEL, "weights": str(weights)}
    assert call(rows=["CaCo"], **options).failures == {}
    assert [(c.attention, c.init) for c in launched] == [("CaCo", "loaded")]
    found = call(rows=["SeCo", "CaCo + joint loss"], **options)
    assert list(found.failures) == ["SeCo"]
    assert "holds CaCo blocks at 2 SE sites; --attention SeCo was asked" in found.failures["SeCo"]
    assert f"SeCo: {weights} holds" in (tmp_path / "out" / "table-5-lesion.md").read_text()
    assert [(c.loss, c.init) for c in launched[1:]] == [("joint", "loaded")]
    weights.unlink()
    assert call(rows=["CaCo", "CaCo + joint loss"], **options).failures == {}
    assert len(launched) == 2
