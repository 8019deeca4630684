"""The list of mutations fits the code that there is; that they are caught takes half an hour."""

import pytest

from tests.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.file}: {m.new[:40]}")
def test_a_mutation_still_has_its_place(mutation):
    text = (ROOT / "attnblocks" / mutation.file).read_text()
    assert text.count(mutation.old) == 1
    compile(text.replace(mutation.old, mutation.new), mutation.file, "exec")
