"""Figures are drawn to files and hold what they must: labels with units, series, legend entries, true numbers."""

import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import lowmem as lm
from analysis import ranks
from analysis.rank_model import Machine
from lowmem.chain import Chain
from lowmem.planning.timeline import chain_of
from lowmem.plots import Depth, Point, frontier, memory_timeline, moments, scaling, schedule_diagram, side_by_side
from lowmem.plots.diagram import Stroke, strokes_of
from lowmem.plots.lettering import TEXT, in_lines, text_width, with_scale
from lowmem.plots.style import FEWER_ROWS, STRATEGIES, TOOLS, looks, note_below
from lowmem.schedule import PLANNERS, Backward, Forward, Loss, Schedule, simulate
from tests.helpers import model, planned

DEEP = lm.Architecture((16, *[32] * 20, 10))
SHARES = [f"{share}% of activations" for share in (70, 50, 35, 25)]


@pytest.fixture(scope="module")
def made() -> lm.Plan:
    return lm.plan(DEEP, 1024, "30% of activations", "adam")


def report(made: lm.Plan, traced: int | None) -> lm.Report:
    return lm.Report(made, traced, 10**8, seconds_per_step=0.1, steps=3, loss=1.0)


def saved(figure: Figure, folder: Path) -> None:
    """Write both formats and see that they are what they should be, and that all text lies inside the figure."""
    figure.savefig(folder / "figure.svg")
    figure.savefig(folder / "figure.png")
    assert "<svg" in (folder / "figure.svg").read_text(encoding="utf-8")
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert collisions(figure) == []


def seen(figure: Figure) -> list[tuple[str, Bbox]]:
    """Return the texts that are seen, with their boxes in pixels. Axes also hold marks that lie beyond their ends."""
    beyond = set()
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for place, tick in zip(axis.get_majorticklocs(), axis.get_major_ticks(), strict=False):
                if not low <= place <= high:
                    beyond |= {id(tick.label1), id(tick.label2)}
    return [
        (text.get_text(), text.get_window_extent())
        for text in dict.fromkeys(figure.findobj(Text))
        if text.get_visible() and text.get_text().strip() and id(text) not in beyond
    ]


def collisions(figure: Figure) -> list[str]:
    """Name texts that lie on one another, across the edge of the figure, or, of the legend, on the axes."""
    figure.draw_without_rendering()
    canvas, texts = figure.bbox, seen(figure)
    assert len(texts) > 3
    found = [
        f"{text!r} is cut"
        for text, box in texts
        if not (canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and canvas.y0 <= box.y0 and box.y1 <= canvas.y1)
    ]
    found += [
        f"{one!r} lies on {other!r}"
        for (one, box), (other, around) in combinations(texts, 2)
        if min(box.x1, around.x1) - max(box.x0, around.x0) > 1 and min(box.y1, around.y1) - max(box.y0, around.y0) > 1
    ]
    for legend in figure.legends:
        if any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes):
            found.append("the legend lies on the axes")
    return found


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


class TestMemoryTimeline:
    def test_shows_every_kind_of_memory_and_the_promise(self, made: lm.Plan, tmp_path: Path) -> None:
        figure = memory_timeline(made)
        saved(figure, tmp_path)
        (axis,) = figure.axes
        assert axis.get_ylabel() == "memory in KiB (linear scale)"
        assert axis.get_xlabel() == "work done (MFLOP, linear scale)"
        promise = f"arena, promised: {made.arena_bytes / 1024:,.1f} KiB"
        assert legend(figure) == ["states", "deltas", "scratch", promise]

    def test_draws_the_promise_where_it_is(self, made: lm.Plan) -> None:
        (axis,) = memory_timeline(made).axes
        assert np.asarray(axis.lines[0].get_ydata())[0] == pytest.approx(made.arena_bytes / 1024)

    def test_stays_below_the_promise(self, made: lm.Plan) -> None:
        (axis,) = memory_timeline(made).axes
        top = max(area.get_datalim(axis.transData).y1 for area in axis.collections)
        assert 0.9 * made.arena_bytes < 1024 * top <= made.arena_bytes

    def test_of_a_report_has_budget_and_measurement(self, made: lm.Plan, tmp_path: Path) -> None:
        figure = memory_timeline(report(made, 3_000_000), over="ops", everything=True)
        saved(figure, tmp_path)
        assert figure.axes[0].get_xlabel() == "op number (linear scale)"
        names = [entry.partition(":")[0] for entry in legend(figure)]
        assert names == ["all else", "states", "deltas", "scratch", "peak, promised", "budget", "peak, measured"]

    def test_of_an_untraced_report_leaves_the_measurement_out(self, made: lm.Plan) -> None:
        assert not any("measured" in entry for entry in legend(memory_timeline(report(made, None), everything=True)))

    @pytest.mark.parametrize("over", ["flops", "ops"])
    def test_draws_what_was_measured_apart_from_what_was_promised(
        self, made: lm.Plan, tmp_path: Path, over: Literal["flops", "ops"]
    ) -> None:
        half = made.flops / 2
        figure = memory_timeline(made, over=over, measured=[(0, 1024), (half, 2 * made.arena_bytes), (made.flops, 0)])
        saved(figure, tmp_path)
        axis = figure.axes[1]
        (line,) = axis.lines
        x, y = (np.asarray(values, float) for values in line.get_data())
        right = axis.get_xlim()[1]
        assert y.tolist() == [1, 2 * made.arena_bytes / 1024, 0]
        assert (x[0], x[2]) == (0, pytest.approx(right))
        assert axis.get_ylim()[1] > y[1]
        if over == "flops":
            assert x[1] == pytest.approx(right / 2)
        else:  # the op that runs when half of the work is done
            done = np.cumsum([moment.flops for moment in moments(chain_of(made), made.schedule)])
            assert int(x[1]) == np.searchsorted(done, half)

    def test_of_a_report_brings_the_line_that_it_measured(self, made: lm.Plan) -> None:
        measured = replace(report(made, None), memory_over_work=[(0.0, 10**6), (1e6, 10**6)])
        apart = memory_timeline(measured, everything=True).axes[1]
        assert "may lie above the peak" in apart.get_title(loc="left").replace("\n", " ")
        assert len(memory_timeline(measured).axes) == 1

    def test_says_which_part_of_a_batch_it_shows(self) -> None:
        figure = memory_timeline(lm.plan(DEEP, 64, optimizer="sgd", micro_batch=16))
        assert "one pass of 16" in figure.axes[0].get_title(loc="left")

    @given(planned())
    @settings(max_examples=60, deadline=None)
    def test_adds_up_to_the_simulated_peak_and_cost(self, drawn: tuple[Chain, Schedule]) -> None:
        chain, schedule = drawn
        trace = simulate(chain, schedule)
        series = moments(chain, schedule)
        assert len(series) == len(schedule)
        assert sum(moment.flops for moment in series) == pytest.approx(trace.cost)
        assert max(moment.bytes for moment in series) == trace.peak_bytes


class TestScheduleDiagram:
    def test_shows_what_is_run_and_kept(self, made: lm.Plan, tmp_path: Path) -> None:
        figure = schedule_diagram(made)
        saved(figure, tmp_path)
        (axis,) = figure.axes
        assert axis.get_xlabel() == "work done (MFLOP, linear scale)"
        assert axis.get_ylabel() == "layer (linear scale)"
        assert legend(figure) == ["state kept", "forward", "forward again", "backward"]
        assert all(isinstance(lines, LineCollection) for lines in axis.collections)

    def test_has_nothing_run_again_where_everything_is_stored(self) -> None:
        figure = schedule_diagram(report(lm.plan(DEEP, 64), None), over="ops")
        assert legend(figure) == ["state kept", "forward", "backward"]

    def test_takes_nothing_for_run_again_that_ran_once(self) -> None:
        chain = Chain.abstract(forward=[1, 1], backward=[2, 2], state_bytes=[1, 1, 1])
        schedule = PLANNERS["recompute_all"](chain)
        assert schedule.ops == (Forward(1, 1), Forward(2, 2), Loss(), Backward(2), Backward(1))
        kinds = [stroke.kind for stroke in strokes_of(chain, schedule, [0, 1, 2, 2, 4, 6])]
        assert kinds == ["forward", "forward", "backward", "backward", "kept", "kept"]

    def test_splits_a_sweep_that_goes_beyond_what_was_reached(self) -> None:
        chain = Chain.abstract(forward=[1, 1, 1], backward=[2, 2, 2], state_bytes=[1] * 4)
        ops = (Forward(1, 1), Forward(1, 2), Forward(3, 3), Loss(), Backward(3), Backward(2), Backward(1))
        strokes = list(strokes_of(chain, Schedule("by hand", ops), [0, 1, 3, 4, 4, 6, 8, 10]))
        assert strokes[1:3] == [Stroke("again", 1, 2, 0, 1), Stroke("forward", 2, 3, 1, 2)]


class TestSchedulesOfAnyChain:
    chain = Chain.abstract(forward=[1] * 30, backward=[2] * 30, state_bytes=[1] * 31)

    def test_abstract_chains_are_drawn_with_what_they_count(self, tmp_path: Path) -> None:
        schedule = PLANNERS["revolve"](self.chain, slots=4)
        for over, label in (("flops", "work done, as the chain counts it"), ("ops", "op number")):
            diagram = schedule_diagram(schedule, self.chain, over=over)  # type: ignore[arg-type]
            timeline = memory_timeline(schedule, self.chain, over=over)  # type: ignore[arg-type]
            saved(diagram, tmp_path)
            saved(timeline, tmp_path)
            assert diagram.axes[0].get_xlabel() == timeline.axes[0].get_xlabel() == f"{label} (linear scale)"
        assert diagram.axes[0].get_title(loc="left") == "30 layers; revolve, 1.37 × the cost"
        assert legend(timeline) == ["states", "peak, simulated: 4 B"]
        top = max(area.get_datalim(timeline.axes[0].transData).y1 for area in timeline.axes[0].collections)
        assert top == simulate(self.chain, schedule).peak_bytes == 4

    def test_the_chain_of_a_network_is_drawn_as_its_plan_is(self) -> None:
        plan = lm.plan(DEEP, 1024, strategy="sqrt", threads=1)
        drawn = memory_timeline(plan.schedule, chain_of(plan))
        assert legend(drawn)[:3] == ["states", "deltas", "scratch"]
        tops = [
            max(area.get_datalim(figure.axes[0].transData).y1 for area in figure.axes[0].collections)
            for figure in (drawn, memory_timeline(plan))
        ]
        assert tops[0] == tops[1]

    def test_schedules_that_cost_or_take_nothing_are_drawn_too(self) -> None:
        chain = Chain.abstract(forward=[0] * 3, backward=[0] * 3, state_bytes=[0] * 4)
        schedule = PLANNERS["sqrt"](chain)
        memory_timeline(schedule, chain).savefig(BytesIO())
        schedule_diagram(schedule, chain).savefig(BytesIO())
        strokes = strokes_of(chain, schedule, [float(n) for n in range(len(schedule) + 1)])
        assert all(stroke.start < stroke.end for stroke in strokes if stroke.kind != "kept")

    def test_a_schedule_needs_its_chain_and_a_plan_none(self, made: lm.Plan) -> None:
        schedule = PLANNERS["sqrt"](self.chain)
        for draw in (schedule_diagram, memory_timeline):
            with pytest.raises(lm.InputError, match="give the chain"):
                draw(schedule)
            with pytest.raises(lm.InputError, match="leave chain out"):
                draw(made, self.chain)
            with pytest.raises(lm.ScheduleError):
                draw(Schedule("mine", schedule.ops[1:]), self.chain)
        with pytest.raises(lm.InputError, match="activations only"):
            memory_timeline(schedule, self.chain, everything=True)


class TestFrontier:
    def test_of_a_comparison_shows_every_strategy(self, tmp_path: Path) -> None:
        figure = frontier(lm.compare(DEEP, 1024, SHARES, "sgd"))
        saved(figure, tmp_path)
        (axis,) = figure.axes
        assert axis.get_xlabel() == "activations, relative to storing everything (log scale)"
        assert axis.get_ylabel().replace("\n", " ") == "FLOPs, relative to storing all (log scale)"
        assert {"optimal", "store_all", "sqrt", "recompute_all"} < set(legend(figure))
        assert any(entry.startswith("least memory here: ") for entry in legend(figure))

    def test_of_plans_that_minimise_time_shows_time_which_never_rises_with_memory(self) -> None:
        (axis,) = frontier(lm.compare(DEEP, 1024, SHARES, "sgd", micro_batch=1024, costs=model())).axes
        assert axis.get_ylabel().replace("\n", " ").startswith("predicted time, relative to storing all (")
        (optimal,) = [line for line in axis.lines if line.get_label() == "optimal"]
        times = np.asarray(optimal.get_ydata()).tolist()
        assert len(times) > 1
        assert times == sorted(times, reverse=True)

    def test_has_storing_everything_at_one_and_one(self) -> None:
        (axis,) = frontier(lm.compare(DEEP, 1024, SHARES, "sgd")).axes
        (whole,) = [line for line in axis.lines if line.get_label() == "store_all"]
        assert np.asarray(whole.get_xydata()).tolist() == [[1, 1]]

    def test_passes_of_fewer_rows_are_no_storing_of_everything(self) -> None:
        small = lm.plan(DEEP, 1024, optimizer="sgd", strategy="store_all", micro_batch=128)
        whole = lm.plan(DEEP, 1024, optimizer="sgd", strategy="store_all")
        assert [Point.of(plan).series for plan in (whole, small)] == ["store_all", FEWER_ROWS]
        recomputed = lm.plan(DEEP, 1024, optimizer="sgd", strategy="sqrt", micro_batch=128)
        assert Point.of(recomputed).series == f"sqrt, {FEWER_ROWS}"

    def test_joins_budgets_of_one_thing_and_no_settings_that_have_nothing_to_do_with_one_another(self) -> None:
        points = [Point(name, share, 1 / share, measured=True) for name in ("lowmem", "JAX") for share in (0.2, 0.5)]
        drawn = {str(line.get_label()): line.get_linestyle() for line in frontier(points).axes[0].lines}
        assert drawn["lowmem"] == "-"
        assert drawn["JAX"] == "None"

    def test_draws_measured_points_open_over_the_line(self, tmp_path: Path) -> None:
        line = [Point("optimal", share, 1 + (1 - share) / 2) for share in (0.1, 0.3, 1)]
        figure = frontier([*line, Point("optimal", 0.3, 1.4, measured=True)])
        saved(figure, tmp_path)
        drawn = {str(line.get_label()): line for line in figure.axes[0].lines}
        assert drawn["optimal"].get_linestyle() == "-"
        assert drawn["optimal, measured"].get_linestyle() == "None"
        assert drawn["optimal, measured"].get_markerfacecolor() == "white"

    def test_of_peers_has_absolute_axes(self, tmp_path: Path) -> None:
        points = [Point("lowmem", 60, 1.4, measured=True), Point("PyTorch", 500, 1.1, measured=True)]
        figure = frontier(points, memory_label="memory (MiB)", compute_label="time, relative", relative=False)
        saved(figure, tmp_path)
        assert figure.axes[0].get_xlabel() == "memory (MiB, log scale)"
        assert legend(figure) == ["lowmem", "PyTorch", "least memory here: 60 MiB at 1.4 ×"]


# Whatever the data are, no text lies on another one or is cut ---------------------------------------------------

NAMES = st.sampled_from(["lowmem", "PyTorch checkpoint, parameters updated in hooks", "JAX", "optimal", "x" * 90, "$"])
SIZES = st.floats(1e-6, 1e6) | st.floats(0.9, 1.1)
POINTS = st.builds(Point, NAMES, SIZES, SIZES, st.booleans())
DEPTHS = st.builds(Depth, NAMES, st.integers(1, 10**5), st.floats(1, 1e13), SIZES, st.booleans())
TEXTS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=150)


@st.composite
def random_reports(draw: st.DrawFn) -> lm.Report:
    """Draw a report of a plan, with a measured line of any height."""
    layers, width = draw(st.integers(1, 40)), draw(st.sampled_from([1, 8, 100, 3000]))
    architecture = lm.Architecture(
        (draw(st.integers(1, 99)), *[width] * layers, 3), draw(st.sampled_from(["relu", "gelu"]))
    )
    batch = draw(st.sampled_from([1, 7, 512, 10**6]))
    plan = lm.plan(architecture, batch, None, "adam", draw(st.sampled_from(["store_all", "sqrt"])))
    plan = replace(plan, budget=draw(st.none() | st.just(plan.peak_bytes + 9**9)))
    line = [(plan.flops * share, draw(st.integers(0, 10**11))) for share in (0, 0.5, 1)]
    traced = draw(st.none() | st.integers(1, 10**11))
    return replace(report(plan, traced), memory_over_work=draw(st.sampled_from([(), line])))


@given(random_reports(), st.sampled_from(["flops", "ops"]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_texts_of_figures_of_any_report_do_not_collide(
    drawn: lm.Report, over: Literal["flops", "ops"], everything: bool
) -> None:
    assert collisions(memory_timeline(drawn, over=over, everything=everything)) == []
    assert collisions(schedule_diagram(drawn, over=over)) == []
    assert collisions(side_by_side({"one": drawn, "another one with a name": drawn.plan}, over=over)) == []


@given(st.lists(POINTS, min_size=1, max_size=12), TEXTS, st.booleans(), st.none() | st.integers(1, 10**13))
@settings(max_examples=20, deadline=None)
def test_texts_of_a_frontier_of_any_points_do_not_collide(
    points: list[Point], title: str, relative: bool, whole: int | None
) -> None:
    assert collisions(frontier(points, title=title, relative=relative, whole=whole if relative else None)) == []


@given(st.lists(DEPTHS, min_size=1, max_size=8), TEXTS)
@example([Depth("lowmem", 1, 1.0, 1.0)], "0" * 41)
@example([Depth("lowmem", 70, 1e6, 10.0**power) for power in range(-6, 6)], 9 * "MM00M 0iMM " + "Mi0")
@settings(max_examples=12, deadline=None)
def test_texts_of_growth_with_any_depths_do_not_collide(records: list[Depth], title: str) -> None:
    figure = scaling(records, title=title)
    note_below(figure, f"{title} measured\n{title}")
    assert collisions(figure) == []


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6), st.floats(1e6, 1e15))
@settings(max_examples=6, deadline=None)
def test_texts_of_the_figure_of_ranks_do_not_collide(seconds: list[float], rate: float) -> None:
    network = ranks.NETWORKS[0]
    same = {"layers": network.layers, "width": network.width, "batch": network.batch}
    steps = [{"ranks": 1 << number, "seconds": each, **same} for number, each in enumerate(seconds)]
    with pytest.MonkeyPatch.context() as patch:  # plans for thousands of ranks take seconds
        patch.setattr(ranks, "rank_bytes", lambda network, count: network.width * 10**6 // count + 1)
        figure = ranks.drawn(Machine(rate), [(ranks.LINKS[0], steps), (ranks.LINKS[1], steps)])
    note_below(figure, ranks.note(None))
    assert collisions(figure) == []
    assert len(legend(figure)) == len(set(legend(figure))) == 8


def test_a_collision_would_be_seen() -> None:
    figure = frontier([Point("lowmem", 0.5, 1.2)], title="one")
    assert collisions(figure) == []
    figure.axes[0].set_title("over the other one" * 3, loc="center")
    assert any("lies on" in problem for problem in collisions(figure))
    figure.text(0.99, 0.5, "cut off")
    assert any("is cut" in problem for problem in collisions(figure))


class TestSideBySide:
    def test_all_are_drawn_on_the_same_axes(self, made: lm.Plan, tmp_path: Path) -> None:
        stored = lm.plan(DEEP, 1024, strategy="store_all", optimizer="adam")
        figure = side_by_side({"store all": stored, "tight": made})
        saved(figure, tmp_path)
        assert len(figure.axes) == 4
        assert len({axes.get_xlim() for axes in figure.axes}) == 1
        assert [figure.axes[n].get_ylim() for n in (0, 2)] == [figure.axes[n].get_ylim() for n in (1, 3)]
        share = made.arena_bytes / made.store_all_bytes
        said = figure.axes[1].get_title(loc="left").split("\n")
        assert said == ["tight", f"{made.flop_factor:.2f} × the FLOPs", f"{100 * share:.3g} % of the memory"]

    def test_schedules_of_an_abstract_chain_need_the_chain(self) -> None:
        chain = Chain.abstract(forward=[1] * 9, backward=[2] * 9, state_bytes=[1] * 10)
        schedules = {name: PLANNERS[name](chain) for name in ("store_all", "sqrt")}
        assert len(side_by_side(schedules, chain).axes) == 4
        with pytest.raises(lm.InputError, match="give the chain"):
            side_by_side(schedules)
        with pytest.raises(lm.InputError, match="nothing to draw"):
            side_by_side({})


class TestScaling:
    def test_shows_strategies_and_guides_over_depth(self, tmp_path: Path) -> None:
        plans = [
            lm.plan(lm.Architecture((16, *[32] * depth, 10)), 64, strategy=strategy)
            for depth in (8, 16, 32)
            for strategy in ("store_all", "sqrt")
        ]
        figure = scaling(plans, title="two strategies")
        saved(figure, tmp_path)
        memory, compute = figure.axes
        assert memory.get_ylabel() == "activations in KiB (log scale)"
        assert compute.get_ylabel().replace("\n", " ") == "FLOPs, relative to storing all (log scale)"
        assert {axis.get_xlabel() for axis in figure.axes} == {"layers L (log scale)"}
        assert {axis.get_xscale() for axis in figure.axes} == {axis.get_yscale() for axis in figure.axes} == {"log"}
        assert legend(figure) == ["sqrt", "store_all", "∝ √L", "∝ log L"]

    def test_draws_measured_records_open(self) -> None:
        figure = scaling([Depth("sqrt", 8, 1e6, 1.2), Depth("sqrt", 8, 1.1e6, 1.3, measured=True)])
        assert "sqrt, measured" in legend(figure)


def test_small_print_is_wrapped_and_inside_the_figure(tmp_path: Path) -> None:
    figure = frontier([Point("lowmem", 60, 1.4), Point("PyTorch", 500, 1.1)], relative=False)
    # Capitals are half as wide again as letters are on average; of the lines at the end one nearly fits.
    near = "\n".join("numpy 2.4.6, " * 8 + "x" * count for count in range(10, 34, 3))
    note_below(figure, f"{'measured on one machine, ' * 8}{'MEDIANS OF ALL ROUNDS, ' * 8}\nsecond line\n{near}")
    saved(figure, tmp_path)
    (note,) = [text for text in figure.texts if "second line" in text.get_text()]
    box = note.get_window_extent()
    assert note.get_text().count("\n") > 1
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1


def test_other_series_never_look_like_one_another() -> None:
    names = [f"peer {number}" for number in range(12)]
    chosen = looks([*STRATEGIES, *names])
    assert len({chosen[name] for name in names}) == len(names)


def test_a_strategy_has_one_colour_in_passes_of_fewer_rows_too() -> None:
    names = ["recompute_all", f"optimal, {FEWER_ROWS}", f"sqrt, {FEWER_ROWS}", "optimal"]
    chosen = looks(names)
    assert [chosen[name].colour for name in names[1:]] == [
        STRATEGIES[n].colour for n in ("optimal", "sqrt", "optimal")
    ]
    assert len({look.marker for look in chosen.values()}) == len(names)


def test_a_label_in_lines_leaves_no_word_alone() -> None:
    label = with_scale("predicted time, relative to storing all", "log")
    width = text_width("predicted time, relative to storing", TEXT)
    lines = in_lines(label, width, TEXT).split("\n")
    assert lines == ["predicted time, relative to storing", "all (log scale)"]
    assert in_lines("work done (GFLOP)", text_width("work done", TEXT), TEXT) == "work done\n(GFLOP)"


def test_a_tool_has_one_colour_and_a_marker_for_each_of_its_settings() -> None:
    names = [f"{tool}{setting}" for tool in ("PyTorch", "JAX") for setting in ("", " checkpoint", ", in hooks")]
    chosen = looks(names)
    for tool in ("PyTorch", "JAX"):
        own = [chosen[name] for name in names if name.startswith(tool)]
        assert {look.colour for look in own} == {TOOLS[tool]}
        assert len({look.marker for look in own}) == 3
    assert len(set(TOOLS.values())) == len(TOOLS)


def test_matplotlib_is_imported_by_the_first_figure_only() -> None:
    code = "import sys, lowmem.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_figure_needs_no_pyplot(made: lm.Plan, tmp_path: Path) -> None:
    memory_timeline(made).savefig(tmp_path / "memory.svg")
    assert "matplotlib.pyplot" not in sys.modules
