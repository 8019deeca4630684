"""The tables of the trials of rates say what their files hold."""

import json
import math
import re

import numpy as np
import pytest
import scipy.stats

from benchmarks.learning import work
from benchmarks.learning.arms import ARMS, OWN, control
from benchmarks.learning.gate_table import TIMES, gate_table, learned, on_lesion, spread
from benchmarks.learning.report import STUDENT_T, by_arm, loss_table, report
from benchmarks.learning.results import Trial, lost_start


def site(rows: float, columns: float, share: float):
    spreads = {"channel": 0.2, "rows": rows, "columns": columns}
    return {"mean": dict.fromkeys(spreads, 1.0), "spread": spreads, "on_lesion": share}


def trial(arm: str, fold: int, losses, sites=None, **fields) -> Trial:
    epochs = [
        {"train_loss": 1.0, "val_loss": loss, "val_accuracy": 0.7, "val_mean_recall": 0.5}
        for loss in losses
    ]
    before = {} if sites is None else {name: site(0.01, 0.01, 0.3) for name in sites}
    return Trial(
        **{
            "arm": arm,
            "run": (fold, 0),
            "of_epochs": 2,
            "epochs": epochs,
            "error": None,
            "before": before,
            "after": sites or {},
            "lesion_area": 0.3,
            "seconds": 60.0,
            "device": "A",
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("training", "losses", "own", "epoch"),
    [
        ([0.9, 0.7, 0.6], [0.9, 0.7, 0.6], [0.9, 0.7, 0.6], None),
        ([0.9, 0.7, 0.6], [5.0, 5.0, 0.69], [0.9, 0.7, 0.6], None),
        ([0.9, 0.7, 0.6], [0.9, 0.7, 0.71], [0.9, 0.7, 0.6], 3),
        ([0.9, 0.7, 0.79], [0.9, 0.7, 0.6], [0.9, 0.7, 0.6], None),
        ([0.9, 0.7, 0.81], [0.9, 0.7, 0.6], [0.9, 0.7, 0.6], 3),
        ([0.7, 0.9, 0.6], [0.9, 0.7, 0.8], [0.9, 0.7, 0.6], 2),
        ([0.7, math.nan, 0.6], [0.9, 0.7, 0.6], [0.9, 0.7, 0.6], 2),
        ([0.7], [0.9], [0.9, 0.7, 0.6], 2),  # broke off
        ([0.7, 0.6, 0.5], [0.9, 0.7, 0.6], [0.9], None),
    ],
)
def test_a_start_is_lost(training, losses, own, epoch):
    found = trial("CaCo inherit x1", 0, losses, of_epochs=3)
    for row, loss in zip(found.epochs, training, strict=True):
        row["train_loss"] = loss
    assert lost_start(found, trial("own SE x1", 0, own, of_epochs=3)) == epoch


def cells(lines: list[str], name: str) -> list[str]:
    (row,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_losses_are_paired_over_the_folds():
    last = {
        "own SE x1": [0.50, 0.60, 0.55],
        "own SE x10": [0.49, 0.58, 0.55],
        "SeCo inherit x10": [0.48, 0.60, 0.70],
    }
    trials = [
        trial(name, fold, [0.7, loss])
        for name, losses in last.items()
        for fold, loss in enumerate(losses)
    ]
    lines = loss_table(by_arm(reversed(trials)))
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in last]
    found = cells(lines, "SeCo inherit x10")
    assert found[:4] == ["0.480", "0.600", "0.700", "0.593"]
    for cell, base in zip(found[4:6], ("own SE x1", "own SE x10"), strict=True):
        less = np.subtract(last["SeCo inherit x10"], last[base])
        low, high = scipy.stats.t.interval(0.95, 2, less.mean(), scipy.stats.sem(less))
        found_numbers = [float(n) for n in re.findall(r"[-+][\d.]+", cell)]
        np.testing.assert_allclose(found_numbers, [less.mean(), low, high], atol=6e-4)
    assert found[6:] == ["0.700", "0.500", "**fold 2, epoch 2**"]
    assert cells(lines, "own SE x10")[4:6] == ["-0.010 [-0.035, +0.015]", ""]
    assert cells(lines, "own SE x1")[4:6] == ["", ""]


def test_tables_of_what_is_not_complete():
    """A fold is missing, one trial broke off, and the control is not done."""
    trials = [
        trial("own SE x1", 0, [0.7, 0.5]),
        trial("SeCo inherit x30", 0, [0.7], after=None, error="the loss is nan"),
        trial("SeCo inherit x30", 1, [0.7, 0.6]),
        trial("CaCo fitted x30", 0, [0.7, 0.52]),
    ]
    lines = loss_table(by_arm(trials))
    found = cells(lines, "SeCo inherit x30")
    assert found[:7] == ["not finite", "0.600", "not finite", "-", "-", "-", "-"]
    assert found[-1] == "**fold 0, epoch 2**; fold 1: own SE is not done"
    assert cells(lines, "CaCo fitted x30")[:5] == ["0.520", "", "0.520", "+0.020", "-"]


def test_gates_are_compared_site_by_site(tmp_path):
    base, arm = {}, {}
    for fold in (0, 1):
        few = {"a": site(0.01, 0.02, 0.3), "b": site(0.02, 0.02, 0.3), "c": site(0.03, 0.02, 0.3)}
        many = {
            "a": site(0.05 + 0.01 * fold, 0.02, 0.32),
            "b": site(0.02, 0.11, 0.28),
            "c": site(0.14, 0.09, 0.35),
        }
        base[fold, 0] = trial("SeCo inherit x1", fold, [0.5, 0.5], few)
        arm[fold, 0] = trial("CaCo inherit x3", fold, [0.5, 0.5], many)
    assert TIMES == 5
    assert learned(arm, base, "rows") == "2 of 6"  # a, in both folds
    assert learned(arm, base, "columns") == "2 of 6"  # b
    assert learned(arm, base, "positions") == ""
    after = [t.after for t in arm.values()]
    assert spread(after, "rows") == pytest.approx((0.05 + 0.06) / 2)
    assert spread(after, "positions") is None
    assert on_lesion(arm) == pytest.approx([0.02, -0.02, 0.05] * 2)
    for t in (*base.values(), *arm.values()):
        folder = work.folder_of(tmp_path, *t.run)
        folder.mkdir(exist_ok=True)
        found = {**vars(t), "fold": t.run[0], "seed": t.run[1]}
        (folder / f"{t.arm}.json").write_text(json.dumps(found))
    report(tmp_path, "SeCo inherit x1")
    text = (tmp_path / "report.md").read_text()
    assert "A: 4 trials of 2 epochs, 60 s each" in text
    row = cells(text.split("\n\n")[3].splitlines(), "CaCo inherit x3")
    assert row[:4] == ["0.0100 → 0.0550", "2 of 6", "0.0100 → 0.0900", "2 of 6"]
    assert row[4:] == ["", "", "+0.017", "-0.020 to +0.050"]


def interval(less) -> list[float]:
    """Mean and limits of Student's interval, rounded as in the tables."""
    return [
        np.mean(less),
        *scipy.stats.t.interval(0.95, len(less) - 1, np.mean(less), scipy.stats.sem(less)),
    ]


def test_seeds_are_averaged_within_a_fold():
    """Fifteen differences, of five folds; one trial lost its start, and one has no own SE."""
    losses = np.random.default_rng(0).uniform(0.5, 0.55, (2, 5, 3))
    names = ("own SE x1", "SeCo inherit x1")
    trials = [
        trial(name, fold, [0.7, losses[arm, fold, seed]], run=(fold, seed))
        for arm, name in enumerate(names)
        for fold in range(5)
        for seed in range(3)
    ]
    less = interval((losses[1] - losses[0]).mean(axis=1))
    row = cells(loss_table(by_arm(trials)), "SeCo inherit x1")
    for cell in row[16:18]:
        found = [float(n) for n in re.findall(r"[-+][\d.]+", cell)]
        np.testing.assert_allclose(found, less, atol=6e-4)
    trials[17].epochs[-1]["val_loss"] = 0.9  # fold 0, seed 2
    del trials[4]  # own SE, fold 1, seed 1
    lost = cells(loss_table(by_arm(trials)), "SeCo inherit x1")[-1]
    assert lost == "**fold 0 seed 2, epoch 2**; fold 1 seed 1: own SE is not done"


def test_the_control_has_the_same_warm_up_and_clipping():
    last = {
        "own SE x1": 0.5,
        "own SE x10": 0.4,
        "own SE x10 warm-up 1 clip 1": 0.3,
        "SeCo inherit x1": 0.45,
        "SeCo inherit x10": 0.45,
        "SeCo inherit x10 clip 1": 0.45,
        "SeCo inherit x10 warm-up 1 clip 1": 0.45,
        "of no list": 0.45,
    }
    lines = loss_table(by_arm(trial(name, 0, [0.7, loss]) for name, loss in last.items()))
    less = ["", "", "", "-0.050", "+0.050", "", "+0.150", ""]
    assert [cells(lines, name)[3] for name in last] == less


def test_trials_without_masks_are_counted_in_their_cell():
    sites = {"a": site(0.01, 0.02, 0.34)}
    unseen = {"a": {**sites["a"], "on_lesion": None}}
    trials = by_arm(
        [
            trial("SeCo inherit x1", 0, [0.5, 0.5], sites),
            trial("SeCo inherit x1", 1, [0.5, 0.5], unseen, lesion_area=None),
            trial("CaCo inherit x1", 0, [0.5, 0.5], sites),
            trial("CaCo fitted x1", 0, [0.5, 0.5], unseen, lesion_area=None),
        ]
    )
    lines = gate_table(trials, "SeCo inherit x1")
    assert cells(lines, "SeCo inherit x1")[6:] == ["+0.040 (1 of 2 trials)", "+0.040 to +0.040"]
    assert cells(lines, "CaCo inherit x1")[6:] == ["+0.040", "+0.040 to +0.040"]
    assert cells(lines, "CaCo fitted x1")[6:] == ["", ""]


def test_quantiles():
    expected = [scipy.stats.t.ppf(0.975, n - 1) for n in range(2, 6)]
    np.testing.assert_allclose(STUDENT_T, expected, atol=1e-3)


def test_every_arm_has_a_name_of_its_own_and_most_a_control():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert ARMS[0] == OWN
    found = {arm.name: same and same.name for arm in ARMS for same in [control(arm)]}
    for name, own in found.items():
        if name.startswith("own SE") or ("warm-up" in name) != ("clip" in name):
            assert own is None
        else:
            rates = re.search(r" (x\d+)(?: decay x0)?( warm-up 1 clip 1)?(?: all gates)?$", name)
            wanted = f"own SE {rates[1]}{rates[2] or ''}"
            assert own == (wanted if wanted in found else None)
    assert [name for name, own in found.items() if own is None and "own" not in name] == [
        *(f"SeCo inherit x{factor} warm-up 1" for factor in (10, 30)),
        *(f"SeCo inherit x{factor} clip 1" for factor in (10, 30)),
        "SeCo inherit x30 warm-up 1 clip 1",
        "CaCo fitted x10 clip 1",
    ]
