"""Hooks of mkdocs: formulas without a script, and what a built page must and must not have."""

import html
import importlib
import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import get_plugin_logger

LOG = get_plugin_logger("site")  # a warning fails a strict build

LOADING = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src", "srcdoc"),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
"""The attributes whose addresses a browser loads without a click."""

REMOTE = re.compile(r"(?:https?:)?//", re.IGNORECASE)


def on_page_context(context: dict[str, Any], page: Any, **_: object) -> dict[str, Any]:
    """A page without neighbours leaves the place of their list to its text."""
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])
    return context


def on_page_content(page_html: str, **_: object) -> str:
    """Formulas become MathML, which browsers show without a script."""
    return re.sub(
        r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', _math, page_html, flags=re.S
    )


def _math(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    math = convert(html.unescape(match[3]).strip(), display=display)
    return f'<div class="formula">{math}</div>' if display == "block" else math


def on_post_build(config: dict[str, Any], **_: object) -> None:
    """Warn of what a page would load from a network, and of public names without an entry."""
    site = Path(config["site_dir"])
    for path in sorted(site.rglob("*")):
        for address in remote_addresses(path):
            LOG.warning(f"{path.relative_to(site)} would load {address}")
    api = site / "api.html"
    for problem in api_problems(api.read_text(encoding="utf-8") if api.is_file() else ""):
        LOG.warning(problem)


def remote_addresses(path: Path) -> list[str]:
    """What a page, style sheet or drawing would load from a network when it is opened."""
    if path.suffix not in (".css", ".html", ".svg"):
        return []
    text = path.read_text(encoding="utf-8")
    reader = _Loaded()
    if path.suffix == ".css":
        reader.read_style(text)
    else:
        reader.feed(text)
    return reader.remote


class _Loaded(HTMLParser):
    """Collects remote addresses that a browser loads."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read the attributes of an element."""
        self.inside = tag
        for name, value in attrs:
            if value is None or (tag == "link" and ("rel", "canonical") in attrs):
                continue
            if name == "style":
                self.read_style(value)
            elif name in LOADING.get(tag, ()) and REMOTE.search(value):
                self.remote.append(value)

    def handle_endtag(self, tag: str) -> None:
        """Style sheets end here."""
        self.inside = ""

    def handle_data(self, data: str) -> None:
        """Read the style sheets within a page."""
        if self.inside == "style":
            self.read_style(data)

    def read_style(self, text: str) -> None:
        """Read what a style sheet loads; an address may be part of a drawing within it."""
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", text):
            if REMOTE.match(address):
                self.remote.append(address)


def public_names() -> dict[str, object]:
    """What a user may rely on: ``__all__`` of the package and of ``visualize``."""
    package = importlib.import_module("attnblocks")
    visualize = importlib.import_module("attnblocks.visualize")
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in (package, visualize)
        for name in module.__all__
    }


def api_problems(page: str) -> list[str]:
    """What is wrong with the API page: a public name without an entry, or without a docstring."""
    problems = []
    for name, value in public_names().items():
        # A module of the same name would be taken for the function that shadows it.
        path = f"{name}.{name.rpartition('.')[2]}" if name in sys.modules else name
        if f'id="{path}"' not in page:
            problems.append(f"{name} is public, and has no entry in docs/api.md")
        if not isinstance(value, str) and not inspect.getdoc(value):
            problems.append(f"{name} is public, and has no docstring")
    return problems
