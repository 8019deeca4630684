"""docs/results: every figure follows from the predictions beside it, computed in another way.

Figures by scikit-learn or from their definitions; intervals from sums over lesions, for AUC from
its influence function.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from examples.ham10000.metrics import draw_lesions
from examples.ham10000.paper.rows import TABLES

DOCS = Path(__file__).parents[3] / "docs"
RESULTS = DOCS / "results"
NAMES = ("log loss", "bounded log loss", "AUC", "mean recall")
NAMES += ("corrected recall", "accuracy", "calibration error")
FIRST = {"attention": "own SE", "insertion": "as it is"}


def tables(text):
    """The rows of the table below each heading, by their first cell."""
    found = defaultdict(dict)
    for part in text.split("\n## ")[1:]:
        heading, *lines = part.splitlines()
        rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
        for row in rows[2:]:
            found[heading][row[0]] = row[1:]
    return found


def by_hand(logs, labels):
    """What each image adds to the figures of predictions, and these."""
    probabilities = np.exp(logs.astype(float))
    shares = np.array([(labels == c).mean() for c in range(7)])
    top, guess = probabilities.max(axis=1), probabilities.argmax(axis=1)
    truth = probabilities[np.arange(len(labels)), labels]
    corrected = (probabilities / shares).argmax(axis=1)
    bins = np.digitize(top, np.arange(1, 15) / 15)
    influence = np.zeros(len(labels))
    for c in range(7):
        own, score = labels == c, logs[:, c]
        n, m = own.sum(), (~own).sum()
        wins = np.where(own, rankdata(score), 0)
        wins[own] = (wins[own] - rankdata(score[own])) / m
        lost = 1 - (rankdata(score)[~own] - rankdata(score[~own])) / n
        area = wins[own].mean()
        influence[own] += (wins[own] - area) / n / 7
        influence[~own] += (lost - area) / m / 7
    terms = {
        "log loss": -logs[np.arange(len(labels)), labels].astype(float),
        "bounded log loss": -np.log(np.maximum(truth, 0.001)),
        "right": (guess == labels).astype(float),
        "corrected": (corrected == labels).astype(float),
        "gap": (guess == labels) - top,
        "bin": bins,
        "influence": influence,
    }
    gaps = [abs(terms["gap"][bins == b].sum()) for b in range(15)]
    return terms, {
        "log loss": terms["log loss"].mean(),
        "bounded log loss": terms["bounded log loss"].mean(),
        "AUC": roc_auc_score(
            labels, probabilities / probabilities.sum(1)[:, None], multi_class="ovr"
        ),
        "mean recall": recall_score(labels, guess, average="macro"),
        "corrected recall": recall_score(labels, corrected, average="macro"),
        "accuracy": accuracy_score(labels, guess),
        "calibration error": sum(gaps) / len(labels),
    }


def of_draws(terms, area, labels, lesion, times):
    """The figures of each draw, from sums over lesions."""
    classes = [labels == c for c in range(7)]
    images = [
        np.ones(len(labels)),
        terms["log loss"],
        terms["bounded log loss"],
        terms["influence"],
        *classes,
        *[terms["right"] * one for one in classes],
        *[terms["corrected"] * one for one in classes],
        *[terms["gap"] * (terms["bin"] == b) for b in range(15)],
    ]
    lesions = np.array([np.bincount(lesion, row, minlength=len(times)) for row in images])
    total, loss, bounded, influence, *sums = lesions @ times
    count, right, corrected, gaps = sums[:7], sums[7:14], sums[14:21], sums[21:]
    return {
        "log loss": loss / total,
        "bounded log loss": bounded / total,
        "AUC": area + influence,
        "mean recall": np.mean([r / n for r, n in zip(right, count, strict=True)], axis=0),
        "corrected recall": np.mean([r / n for r, n in zip(corrected, count, strict=True)], axis=0),
        "accuracy": sum(right) / total,
        "calibration error": sum(abs(gap) for gap in gaps) / total,
    }


@pytest.fixture(scope="module", params=["attention", "insertion"])
def study(request):
    """Tables as printed; figures and draws by hand, of each arm and seed; the facts."""
    name = request.param
    folder = RESULTS / name
    facts = json.loads((folder / f"{name}.json").read_text())
    by_seed, seen = defaultdict(list), None
    for arm in facts["arms"]:
        slug = arm.replace(", ", "-").replace(" ", "-")
        for file in sorted(folder.glob(f"{name}-{slug}-seed*.npz")):
            content = np.load(file, allow_pickle=False)
            tested = content["fold"] >= 0
            labels, folds = content["label"][tested], content["fold"][tested]
            if seen is None:
                lesions = content["lesion"][tested].tolist()
                lesion, times = draw_lesions(
                    labels, lesions, folds.tolist(), seed=0, resamples=2000
                )
                times, seen = times.astype(float), content["image"][tested]
            assert np.array_equal(content["image"][tested], seen)
            logs = content["log_probability"][tested]
            terms, figures = by_hand(logs, labels)
            draws = of_draws(terms, figures["AUC"], labels, lesion, times)
            worst, parts = terms["log loss"].max(), [folds == k for k in sorted({*folds.tolist()})]
            by_seed[arm].append((figures, draws, worst, logs, labels, parts))
    return name, tables((folder / f"{name}.md").read_text()), by_seed, facts


def mean_of(seeds, place, name):
    return np.mean([seed[place][name] for seed in seeds], axis=0)


def check_figure(cell, name, value):
    scale, digits = (1, 4) if "loss" in name else (100, 2)
    assert float(cell) == pytest.approx(scale * value, abs=0.51 * 10**-digits), (name, cell)


def check_difference(cell, name, one, other):
    """A cell against the seeds of two arms."""
    value, draws = (mean_of(one, place, name) - mean_of(other, place, name) for place in (0, 1))
    scale = 1 if "loss" in name else 100
    found = [float(v) for v in re.findall(r"[+-][\d.]+", cell)]
    check_figure(found[0], name, value)
    for end, printed in zip(np.quantile(draws, (0.025, 0.975)), found[1:], strict=True):
        # The influence function leaves out what is of second order.
        area = 0.03 + 0.005 * abs(printed)
        tolerance = {"AUC": area}.get(name, 0.51e-4 if scale == 1 else 0.51e-2)
        assert printed == pytest.approx(scale * end, abs=tolerance), (name, cell)


def test_figures(study):
    _, printed, by_seed, facts = study
    assert printed["Figures"].keys() == by_seed.keys() == facts["arms"].keys()
    for arm, row in printed["Figures"].items():
        seeds = by_seed[arm]
        assert row[0] == str(len(seeds))
        assert row[1] == f"{facts['arms'][arm]['parameters']:,}"
        for measure, cell in zip(NAMES, row[2:-1], strict=True):
            if cell == "-":
                assert "loss" in measure
                assert facts["arms"][arm]["options"]["loss"] != "cross-entropy"
            else:
                check_figure(cell, measure, mean_of(seeds, 0, measure))
        assert row[-1] == f"{max(seed[2] for seed in seeds):.1f}"


def test_differences(study):
    _, printed, by_seed, _ = study
    headings = [heading for heading in printed if heading.startswith("Differences from ")]
    assert len(headings) == 2
    for heading in headings:
        reference = heading.removeprefix("Differences from ")
        assert printed[heading].keys() == by_seed.keys() - {reference}
        for arm, row in printed[heading].items():
            for measure, cell in zip(NAMES, row, strict=True):
                if cell != "-":
                    check_difference(cell, measure, by_seed[arm], by_seed[reference])
    for title, row in printed["Blocks, both with the same loss"].items():
        one, other = title.split(" minus ")
        for measure, cell in list(zip(NAMES, row, strict=True))[2:]:
            check_difference(cell, measure, by_seed[one], by_seed[other])


def test_family(study):
    name, printed, by_seed, facts = study
    first = FIRST[name]
    rows = printed[f"Log loss against {first}, the family of tests"]
    plain = [
        a for a in by_seed if facts["arms"][a]["options"].get("loss", "cross-entropy")[0] == "c"
    ]
    assert list(rows) == [arm for arm in plain if arm != first]
    p_values = {}
    for arm, row in rows.items():
        check_difference(row[0], "log loss", by_seed[arm], by_seed[first])
        draws = mean_of(by_seed[arm], 1, "log loss") - mean_of(by_seed[first], 1, "log loss")
        above = (draws > 0).sum()
        p_values[arm] = min(1, 2 * (min(above, 2000 - above) + 1) / 2001)
        assert float(row[1]) == pytest.approx(p_values[arm], abs=0.51e-4)
        assert float(row[3]) == pytest.approx(2.8 * np.std(draws, ddof=1), abs=0.51e-4)
    for arm, row in rows.items():  # Holm: the largest of those that are rejected before, and its
        steps = [
            sum(other >= p for other in p_values.values()) * p
            for p in p_values.values()
            if p <= p_values[arm]
        ]
        assert float(row[2]) == pytest.approx(min(1, max(steps)), abs=0.51e-4)


def test_seeds(study):
    _, printed, by_seed, _ = study
    rows = dict(printed["What another seed does"])
    twice = {arm: seeds for arm, seeds in by_seed.items() if len(seeds) > 1}
    squares = defaultdict(list)
    for arm, (first, second) in twice.items():
        row = rows.pop(f"{arm}, seed 1 minus 0")
        for measure, cell in zip(NAMES, row, strict=True):
            check_difference(cell, measure, [second], [first])
        for part in first[5]:
            one, other = (by_hand(seed[3][part], seed[4][part])[1] for seed in (first, second))
            for measure in NAMES:
                squares[measure].append((one[measure] - other[measure]) ** 2)
    for factor, title in (
        (1, "chance of training"),
        (2.8, "smallest that could be seen through it"),
    ):
        for measure, cell in zip(NAMES, rows.pop(title, []), strict=False):
            assert len(squares[measure]) == 10
            # The mean of five independent folds.
            check_figure(cell, measure, factor * np.sqrt(np.mean(squares[measure]) / 5))
    assert not rows


def test_gates(study):
    _, _, _, facts = study
    text = (RESULTS / facts["study"] / f"{facts['study']}.md").read_text()
    for arm, of in facts["arms"].items():
        for kind, row in (of["gates"] or {"kinds": {}})["kinds"].items():
            numbers = [f"{row['spread_at_start']:.4f}", f"{row['spread']:.4f}"]
            numbers += [f"{row['between_classes']:.4f}", f"{row['moved']:.4f}"]
            assert f"| {arm} | {kind} | {row['mean']:.3f} | {' | '.join(numbers)} |" in text
        if looking := of["on_lesions"]:
            least, middle, most = (
                looking["times_area"][name] for name in ("least", "median", "most")
            )
            assert 0 < least <= middle <= most < 1 / looking["area"]
            numbers = [f"{v:.3f}" for v in (looking["area"], middle, least, most)]
            row = [arm, str(looking["networks"]), f"{looking['images']:,}", *numbers]
            assert f"| {' | '.join(row)} |" in text


def tokens(text):
    """Numbers with a point or a comma; not those of versions."""
    return re.findall(r"(?<![\d.,])[+-]?\d+[.,]\d+(?:,\d+)*(?![\d.]*\d)", text)


PAGE = (DOCS / "results.md").read_text()
OWN = PAGE.split("## Beside the paper's tables")[0]
GENERATED = "\n".join((RESULTS / s / f"{s}.md").read_text() for s in FIRST)


def test_tables_of_the_page_are_those_of_the_studies():
    lines = [line for line in OWN.splitlines() if line[:1] == "|"]
    times = [line for line in lines if "| ms |" in line or "| SE | Eca |" in line]
    lines = [line for line in lines if line not in times and set(line) - set("|-: ")]
    assert len(lines) > 30
    assert not [line for line in lines if line not in GENERATED.splitlines()]
    names, cells = ([c.strip() for c in line.split("|")[2:-1]] for line in times)
    measured = json.loads((DOCS / "benchmarks" / "blocks-small.json").read_text())["rows"]
    place = {"memory_format": "contiguous", "batch": 32, "where": "all sites"}
    for name, cell in zip(names, cells, strict=True):
        (row,) = [r for r in measured if {**r, **place, "name": name} == r]
        assert cell == f"{1000 * np.median(row['seconds']):#.3g}"


def test_numbers_of_the_prose_stand_in_the_tables():
    prose = "\n".join(line for line in OWN.splitlines() if line[:1] != "|")
    known = {*tokens(GENERATED), "13.0"}  # and that of CUDA
    known |= {token.lstrip("+-") for token in known}
    assert len(tokens(prose)) > 30
    assert not [token for token in tokens(prose) if token not in known]
    facts = json.loads((RESULTS / "attention" / "attention.json").read_text())
    assert {v["torch"] for v in facts["versions"]} == {"2.11.0+cu130"}
    late = [e for a, of in facts["arms"].items() if "," in a for e in of["chosen_epochs"]]
    assert len(late) == 20
    assert {*late} == {7, 8}
    assert sum(of["runs"] for of in facts["arms"].values()) == 75


def test_the_paper_s_tables_have_our_figures():
    rows = tables(PAGE)["Beside the paper's tables"]
    assert len(rows) == 3
    lines = [line for line in PAGE.splitlines() if re.match(r"\| [245] \|", line)]
    figures = tables(GENERATED)["Figures"]
    for line in lines:
        number, name, accuracy, bacc, *ours = (c.strip() for c in line.split("|")[1:-1])
        (row,) = [r for r in TABLES[int(number)].rows if r.name == name]
        assert (accuracy, bacc) == (f"{row.accuracy:.2f}", f"{row.bacc:.2f}")
        arm = "own SE" if row.attention == "SE" else row.attention
        arm += {"ldam": ", LDAM", "joint": ", joint loss"}.get(row.loss, "")
        assert ours == [figures[arm][7], figures[arm][5]]
    assert len(lines) == 10


def test_nothing_of_the_data_or_of_a_machine_is_published():
    for file in RESULTS.rglob("*.*"):
        if file.suffix not in (".npz", ".png"):
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"ISIC_\d|(?<![\w.])/\w+/", text), file
