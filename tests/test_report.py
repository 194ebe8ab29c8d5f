"""Reports: one set of numbers as text, JSON, Markdown and a page, and nothing shown that was not measured."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import lowmem as lm
from lowmem.measure.report import RankRecord
from lowmem.measure.step_profile import StepProfile
from lowmem.planning.plan import Account
from lowmem.planning.timeline import PHASES, planned_flops
from lowmem.plots import report_html
from tests.helpers import batch

# A round number of bytes for Python's objects: how many they take is fitted anew when the binding changes.
PLAN = replace(
    lm.plan(lm.Architecture((4, *[8] * 9, 3), "tanh"), 64, "1MiB", "adam", "sqrt", micro_batch=32, engine="numpy"),
    overhead_bytes=70_000,
)
SECONDS = dict(zip(PHASES, (0.002, 0.001, 0.0005, 0.005, 0.0005, 0.001), strict=True))


def untimed() -> lm.Report:
    """Return a report of a run in which little was measured."""
    return lm.Report(PLAN, None, 40 * 2**20, seconds_per_step=0.01, steps=7, loss=1.5)


def full() -> lm.Report:
    """Return a report in which everything was measured; the numbers are made up."""
    arrays = PLAN.account().arrays()
    return lm.Report(
        plan=PLAN,
        traced_peak=arrays.total + 50_000,
        resident_peak=30 * 2**20 + PLAN.peak_bytes,
        seconds_per_step=0.01,
        steps=7,
        loss=1.5,
        accuracy=0.25,
        floor=30 * 2**20,
        arrays=arrays,
        arena_written=PLAN.arena_bytes - 4096,
        profile=StepProfile(planned_flops(PLAN), SECONDS),
        product_rate=4e7,
        memory_over_work=[(0.0, 100_000), (1e5, 120_000)],
    )


# The text, exactly -----------------------------------------------------------------------------------------------


def test_a_report_in_which_all_was_measured_reads_like_this() -> None:
    assert str(full()).splitlines() == GOLDEN.splitlines()


def test_a_report_in_which_little_was_measured_says_no_more_than_that() -> None:
    assert str(untimed()).splitlines() == GOLDEN_UNTIMED.splitlines()


# The same data everywhere ----------------------------------------------------------------------------------------


def cells(report: lm.Report) -> list[str]:
    return [cell for table in report.tables() for row in [table.columns, *table.rows] for cell in row]


@pytest.mark.parametrize("report", [full(), untimed()], ids=["full", "untimed"])
def test_text_markdown_and_page_show_the_same_cells(report: lm.Report) -> None:
    page = re.sub(r"<svg.*?</svg>", "", report_html(report), flags=re.DOTALL)
    for rendered in (str(report), report.to_markdown(), page):
        assert all(cell.strip() in rendered for cell in cells(report))
    marked = [row for line in report.to_markdown().splitlines() if line.startswith("| ") for row in line.split("|")]
    assert [cell.strip() for cell in marked if cell.strip()] == [cell.strip() for cell in cells(report) if cell]


def test_json_has_the_numbers_that_the_tables_round() -> None:
    report = full()
    numbers = json.loads(json.dumps(report.to_dict()))
    assert numbers["plan"] == json.loads(json.dumps(PLAN.to_dict()))
    parts = {part["name"]: part for part in numbers["memory"]}
    for name, size in PLAN.account().items():
        assert parts[name]["promised"] == size
    assert parts["overhead"]["measured"] == 50_000
    assert parts["activation arena"]["measured"] == PLAN.arena_bytes - 4096
    assert parts["peak memory of training"]["measured"] == numbers["traced_peak_bytes"] == report.traced_peak
    assert parts["whole process"] == {
        "name": "whole process",
        "promised": 30 * 2**20 + PLAN.peak_bytes,
        "measured": report.resident_peak,
        "of": None,
    }
    assert sum(phase["planned_flops"] for phase in numbers["phases"]) == PLAN.flops
    assert {phase["name"]: phase["seconds"] for phase in numbers["phases"]} == {
        name: s for name, s in SECONDS.items() if s
    }
    assert numbers["backward_over_forward"]["measured_seconds"] == 2.5
    assert numbers["flops_per_second"] == PLAN.flops / 0.01
    assert numbers["product_flops_per_second"] == 4e7


def test_json_keeps_what_was_not_measured_apart() -> None:
    numbers = untimed().to_dict()
    assert numbers["traced_peak_bytes"] is None is numbers["floor_bytes"] is numbers["product_flops_per_second"]
    assert numbers["backward_over_forward"]["measured_seconds"] is None
    assert all(phase["flops"] is None is phase["seconds"] for phase in numbers["phases"])
    measured = [part["name"] for part in numbers["memory"] if part["measured"] is not None]
    assert measured == ["whole process"]


def test_the_arena_is_made_up_of_states_deltas_scratch_and_gaps() -> None:
    sizes = {part.name: part.promised or 0 for part in full().memory() if part.of == "activation arena"}
    assert sum(sizes.values()) == PLAN.arena_bytes
    assert sizes["states"] > sizes["deltas"] > 0 < sizes["scratch"]


def test_overhead_is_not_guessed_where_the_arrays_are_not_all_known() -> None:
    arrays = Account.from_dict({"parameters": PLAN.parameter_bytes})
    report = lm.Report(PLAN, 10**6, 10**8, 0.01, 1, 1.0, arrays=arrays)
    measured = {part.name: part.measured for part in report.memory()}
    assert measured["overhead"] is None is measured["gradients"]
    assert measured["parameters"] == PLAN.parameter_bytes


# The page --------------------------------------------------------------------------------------------------------


class Outside(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.figures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        self.figures += tag == "svg"
        if tag in ("script", "link", "img", "iframe", "object", "embed"):
            self.found.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset") and not (value or "").startswith("#"):
                self.found.append(f"{name}={value}")
            if re.search(r"url\((?!#)", value or ""):
                self.found.append(f"{name}={value}")


def outside(page: str) -> Outside:
    """Parse a page."""
    parser = Outside()
    parser.feed(page)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    return parser


def test_a_page_is_self_contained_with_its_figures_inside() -> None:
    page = report_html(full())
    found = outside(page)
    assert found.found == []
    assert found.figures == 2
    for heading in ("Memory", "Memory over one step", "Compute", "The schedule", "Outcome"):
        assert f"<h2>{heading}</h2>" in page


def test_a_page_of_several_ranks_shows_what_each_took() -> None:
    page = report_html(replace(full(), ranks=[RankRecord(2.0, waited, 10**6) for waited in (0.5, 1.0)]))
    assert "<h2>Ranks</h2>" in page
    assert "<td>share waiting</td><td>25.0%</td><td>50.0%</td>" in page


def test_something_from_elsewhere_would_be_seen() -> None:
    assert outside('<style></style><img src="a.png"><a href="#here">').found == ["img", "src=a.png"]
    assert outside('<style></style><g style="fill: url(http://a)">').found == ["style=fill: url(http://a)"]


def test_names_cannot_break_a_page() -> None:
    from lowmem.common.tables import Table
    from lowmem.plots.page import page

    text = page("<b>", [("<i>", Table("<script>", ["<td>"], [["&"]], "<p>"))])
    for raw in ("<b>", "<i>", "<script>", "<td><td>"):
        assert raw not in text.replace("<body>", "")
    assert "&lt;script&gt;" in text
    assert "<td>&amp;</td>" in text


# From a trainer --------------------------------------------------------------------------------------------------


def test_a_trainer_reports_what_it_knows_and_no_more() -> None:
    architecture = lm.Architecture((4, *[8] * 9, 3), "tanh")
    trainer = lm.Trainer(lm.MLP(architecture), lm.Adam(), batch_size=32, micro_batch=16)
    list(trainer.epochs(batch(architecture, 50), 1))
    report = trainer.report()
    measured = {part.name for part in report.memory() if part.measured is not None}
    assert measured == {"parameters", "gradients", "optimizer", "activation arena", "whole process"}
    assert {part.name: part.measured for part in report.memory() if part.name in ("gradients", "optimizer")} == {
        "gradients": trainer.plan.gradient_bytes,
        "optimizer": trainer.plan.optimizer_bytes,
    }
    assert "of matrix products alone" not in str(report)
    assert "time" not in report.tables()[1].columns
    assert report_html(report).count("<svg") == 2


GOLDEN = """\
10 layers (4, 8 x 9, 3), tanh, cross_entropy, float32, 643 parameters
batch 64, 2 passes, strategy sqrt, numpy engine

 memory                    promised   measured
 ─────────────────────────────────────────────────────────
 budget                     1.0 MiB
 parameters                 2.5 KiB    2.5 KiB       equal
 gradients                  2.8 KiB    2.8 KiB       equal
 optimizer                  5.3 KiB    5.3 KiB       equal
 activation arena           6.0 KiB    2.0 KiB    -4.0 KiB
   states                   4.0 KiB
   deltas                     384 B
   scratch                  1.0 KiB
   gaps between them          640 B
 batch                        384 B      384 B       equal
 overhead                  68.4 KiB   48.8 KiB   -19.5 KiB
 peak memory of training   85.3 KiB   65.8 KiB   -19.5 KiB
 process floor                        30.0 MiB
 whole process             30.1 MiB   30.1 MiB       equal

Of the arena: states, deltas and scratch while the op runs at which most is alive.
Storing everything takes an arena of 20.8 KiB.
The budget is for what training allocates. The whole process holds the interpreter, libraries and data besides.

 step               FLOPs promised      counted      time   share          speed
 ───────────────────────────────────────────────────────────────────────────────
 forward                82.1 kFLOP   82.1 kFLOP   2.00 ms   20.0%   41.1 MFLOP/s
 recomputation            42 kFLOP     42 kFLOP   1.00 ms   10.0%     42 MFLOP/s
 loss                     960 FLOP     960 FLOP    500 µs    5.0%   1.92 MFLOP/s
 backward                165 kFLOP    165 kFLOP   5.00 ms   50.0%   32.9 MFLOP/s
 sum of gradients         643 FLOP     643 FLOP    500 µs    5.0%   1.29 MFLOP/s
 update                                           1.00 ms   10.0%

Backward over forward (rule of thumb: 2): 2.01 in FLOPs, 2.50 in time.

 outcome
 ────────────────────────────────────────────────────
 FLOPs, times storing everything                1.172
 time per step                                10.0 ms
 speed of the step                         29 MFLOP/s
 of matrix products alone          40 MFLOP/s, so 73%
 steps                                              7
 training loss                                 1.5000
 held-out accuracy                             25.00%
"""

GOLDEN_UNTIMED = """\
10 layers (4, 8 x 9, 3), tanh, cross_entropy, float32, 643 parameters
batch 64, 2 passes, strategy sqrt, numpy engine

 memory                    promised   measured
 ─────────────────────────────────────────────
 budget                     1.0 MiB
 parameters                 2.5 KiB
 gradients                  2.8 KiB
 optimizer                  5.3 KiB
 activation arena           6.0 KiB
   states                   4.0 KiB
   deltas                     384 B
   scratch                  1.0 KiB
   gaps between them          640 B
 batch                        384 B
 overhead                  68.4 KiB
 peak memory of training   85.3 KiB
 whole process                        40.0 MiB

Of the arena: states, deltas and scratch while the op runs at which most is alive.
Storing everything takes an arena of 20.8 KiB.
The budget is for what training allocates. The whole process holds the interpreter, libraries and data besides.
Python's and NumPy's allocations were not traced.

 step               FLOPs promised
 ─────────────────────────────────
 forward                82.1 kFLOP
 recomputation            42 kFLOP
 loss                     960 FLOP
 backward                165 kFLOP
 sum of gradients         643 FLOP

Backward over forward (rule of thumb: 2): 2.01 in FLOPs.

 outcome
 ────────────────────────────────────────────
 FLOPs, times storing everything        1.172
 time per step                        10.0 ms
 speed of the step                 29 MFLOP/s
 steps                                      7
 training loss                         1.5000
"""
