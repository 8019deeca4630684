"""The Python code of README and docs runs, and the pages say what the library says."""

import ast
import re
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from docs._hooks.site import api_problems, on_page_content, public_names, remote_addresses
from docs.leak import FILE, drawn_images, leaking, svg
from examples.ham10000.data.splits import by_image, by_lesion, leak

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORKS_WITH = ROOT / "docs" / "works_with" / "index.md"


def python_blocks(page: Path) -> list[tuple[str, int]]:
    """The Python code of a page, and the line that each block begins after."""
    text = page.read_text(encoding="utf-8")
    return [
        (match[1], text.count("\n", 0, match.start(1)))
        for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def missing_modules(code: str) -> list[str]:
    """The packages that a block imports and that are not installed."""
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return sorted(name for name in imported if find_spec(name) is None)


SNIPPETS = python_blocks(WORKS_WITH)


def no_download(url, *_, **__):
    pytest.skip(f"would download {url}")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            p,
            id=str(p.relative_to(ROOT)),
            marks=[pytest.mark.runtimes] * (p.parent.name == "deploy"),
        )
        for p in PAGES
        if python_blocks(p) and p != WORKS_WITH
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """In order, in one namespace; a line in a traceback is that of the page."""
    monkeypatch.chdir(tmp_path)  # some write a file
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_download)
    # As much of the compiler as does not depend on the machine; test_export.py has all of it.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.use_deterministic_algorithms(False)  # Lightning leaves them on behind a run
    torch.manual_seed(0)
    namespace = {"__name__": "page"}
    for code, line in python_blocks(page):
        if missing := missing_modules(code):
            pytest.skip(f"line {line} needs {', '.join(missing)}, not installed here")
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


@pytest.mark.clients
@pytest.mark.parametrize(
    ("code", "line"), [pytest.param(*block, id=f"line {block[1]}") for block in SNIPPETS[1:]]
)
@pytest.mark.filterwarnings("ignore")  # those of the tools
def test_the_snippet_of_a_tool_runs_behind_the_first_one(code, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if missing := missing_modules(code):
        pytest.skip(f"{', '.join(missing)} not installed here")
    torch.manual_seed(0)
    namespace = {"__name__": "page"}
    exec(SNIPPETS[0][0], namespace)
    exec(compile("\n" * line + code, str(WORKS_WITH), "exec"), namespace)


def test_every_public_name_has_an_entry_in_the_api():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    built = re.sub(r"^::: (\S+)$", r'id="\1"', page, flags=re.MULTILINE)
    assert api_problems(built) == []
    assert len(api_problems("")) == len(public_names())


def test_messages_that_the_docs_explain_are_those_of_the_library():
    pages = ((ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("swap", "insert"))
    texts = "".join(page.partition("## Errors")[2] for page in pages)
    messages = re.findall(r"^\| `(.+?)` \|", texts, re.MULTILINE)
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "attnblocks").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a string over several lines
    assert len(messages) > 10
    assert [message for message in messages if message not in source] == []


@pytest.mark.parametrize(
    ("text", "loaded"),
    [
        ('<script src="https://x.org/a.js"></script>', ["https://x.org/a.js"]),
        ('<script src="//x.org/a.js"></script>', ["//x.org/a.js"]),
        ('<img src="a.png" srcset="http://x.org/b.png 2x">', ["http://x.org/b.png 2x"]),
        ('<link rel="stylesheet" href="https://x.org/a.css">', ["https://x.org/a.css"]),
        ("<style>@import 'https://x.org/a.css'; p {}</style>", ["https://x.org/a.css"]),
        ('<p style="background: url(https://x.org/a.png)">', ["https://x.org/a.png"]),
        ('<a href="https://x.org">a paper</a>', []),
        ("<p>https://x.org</p>", []),
        ('<svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>', []),
        ("<style>p { background: url('data:image/svg+xml,%3Csvg http://x') }</style>", []),
    ],
)
def test_what_a_page_loads_from_a_network_is_found(text, loaded, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(text, encoding="utf-8")
    assert remote_addresses(page) == loaded


def test_formulas_need_no_script():
    formula = on_page_content(r'a <span class="arithmatex">\(x &lt; \sigma\)</span> b')
    assert formula.startswith('a <math xmlns="http://www.w3.org/1998/Math/MathML"')
    assert "<mo>&#x0003C;</mo>" in formula
    assert "arithmatex" not in formula
    display = on_page_content('<div class="arithmatex">\\[\nx\n\\]</div>')
    assert 'display="block"' in display


def test_the_table_of_the_leak_counts_joined_lesions():
    """All lesions of a class are one: every test image leaks, also by the table's own count."""
    images = [replace(image, joined=str(image.label)) for image in drawn_images()]
    split = by_image(images, 0)
    assert leaking(images, split) == set(split["test"])
    assert leak(images, split) == 1


def test_the_committed_drawing_of_the_leak_is_what_the_script_draws():
    assert FILE.read_text(encoding="utf-8") == svg()
    images = drawn_images()
    assert leak(images, by_image(images, 0)) > 0
    assert leak(images, by_lesion(images, 0)) == 0


def test_files_that_readme_and_docs_point_to_exist():
    """Mkdocs checks links within docs; these are those of the README, and names of files."""
    for target in re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / target).is_file(), target
    for page in PAGES:
        for name in re.findall(
            r"`((?:attnblocks|benchmarks|docs|examples|tests)/[\w/.]+)`", page.read_text("utf-8")
        ):
            assert (ROOT / name).exists(), f"{page}: {name}"
