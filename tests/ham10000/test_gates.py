"""What a run records of its gates: again from the files of the run, and of runs that lack them."""

import json
import math
import shutil

import lightning as L
import pytest
import torch

from attnblocks import gate_report
from examples.ham10000 import gates
from examples.ham10000.config import read_options
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.load import load_data
from examples.ham10000.evaluate import load_best
from examples.ham10000.gates import read_gates, record_gates, sample
from examples.ham10000.model import build_network
from tests.ham10000.runs import MODEL

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def data(run):
    images = read_index(run / "synthetic")
    return load_data(images, run / "split.csv", 48, run.parent / "ham10000-cache")


def test_a_run_records_its_gates_at_the_start_and_at_the_end(run, data):
    recorded = read_gates(run)
    start, end = load_best(run, "start.ckpt"), load_best(run)
    pixels = torch.from_numpy(data.pixels[sample(data, "train")])[:, :, 4:52, 4:52]
    images = end.normalise(pixels)
    wanted = gate_report(end.model, images, start.model, batch_size=64)
    assert len(wanted.sites) == 2
    assert recorded.end.images == recorded.start.images == len(images) <= 256
    for gate, other in zip(recorded.end.gates, wanted.gates, strict=True):
        for name in ("mean", "spread", "moved"):
            assert getattr(gate, name) == pytest.approx(getattr(other, name), rel=1e-3, abs=1e-6)
        assert gate.moved > 0.001
        assert (gate.between_classes > 0) == (gate.spread > 0)  # the units of one may be dead
    old = gate_report(start.model, images, batch_size=64)
    for gate, other in zip(recorded.start.gates, old.gates, strict=True):
        assert (gate.site, gate.gate, gate.moved) == (other.site, other.gate, None)
        assert gate.spread == pytest.approx(other.spread, rel=1e-2, abs=1e-6)
    assert recorded.start.idle == old.idle
    assert json.loads((run / "gates.json").read_text())["part"] == "train"


def test_the_start_is_before_the_first_step(run):
    """All is that of a network which the seed of the run draws."""
    config = read_options(run)
    L.seed_everything(config.seed, verbose=False)
    drawn = build_network(MODEL, len(CLASSES), "none", config.attention, image_size=48).model
    state = torch.load(run / "start.ckpt", weights_only=True)["state_dict"]
    best = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == {name for name in best if name.startswith("model.")}
    for name, value in drawn.state_dict().items():
        assert torch.equal(state[f"model.{name}"], value), name


def test_the_sample_is_small_and_spread_over_the_part(data, monkeypatch):
    part = data.split["train"]
    assert sample(data, "train") == part[:: -(-len(part) // 256)]
    monkeypatch.setattr(gates, "MOST_IMAGES", 10)
    few = sample(data, "train")
    assert len(few) <= 10
    assert few[0] == part[0]
    assert few[-1] in part[-(len(part) // 5) :]


def test_a_run_that_an_older_version_began_has_no_start(run, data, tmp_path):
    for file in run.glob("*"):  # with whatever describes the run
        if (file.suffix == ".json" and file.name != "gates.json") or file.name == "best.ckpt":
            shutil.copyfile(file, tmp_path / file.name)
    assert read_gates(tmp_path) is None
    record_gates(tmp_path, load_best(tmp_path), data, 64)
    recorded = read_gates(tmp_path)
    assert recorded.start is None
    known = read_gates(run).end.gates
    for gate, other in zip(recorded.end.gates, known, strict=True):
        assert gate.moved is None
        assert gate.spread == pytest.approx(other.spread, rel=1e-3, abs=1e-6)


GATE = dict.fromkeys(("mean", "spread", "closed", "open", "over_images", "over_positions"), 0.5)
GATE |= {"site": "a", "gate": "rows", "between_classes": None, "moved": None}


def record(images=3, name="a", gates=None, sites=None, **figures):
    """A record of one gate, with something else in it."""
    gates = [{**GATE, **figures}] if gates is None else gates
    sites = [{"name": name, "gates": gates, "on_where": None}] if sites is None else sites
    return {"start": None, "end": {"images": images, "sites": sites}}


def test_what_is_unknown_is_null(tmp_path):
    (tmp_path / "gates.json").write_text(json.dumps(record()))
    (gate,) = read_gates(tmp_path).end.gates
    assert (gate.site, gate.mean, gate.between_classes, gate.moved) == ("a", 0.5, None, None)


DAMAGE = [[], {}, {"start": None, "end": None}, record(gates=[{"site": "a"}])]
DAMAGE += [record(images=value) for value in ("3", None, 0, True)]
DAMAGE += [record(name=None), record(site=3), record(gate=None), record(mean=None)]
DAMAGE += [record(spread="0.5"), record(moved="0.5"), record(between_classes=math.nan)]
DAMAGE += [record(over_images=math.inf), record(closed=True), record(sites=[]), record(gates=[])]
DAMAGE += [record(unknown=0.5), {**record(), "start": {"images": 3, "sites": []}}]


@pytest.mark.parametrize("text", ["{", *map(json.dumps, DAMAGE)])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(ValueError, match=r"gates\.json is damaged: "):
        read_gates(tmp_path)
