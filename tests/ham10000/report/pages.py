"""Pages, taken apart."""

import html
import re
from pathlib import Path

import numpy as np
from PIL import Image


class Page:
    """Source and words of a page, its tables as lists of rows, text and source of its images."""

    def __init__(self, file: Path) -> None:
        self.source = re.sub("<style.*?</style>", "", file.read_text("utf-8"), flags=re.DOTALL)
        self.words = words(self.source)
        self.images = re.findall('<img alt="([^"]*)" src="([^"]*)"', self.source)
        self.tables = [
            [
                [words(cell) for cell in re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
                for row in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
            ]
            for table in re.findall("<table>(.*?)</table>", self.source, re.DOTALL)
        ]


def words(source: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]+>", "", source)).split())


def seen(image: Image.Image) -> np.ndarray:
    """The centre that the network of the run sees, of 48 pixels in the stored 55."""
    side = image.height * 48 / 55
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR, box))
