"""An extension of griffe: docstrings as the library writes them, for mkdocstrings."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Reads roles as links, and a single example as the section that it is."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object before it is parsed."""
        if obj.docstring is None:
            return
        text = re.sub(r":(?:func|class|meth|mod):`(~?)([\w.]+)`", self._link, obj.docstring.value)
        text = re.sub(r"``([^`]+)``", r"`\1`", text)
        text = re.sub(r"^Shape:\n +", "**Shape:** ", text, flags=re.M)
        obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.M)

    @staticmethod
    def _link(match: re.Match[str]) -> str:
        name = match[2]
        return f"[`{name.rpartition('.')[2] if match[1] else name}`][{name}]"
