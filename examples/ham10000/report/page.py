"""HTML pages in one file each: pictures, style and all."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image as PillowImage
from torch import Tensor

from examples.ham10000.config import NOTICE
from examples.ham10000.data.index import ATTRIBUTION
from examples.ham10000.files import whole_file


def write_page(file: Path, template: str, *, synthetic: bool, **content: object) -> None:
    """Fill a template of this package and write the page, whole or not at all.

    The page of ``synthetic`` pictures says so on top. What the template asks for is ``content``;
    jinja2.UndefinedError where it asks for something else.
    """
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("examples.ham10000.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template(template).render(
        synthetic=synthetic, notice=NOTICE, attribution=ATTRIBUTION, **content
    )
    with whole_file(file) as stream:
        stream.write(page + "\n")


def drawing(figure: Figure, text: str) -> Markup:
    """A figure as an SVG ``img``, letters as shapes; ``text`` is for those who do not see it."""
    return _img("svg+xml", text, figure.savefig, format="svg")


def snapshot(figure: Figure, text: str) -> Markup:
    """A figure that holds photographs, as a JPEG ``img``: an SVG is far larger."""
    return _img("jpeg", text, figure.savefig, format="jpeg", dpi=120, pil_kwargs={"quality": 85})


def photo(pixels: Tensor, text: str) -> Markup:
    """A uint8 image (3, H, W) as an ``img``."""
    picture = PillowImage.fromarray(pixels.permute(1, 2, 0).numpy())
    return _img("jpeg", text, picture.save, format="jpeg", quality=85)


def _img(kind: str, text: str, save: Callable[..., None], **options: Any) -> Markup:
    stream = io.BytesIO()
    save(stream, **options)
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/{};base64,{}">').format(text, kind, data)
