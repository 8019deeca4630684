"""Folds are pooled: the figures are those of all their predictions in one list."""

import json
import shutil

import pytest

from examples.ham10000.cli import main
from examples.ham10000.paper.compare import compare, read_runs
from examples.ham10000.paper.forest import forest
from tests.ham10000.paper.by_hand import hand_figures, hand_mcnemar, write_run

FOLDS = 3
CACO, SE = {}, {"attention": "SE", "init": None}


def fold_of(lesion):
    """Of lesions as ``some_truth`` calls them: class-number."""
    return int(lesion.split("-")[1]) % FOLDS


def write_arm(root, truth, guessed, folds=FOLDS, **options):
    """A run for each fold, each with the images of its own."""
    runs = []
    for fold in range(folds):
        rows = [(t, g) for t, g in zip(truth, guessed, strict=True) if fold_of(t[1]) == fold]
        given = {"folds": folds, "fold": fold, "workers": fold, **options}
        runs.append(write_run(root / f"fold{fold}", *map(list, zip(*rows, strict=True)), **given))
    return runs


@pytest.fixture(scope="session")
def arms(case, tmp_path_factory):
    """Folders of two arms, of the predictions of the runs "first" and "better"."""
    truth, guessed, _ = case
    root = tmp_path_factory.mktemp("arms")
    return (
        write_arm(root / "caco", truth, guessed["first"], **CACO),
        write_arm(root / "se", truth, guessed["better"], **SE),
    )


@pytest.fixture
def own(arms, tmp_path):
    """The same, for a test that damages them."""
    for arm in arms:
        shutil.copytree(arm[0].parent, tmp_path / arm[0].parent.name)
    return [[tmp_path / run.parent.name / run.name for run in arm] for arm in arms]


def test_pooled_figures_are_those_of_all_images_together(case, arms):
    truth, guessed, _ = case
    result = compare([*arms[1], *arms[0][::-1]])  # arms in the order of their first runs
    labels = [label for *_, label in truth]
    for run, name in zip(result["runs"], ("better", "first"), strict=True):
        expected = hand_figures(labels, guessed[name])
        assert {figure: run[figure] for figure in expected} == pytest.approx(expected)
    assert (result["images"], result["part"]) == (len(truth), "3 folds pooled")
    assert result["lesions"] == len({lesion for _, lesion, _ in truth})
    (pair,) = result["comparisons"]
    *_, p = hand_mcnemar(truth, guessed["better"], guessed["first"])
    assert pair["mcnemar"]["p"] == pytest.approx(p, rel=1e-9, abs=0)


def test_every_seed_is_an_arm(case, arms, tmp_path):
    other_seed = write_arm(tmp_path / "seed1", case[0], case[1]["alike"], seed=1)
    result = compare([arms[0][0], other_seed[0], *arms[0][1:], *other_seed[1:]])
    assert result["options_that_differ"] == {"seed": [0, 1]}
    assert [run["name"] for run in result["runs"]] == [
        f"{folder}/fold0 and its other folds" for folder in ("caco", "seed1")
    ]
    assert {run["split"] for run in result["runs"]} == {"lesion split, 3 folds"}


def test_it_says_everywhere_that_folds_are_pooled(arms, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, [*arms[0], *arms[1]]), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    page = " ".join((out / "comparison.html").read_text().split())
    assert printed.startswith("3 folds pooled, HAM10000 at 600x450, ")
    assert "Test part" not in printed
    assert "3 folds pooled, HAM10000" in page
    assert "Figures of the 3 folds pooled" in page
    result = json.loads((out / "comparison.json").read_text())
    assert "test images of 3 folds pooled" in forest(result).get_suptitle()
    for text in (" ".join(printed.split()), page):
        assert "within each class of each fold, the same ones" in text
        assert "an arm of 3 trained networks, one for each fold" in text


def test_folds_that_lack_or_stand_twice(arms, tmp_path):
    shutil.copytree(arms[1][0], tmp_path / "again")
    message = r"the arm of .*se/fold0 \(.*SE, cross-entropy, seed 0\) has fold\(s\) 1, 2 missing "
    message += r"and fold\(s\) 0 given twice: give each of its 3 folds once"
    with pytest.raises(ValueError, match=message):
        read_runs([*arms[0], arms[1][0], tmp_path / "again"])
    with pytest.raises(ValueError, match=r"all 3 runs are folds of one arm, that of .*caco/fold0"):
        read_runs(arms[0])


def test_what_tells_arms_apart(case, arms, own, tmp_path):
    """What a table of lesions has in it, and not where it lay; and the options that differ."""
    for fold, folder in enumerate(own[0]):
        description = json.loads((folder / "config.json").read_text())
        description["options"] |= {"same_lesion": f"/{fold}/pairs.csv", "weights": f"/{fold}/b.pt"}
        (folder / "config.json").write_text(json.dumps(description))
        (folder / "same_lesion.csv").write_text("image_id_1,image_id_2\n")
    assert len(read_runs([*own[0], *arms[1]])) == 2
    (own[0][1] / "same_lesion.csv").write_text("image_id_1,image_id_2\nx,y\n")
    with pytest.raises(ValueError, match=r"fold\(s\) 1 missing.*differ in .*same_lesion.*weights"):
        read_runs([*own[0], *arms[1]])


def test_arms_of_other_folds(case, arms, tmp_path):
    truth, guessed, folders = case
    message = r"fold0 was tested on lesion split, fold 0 of 3, .*first on lesion split: folds are"
    with pytest.raises(ValueError, match=message):
        read_runs([folders["first"], *arms[0]])
    other = write_arm(tmp_path / "two", truth, guessed["first"], folds=2)
    with pytest.raises(ValueError, match=r"caco/fold0 and .*two/fold0 have other folds: 3 and 2"):
        read_runs([*arms[0], *other])
    (image, lesion, label), *rest = truth
    moved = [(image, f"{label}-{fold_of(lesion) + 1 + 90}", label), *rest]
    other = write_arm(tmp_path / "moved", moved, guessed["first"], **SE)
    with pytest.raises(ValueError, match=r"have other test images: .*fold . of 3, seed 0"):
        read_runs([*arms[0], *other])


def change_all(runs, name, old, new):
    for run in runs:
        (run / name).write_text((run / name).read_text().replace(old, new))


def test_runs_that_are_no_folds_of_one_division(own):
    """An image, or a lesion, that two of them tested; and other data."""
    runs, seconds, thirds = [*own[0], *own[1]], [arm[1] for arm in own], [arm[2] for arm in own]
    there, here = (
        next(line for line in (run / "split.csv").read_text().splitlines() if ",bcc,test" in line)
        for run in own[0][:2]
    )
    lesion = there.split(",")[1]
    change_all(seconds, "split.csv", here, f"{here.split(',')[0]},{lesion},bcc,test")
    with pytest.raises(ValueError, match=f"lesion {lesion} is in two folds"):
        compare(runs)
    for name in ("split.csv", "test.csv"):
        change_all(seconds, name, here.split(",")[0], there.split(",")[0])
    message = r"caco/fold0 are not of one division .* image ISIC_\d+ is"
    with pytest.raises(ValueError, match=message):
        read_runs(runs)
    change_all(thirds, "test.json", "600x450", "200x150")
    with pytest.raises(ValueError, match=r"fold0 and .*fold2 are no folds of one arm.*at 200x150"):
        read_runs(runs)


def test_an_interval_has_nothing_of_how_hard_the_folds_are(tmp_path):
    """One arm has the first fold right and the others wrong: no draw within folds moves that."""
    truth = [(f"ISIC_{c}{n:02}", f"{c}-{n}", c) for c in range(7) for n in range(9)]
    right = [label if fold_of(lesion) == 0 else (label + 1) % 7 for _, lesion, label in truth]
    wrong = [(label + 1) % 7 for *_, label in truth]
    arms = [write_arm(tmp_path / "a", truth, right), write_arm(tmp_path / "b", truth, wrong, **SE)]
    result = compare([*arms[0], *arms[1]])
    assert result["runs"][0]["interval_95"]["accuracy"] == pytest.approx([1 / 3, 1 / 3])
    assert result["comparisons"][0]["differences"]["accuracy"]["interval"] == pytest.approx(
        [-1 / 3, -1 / 3]
    )
