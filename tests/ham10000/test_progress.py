"""Progress is a line per epoch or job in a file, and a bar in a terminal."""

import csv
import io
import re
import sys

import pytest

from examples.ham10000.cli import main
from examples.ham10000.module import LesionClassifier
from examples.ham10000.processes import bar, shows_bars
from examples.ham10000.trainer import new_trainer
from tests.ham10000.runs import QUICK


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.usefixtures("undrawn")
def test_each_epoch_is_one_line_also_of_a_resumed_run(run, tmp_path, capfd, monkeypatch):
    def step(module, batch, number):
        if module.current_epoch == 1:
            raise KeyboardInterrupt
        return training_step(module, batch, number)

    training_step = LesionClassifier.training_step
    out = tmp_path / "r"
    options = ["--epochs", "3", "--data", str(run / "synthetic"), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(LesionClassifier, "training_step", step)
        assert main([*QUICK, *options]) == 130
    assert main(["train", "--resume", str(out)]) == 0
    printed = "\n".join(capfd.readouterr())
    assert not re.search(r"[\r\x1b█]|%\|", printed)
    lines = re.findall(r"^epoch (\d)/3: (.*), [\d.]+ s$", printed, re.MULTILINE)
    assert [number for number, _ in lines] == ["1", "2", "3"]
    with (out / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for (_, line), row in zip(lines, rows, strict=True):
        figures = dict(pair.split() for pair in line.split(", "))
        assert {"epoch", *figures} == row.keys()
        assert sum(name.startswith("SYNTHETIC_") for name in figures) == len(figures) - 1
        assert {k: float(v) for k, v in figures.items()} == pytest.approx(
            {k: float(row[k]) for k in figures}, rel=5e-3
        )


@pytest.mark.parametrize(("out", "err"), [(True, True), (True, False), (False, True)])
def test_bars_are_for_terminals(out, err, monkeypatch):
    for name, terminal in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, Terminal() if terminal else io.StringIO())
    shown = out and err
    assert shows_bars() == shown
    assert (new_trainer().progress_bar_callback is not None) == shown
    with bar("decoding", 10_015) as steps:
        steps.update(10_015)
    printed = sys.stderr.getvalue()
    if shown:
        assert "100%|" in printed
        assert "10,015" not in printed
    else:
        assert re.fullmatch(r"decoding: 10,015 images, 0\.\d s\n", printed)


def test_what_fails_is_not_said_to_be_done(capsys):
    with pytest.raises(ValueError, match="damaged"), bar("decoding", 3):
        raise ValueError("damaged")
    assert capsys.readouterr().err == ""
