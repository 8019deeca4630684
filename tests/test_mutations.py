"""The list of mutations fits the code that there is; that they are caught takes half an hour."""

import pytest

from tests.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.old[-40:]} to {m.new[:40]}")
def test_a_mutation_still_has_its_place(mutation):
    file, text = mutation.place(ROOT / "attnblocks")
    assert text != file.read_text(encoding="utf-8")
    compile(text, file, "exec")
