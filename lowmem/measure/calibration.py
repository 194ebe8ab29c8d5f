"""The cost model of this machine: measured once, in a few seconds, and stored in the user's cache directory."""

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.checks import one_of
from lowmem.common.cores import VARIABLES, usable_cores
from lowmem.common.files import reason, replacing, write_all
from lowmem.network.architecture import Architecture
from lowmem.network.specs import ACTIVATIONS, ITEM_BYTES
from lowmem.network.tiles import TILE_ROWS, tile_bounds
from lowmem.nn.activations import KERNELS, Activation
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel, Grid
from lowmem.planning.engines.choice import choose_engine

VERSION = 4
"""Version of the stored file; a file of any other version is measured anew."""


def calibrated(dtype: str = "float32", *, again: bool = False, engine: str | None = None) -> CostModel:
    """Return the cost model of this machine. The first call measures it, in some three seconds, and stores it.

    dtype: of the network's numbers, "float32" or "float64".
    again: measure anew even if a file is there.
    engine: "native" or "numpy"; None for the one that plans choose.

    A file that cannot be read is measured anew, and one that cannot be written is left out. Raises `UnknownNameError`
    for other dtypes.

    >>> import lowmem as lm
    >>> costs = lm.calibrated()
    >>> arch = lm.Architecture(widths=(64, *[128] * 10, 10))
    >>> plan = lm.plan(arch, batch_size=512, budget="90%", costs=costs)
    >>> 0 < plan.seconds < 60
    True
    """
    one_of("dtype", dtype, ITEM_BYTES)
    engine = choose_engine(engine, Architecture((1, 1), dtype=dtype), None)
    path = cache_path(dtype, engine)
    model = None if again else _read(path, dtype, engine)
    if model is None:
        model = measure_engine(dtype, engine)
        store(model)
    return model


def measure_engine(dtype: str, engine: str | None = None) -> CostModel:
    """Return a cost model as measured now. engine: None for the one that plans choose."""
    from lowmem.measure.step_calibration import in_steps  # which runs steps: with all that this takes

    model = measure(dtype)
    if choose_engine(engine, Architecture((1, 1), dtype=dtype), None) == "native":
        from lowmem.measure.native_calibration import native_model

        model = native_model(model, _seconds)
    return in_steps(model)


def cache_path(dtype: str, engine: str | None = None) -> Path:
    """Return the file of the cost model of a dtype and engine, None for the engine that plans choose.

    It is in the folder LOWMEM_CACHE_DIR, or in the user's cache directory.
    """
    engine = choose_engine(engine, Architecture((1, 1), dtype=dtype), None)
    return cache_folder() / f"costs-{dtype}-{engine}.json"


def cache_folder() -> Path:
    """Return the folder of what was measured: LOWMEM_CACHE_DIR, or the user's cache directory."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("LOWMEM_CACHE_DIR") or user_cache_dir("lowmem", appauthor=False))


def age(dtype: str) -> float | None:
    """Return how many seconds ago the stored cost model was measured, None if none is stored for this machine."""
    path = cache_path(dtype)
    engine = choose_engine(None, Architecture((1, 1), dtype=dtype), None)
    return None if _read(path, dtype, engine) is None else max(time() - path.stat().st_mtime, 0.0)


def processor() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """Return everything that a cost model depends on, as text: processor, cores, NumPy, and limits of threads."""
    from importlib.metadata import version

    limits = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return ", ".join([processor(), f"{usable_cores()} cores", f"NumPy {version('numpy')}", *limits])


def _read(path: Path, dtype: str, engine: str) -> CostModel | None:
    """Return the stored cost model if it is of this version and this machine, and complete; else None."""
    try:
        data = json.loads(path.read_text())
        if data.pop("version") != VERSION or data["machine"] != machine() or data["dtype"] != dtype:
            return None
        if data["engine"] != engine:
            return None
        for grid in ("products", "gradients"):
            data[grid] = tuple(tuple(float(rate) for rate in row) for row in data[grid])
        model = CostModel(**data)
        positive = all(rate > 0 for grid in (model.products, model.gradients) for row in grid for rate in row)
        complete = set(model.value) == set(model.slope) == set(ACTIVATIONS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return model if positive and complete else None


def store(model: CostModel) -> str | None:
    """Store a cost model in the file of its dtype and engine. Return why that cannot be done, None if it is done."""
    return store_json(cache_path(model.dtype, model.engine), {"version": VERSION, **asdict(model)})


def check_cache() -> str | None:
    """Return why nothing can be stored in the folder of what was measured, None if it can be. Makes that folder."""
    from tempfile import TemporaryFile  # 0.7 MiB with the compressors that it brings

    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache_folder()):
            return None
    except OSError as problem:
        return reason(problem)


def store_json(path: Path, measured: dict[str, Any]) -> str | None:
    """Store what was measured in a file of the cache. Return why that cannot be done, None if it is done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as (stream,):
            write_all(stream, json.dumps(measured).encode())
    except OSError as problem:
        return reason(problem)
    return None


def measure(dtype: str = "float32") -> CostModel:
    """Return a cost model of the times that the pieces of a step take on this machine with the NumPy engine."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, width: int) -> NDArray[Any]:
        return rng.standard_normal((rows, width)).astype(dtype)

    products, gradients = [], []
    for rows in ROWS:
        forward, backward = [], []
        for width in WIDTHS:
            x, w, out, g = matrix(rows, width), matrix(width, width), matrix(rows, width), matrix(width, width)
            tiles = [(x[n : n + TILE_ROWS], out[n : n + TILE_ROWS]) for n in range(0, rows, TILE_ROWS)]
            flops = 2.0 * rows * width * width
            forward.append(_seconds(partial(_products, tiles, w.T)) / flops)
            backward.append(_seconds(partial(np.matmul, out.T, x, g)) / flops)
        products.append(tuple(forward))
        gradients.append(tuple(backward))
    tile = matrix(256, 256)
    value, slope = {}, {}
    for name, facts in ACTIVATIONS.items():
        kernel, out, delta = KERNELS[name], matrix(256, 256), matrix(256, 256)
        scratch = tuple(matrix(256, 256) for _ in range(max(facts.value_scratch, facts.slope_scratch)))
        value[name] = _seconds(partial(kernel.value, tile, out, scratch[: facts.value_scratch])) / tile.size
        # A slope overwrites its operands: they are copied anew for each call, and the copies' time is taken off.
        anew = partial(_copy_all, ((out, tile), (delta, tile)))
        pull = partial(_slope, kernel, out, delta, scratch[: facts.slope_scratch])
        slope[name] = max(_seconds(partial(_both, anew, pull)) - _seconds(anew), 1e-12) / tile.size
    bias, total, part = matrix(1, 256)[0], matrix(1024, 1024), matrix(1024, 1024)
    return CostModel(
        machine=machine(),
        dtype=dtype,
        products=_falling(products),
        gradients=_falling(gradients),
        value=value,
        slope=slope,
        bias=_seconds(lambda: np.add(tile, bias, tile)) / tile.size,
        accumulate=_seconds(lambda: np.add(total, part, total)) / total.size,
    )


def product_rate(architecture: Architecture, rows: int) -> float:
    """Return the FLOPs a second that matrix products reach on this machine.

    rows: samples of a product. The other two sizes are those of the layers that take most of the network's FLOPs.

    The three products of a layer, x wᵀ, δᵀ x and δ w, are timed alone, in tiles as the kernels run them; the shortest
    time counts. This takes 20 ms or a few times the products of a layer, and memory for one layer.
    """
    layers = Counter(pairwise(architecture.widths))
    entering, leaving = max(layers, key=lambda shape: layers[shape] * shape[0] * shape[1])
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> NDArray[Any]:
        return rng.standard_normal(shape).astype(architecture.dtype)

    x, delta, w = matrix(rows, entering), matrix(rows, leaving), matrix(leaving, entering)
    s, below, g = np.empty_like(delta), np.empty_like(x), np.empty_like(w)
    bounds = tile_bounds(rows)
    forward = [(x[start:stop], s[start:stop]) for start, stop in bounds]
    backward = [(delta[start:stop], below[start:stop]) for start, stop in bounds]
    calls = partial(_products, forward, w.T), partial(np.matmul, delta.T, x, g), partial(_products, backward, w)
    return 6.0 * rows * entering * leaving / sum(map(_seconds, calls))


def _products(tiles: Sequence[tuple[Any, Any]], w: NDArray[Any]) -> None:
    """Multiply each (source, target) of `tiles` by w, in tiles as the kernels do."""
    for source, target in tiles:
        np.matmul(source, w, target)


def _slope(sigma: Activation, state: NDArray[Any], delta: NDArray[Any], scratch: Sequence[NDArray[Any]]) -> None:
    """Run the part of a layer's backward that depends on σ, as the kernels do."""
    if sigma.pull_back is not None:
        sigma.pull_back(state, delta, scratch)
    if sigma.split is not None:
        sigma.split(state, delta, scratch)
        np.multiply(state, delta, out=state)


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """Call both functions, one after the other."""
    first()
    second()


def _copy_all(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Copy the second array of each pair into the first."""
    for target, source in pairs:
        np.copyto(target, source)


def _falling(grid: list[tuple[float, ...]]) -> Grid:
    """Return the seconds per FLOP of products, where no larger product is slower than a smaller one.

    Such outliers come from other processes on the machine.
    """
    rows: list[tuple[float, ...]] = []
    for row in grid:
        above = rows[-1] if rows else row
        best: list[float] = []
        for rate, smaller in zip(row, above, strict=True):
            best.append(min(rate, smaller, *best[-1:]))
        rows.append(tuple(best))
    return tuple(rows)


def _seconds(call: Callable[[], Any]) -> float:
    """Return the shortest time of a call, in seconds, over some 6 ms of calls after one to warm up.

    The shortest and not the median: on a busy machine the threads of a product wait for each other, some calls take a
    hundred times as long, and plans compare work, not what other processes do.
    """
    call()
    times: list[float] = []
    begin = perf_counter()
    while len(times) < 3 or (perf_counter() - begin < 0.006 and len(times) < 200):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)
