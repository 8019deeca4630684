"""Each runtime in a process of its own: what ends the process is a row, and loses no other."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, cast

import torch

from benchmarks.runtimes.measure import converted, timed
from benchmarks.runtimes.networks import awake_network
from benchmarks.runtimes.results import Plan, Row
from benchmarks.runtimes.runtime import Runtime

TIMING = "timing"
STARTING = "starting"


def load_runtime(module: str) -> Runtime:
    """A runtime by the full name of its module."""
    return cast(Runtime, import_module(module))


def rows_of(
    module: str, names: Sequence[str], plan: Plan, tell: Callable[[Row], object]
) -> list[Row]:
    """Convert and time networks in a runtime.

    A network whose conversion ends the process is left out of the next try.

    Args:
        module: full name of the module of the runtime.
        names: what stands at the SE sites of the networks.
        plan: how.
        tell: is called with every row when its network is converted, before it is timed.
    """
    runtime = load_runtime(module).NAME
    crashed: dict[str, Row] = {}
    while True:
        left = [name for name in names if name not in crashed]
        rows, at, code = _attempt(module, left, plan, tell)
        if code == 0:
            break
        failed = {at: f"the process ended: {_in_words(code)}"}
        if at not in left:
            there = {name: rows.get(name) or Row(runtime, name) for name in left}
            rows = {n: replace(row, failed={**row.failed, **failed}) for n, row in there.items()}
            break
        crashed[at] = Row(runtime, at, failed=failed)
        tell(crashed[at])
    rows |= crashed
    return [rows[name] for name in names]


def _attempt(
    module: str, names: Sequence[str], plan: Plan, tell: Callable[[Row], object]
) -> tuple[dict[str, Row], str, int]:
    """The rows, what was done last, and the exit code of a process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, module, names, plan))
    process.start()
    theirs.close()
    rows: dict[str, Row] = {}
    at = STARTING
    while True:
        try:
            kind, content = ours.recv()
        except EOFError:
            break
        if kind == "at":
            at = content
        elif kind == "row":
            rows[content.name] = content
            tell(content)
        else:
            for name, seconds in content.items():
                rows[name] = replace(rows[name], seconds=seconds)
    process.join()
    return rows, at, cast(int, process.exitcode)


def _work(connection: Connection, module: str, names: Sequence[str], plan: Plan) -> None:
    os.dup2(2, 1)  # converters print; the table alone goes to standard output
    torch.set_num_threads(plan.threads)
    runtime = load_runtime(module)
    found: dict[str, Any] = {}
    for name in names:
        connection.send(("at", name))
        model = awake_network(plan.network, name, plan.image_size)
        row, network = converted(runtime, name, model, plan.image_size)
        connection.send(("row", row))
        if network is not None:
            found[name] = network
    connection.send(("at", TIMING))
    connection.send(("seconds", timed(found, plan)))
    connection.close()


def _in_words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
