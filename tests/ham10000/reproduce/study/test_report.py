"""What is written of a study: by its command, and again from files alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from examples.ham10000.cli import main
from examples.ham10000.data.index import read_index
from examples.ham10000.data.splits import draw_split
from examples.ham10000.files import write_json
from examples.ham10000.run import create_run
from examples.ham10000.study import study as module
from tests.ham10000.reproduce.study.test_study import weights  # noqa: F401
from tests.ham10000.runs import MODEL

RESULTS = Path(__file__).parents[4] / "docs" / "results" / "insertion"


def test_published_tables_are_made_again_to_the_letter(tmp_path, capsys):
    for file in [*RESULTS.glob("*.npz"), RESULTS / "insertion.json"]:
        shutil.copy(file, tmp_path)
    assert main(["reproduce", "--study", "insertion", "--report", str(tmp_path)]) == 0
    assert str(tmp_path / "insertion.md") in capsys.readouterr().out
    made = (tmp_path / "insertion.md").read_text()
    assert made == (RESULTS / "insertion.md").read_text()
    assert (tmp_path / "insertion.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--study", "attention", "--report", "DIR"], "no DIR/attention.json"),
        (["--study", "insertion", "--report", "DIR"], "no predictions of the arm 'as it is'"),
        (["--study", "insertion", "--report", "DIR", "--data", "x"], "leave out --data"),
        (["--table", "5", "--report", "DIR"], "--report is for --study"),
        (["--table", "5"], "give the HAM10000 folder: --data DIR"),
    ],
)
def test_what_cannot_be_written(options, message, tmp_path, capsys):
    shutil.copy(RESULTS / "insertion.json", tmp_path)
    given = [
        option.replace("DIR", str(tmp_path)) if "-" not in option else option for option in options
    ]
    assert main(["reproduce", *given]) == 2
    assert message.replace("DIR/", f"{tmp_path}/") in capsys.readouterr().err
    write_json(tmp_path / "attention.json", {"study": "insertion", "arms": {}})
    assert main(["reproduce", "--study", "attention", "--report", str(tmp_path)]) == 2
    assert "attention.json is not of the study attention" in capsys.readouterr().err


def test_the_command_writes_what_it_has_run(run, weights, tmp_path, monkeypatch):  # noqa: F811
    data = run / "synthetic"
    images = read_index(data)
    generator = np.random.default_rng(0)

    def fake(config, *, resumed, crowded):
        create_run(config)
        description = json.loads((config.out / "config.json").read_text())
        description |= dict.fromkeys(("data", "attribution", "notice"), "HAM10000")
        write_json(config.out / "config.json", {**description, "parameters": 7, "versions": {}})
        tested = draw_split(images, 0, "lesion", 5, config.fold)["test"]
        ids = np.array([images[i].image_id for i in tested])
        scores = generator.normal(size=(len(ids), 7))
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        file = config.out / "log_probabilities_test.npz"
        np.savez(file, image=ids, log_probability=logs.astype(np.float32))
        log = "epoch,val_loss,val_mean_recall\n1,0.5,0.4\n"
        (config.out / "metrics.csv").write_text(log)
        write_json(config.out / "test.json", {"data": "HAM10000"})

    monkeypatch.setattr(module, "complete", fake)
    options = ["--data", str(data), "--weights", weights, "--out", str(tmp_path), "--seeds", "1"]
    options += ["--image-size", "32", "--model", MODEL, "--rows"]
    begin = ["reproduce", "--study", "attention", *options]
    assert main([*begin, "own SE"]) == 0
    assert not (tmp_path / "attention.md").exists()
    assert main([*begin, "SE at the same rates"]) == 0
    text = (tmp_path / "attention.md").read_text()
    assert f"{len(images)} images of" in text
    assert (
        "Not run yet: Constant, CaCo, SeCo, CBAM, CoordAtt, Eca, CaCo fresh, own SE, joint" in text
    )
    facts = json.loads((tmp_path / "attention.json").read_text())
    assert facts["arms"].keys() == {"own SE", "SE at the same rates"}
    assert facts["arms"]["own SE"]["chosen_epochs"] == [1] * 5
    assert str(tmp_path) not in json.dumps(facts)
