"""`lowmem profile`: plans are run, each in a fresh process, and shown as a table, JSON, a figure and a page."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lowmem as lm
from lowmem.cli import main, profile
from lowmem.measure import experiment as measurement
from lowmem.measure.experiment import Measurement
from lowmem.planning.timeline import PHASES, planned_flops
from lowmem.units import format_seconds
from tests.helpers import model
from tests.test_report import outside

DEEP = ["--widths", "16,32x20,10", "--batch", "1024", "--no-calibrate"]
ARCH = lm.Architecture((16, *[32] * 20, 10))
MIB = 2**20
SPREADS: Iterator[float] = iter(())
"""Spreads of the next measurements; then they are calm."""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """Make measurements up in place of running plans; return the requests."""
    requests: list[Mapping[str, Any]] = []

    def answer(request: Mapping[str, Any]) -> Measurement:
        requests.append(request)
        options = {key: request[key] for key in ("budget", "strategy", "optimizer") if key in request}
        plan = lm.plan(ARCH, request["batch_size"], **options)
        seconds = dict.fromkeys(PHASES, 0.0) | {"forward": 0.001, "backward": 0.00225}
        return Measurement(
            strategy=plan.strategy,
            budget=plan.budget,
            micro_batch=plan.micro_batch,
            forward_runs=plan.forward_runs,
            flop_factor=plan.flop_factor,
            planned_flops=plan.flops,
            store_all_arena=plan.store_all_bytes,
            promised_peak=3 * MIB,
            promised_arena=plan.arena_bytes,
            bookkeeping=plan.overhead_bytes,
            traced_peak=3 * MIB + MIB // 100,
            made={},
            arena_written=plan.arena_bytes,
            floor=30 * MIB,
            resident_above_floor=2 * MIB,
            step_seconds=plan.flops / 1e11,
            cpu_seconds=0.004,
            spread=next(SPREADS, 0.05),
            steps=9,
            loss=2.0,
            profile={"flops": planned_flops(plan), "seconds": seconds},
            memory_over_work=[],
            product_rate=2e11,
        )

    monkeypatch.setattr("lowmem.measure.experiment.measure_apart", answer)
    return requests


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run `lowmem profile`; return its exit code and its two streams."""
    code = main(["profile", *arguments])
    return code, *capsys.readouterr()


def test_it_runs_plans_and_shows_them_in_every_form(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot, page = tmp_path / "frontier.svg", tmp_path / "report.html"
    flags = ["--strategies", "store_all", "--budget", "30% of activations", "--steps", "1"]
    code, out, err = run(capsys, *DEEP, *flags, "--json", "--plot", str(plot), "--html", str(page))
    assert (code, err) == (0, "")
    answer = json.loads(out)
    rows = answer["rows"]
    assert answer["flags"]["batch"] == answer["rows"][0]["report"]["plan"]["batch_size"] == 1024
    assert answer["provenance"]["versions"].keys() == {"lowmem", "Python", "NumPy"}
    assert all(row["spread"] >= 0 and row["predicted_seconds"] is None for row in rows)
    assert [row["asked"] for row in rows] == ["store_all", "budget 30% of activations"]
    for row, budget in zip(rows, (None, "30% of activations"), strict=True):
        plan = lm.plan(ARCH, 1024, budget, "sgd")
        assert row["promised_peak"] == row["report"]["plan"]["peak_bytes"] == plan.peak_bytes
        assert row["arena_written"] == pytest.approx(plan.arena_bytes, rel=0.01)
        assert {phase["name"]: phase["flops"] for phase in row["report"]["phases"] if phase["flops"]} == {
            phase: flops for phase, flops in planned_flops(plan).items() if flops
        }
        assert row["report"]["backward_over_forward"]["measured_seconds"] > 0
    drawn = plot.read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    text = page.read_text(encoding="utf-8")
    found = outside(text)
    assert (found.found, found.figures) == ([], 1 + 2 * 2)  # the frontier, and two figures for each plan
    headings = ["<h2>Compute versus memory", "<h2>store_all", "<h3>The schedule", "<h2>budget 30% of activations"]
    assert sorted(headings, key=text.index) == headings  # the cheapest first
    assert "Measured 20" in text


def test_the_table_to_the_letter(capsys: pytest.CaptureFixture[str], made_up: list[Mapping[str, Any]]) -> None:
    code, out, err = run(capsys, *DEEP, "--strategies", "store_all, sqrt", "--budget", "30% of activations,1KiB")
    assert code == 0
    assert [request.get("strategy", request.get("budget")) for request in made_up] == [
        "store_all",
        "sqrt",
        "30% of activations",
    ]
    assert out.splitlines() == GOLDEN.splitlines()
    assert err.startswith("lowmem: budget 1KiB is left out: it needs ")


@pytest.mark.usefixtures("made_up")
def test_the_frontier_has_planned_and_measured_points_of_every_strategy() -> None:
    rows = []
    asked: dict[str, dict[str, Any]] = {"all": {"strategy": "store_all"}, "tight": {"budget": "30% of activations"}}
    for name, options in asked.items():
        request: dict[str, Any] = {"batch_size": 1024, "optimizer": "sgd"} | options
        measured = measurement.measure_apart(request)
        plan = lm.plan(ARCH, 1024, optimizer="sgd", **options)
        rows.append((name, replace(measured, step_seconds=2 * measured.step_seconds), measured.report(plan)))
    figure = profile._frontier(rows)
    axis = figure.axes[0]
    assert axis.get_xlabel() == "activations, relative to storing everything (linear scale)"
    assert "FLOPs planned, time measured" in axis.get_ylabel().replace("\n", " ")
    names = {str(line.get_label()) for line in axis.lines}
    assert {"store_all", "store_all, measured", "optimal", "optimal, measured"} < names


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "--steps must be a positive whole number; got 0"),
        (
            ["--html", "nowhere/report.html"],
            "cannot be saved to 'nowhere/report.html': there is no folder 'nowhere'. Make it first.",
        ),
        (["--strategies", "", "--budget", "1KiB"], "nothing is left to measure"),
        (["--strategies", "sqr"], "Did you mean 'sqrt'?"),
        (["--budget", "plenty"], "cannot read 'plenty'"),
    ],
    ids=str,
)
def test_bad_input_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], made_up: list[Mapping[str, Any]], flags: list[str], words: str
) -> None:
    code, out, err = run(capsys, *DEEP, *flags)
    assert (code, out, made_up) == (2, "", [])
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.usefixtures("made_up")
def test_a_page_that_cannot_be_written_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    code, _, err = run(
        capsys, *DEEP, "--strategies", "sqrt", "--budget", "50%", "--html", str(tmp_path / "folder.html")
    )
    assert code == 2
    assert "that is a folder. Name a file in it." in err


GOLDEN = """\
21 layers (16, 32 x 20, 10), relu, cross_entropy, float32, 20,938 parameters
batch 1024

                      promised                traced   resident    arena   FLOPs      step   time   bwd/fwd   speed
 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
 store_all             3.0 MiB   3.0 MiB (+10.2 KiB)    2.0 MiB   100.0%   1.000   1.28 ms   1.00      2.25     50%
 sqrt                  3.0 MiB   3.0 MiB (+10.2 KiB)    2.0 MiB    37.5%   1.212   1.55 ms   1.21      2.25     50%
 30% of activations    3.0 MiB   3.0 MiB (+10.2 KiB)    2.0 MiB    27.9%   1.323   1.69 ms   1.32      2.25     50%

promised, traced: peak of all that training allocates. resident: peak above the process before the plan.
arena, FLOPs: relative to storing everything. time: relative to the first row. bwd/fwd: time of backward
over that of forward; the rule of thumb is 2. speed: FLOPs a second over those of matrix products alone.
"""


@pytest.mark.usefixtures("made_up")
def test_predicted_times_stand_beside_measured_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowmem.measure.calibration.calibrated", lambda dtype: model())
    flags = [*DEEP[:-1], "--strategies", "store_all,sqrt", "--budget", "40% of activations"]
    code, out, _ = run(capsys, *flags, "--json")
    assert code == 0
    seconds = [row["predicted_seconds"] for row in json.loads(out)["rows"]]
    alone = [lm.plan(ARCH, 1024, None, "sgd", name, costs=model()).seconds for name in ("store_all", "sqrt")]
    assert seconds[:2] == alone
    assert seconds[2] > seconds[0]
    code, out, _ = run(capsys, *flags)
    (heads,) = [line for line in out.splitlines() if "promised " in line]
    assert re.search(r"predicted +step +time", heads)
    assert format_seconds(seconds[1]) in out


def test_disturbed_rows_are_measured_again_and_marked_if_they_stay_so(
    made_up: list[Mapping[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first row is calm at its second measurement, the second row at none of three.
    monkeypatch.setitem(globals(), "SPREADS", iter([0.5, 0.1, 0.9, 0.4, 0.6]))
    code, out, _ = run(capsys, *DEEP, "--strategies", "store_all,sqrt", "--budget", "50%")
    assert code == 0
    asked = [request.get("strategy", request.get("budget")) for request in made_up]
    assert asked == ["store_all", "store_all", "sqrt", "sqrt", "sqrt", "50%"]
    rows = {line.split()[0]: line for line in out.splitlines() if " ms" in line}
    assert "ms *" not in rows["store_all"]
    assert "ms *" in rows["sqrt"]
    assert "Repeats differ by more than 20%" in out


def made_up_rows(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change what made-up measurements hold."""
    answer = measurement.measure_apart
    monkeypatch.setattr(measurement, "measure_apart", lambda request: replace(answer(request), **changes))


@pytest.mark.usefixtures("made_up")
def test_rows_whose_threads_waited_for_the_processor_are_marked_though_all_repeats_are_alike(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*DEEP, "--strategies", "store_all", "--budget", "50%"]
    made_up_rows(monkeypatch, step_seconds=0.004, cpu_seconds=0.001)
    code, out, _ = run(capsys, *flags)
    assert code == 0
    assert out.count("4.00 ms *") == 2
    assert "other processes\ntook more than 20% of the processor time" in out
    code, out, _ = run(capsys, *flags, "--json")
    rows = json.loads(out)["rows"]
    assert [row["disturbed"] for row in rows] == [True, True]
    assert [row["processor_share"] for row in rows] == [0.25 / row["report"]["plan"]["lanes"] for row in rows]


@pytest.mark.usefixtures("made_up")
def test_resident_memory_below_the_noise_of_the_process_is_no_negative_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_rows(monkeypatch, resident_above_floor=-90_000)
    code, out, _ = run(capsys, *DEEP, "--strategies", "store_all", "--budget", "50%")
    assert code == 0
    assert out.count("not seen") == 3  # of two rows, and what it means
    assert "-87.9 KiB" not in out


def test_what_was_asked_is_told_in_full(capsys: pytest.CaptureFixture[str], made_up: list[Mapping[str, Any]]) -> None:
    code, out, _ = run(capsys, *DEEP, "--strategies", "store_all", "--budget", "50%", "--shards", "2", "--json")
    assert (code, len(made_up)) == (0, 2)
    flags = json.loads(out)["flags"]
    assert (flags["shards"], flags["disk"], flags["disk_limit"]) == (2, None, None)


def test_with_a_disk_traced_memory_holds_no_modules(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--widths", "16,32x4,10", "--batch", "64", "--no-calibrate", "--strategies", "store_all", "--steps", "1"]
    code, out, _ = run(capsys, *flags, "--budget", "100%", "--disk", str(tmp_path), "--json")
    assert code == 0
    assert all(row["traced_peak"] <= row["promised_peak"] + 65536 for row in json.loads(out)["rows"])
