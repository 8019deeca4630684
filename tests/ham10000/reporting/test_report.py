"""The report of a run: its figures against the files of the run, and the page in a browser."""

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from attnblocks.gates import report as gate_reports
from attnblocks.visualize import attention_maps
from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import LESION_MASKS
from examples.ham10000.data.load import load_data
from examples.ham10000.evaluate import load_best
from examples.ham10000.report import attention, plots
from examples.ham10000.report.attention import read_masks
from tests.ham10000.runs import EPOCHS, QUICK

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


class Page(HTMLParser):
    """Tables as lists of rows, images, and the text of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.references: list[str] = []
        self.in_cell = self.in_style = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.in_style = tag == "style"
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_style = False
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        if not self.in_style:
            self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run / "report.html")


@pytest.fixture(scope="module")
def probabilities(run) -> dict[str, dict[str, float]]:
    with (run / "test.csv").open(newline="") as file:
        return {
            row["image"]: {name.lower(): float(row[name.upper()]) for name in CLASSES}
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def truth(run) -> dict[str, str]:
    with (run / "split.csv").open(newline="") as file:
        return {row["image_id"]: row["dx"] for row in csv.DictReader(file)}


def test_the_page_needs_nothing_but_itself(run, page):
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    source = (run / "report.html").read_text()
    assert "url(" not in source
    assert "@import" not in source
    assert "<script" not in source


def test_the_page_says_what_the_figures_are_of(run, page):
    assert "SYNTHETIC pictures: every figure on this page" in page.text
    assert "Not a medical device" in page.text
    assert "No lesion is in two parts" in page.text
    assert "CC BY-NC" not in page.text  # nothing of HAM10000 is in it
    assert str(run) not in (run / "report.html").read_text()


def test_the_figures_are_those_of_the_run(run, page, truth):
    report = json.loads((run / "test.json").read_text())
    for name in ("accuracy", "mean_recall", "bacc_formula", "macro_f1"):
        low, high = report["interval_95"][name]
        words = " ".join(page.text.split())
        assert f"{name}{report[name]:.3f} [{low:.3f}, {high:.3f}]" in words
    counts, classes, *_, settings = page.tables
    with (run / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for line in counts[1:]:
        of_part = [row["dx"] for row in rows if row["split"] == line[0]]
        expected = [of_part.count(name.lower()) for name in counts[0][1:-1]]
        assert [*map(int, line[1:])] == [*expected, len(of_part)]
    for line in classes[1:]:
        row = report["per_class"][line[0]]
        names = ("sensitivity", "specificity", "bacc_formula", "f1", "roc_auc")
        assert line[1:] == [str(row["images"]), *(f"{row[name]:.3f}" for name in names)]
    values = dict(settings[1:])
    assert (values["epochs"], values["image_size"], values["attention"]) == (
        str(EPOCHS),
        "48",
        "CaCo",
    )


def test_the_most_confident_errors_are_shown(page, probabilities, truth):
    wrong = {}
    for image, values in probabilities.items():
        guess = max(values, key=values.get)
        if guess != truth[image]:
            wrong[image] = (values[guess], guess)
    expected = sorted(wrong, key=lambda image: -wrong[image][0])[:12]
    photos = [image for image in page.images if image["src"].startswith("data:image/jpeg")]
    shown = [image["alt"] for image in photos if not image["alt"].startswith("attention")]
    assert shown == expected
    for image in expected:
        confidence, guess = wrong[image]
        taken = f"{truth[image].upper()} taken for {guess.upper()} with {confidence:.3f}"
        assert taken in " ".join(page.text.split())


def test_a_thumbnail_shows_its_image(run, page, truth):
    paths = {image.image_id: image.path for image in read_index(run / "synthetic")}
    shown = next(image for image in page.images if image["alt"] in paths)
    data = base64.b64decode(shown["src"].partition(",")[2])
    thumbnail = np.asarray(Image.open(io.BytesIO(data)), dtype=float)
    assert thumbnail.shape == (48, 48, 3)
    with Image.open(paths[shown["alt"]]) as file:
        scale = 55 / file.height  # the stored square of 48 pixels and its margin
        small = file.resize((round(file.width * scale), 55), Image.Resampling.BILINEAR)
    left = (small.width - 48) // 2
    places = [(left + x, 3 + y) for x in (0, 1) for y in (0, 1)]  # halves of a pixel are rounded
    squares = [small.crop((x, y, x + 48, y + 48)) for x, y in places]
    found = [np.corrcoef(thumbnail.ravel(), np.asarray(s, float).ravel())[0, 1] for s in squares]
    assert max(found) > 0.97


def test_how_much_attention_is_on_the_lesion(run, page):
    """Again, one image after the other, from the layers of the gates and Pillow's masks."""
    gates_table = page.tables[-2]
    module = load_best(run)
    images = {image.image_id: image for image in read_index(run / "synthetic")}
    with (run / "test.csv").open(newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    inputs, gates = {}, {}
    sites = [row[0] for row in gates_table[1:] if row[0]]
    for site in sites:
        block = module.model.get_submodule(site)
        block.register_forward_hook(
            lambda block, x, y, site=site: inputs.__setitem__(site, (x[0], y))
        )
        gates[site] = []
        for layer in (block.channel.gate, block.coord.gate):
            layer.register_forward_hook(lambda _, x, y, site=site: gates[site].append(y))
    module.eval()
    shares = {site: [] for site in sites}
    with torch.no_grad():
        for name in names:
            with Image.open(images[name].path) as file:
                pixels = square(file.convert("RGB"))
            mask_file = run / "synthetic" / LESION_MASKS / f"{name}_segmentation.png"
            with Image.open(mask_file) as file:
                mask = square(file)[0] >= 128
            module(pixels[None])
            for site, (x, y) in inputs.items():
                channel, both = gates[site]  # of the rows, then of the columns
                gates[site].clear()
                rows, columns = both[:, :, : x.shape[2]], both[:, :, x.shape[2] :]
                gate = channel * rows * columns.mT
                torch.testing.assert_close(x * gate, y)
                mean = gate.mean(dim=1)[0]
                picture = np.asarray(
                    Image.fromarray(mean.numpy()).resize((48, 48), Image.Resampling.BILINEAR)
                )
                shares[site].append(picture[mask.numpy()].sum() / picture.sum())
    for row in gates_table[1:]:
        if row[0]:
            assert float(row[-1]) == pytest.approx(np.mean(shares[row[0]]), abs=0.02)


def test_what_the_gates_do_is_that_of_the_layers(run, page):
    """Means and spreads, for one block, from what its gate layers return."""
    table = page.tables[-2]
    assert table[0][2:] == [
        *("mean", "over images", "over positions", "between classes", "moved"),
        *("closed", "open", "on the lesion"),
    ]
    module = load_best(run).eval()
    images = read_index(run / "synthetic")
    data = load_data(images, run / "split.csv", 48, run.parent / "ham10000-cache")
    pixels = torch.from_numpy(data.pixels[data.split["test"]])[:, :, 4:52, 4:52]
    site = table[1][0]
    kept = []
    block = module.model.get_submodule(site)
    block.coord.gate.register_forward_hook(lambda _, x, y: kept.append(y))
    block.register_forward_hook(lambda _, x, y: kept.append(x[0].shape[2]))
    with torch.no_grad():
        module(pixels)
    rows = kept[0][:, :, : kept[1], 0].double().numpy()
    labels = np.array([data.images[i].label for i in data.split["test"]])
    classes = [rows[labels == label].mean(axis=(0, 2)) for label in range(7)]
    shown = dict(zip(table[0][2:], table[2][2:], strict=True))
    assert table[2][:2] == ["", "rows"]
    assert float(shown["mean"]) == pytest.approx(rows.mean(), abs=6e-4)
    expected = {
        "over images": rows.mean(axis=2).std(axis=0).mean(),
        "over positions": np.sqrt(rows.var(axis=2).mean(axis=0)).mean(),
        "between classes": np.std(classes, axis=0).mean(),
    }
    for name, value in expected.items():
        assert float(shown[name]) == pytest.approx(value, abs=6e-5)
        assert value > 0.001
    recorded = json.loads((run / "gates.json").read_text())["end"]["sites"][0]["gates"][1]
    assert shown["moved"] == f"{recorded['moved']:.4f}"
    assert "No block does nothing" in page.text


def square(image: Image.Image) -> torch.Tensor:
    """What the network of the run sees: 55 pixels high, and the centre 48; (channels, 48, 48)."""
    small = image.resize((round(image.width * 55 / image.height), 55), Image.Resampling.BILINEAR)
    left = round((small.width - 48) / 2)
    values = np.asarray(small.crop((left, 4, left + 48, 52)))
    return torch.from_numpy(values.reshape(48, 48, -1).copy()).permute(2, 0, 1)


def test_masks_lie_on_the_images_as_the_network_sees_them(folder):
    images = read_index(folder)
    (folder / LESION_MASKS).mkdir()
    for image in images[1:3]:  # left half, as wide as the images are high
        mask = np.zeros((15, 20), dtype=np.uint8)
        mask[:, :10] = 255
        Image.fromarray(mask).save(folder / LESION_MASKS / f"{image.image_id}_segmentation.png")
    having, masks = read_masks(folder, images[:4], 32)
    assert having == [1, 2]
    assert masks.shape == (2, 32, 32)
    assert masks[0, :, :15].all()
    assert not masks[0, :, 17:].any()
    having, masks = read_masks(folder, images[5:7], 32)
    assert (having, masks.shape) == ([], (0, 32, 32))
    damaged = folder / LESION_MASKS / f"{images[1].image_id}_segmentation.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.warns(UserWarning, match=f"mask is left out: .*{damaged.name}"):
        having, _ = read_masks(folder, images[:4], 32)
    assert having == [2]


@pytest.mark.parametrize("batch_size", [5, 1000])
def test_attention_is_read_in_batches_of_the_run(run, batch_size, monkeypatch):
    sizes = []

    def record(model, images):
        sizes.append(len(images))
        return attention_maps(model, images)

    monkeypatch.setattr(gate_reports, "attention_maps", record)
    monkeypatch.setattr(attention, "show_attention", lambda *_: Figure())  # drawing takes long
    data = load_data(
        read_index(run / "synthetic"), run / "split.csv", 48, run.parent / "ham10000-cache"
    )
    arguments = (load_best(run), data, "test", run / "synthetic", run)
    found = attention.read_attention(*arguments, batch_size).gates
    assert sum(sizes) == found.images == 33
    assert max(sizes) <= batch_size
    once = attention.read_attention(*arguments, 33).gates
    assert found.marked == once.marked > 0
    assert found.area == pytest.approx(once.area)
    for site, other in zip(found.sites, once.sites, strict=True):
        assert site.on_where == pytest.approx(other.on_where, rel=1e-5)
        for gate, wanted in zip(site.gates, other.gates, strict=True):
            assert (gate.mean, gate.spread) == pytest.approx((wanted.mean, wanted.spread), rel=1e-4)


def test_roc_curves_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    labels = np.arange(70) % 7
    values = generator.dirichlet(np.ones(7), 70) + 0.1 * np.eye(7)[labels]
    values /= values.sum(axis=1, keepdims=True)
    values[10] = values[11]  # ties
    figure = plots.roc(torch.from_numpy(values), torch.from_numpy(labels))
    lines = figure.axes[0].lines
    for number, name in enumerate(CLASSES):
        x, y, _ = roc_curve(labels == number, values[:, number], drop_intermediate=False)
        drawn = lines[number].get_data()
        np.testing.assert_allclose(np.unique(drawn, axis=1), np.unique((x, y), axis=1))
        area = roc_auc_score(labels == number, values[:, number])
        assert lines[number].get_label() == f"{name.upper()} {area:.3f}"


def test_a_network_without_blocks_has_a_report_without_attention(run, tmp_path):
    out = tmp_path / "run"
    options = ["--data", str(run / "synthetic"), "--attention", "SE", "--protocol", "paper"]
    assert main([*QUICK, *options, "--batch-size", "64", "--out", str(out)]) == 0
    page = Page(out / "report.html")
    assert dict(page.tables[-1][1:])["data"] == "synthetic"  # no path of this machine
    assert "no blocks of attnblocks" in page.text
    assert re.search(r"The split leaks: \d+\.\d % of the test images", page.text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_page_in_a_browser(run, tmp_path, width):
    """Every picture is drawn, and nothing but wide tables needs to be moved sideways."""
    script = """<script>addEventListener("load", () => {
      document.body.dataset.found = JSON.stringify({
        width: document.documentElement.scrollWidth, window: innerWidth,
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt),
        images: document.images.length,
        tiny: [...document.querySelectorAll("p, td")].filter(e => e.offsetHeight < 8).length,
      })})</script>"""
    copy = tmp_path / "page.html"
    copy.write_text((run / "report.html").read_text() + script)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, copy.as_uri()], capture_output=True, text=True, timeout=120)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    found = json.loads(html.unescape(found))
    assert found["images"] > 15
    assert found["broken"] == []
    assert found["width"] <= found["window"] <= width
