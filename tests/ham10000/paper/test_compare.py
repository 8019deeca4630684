"""Runs side by side: differences, intervals, verdicts, and what is printed and drawn."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from examples.ham10000.cli import main
from examples.ham10000.config import NOTICE
from examples.ham10000.metrics import HEADLINES
from examples.ham10000.paper.compare import compare, run_names
from examples.ham10000.paper.differences import holm
from examples.ham10000.paper.forest import forest
from tests.ham10000.paper.by_hand import (
    binomial,
    hand_bootstrap,
    hand_figures,
    hand_mcnemar,
    write_run,
)


@pytest.fixture(scope="module")
def result(case):
    """The comparison of the three runs; no test changes it."""
    return compare(list(case[2].values()))


def test_differences_are_those_of_the_figures(case, result):
    truth, guessed, _ = case
    labels = [label for _, _, label in truth]
    expected = {name: hand_figures(labels, of_run) for name, of_run in guessed.items()}
    assert [run["name"] for run in result["runs"]] == ["first", "alike", "better"]
    for run in result["runs"]:
        assert {n: run[n] for n in HEADLINES} == pytest.approx(expected[run["name"]])
    for pair, name in zip(result["comparisons"], ("alike", "better"), strict=True):
        for figure, row in pair["differences"].items():
            difference = expected[name][figure] - expected["first"][figure]
            assert row["difference"] == pytest.approx(difference)
            assert row["interval"][0] < row["difference"] < row["interval"][1]
    assert result["options_that_differ"] == {
        "attention": ["CaCo", "SE", "CaCo"],
        "init": ["fresh", None, "fresh"],
        "loss": ["cross-entropy", "cross-entropy", "focal"],
    }


def test_right_and_wrong_are_counted(case, result):
    """McNemar's test is held against its formula, and that against Armitage and Berry 1994."""
    assert round(binomial(12, 2), 4) == 0.0129  # two media for tuberculosis bacilli, page 127
    truth, guessed, _ = case
    p_values = []
    for pair, name in zip(result["comparisons"], ("alike", "better"), strict=True):
        *expected, p = hand_mcnemar(truth, guessed["first"], guessed[name])
        p_values.append(p)
        test = pair["mcnemar"]
        assert [test["only_first_right"], test["only_other_right"]] == expected
        assert test["p"] == pytest.approx(p, rel=1e-9, abs=0)
        same = zip(guessed["first"], guessed[name], strict=True)
        assert pair["same_prediction"] == sum(a == b for a, b in same)
    adjusted = [pair["mcnemar"]["p_holm"] for pair in result["comparisons"]]
    assert adjusted == pytest.approx([p_values[0], 2 * p_values[1]], abs=0)  # 1e-12 hides much


def test_holm_rejects_what_its_procedure_does():
    p_values = [0.03, 0.011, 0.8, 0.0124, 0.02]
    adjusted = holm(p_values)
    for alpha in np.linspace(0.001, 0.999, 333):
        rejected = set()
        for rank, p in enumerate(sorted(p_values)):
            if p > alpha / (len(p_values) - rank):
                break
            rejected.add(p)
        assert {p for p, a in zip(p_values, adjusted, strict=True) if a <= alpha} == rejected
    assert holm([0.9, 0.8]) == [1, 1]


@pytest.mark.parametrize("names", [("alike",), ("alike", "better")])
def test_intervals_are_those_of_lesions_drawn_one_by_one(case, names):
    """Within Monte Carlo error; two comparisons share the 5 % that may fail."""
    truth, guessed, folders = case
    pairs = compare([folders["first"], *(folders[name] for name in names)])["comparisons"]
    tail = 2.5 / len(names)
    for pair, name in zip(pairs, names, strict=True):
        drawn = hand_bootstrap(truth, guessed["first"], guessed[name], 4000)
        for figure, values in drawn.items():
            low, high = np.percentile(values, [tail, 100 - tail])
            found = pair["differences"][figure]["interval"]
            assert found == pytest.approx([low, high], abs=0.06 * (high - low))


def test_the_same_predictions_are_not_told_apart(case, tmp_path):
    """Nor does one resample differ: the same lesions were drawn for both."""
    truth, guessed, folders = case
    twin = write_run(tmp_path / "twin", truth, guessed["first"], seed=1)
    pair = compare([folders["first"], twin])["comparisons"][0]
    for row in pair["differences"].values():
        assert (row["difference"], row["interval"], row["told_apart"]) == (0, [0, 0], False)
    assert pair["mcnemar"] == {"only_first_right": 0, "only_other_right": 0, "p": 1, "p_holm": 1}
    assert "same class for every test image" in pair["verdict"]


def test_a_better_run_is_told_apart_in_either_order(case):
    folders = case[2]
    up, down = (
        compare([folders[name] for name in names])["comparisons"][0]
        for names in (("first", "better"), ("better", "first"))
    )
    row = up["differences"]["accuracy"]
    low, high = row["interval"]
    for pair, direction in ((up, "higher"), (down, "lower")):
        start = f"The test images tell them apart: run 2 is {direction} in accuracy by "
        start += f"{row['difference']:.3f} [{low:.3f}, {high:.3f}]"
        assert pair["verdict"].startswith(start)
    for name in HEADLINES:
        (low, high), back = (p["differences"][name]["interval"] for p in (up, down))
        assert back == pytest.approx([-high, -low], abs=1e-12)


def test_what_cannot_be_told_apart_is_said_so(result, tmp_path):
    """Of all figures, or of some: of the rarest class mean recall notices, accuracy hardly."""
    pair = result["comparisons"][0]
    row = pair["differences"]["mean_recall"]
    low, high = row["interval"]
    assert pair["verdict"].startswith("The test images cannot tell them apart")
    expected = f"from {low:+.3f} to {high:+.3f} in mean recall (here {row['difference']:+.3f})"
    assert expected in pair["verdict"]
    generator = np.random.default_rng(5)
    truth = [(f"n{i}", f"l{i}", 5) for i in range(3000)]
    truth += [(f"{c}-{i}", f"{c}-{i}", c) for c in (0, 1, 2, 3, 4, 6) for i in range(12)]
    common = [5 if generator.random() < 0.8 else 1 for _ in range(3000)]
    other = [5 if generator.random() < 0.8 else 1 for _ in range(3000)]
    first = common + [5 if label == 0 else label for _, _, label in truth[3000:]]
    second = other + [label for _, _, label in truth[3000:]]
    runs = [write_run(tmp_path / n, truth, g) for n, g in (("a", first), ("b", second))]
    verdict = compare(runs)["comparisons"][0]["verdict"]
    assert "run 2 is higher in mean recall by 0.14" in verdict
    assert "In the rest they cannot: the difference may be anything from -0.0" in verdict


def test_the_order_of_rows_makes_no_difference(pair):
    before = compare(pair)
    for name in ("test.csv", "split.csv"):
        header, *rows = (pair[1] / name).read_text().splitlines()
        (pair[1] / name).write_text("\n".join([header, *rows[::-1]]))
    assert compare(pair) == before


def test_names_are_as_long_as_they_must_be(tmp_path):
    assert run_names([tmp_path / "a" / "x", tmp_path / "b" / "y"]) == ["x", "y"]
    same = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "a" / "y"]
    assert run_names(same) == ["a/x", "b/x", "a/y"]


def test_printed_and_written(case, result, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", *map(str, case[2].values()), "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert json.loads((out / "comparison.json").read_text()) == result
    assert result["notice"] == NOTICE
    written = sorted(path.name for path in out.iterdir())
    assert written == ["comparison.html", "comparison.json", "comparison.png"]
    page = (out / "comparison.html").read_text()
    said = [*result["notes"], NOTICE, "97.5 %", "all 2 comparisons", "after Holm"]
    for pair in result["comparisons"]:
        interval = pair["differences"]["macro_f1"]["interval"]
        said += [pair["verdict"], "[{:+.3f}, {:+.3f}]".format(*interval)]
    for text in (" ".join(printed.split()), " ".join(page.replace("&#39;", "'").split())):
        assert [words for words in said if words not in text] == []
        assert "SYNTHETIC" not in text
    assert page.count("<img") == page.count('src="data:image/svg+xml;base64,') == 1
    assert "http" not in page
    with Image.open(out / "comparison.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert main(command) == 2
    assert "exists: name a new folder" in capsys.readouterr().err
    assert main(command[:-2]) == 0
    assert capsys.readouterr().out == printed


def test_the_picture_shows_every_difference(result):
    runs = [{**run, "name": run["name"] + "$x{$"} for run in result["runs"]]  # no formulas
    picture = forest({**result, "runs": runs})
    picture.savefig(io.BytesIO())
    (axes,) = picture.axes
    lines = [list(line.get_xdata()) for line in axes.lines]
    texts = [text.get_text() for text in axes.texts]
    for pair in result["comparisons"]:
        assert any(text.startswith(f"run {pair['run']}: ") for text in texts)
        for row in pair["differences"].values():
            assert row["interval"] in lines
            assert [row["difference"]] in lines


def test_synthetic_runs_say_so_everywhere(case, tmp_path, capsys):
    data = "SYNTHETIC pictures at 64x48"
    runs = [write_run(tmp_path / n, case[0], case[1][n], data=data) for n in ("first", "alike")]
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    assert data in capsys.readouterr().out
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "SYNTHETIC pictures: every figure on this page" in page
    assert "SYNTHETIC" in forest(compare(runs)).get_suptitle()
    with pytest.raises(ValueError, match="first cannot be compared: they are of SYNTHETIC"):
        compare([runs[0], case[2]["first"]])
