"""The layout: imports go downwards, no table lists the blocks, and tests mirror the folders."""

import ast
import re
from pathlib import Path

import pytest

from attnblocks import list_blocks

ROOT = Path(__file__).parents[1]
LIBRARY, EXAMPLE, TESTS = ROOT / "attnblocks", ROOT / "examples" / "ham10000", ROOT / "tests"
FLOORS = ["ops", "blocks", "swap", "gates", "fit", "files"]
FILES = sorted(LIBRARY.rglob("*.py"))
FAMILIES = {
    "SE": "se",
    "Eca": "eca",
    "CBAM": "cbam",
    "CoordAtt": "coord_att",
    "SeCo": "caco",
    "CaCo": "caco",
}


def imported(file: Path) -> list[str]:
    """The modules of the library that a file imports, by their paths from its folder."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    modules = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
    return [module.split(".", 1)[1] for module in modules if module.startswith("attnblocks.")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(LIBRARY)))
def test_imports_go_downwards(file):
    folder = file.relative_to(LIBRARY).parts[0]
    if folder not in FLOORS:  # the top may import anything
        return
    below = FLOORS[: FLOORS.index(folder) + 1]
    allowed = {*below, "_version"} - {"fit": {"gates"}, "files": {"fit", "gates"}}.get(
        folder, set()
    )
    assert [module for module in imported(file) if module.split(".")[0] not in allowed] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_only_its_own_file_names_a_block(name):
    """Beside what exports the names, and what loads the pickles of version 0.1.0."""
    assert sorted(FAMILIES) == sorted(list_blocks())
    named = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            words = [
                getattr(node, "id", None) if isinstance(node, ast.Name) else None,
                node.attr if isinstance(node, ast.Attribute) else None,
                node.name if isinstance(node, ast.alias) else None,
                node.value if isinstance(node, ast.Constant) else None,
            ]
            if name in words:
                named.add(str(file.relative_to(LIBRARY)))
    own = f"blocks/{FAMILIES[name]}.py"
    users = {"SE": {"blocks/se.py"}, "CoordAtt": {"blocks/coord_att.py"}}.get(name, set())
    assert named <= {own, "__init__.py", "_earlier.py", *users}


def test_benchmarks_import_nothing_of_the_example():
    for file in (ROOT / "benchmarks").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "asname")]
            modules = [getattr(node, "module", None) or "", *names]
            assert not [m for m in modules if m.split(".")[0] == "examples"], file


def packages(folder: Path) -> set[str]:
    """The names of the packages in a folder."""
    return {file.parent.name for file in folder.glob("*/__init__.py")}


def test_tests_mirror_the_folders():
    assert (
        packages(LIBRARY)
        == set(FLOORS)
        == packages(TESTS) - {"benchmarks", "clients", "ham10000", "runtimes"}
    )
    assert packages(EXAMPLE) == packages(TESTS / "ham10000")
    for folder in TESTS.rglob("*/"):
        holds_tests = any(folder.glob("test_*.py"))
        assert holds_tests == (folder / "__init__.py").exists(), folder


def test_no_test_file_is_long():
    long = {
        str(file.relative_to(TESTS)): lines
        for file in TESTS.rglob("*.py")
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > 350
    }
    assert long == {}


def example_imports(file: Path) -> list[str]:
    """The files and folders of the example that one of its files imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("examples.ham10000"):
            module = EXAMPLE.joinpath(*node.module.split(".")[2:])
            whole = module.with_suffix(".py").is_file()
            found += [module] if whole else [module / alias.name for alias in node.names]
    return [str(path.relative_to(EXAMPLE)) for path in found]


def test_the_map_names_every_file_of_the_example_and_imports_go_up_it():
    page = (ROOT / "docs" / "ham10000.md").read_text(encoding="utf-8")
    table = page.partition("| in `examples/ham10000` | |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    order = [name.removesuffix(".py") for cell in cells for name in re.findall("`(.+?)`", cell)]

    def place(module: str) -> int:
        return next(
            i
            for i, name in enumerate(order)
            if module == name.rstrip("/") or (name.endswith("/") and module.startswith(name))
        )

    for file in EXAMPLE.rglob("*.py"):
        own = str(file.relative_to(EXAMPLE).with_suffix(""))
        if not own.endswith(("__init__", "__main__")):
            assert [name for name in example_imports(file) if place(name) > place(own)] == [], own


def test_no_file_of_the_example_is_long():
    lengths = {
        f.name: len(f.read_text(encoding="utf-8").splitlines()) for f in EXAMPLE.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 250} == {}


def test_training_evaluation_and_report_do_not_know_of_each_other():
    training, evaluation = {"run", "train", "callbacks"}, {"evaluate", "predict", "gates"}
    others = {name: evaluation | {"report", "pipeline"} for name in training}
    others |= {name: training | {"report", "pipeline"} for name in evaluation}
    others["report"] = training | {"pipeline"}
    for name, unknown in others.items():
        for file in [*EXAMPLE.glob(f"{name}.py"), *EXAMPLE.glob(f"{name}/*.py")]:
            assert not unknown & {part.partition("/")[0] for part in example_imports(file)}, file
