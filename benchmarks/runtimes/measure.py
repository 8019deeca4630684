"""Convert networks as freely as a runtime takes them, compare with torch, and time them in turn."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.runtimes.results import Plan, Row
from benchmarks.runtimes.runtime import SIZES, ConversionError, Converted, Runtime, conversion
from benchmarks.settings import SEED
from benchmarks.timing import interleaved, time_on_cpu

FREE = (SIZES, ("height", "width"), ("batch",))
"""What is tried to be free, one after the other, until something agrees with torch."""

AGREES = 1e-4
"""The largest difference to torch, by the largest value of torch's output."""

OTHERS = ((3, 160, 192), (2, 161, 97))
"""Batch, height and width of images, beside one image of the size that is timed."""

EXAMPLE_BATCH = 2
"""Of what is converted with a free batch: of one image, torch.export takes it for a constant."""


def images(batch: int, height: int, width: int, seed: int = SEED) -> Tensor:
    """Random images."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator)


def named(free: tuple[str, ...]) -> str:
    """What is tried, in words."""
    return ", ".join(free) or "no size free"


def converted(
    runtime: Runtime, name: str, model: nn.Module, image_size: int
) -> tuple[Row, Converted | None]:
    """Find the freest conversion of a network that agrees with torch, and one without free sizes.

    The second is what is counted and timed: it is what one deploys for images of one size, and it
    can be had of networks that differ in what may be free.

    Returns:
        The row that says what was found, and the conversion without free sizes, if it agrees.
    """
    failed: dict[str, str] = {}

    def attempt(free: tuple[str, ...]) -> tuple[Converted, float | None] | None:
        example = images(EXAMPLE_BATCH if "batch" in free else 1, image_size, image_size)
        try:
            found = runtime.convert(model, example, frozenset(free))
            return found, None if found.run is None else differs(found.run, model, example, free)
        except ConversionError as error:
            failed[named(free)] = str(error)
            return None

    fixed = attempt(())
    freest: tuple[str, ...] | None = None if fixed is None else ()
    differences = [] if fixed is None else [fixed[1]]
    for free in FREE:
        if (found := attempt(free)) is not None:
            freest = free
            differences.append(found[1])
            break
    row = Row(
        runtime.NAME,
        name,
        free=None if freest is None else list(freest),
        difference=max((d for d in differences if d is not None), default=None),
        operators={} if fixed is None else dict(fixed[0].operators),
        delegates=None if fixed is None else fixed[0].delegates,
        failed=failed,
    )
    return row, None if fixed is None else fixed[0]


def differs(
    run: Callable[[Tensor], Tensor], model: nn.Module, example: Tensor, free: tuple[str, ...]
) -> float:
    """The largest difference to torch, by torch's largest value, over images of all sizes.

    Raises:
        ConversionError: the runtime fails at one of them, or differs by more than it may.
    """
    fixed = (example.shape[0], *example.shape[2:])
    largest = 0.0
    tried = {(1, *fixed[1:]), *OTHERS}
    shapes = {
        tuple(s if n in free else f for n, s, f in zip(SIZES, size, fixed, strict=True))
        for size in tried
    }
    for batch, height, width in sorted(shapes):
        where = f"{batch} x {height} x {width}"
        x = images(batch, height, width, SEED + 1)  # not those that it was converted with
        with torch.no_grad():
            wanted = model(x)
        try:
            with conversion():
                y = run(x)
        except ConversionError as error:
            raise ConversionError(f"at {where}: {error}") from error
        if y.shape != wanted.shape:
            raise ConversionError(f"at {where}: {tuple(y.shape)} instead of {tuple(wanted.shape)}")
        difference = ((y - wanted).abs().max() / wanted.abs().max()).item()
        if not difference <= AGREES:  # nor if it is no number
            raise ConversionError(f"at {where}: differs by {difference:.1e} of the largest value")
        largest = max(largest, difference)
    return largest


def timed(found: Mapping[str, Converted], plan: Plan) -> dict[str, list[float]]:
    """Seconds of one image in every round, by network; those that cannot run here are left out."""
    x = images(1, plan.image_size, plan.image_size)
    runs = {name: c.prepare(x) for name, c in found.items() if c.prepare is not None}
    for run in runs.values():
        run()
    return interleaved(runs, lambda run: time_on_cpu(run, plan.min_run_time), plan.rounds)
