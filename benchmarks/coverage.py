"""Which networks of timm and torchvision have SE blocks, and whether the swap fits all of them.

Run ``python -m benchmarks.coverage``. Nothing is computed: the networks are built on the meta
device, and counts, names, channels and shapes are checked. Prints a line per failure.
"""

import argparse
import inspect
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model_builder
from torchvision.models import list_models as list_torchvision_models

from attnblocks import SE, CaCo, SESite, find_se, replace_se

Shapes = dict[str, tuple[int, ...]]

# How the libraries name their SE classes; a second opinion beside what find_se looks for.
LOOKS_LIKE_SE = re.compile(r"Squeeze\w*Excit|(SE|Se|Ese)(Module|Block|Layer|Unit|Attn)?(Cl)?$")
PROGRESS_EVERY = 100  # names


class CheckError(Exception):
    """Something of a network is not as it should be."""


@dataclass
class Coverage:
    """What a walk over the names of one library found."""

    library: str
    names: int = 0
    found: list[str] = field(default_factory=list)
    swapped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    off_meta: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"{self.library}: {len(self.found)} of {self.names} names have SE blocks, "
            f"{len(self.swapped)} swapped, {len(self.failures)} failed"
        ]
        if self.refused:
            lines.append(f"  quantizable, and refused: {', '.join(self.refused)}")
        if self.off_meta:
            lines.append(f"  built with the weights alone on meta: {', '.join(self.off_meta)}")
        return "\n".join(lines)


class EmptyOnMeta(TorchFunctionMode):
    """Lets ``torch.empty`` alone, from which layers make their weights, allocate nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call the function, on the meta device if it makes a tensor without values."""
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def timm_model(name: str) -> nn.Module:
    """A network of timm without weights."""
    return timm.create_model(name, pretrained=False)


def torchvision_model(name: str) -> nn.Module:
    """A network of torchvision without weights, in its backbone too."""
    builder = get_model_builder(name)
    known = inspect.signature(builder).parameters
    options: dict[str, Any] = {"weights_backbone": None, "init_weights": False}
    model: nn.Module = builder(weights=None, **{k: v for k, v in options.items() if k in known})
    return model


LIBRARIES: dict[str, tuple[Callable[[], list[str]], Callable[[str], nn.Module]]] = {
    "timm": (timm.list_models, timm_model),
    "torchvision": (list_torchvision_models, torchvision_model),
}


def walk(library: str, pattern: str = "*", report: Callable[[str], object] = print) -> Coverage:
    """Build and check every network of a library whose name fits the pattern."""
    list_names, build = LIBRARIES[library]
    result = Coverage(library)
    start = time.perf_counter()
    for name in list_names():
        if not fnmatchcase(name, pattern):
            continue
        result.names += 1
        try:
            _check(name, _build(name, build, result), result)
        except Exception as error:  # a network may fail in any way, and the walk goes on
            result.failures[name] = f"{type(error).__name__}: {error}"
            report(f"{library} {name}: {result.failures[name]}")
        if result.names % PROGRESS_EVERY == 0:
            report(f"{library}: {result.names} names, {time.perf_counter() - start:.0f} s")
    return result


def _build(name: str, build: Callable[[str], nn.Module], result: Coverage) -> nn.Module:
    """Build on the meta device; with the weights alone there where the builder reads a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return build(name)
        except (NotImplementedError, RuntimeError):
            result.off_meta.append(name)
        with EmptyOnMeta():
            return build(name)


def _check(name: str, model: nn.Module, result: Coverage) -> None:
    sites = find_se(model)
    if any(hasattr(module, "skip_mul") for module in model.modules()):
        _expect_error(TypeError, "quantizable", model)
        result.refused.append(name)
        return
    if sites:
        result.found.append(name)
    if missed := missed_by_name(model, sites):
        raise CheckError(f"named like SE, but not found: {missed}")
    if sites:
        check_swaps(model, sites)
        result.swapped.append(name)
    else:
        _expect_error(LookupError, "has no SE block", model)


def missed_by_name(model: nn.Module, sites: Iterable[SESite]) -> dict[str, str]:
    """Name and class of modules named like SE that neither are a site nor hold or belong to one."""
    places = [f"{site.name}." for site in sites]
    return {
        name: type(module).__qualname__
        for name, module in model.named_modules()
        if LOOKS_LIKE_SE.search(type(module).__name__)
        and not any(p.startswith(f"{name}.") or f"{name}.".startswith(p) for p in places)
    }


def check_swaps(model: nn.Module, sites: tuple[SESite, ...]) -> None:
    """Swap SE -> SE -> what it was -> CaCo -> SE, in place, and check each of the four."""
    original = _shapes(model)
    blocks = {site.name: site.module for site in sites}

    replace_se(model, SE, match_rd_channels=True)
    widths = {site.name: site.rd_channels or site.channels for site in sites}
    norms = {site.name: _shapes(site.layers.norm) for site in sites if site.layers.norm}
    _check_sites(model, sites, SE, widths)
    _expect("shapes with SE", _shapes(model), _shapes_with_se(original, sites, widths, norms))

    replace_se(model, lambda site: blocks[site.name], init="fresh")
    _expect("sites put back", find_se(model), sites)
    _expect("shapes put back", _shapes(model), original)

    replace_se(model, CaCo, match_rd_channels=True)
    with torch.device("meta"):  # a site without a squeeze has no width to match
        published = {c: CaCo(c).channel.rd_channels for c in {site.channels for site in sites}}
    widths = {site.name: site.rd_channels or published[site.channels] for site in sites}
    _check_sites(model, sites, CaCo, widths)

    replace_se(model, SE, match_rd_channels=True)
    _check_sites(model, sites, SE, widths)
    _expect(
        "shapes with SE after CaCo", _shapes(model), _shapes_with_se(original, sites, widths, {})
    )


def _check_sites(
    model: nn.Module, old: tuple[SESite, ...], block: type[nn.Module], widths: dict[str, int]
) -> None:
    new = find_se(model)
    wanted = {site.name: (block, site.channels, widths[site.name]) for site in old}
    found = {site.name: (type(site.module), site.channels, site.rd_channels) for site in new}
    _expect(f"sites with {block.__name__}", found, wanted)
    _expect(f"order of sites with {block.__name__}", list(found), list(wanted))
    if same := {site.module for site in old} & {site.module for site in new}:
        raise CheckError(f"{len(same)} blocks were not replaced")


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shapes_with_se(
    original: Shapes,
    sites: tuple[SESite, ...],
    widths: dict[str, int],
    norms: dict[str, Shapes],
) -> Shapes:
    """The shapes of a network whose sites hold SE blocks; all others are those of the original."""
    places = tuple(f"{site.name}." for site in sites)
    shapes = {name: shape for name, shape in original.items() if not name.startswith(places)}
    for site in sites:
        channels, width = site.channels, widths[site.name]
        block: Shapes = {
            "fc1.weight": (width, channels, 1, 1),
            "fc1.bias": (width,),
            "fc2.weight": (channels, width, 1, 1),
            "fc2.bias": (channels,),
            **{f"bn.{name}": shape for name, shape in norms.get(site.name, {}).items()},
        }
        shapes |= {f"{site.name}.{name}": shape for name, shape in block.items()}
    return shapes


def _expect(what: str, found: object, wanted: object) -> None:
    if found == wanted:
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        first = f"{keys[0]!r} is {found.get(keys[0])}, not {wanted.get(keys[0])}"
        raise CheckError(f"{what}: {len(keys)} differ, the first: {first}")
    raise CheckError(f"{what}: {found}, not {wanted}")


def _expect_error(kind: type[Exception], message: str, model: nn.Module) -> None:
    try:
        replace_se(model, SE)
    except kind as error:
        if message not in str(error):
            raise
    else:
        raise CheckError(f"replace_se should have raised {kind.__name__}")


def main() -> None:
    """Walk over the libraries and exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--filter", default="*", metavar="PATTERN", help="such as 'resnet*'")
    parser.add_argument("--library", choices=list(LIBRARIES), help="one of them; both if left out")
    options = parser.parse_args()
    libraries = [options.library] if options.library else list(LIBRARIES)
    results = [walk(library, options.filter) for library in libraries]
    print(*results, sep="\n")
    if not any(result.names for result in results):
        parser.error(f"{options.filter!r} fits no name")
    sys.exit(any(result.failures for result in results))


if __name__ == "__main__":
    main()
