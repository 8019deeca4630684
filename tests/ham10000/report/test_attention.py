"""What the page of a run says of its gates, against the layers that make them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from attnblocks.gates import report as gate_reports
from attnblocks.visualize import attention_maps
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import LESION_MASKS
from examples.ham10000.data.load import load_data
from examples.ham10000.evaluate import evaluate_run, load_best
from examples.ham10000.report import attention
from tests.ham10000.report.pages import seen


def test_what_the_gates_do_and_how_much_of_it_is_on_the_lesion(run, page, probabilities, truth):
    """Again, one image after the other, from the layers of the gates and Pillow's masks."""
    table = page.tables[-2]
    names = ["mean", "over images", "over positions", "between classes", "moved", "closed", "open"]
    assert table[0][2:] == [*names, "on the lesion"]
    module = load_best(run).eval()
    images = read_index(run / "synthetic")
    data = load_data(images, run / "split.csv", 48, run.parent / "ham10000-cache", ["test"])
    sites = [row[0] for row in table[1:] if row[0]]
    kept = {}
    for site in sites:
        block = module.model.get_submodule(site)
        block.register_forward_hook(lambda _, x, y, site=site: kept.update({site: (x[0], y)}))
        for name in ("channel", "coord"):
            layer, key = block.get_submodule(name).gate, (site, name)
            layer.register_forward_hook(lambda _, x, y, key=key: kept.update({key: y}))
    shares, rows = {site: [] for site in sites}, []
    for place, name in zip(data.split["test"], probabilities, strict=True):
        with torch.no_grad():
            module(torch.from_numpy(data.pixels[[place]][:, :, 4:52, 4:52]))
        with Image.open(run / "synthetic" / LESION_MASKS / f"{name}_segmentation.png") as file:
            mask = seen(file) >= 128
        for site in sites:
            (x, y), both = kept[site], kept[site, "coord"]  # of the rows, then of the columns
            of_rows, of_columns = both[:, :, : x.shape[2]], both[:, :, x.shape[2] :]
            gate = kept[site, "channel"] * of_rows * of_columns.mT
            torch.testing.assert_close(x * gate, y)
            mean = Image.fromarray(gate.mean(dim=1)[0].numpy())
            picture = np.asarray(mean.resize((48, 48), Image.Resampling.BILINEAR))
            shares[site].append(picture[mask].sum() / picture.sum())
            if site == sites[0]:
                rows.append(of_rows[0, :, :, 0].double().numpy())
    for row in table[1:]:
        if row[0]:
            assert float(row[-1]) == pytest.approx(np.mean(shares[row[0]]), abs=0.02)
    rows = np.stack(rows)
    labels = np.array([truth[name] for name in probabilities])
    classes = [rows[labels == dx].mean(axis=(0, 2)) for dx in CLASSES]
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
    assert "No block does nothing" in page.words


def test_attention_is_read_in_batches_of_the_run(run, monkeypatch):
    sizes = []

    def record(model, images):
        sizes.append(len(images))
        return attention_maps(model, images)

    monkeypatch.setattr(gate_reports, "attention_maps", record)
    evaluation = evaluate_run(run, run / "synthetic", "test", 0)
    config = replace(evaluation.config, batch_size=5)
    found = attention.gates_of_part(replace(evaluation, config=config))
    assert sum(sizes) == found.images == found.marked == 33
    assert max(sizes) <= 5
