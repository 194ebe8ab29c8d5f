"""The benchmark of steps measures what it says, and its tables and figure say what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import drawing, step_time
from scripts.turns import floor_step, in_turns, over

WIDTHS, ROWS = [8, 16, 16, 4], 32
MIB = 2**20


def test_the_floor_is_the_products_of_a_step_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, int, int]] = []
    product = np.matmul

    def matmul(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], *, out: np.ndarray[Any, Any]) -> None:
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        shapes.append((*out.shape, a.shape[1]))
        product(a, b, out=out)

    monkeypatch.setattr(np, "matmul", matmul)
    floor_step({"widths": WIDTHS, "batch": ROWS, "library": "lowmem"})()
    forward = [(ROWS, 16, 8), (ROWS, 16, 16), (ROWS, 4, 16)]
    # Of each layer the gradient, then δ of the layer below, but for the first.
    assert shapes == [*forward, (4, 16, ROWS), (ROWS, 16, 4), (16, 16, ROWS), (ROWS, 16, 16), (16, 8, ROWS)]


def test_the_floor_with_all_states_writes_a_state_of_its_own_for_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[bool, set[int]] = {}
    product = np.matmul
    for keep in (False, True):
        places = written[keep] = set()

        def matmul(a: Any, b: Any, *, out: Any, places: set[int] = places) -> None:
            places.add(out.ctypes.data)
            product(a, b, out=out)

        monkeypatch.setattr(np, "matmul", matmul)
        floor_step({"widths": WIDTHS, "batch": ROWS, "library": "lowmem"}, keep_states=keep)()
    # Two states, two deltas and a gradient serve all layers; with all states there is one more, for three layers.
    assert [len(written[keep]) for keep in (False, True)] == [5, 6]


def test_steps_take_turns() -> None:
    order: list[str] = []

    def step(name: str) -> float:
        order.append(name)
        return 1.0 + len(order)  # 2, 3, ...

    found = in_turns({"a": lambda: step("a"), "b": lambda: step("b")}, seconds=0, least=3)
    count = found["a"]["steps_of_turn"]
    one_more = count + 1  # the first step of a turn is not timed
    assert order == ["b"] + 3 * (["a"] * one_more + ["b"] * one_more)
    assert len(found["a"]["seconds"]) == len(found["b"]["cpu_seconds"]) == 3
    assert found["b"]["losses"] == [2.0, 4.0 + count, 5.0 + count]  # the first is the warm-up's


def test_a_ratio_is_that_of_a_turn_and_the_floors_turn_before_it() -> None:
    floor = [{"seconds": [1.0, 2.0], "cpu_seconds": [2.0, 1.0]}, {"seconds": [4.0], "cpu_seconds": [1.0]}]
    steps = [{"seconds": [1.5, 4.0], "cpu_seconds": [4.0, 4.0]}, {"seconds": [12.0], "cpu_seconds": [3.0]}]
    assert over(floor, steps) == {"median": 2.0, "quartiles": [1.75, 2.5]}
    assert over(floor, steps, "cpu_seconds")["median"] == 3.0


def point(name: str, memory: int, seconds: float, **more: object) -> dict[str, Any]:
    case = {"hidden": 50, "width": 256, "widths": [64, *[256] * 50, 10], "batch": 512, "activation": "relu"}
    over = {"median": seconds, "quartiles": [seconds, seconds]}  # of products that took half a second
    measured = {"above_floor_bytes": memory * MIB, "seconds": seconds / 2, "over_floor": over}
    found = case | measured | {"part": "frontier", "name": name, "cpu_seconds": seconds, "losses": [2.5, 2.0]}
    return found | {"library": "lowmem" if name == "lowmem" else "torch"} | more


def points() -> list[dict[str, Any]]:
    return [
        point("lowmem", 40, 1.1, budget="100% of activations", arena_bytes=25 * MIB, promised_bytes=39 * MIB),
        point("lowmem", 20, 1.5, budget="25% of activations", arena_bytes=6 * MIB, promised_bytes=20 * MIB),
        point("PyTorch", 41, 1.2),
        point("checkpoint_sequential", 30, 1.8, segments=5),
        point("checkpoint_sequential", 35, 1.7, segments=10),
        point("checkpoint_sequential", 41, 1.3, segments=3),
    ]


def step_record() -> dict[str, Any]:
    side = {"seconds": 1.0, "quartiles": [1.0, 1.0], "cpu_seconds": 2.0, "losses": [2.5, 2.0]}
    return point("lowmem", 1, 1.0) | {
        "part": "step",
        "floor": side,
        "lowmem": side | {"seconds": 1.1},
        "torch": side | {"seconds": 1.32, "losses": [2.5, 2.02]},
        "floor_with_states": side | {"seconds": 1.03125},
        "torch_floor": side | {"seconds": 0.875},
        "over_floor": {"median": 1.0625, "quartiles": [1.0, 1.125]},
        "torch_over_lowmem": {"median": 1.2, "of_rounds": [1.25, 1.15]},
    }


def test_the_best_peer_takes_no_more_memory() -> None:
    def segments(memory: int) -> object:
        best = step_time.best_within(memory * MIB, points())
        return None if best is None else best["segments"]

    assert [segments(memory) for memory in (29, 30, 40, 41)] == [None, 5, 10, 3]


def test_tables_and_figure_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"processor": "a processor", "cores": 2, "threads": 2, "memory_bytes": 2**34, "system": "Linux"}
    data = {
        "command": "python -m scripts.benchmark_step",
        "date": "2026-01-01",
        "machine": machine,
        "versions": {"python": "3.11", "numpy": "2.4"},
        "records": [step_record(), *points()],
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "benchmark_step.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(drawing, "DOCS", tmp_path)
    step_time.main()
    text = (tmp_path / "tables" / "step_time.md").read_text(encoding="utf-8")
    assert "| 50 × 256, batch 512 | 1,000 ms | 1.031 × | 1.062 × | 1.000 to 1.125 |" in text
    assert "| relu | 1,100 ms | 1,320 ms | 1.20 × | 1.150 to 1.250 | 1.00 × | 0.88 × | 1e-02 |" in text
    assert "| 100% of activations | 25.0 MiB | 40.0 MiB | 1.10 × | 10 segments | 35.0 MiB | 1.70 × | 1.55 × |" in text
    assert "| 25% of activations | 6.0 MiB | 20.0 MiB | 1.50 × | none |" in text
    assert (tmp_path / "figures" / "step_time.svg").exists()


def test_the_figure_leaves_parameters_out_of_memory() -> None:
    found = {(dot.series, round(dot.memory, 3)) for dot in step_time.drawn(points()[:3])}
    parameters = 4 * (256 * 65 + 49 * 256 * 257 + 10 * 257) / MIB
    assert found == {("lowmem", 25), ("lowmem", 6), ("PyTorch, everything stored", round(41 - parameters, 3))}
