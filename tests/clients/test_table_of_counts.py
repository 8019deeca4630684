"""The table of the docs: what every tool counts, by the formulas that its own test holds it to."""

import re
from pathlib import Path

import pytest

from tests.clients.counted import COSTS, block_and_map

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[2] / "docs" / "works_with" / "index.md"
ROWS = {
    "by the formula": lambda cost: cost.macs,
    "calflops": lambda cost: cost.macs,
    "`FlopCounterMode`": lambda cost: 2 * cost.macs,
    "thop": lambda cost: cost.macs + 4 * cost.normed,
    "fvcore": lambda cost: cost.macs + 2 * cost.normed,
    "ptflops 0.7.5, `aten`": lambda cost: cost.macs + cost.biased,
    "ptflops 0.7.5, `pytorch`": lambda cost: (
        cost.macs + cost.biased + 2 * (cost.normed + cost.relus)
    ),
    "torchinfo": lambda cost: cost.macs + cost.biased + cost.norms,
}


@pytest.mark.parametrize("tool", ROWS)
def test_the_table_has_what_the_formula_says(tool):
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"`(\w+)`", re.search(r"^\| tool \| counts \|(.*)$", text, re.M)[1])
    row = re.search(rf"^\| {re.escape(tool)}.*$", text, re.M)[0]
    figures = [int(cell.replace(",", "")) for cell in row.split("|")[3:-1]]
    assert set(names) == set(COSTS)
    assert dict(zip(names, figures, strict=True)) == {
        name: ROWS[tool](block_and_map(name)[2]) for name in names
    }
