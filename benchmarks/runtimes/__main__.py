"""Compare blocks in the runtimes of deployment: ``python -m benchmarks.runtimes``.

A network with each block of ours, each published form, its own SE, and Identity at its SE sites is
converted for every runtime that is installed. The tables say which sizes of the images may be
free, the largest difference to torch by the largest value of torch's output, the operators that
run, and the latency of one image. What a block adds to that with Identity is its share.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from benchmarks.candidates import build_network, in_networks
from benchmarks.results import IDENTITY, OWN_SE
from benchmarks.runtimes import MODULES
from benchmarks.runtimes.results import Plan, Result, Row, load, save
from benchmarks.runtimes.runtime import missing, versions
from benchmarks.runtimes.table import tables
from benchmarks.runtimes.work import load_runtime, rows_of
from benchmarks.settings import Extent, check_output, machine, positive, seconds


def compare(
    modules: Sequence[str], names: Sequence[str], plan: Plan, out: Path | None = None
) -> Result:
    """Compare networks in every runtime that is installed.

    Args:
        modules: full names of the modules of the runtimes.
        names: what stands at the SE sites.
        plan: how.
        out: is written anew after every network.
    """
    about = machine("cpu") | {"threads": plan.threads}
    result = Result(about, plan, versions={}, skipped={}, rows=[])
    for module in modules:
        runtime = load_runtime(module)
        if wanted := missing(runtime.PACKAGES):
            result.skipped[runtime.NAME] = wanted
            continue
        result.versions[runtime.NAME] = versions(runtime.PACKAGES)
        so_far: dict[str, Row] = {}  # by name: a process that is started again tells again

        def tell(row: Row, so_far: dict[str, Row] = so_far) -> None:
            so_far[row.name] = row
            print(f"{row.runtime}, {row.name}: {row.free} {row.failed or ''}", file=sys.stderr)
            if out is not None:
                save(replace(result, rows=[*result.rows, *so_far.values()]), out)

        result.rows.extend(rows_of(module, names, plan, tell))
        if out is not None:
            save(result, out)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, or read a file, and print the tables."""
    default = {field.name: field.default for field in fields(Plan)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    add = parser.add_argument
    add("--runtime", choices=MODULES, nargs="+", default=list(MODULES), help="all if left out")
    add("--only", nargs="+", default=["*"], metavar="PATTERN", help="such as '*CaCo'")
    add("--network", default=default["network"], help="a network with SE of torchvision or timm")
    add("--image-size", type=positive, default=default["image_size"], metavar="PIXELS")
    add("--threads", type=positive, default=default["threads"], help="of every runtime (1)")
    add("--rounds", type=positive, default=default["rounds"], help="how often all are timed (15)")
    add("--min-run-time", type=seconds, default=default["min_run_time"], help="of a timing (0.1)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures of every round")
    add("--report", type=Path, metavar="FILE.json", help="print the tables of a file, and end")
    options = parser.parse_args(arguments)
    try:
        if options.report is not None:
            print(tables(load(options.report)))
            return
        check_output(options.out, None)
        build_network(options.network)
        extent = Extent((1,), (options.image_size,), only=options.only)
        names = extent.select(list(in_networks()), always=(OWN_SE, IDENTITY))
    except ValueError as error:
        parser.error(str(error))
    plan = Plan(**{name: getattr(options, name) for name in default})
    modules = [f"benchmarks.runtimes.{module}" for module in options.runtime]
    print(tables(compare(modules, names, plan, options.out)))


if __name__ == "__main__":
    main()
