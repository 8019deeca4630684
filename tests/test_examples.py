"""The small examples: the notebook runs from top to bottom, the own network learns."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from examples import own_images, own_network

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_notebook_runs():
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none to go stale
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": EXAMPLES}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    accuracy = float(printed.split("accuracy ")[1].split(";")[0])
    assert accuracy > 0.6  # a third by guessing
    assert "blocks.4.2.se  columns" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1


def test_a_network_of_ones_own_learns_and_repeats(capsys):
    found = own_network.main(epochs=2)
    assert found.keys() == {"plain", "CaCo"}
    assert min(found.values()) > 0.8  # a tenth by guessing
    printed = capsys.readouterr().out
    assert f"CaCo   accuracy {found['CaCo']:.3f} on 450 test images" in printed
    assert "3.attention  columns" in printed
    assert own_network.main(epochs=2) == found
    assert capsys.readouterr().out == printed  # the gates too


def write_colours(folder: Path, count: int) -> None:
    """Noisy pictures, each class of one colour."""
    noise = np.random.default_rng(0)
    for number, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = noise.normal(90, 30, (24, 32, 3))
            pixels[..., number] += 60
            Image.fromarray(np.uint8(pixels.clip(0, 255))).save(folder / name / f"{i}.png")


def test_the_pipeline_learns_images_of_ones_own(tmp_path):
    write_colours(tmp_path / "data", 100)
    found = own_images.main(tmp_path / "data", "timm/test_efficientnet", "none", epochs=12, size=32)
    assert found["mean_recall"] > 0.9  # a third by guessing
    assert found["accuracy"] == pytest.approx(found["mean_recall"])  # ten images of each are tested
    assert (tmp_path / "best.ckpt").is_file()


def test_images_of_ones_own_have_to_be_enough_for_tenths(tmp_path):
    write_colours(tmp_path / "data", 9)
    with pytest.raises(ValueError, match=r"data has a class of fewer than 10 images"):
        own_images.main(tmp_path / "data", "timm/test_efficientnet", "none", epochs=1)
