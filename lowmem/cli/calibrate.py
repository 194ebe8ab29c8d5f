"""`lowmem calibrate`: measure the cost model of this machine, and store it."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from lowmem.cli.options import add_json
from lowmem.common.checks import one_of
from lowmem.common.tables import Table
from lowmem.errors import InputError, RunError
from lowmem.network.specs import ITEM_BYTES
from lowmem.planning.cost_model import ROWS, WIDTHS
from lowmem.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from lowmem.planning.cost_model import CostModel
    from lowmem.schedule.disk.transfers import DiskRates

HELP = "Measure how fast this machine runs the parts of a step, for plans that minimise time."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME", help=f"dtype: {' or '.join(ITEM_BYTES)} (default float32)"
    )
    parser.add_argument("--disk", metavar="DIR", help="measure the disk of this folder as well, for plans with --disk")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, store the cost model, and print it.

    Raises `InputError`, before it measures, where nothing can be stored, `RunError` where that fails afterwards.
    """
    from lowmem.common.disk.spill_file import check_folder
    from lowmem.measure.calibration import cache_folder, cache_path, check_cache, measure_engine, store
    from lowmem.measure.disk_calibration import measure_disk, rates_path, store_rates

    one_of("dtype", arguments.dtype, ITEM_BYTES)
    if arguments.disk is not None:
        check_folder(arguments.disk)
    if (why := check_cache()) is not None:
        raise InputError(f"nothing was measured, as the measurement {_no_place(cache_folder(), why)}")
    model = measure_engine(arguments.dtype)
    path, problem = cache_path(model.dtype, model.engine), store(model)
    rates = None if arguments.disk is None else measure_disk(arguments.disk)
    if arguments.json:
        print(json.dumps(asdict(model) | ({} if rates is None else {"disk": asdict(rates)})))
    else:
        _show(model, "not stored" if problem else f"stored in {path}")
    if rates is not None:
        if problem is None:
            path, problem = rates_path(arguments.disk), store_rates(arguments.disk, rates)
        if not arguments.json:
            _show_disk(arguments.disk, rates, "not stored" if problem else f"stored in {path}")
    if problem is not None:
        raise RunError(f"the measurement {_no_place(path, problem)}")
    return 0


def _no_place(path: "Path", why: str) -> str:
    """Say that what was measured cannot be stored, and what to do."""
    return f"cannot be stored in {str(path)!r}: {why}. Set LOWMEM_CACHE_DIR to a folder that can be written."


def _show_disk(folder: str, rates: "DiskRates", stored: str) -> None:
    """Print how fast a disk is. stored: where the measurement is now."""
    numbers = [
        [format_bytes(size), f"{write / 1e6:,.0f}", f"{read / 1e6:,.0f}"]
        for size, write, read in zip(rates.sizes, rates.write, rates.read, strict=True)
    ]
    note = f"both at once: each at {rates.shared:.0%} of its rate; {stored}"
    if rates.streamed_write is not None and rates.streamed_read is not None:
        streamed = f"written at {rates.streamed_write / 1e6:,.0f}, fetched at {rates.streamed_read / 1e6:,.0f}"
        note = f"parameters and moments are {streamed} MB/s\n{note}"
    print(Table(f"disk of {folder}, MB/s by the size of a transfer", ["", "write", "read"], numbers, note))


def _show(model: "CostModel", stored: str) -> None:
    """Print a cost model as tables. stored: where it is now."""
    grid = zip(ROWS, model.products, strict=True)
    rates = [[f"{rows} rows", *(f"{1e-9 / rate:.0f}" for rate in row)] for rows, row in grid]
    columns = ["", *(f"width {width}" for width in WIDTHS)]
    print(Table(f"{model.machine}\n{model.engine} engine; matrix products, {model.dtype}, GFLOP/s", columns, rates))
    numbers = [[name, f"{model.value[name] * 1e9:.2f}", f"{model.slope[name] * 1e9:.2f}"] for name in model.value]
    note = (
        f"sum of gradients {model.accumulate * 1e9:.2f} ns per parameter; states that leave the cache "
        f"({format_bytes(model.cache)}) {model.kept * 1e9:.2f} ns per byte\n{stored}"
    )
    print(Table("activations, ns per number", ["", "value", "slope"], numbers, note))
