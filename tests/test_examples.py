"""The small examples: the notebook runs from top to bottom, the own network learns."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from examples import own_network

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
