"""Figures of runs made by hand: what is drawn, and that nothing overlaps."""

from itertools import combinations

import pytest
from matplotlib.figure import Figure

from examples.ham10000.paper import table
from examples.ham10000.paper.caption import caption
from examples.ham10000.paper.table import write_figure
from tests.ham10000.finished import EPOCHS


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that are written."""
    kept: list[Figure] = []
    monkeypatch.setattr(table, "save_picture", lambda figure, file: kept.append(figure))
    return kept


def test_figure_6_has_the_curves_of_the_logs(results, row, tmp_path, drawn):
    logs = [EPOCHS, [{**epoch, "train_loss": epoch["train_loss"] + 1} for epoch in EPOCHS]]
    row("none", model="tv/resnet18", log=logs[0])
    row(log=logs[1])
    row(seed=1, log=[EPOCHS[0]])
    write_figure(results("figure", 6))
    assert "seed 0." in (tmp_path / "figure-6-lesion.html").read_text()
    for axes, name in zip(drawn[0].axes, ("train_loss", "val_accuracy"), strict=True):
        lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
        assert lines == {
            "ResNet18": [epoch[name] for epoch in logs[0]],
            "ShuffleNetV2: not run": [],
            "GhostNetV2: not run": [],
            "EfficientNetB0: not run": [],
            "MobileNetV3": [epoch[name] for epoch in logs[1]],
        }
        assert list(axes.lines[0].get_xdata()) == [1, 2, 3, 4]
    assert "not comparable as equals" in drawn[0].get_supxlabel().replace("\n", " ")


def test_figure_7_has_the_matrices_of_the_rows(results, row, drawn):
    row("SE", hit=0.9, pictures="SYNTHETIC pictures at 9x9")
    row("CaCo", loss="joint", hit=0.6)
    write_figure(results("figure", 7))
    assert "SYNTHETIC" in drawn[0].get_suptitle()
    first, *others, last = drawn[0].axes
    assert [axes.texts[0].get_text() for axes in others] == [
        f"{name}: not run" for name in ("CBAM", "SeCo", "Eca", "CaCo")
    ]
    for axes, hit, name in ((first, "0.90", "SE"), (last, "0.60", "CaCo + joint loss")):
        assert axes.get_title() == f"{name}\naccuracy 50.00 %, mean recall 50.00 %"
        assert [axes.texts[8 * i].get_text() for i in range(7)] == [hit] * 7


def test_nothing_in_figure_7_overlaps(results, row, drawn):
    for attention in ("SE", "CBAM", "SeCo", "Eca", "CaCo"):
        row(attention)
    row("CaCo", loss="joint")
    write_figure(results("figure", 7))
    (figure,) = drawn
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [text.get_window_extent() for text in figure.texts]  # title and caption
    assert len(boxes) == 8
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(figure.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))
    assert all(figure.bbox.containsy(y) for box in boxes for y in (box.y0, box.y1))


def test_figures_are_written_as_picture_and_page(results, row):
    row()
    picture, page = write_figure(results("figure", 7, {"Eca": "no <weights>"}))
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "data:image/svg+xml;base64," in text
    assert "Eca: no &lt;weights&gt;" in text
    assert caption(results("figure", 7))[0] in text
