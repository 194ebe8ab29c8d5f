"""Sentences of the pages that quote figures, written from the data: nobody has to type a figure twice.

`analysis.quoted` puts them to their places.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from statistics import median

from analysis import ranks
from analysis.compute_versus_memory import shape_of
from analysis.disk import of_checksums, of_streaming
from analysis.drawing import Record, load
from analysis.memory_versus_depth import WIDTH
from analysis.peers import time_of
from analysis.predictions import over_alone, over_predicted
from analysis.step_time import is_plain, network, over_own_products, products, split, with_states
from analysis.torch_chains import fastest, over_even_cuts
from analysis.torch_gpu import in_words
from analysis.trial import of_searches, of_the_trial
from analysis.wording import ends, listed
from lowmem.units import format_bytes

LIBRARIES = {"torch": "PyTorch", "sklearn": "scikit-learn", "jax": "JAX", "numpy": "a plain NumPy loop"}
"""Peers that store everything, by the name in the data."""

CHAINS = {"mlp": "the MLP", "transformer": "the transformer", "convolutions": "the convolutions"}


def of_depth() -> str:
    """Tell what strategies take at the largest depth."""
    records = [r for r in load("profile_memory")["records"] if r["family"] == "depths" and r["width"] == WIDTH]
    deepest = max(record["hidden"] for record in records)
    found = {r["strategy"]: r["measured"] for r in records if r["hidden"] == deepest}
    arenas = {name: format_bytes(its["promised_arena"]) for name, its in found.items()}
    return (
        "Memory and compute over depth, planned (lines) and measured (markers), from "
        f"[memory_versus_depth.md](tables/memory_versus_depth.md): at {deepest} layers of {WIDTH} and batch "
        f"{records[0]['batch']}, `sqrt` takes an arena of {arenas['sqrt']} and {found['sqrt']['flop_factor']:.3f} × "
        f"the FLOPs, `revolve` with log₂ L states {arenas['revolve']} and {found['revolve']['flop_factor']:.3f} ×, "
        f"storing everything {arenas['store_all']}."
    )


def of_planning() -> str:
    """Tell what a table takes and proves."""
    data = load("benchmark_planning")
    records = [r for r in data["records"] if "share" in r and "skipped" not in r and "rotor" not in r]

    def of(layers: int, kind: str) -> list[Record]:
        return [r for r in records if (r["layers"], r["kind"]) == (layers, kind)]

    some, many = of(200, "iid"), of(1000, "iid")
    weak = max((r for r in records if r["kind"] == "pyramid"), key=lambda r: float(r["gap"]))
    equal = [record["seconds"] for record in records if record["kind"] == "abstract"]
    return (
        f"What a table for one budget took and proved on {data['date']}, from [planning.md](tables/planning.md): 200 "
        f"layers of any widths took {ends((r['seconds'] for r in some), '.2f')} s, with a gap of at most "
        f"{max(r['gap'] for r in some):.2%}; {many[0]['layers']:,.0f} such layers "
        f"{ends((r['seconds'] for r in many), '.2f')} s, with a gap of at most {max(r['gap'] for r in many):.2%}. "
        f"The bound is weak where few states fit in long chains: {weak['gap']:.2%} at {weak['share']:.0f}% of "
        f"{weak['layers']:,.0f} ever narrower layers. {blame(records)}A long chain of equal steps took up to "
        f"{max(equal):.2f} s. The bound counts live bytes and knows no places in the arena, so near the least budget "
        "`plan.gap` is large for uneven widths."
    )


def blame(records: list[Record]) -> str:
    """Say by a table of all segments whether schedules or bounds are to blame for the gaps."""
    full = [record["full_gap"] for record in records if "full_gap" in record]
    if not full:
        return ""
    return (
        "It is the bound that is loose, not the schedules: by a table of all segments, which takes seconds, none of "
        f"the {len(full)} schedules for up to 200 layers is more than {max(full):.2%} above the optimum. "
    )


def of_budgets() -> str:
    """Tell what budgets cost in FLOPs."""
    records = [r for r in load("profile_memory")["records"] if r["family"] == "budgets"]
    first = shape_of(records[0])
    costs = [
        f"{r['budget'].partition('%')[0]} % of the activations {r['measured']['flop_factor']:.3f} ×"
        for r in records
        if shape_of(r) == first and not r["budget"].startswith("100%")
    ]
    hidden, width, batch, _ = first
    return (
        f"What a budget costs in FLOPs, for {hidden} layers of {width} at batch {batch}, from "
        f"[compute_versus_memory.md](tables/compute_versus_memory.md): {listed(costs)} those of storing everything."
    )


def of_floor() -> str:
    """Tell what a step takes over its products."""
    steps = [record for record in split(load("benchmark_step")["records"])[0] if is_plain(record)]
    over = [record["over_floor"]["median"] for record in steps]
    dearest = max(steps, key=lambda record: float(record["over_floor"]["median"]))
    deep = [r["over_floor"]["median"] for r in steps if (r["hidden"], r["width"]) == (200, 256)]
    kept = [with_states(list(group)) for _, group in groupby(steps, key=network)]
    return (
        "What is lost between the products, from [step_time.md](tables/step_time.md): a step that stores everything "
        f"takes {ends(deep, '.3f')} times its matrix products alone for 200 layers of 256 (by activation), "
        f"{median(over):.2f} times in the median of {len(over)} networks and activations, and "
        f"{max(over):.3f} times at the most, for {network(dearest)} with {dearest['activation']}. Part of it is the "
        "traffic of stored states: the same products where every layer has a state of its own, and nothing else, take "
        f"{ends(kept, '.3f')} times as long."
    )


def of_products() -> str:
    """Tell what PyTorch's BLAS makes of a step's products, and what a step of either takes over them."""
    data = load("benchmark_step")
    steps = [record for record in split(data["records"])[0] if is_plain(record)]
    theirs = [over_own_products(record) for record in steps]
    return (
        f"On {data['machine']['processor']} the products of a step alone took PyTorch "
        f"{ends(map(products, steps), '.2f')} times as long as they took NumPy, {median(map(products, steps)):.2f} in "
        f"the median of {len(steps)} networks and activations ([step_time.md](tables/step_time.md)). Over its own "
        f"products a step takes lowmem {median(r['over_floor']['median'] for r in steps):.2f} times as long in the "
        f"median, and PyTorch {median(theirs):.2f} times."
    )


def of_predictions() -> str:
    """Tell how predicted seconds rank plans, and how far they are from measured ones."""
    records = load("rank_predictions")["records"]
    ratios = [ratio for record in records for ratio in over_predicted(record)]
    return (
        "Plans are chosen by predicted seconds. These rank plans much as measured seconds do: Spearman's correlation "
        f"was {ends((record['rank_correlation'] for record in records), '.2f')} for "
        f"{len(records[0]['measured_seconds'])} plans of each of {len(records)} networks "
        f"([predictions.md](tables/predictions.md)). Measured seconds were {ends(ratios, '.2f')} times the predicted "
        "ones."
    )


def of_busy() -> str:
    """Tell how long work takes beside processes that never rest."""
    records = load("busy_machine")["records"]
    others, cores = records[0]["beside"], load("busy_machine")["machine"]["cores"]
    times = listed(f"{record['work']} {over_alone(record):.2f}" for record in records)
    return (
        f"Beside {others} processes that never rest, on {cores} cores, work took so many times as long as alone: "
        f"{times} ([predictions.md](tables/predictions.md)). Such neighbours leave half of the cores to work that "
        "keeps all of them busy."
    )


def of_arenas() -> str:
    """Tell how arenas and the rule of thumb were kept."""
    records = [r for r in load("profile_memory")["records"] if r["family"] == "budgets"]
    shapes = {shape_of(record): record for record in reversed(records)}  # the first of each shape stores everything
    apart = max(abs(r["measured"]["arena_written"] / r["measured"]["promised_arena"] - 1) for r in records)
    kept = "that was promised to the byte" if not apart else f"within {apart:.2%} of what was promised"
    ratios = [
        f"{r['measured']['profile']['backward_over_forward']['seconds']:.2f}"
        for r in reversed(shapes.values())
        if "profile" in r["measured"]
    ]
    return (
        f"Over {len(records)} plans of {len(shapes)} networks, a step wrote to the arena {kept} "
        f"([promises.md](tables/promises.md)); backward took {listed(ratios)} times the time of the forward. [Reading "
        "a report](reading_a_report.md) shows the same for a run of one's own."
    )


def of_traces() -> str:
    """Tell how far traced peaks and whole processes are from promises."""
    families: dict[str, list[float]] = {"budgets": [], "depths": []}
    whole: list[float] = []
    for record in load("profile_memory")["records"]:
        its = record["measured"]
        if record["family"] in families:
            families[record["family"]].append(its["traced_peak"] / its["promised_peak"] - 1)
        if record["family"] == "budgets":
            promised = its["floor"] + its["promised_peak"]
            whole.append((its["floor"] + its["resident_above_floor"]) / promised - 1)
    budgets, depths = (ends(families[name], "+.2%") for name in ("budgets", "depths"))
    return (
        f"Measured peaks over promised ones: traced, {budgets} in [promises.md](tables/promises.md) and {depths} in "
        f"[memory_versus_depth.md](tables/memory_versus_depth.md); the whole process, which `budget=` does not "
        f"promise, {ends(whole, '+.2%')} off its floor plus the promise."
    )


def of_planners_memory() -> str:
    """Tell what planning itself takes."""
    records = [record for record in load("benchmark_planning")["records"] if "resident_peak_bytes" in record]
    most = max(records, key=lambda record: float(record["resident_peak_bytes"]))
    size = format_bytes(most["resident_peak_bytes"])
    return (
        f"Planning takes memory of its own for a moment: a process of up to {size} for a table of "
        f"{most['layers']:,.0f} layers ([planning.md](tables/planning.md))."
    )


def of_chains() -> str:
    """Tell how plans for PyTorch chains compare with even cuts."""
    records = load("benchmark_torch_chains")["records"]
    parts = []
    for name, words in CHAINS.items():
        beside = [r for r in records if r["chain"] == name and fastest(r) is not None]
        if beside:
            ratios = [ratio for ratio in map(over_even_cuts, beside) if ratio is not None]
            bounds = [record["lower_bound"] / record["even_cost"] for record in beside]
            parts.append(
                f"for {words} they took {ends(ratios, '.3f')} times as long ({median(ratios):.3f} in the median), and "
                f"by the bound no such schedule could take less than {ends(bounds, '.3f')} times"
            )
    return f"The plans beside the best even cuts: {'; '.join(parts)}."


def of_peers() -> str:
    """Tell how long peers take that store everything, over lowmem."""
    records = load("compare_peers")["records"]
    own = time_of(records[0])
    parts = []
    for library, name in LIBRARIES.items():
        times = [
            time_of(record) / own for record in records if record["library"] == library and not record.get("segments")
        ]
        if times:
            parts.append(f"{name} {min(times):.2f}")
    steps = [r for r in split(load("benchmark_step")["records"])[0] if is_plain(r)]
    ratios = [record["torch_over_lowmem"]["median"] for record in steps]
    return (
        "Storing everything, peers take so many times as long as lowmem on this network (processor time): "
        f"{listed(parts)}. Over {len(ratios)} networks and activations ([step_time.md](docs/tables/step_time.md)) "
        f"PyTorch takes {ends(ratios, '.2f')} times as long, {median(ratios):.2f} in the median. lowmem takes its "
        "products from NumPy's OpenBLAS and PyTorch from MKL, so which is ahead depends on processor and activation: "
        f"the products of a step alone took PyTorch {ends(map(products, steps), '.2f')} times as long as NumPy here."
    )


def of_ranks() -> str:
    """Tell how far the model of several ranks is from what was measured."""
    measured = ranks.measurement()
    assert measured is not None
    (link, steps), *slow = measured.links
    said = [
        f"{ends(ranks.over_measured(measured.machine, its, those), '.2f')} times the measured seconds {where}"
        for its, those, where in (
            (link, steps, "where two ranks share a machine's memory"),
            *((its, those, f"over a {its.name}") for its, those in slow),
        )
    ]
    wide = max(one["width"] for one in steps)
    one, two = sorted((step for step in steps if step["width"] == wide), key=lambda step: int(step["ranks"]))
    return (
        f"The model said {listed(said)} ({measured.where}). With layers of {wide} a step of one rank took "
        f"{one['seconds']:.2f} s, and one of two ranks of the same machine {two['seconds']:.2f} s, of which "
        f"one waited {two['waited']:.2f} s for the other."
    )


def of_ways() -> str:
    """Tell which way of sharing gradients the model takes to be quickest."""
    measured = ranks.measurement()
    assert measured is not None
    machine, trees, others, rings = measured.machine, [], [], False
    for shape in ranks.NETWORKS:
        ways = {
            (link.name, size): ranks.quickest_way(shape, size, machine, link)
            for link in ranks.LINKS
            for size in ranks.RANKS[1:]
        }
        first = {}
        for (name, size), way in reversed(ways.items()):
            if way == "tree":
                first[name] = size
        if first:
            trees.append(f"for layers of {shape.width} from {ends(first.values(), ',d')} ranks on")
        else:
            others.append(str(shape.width))
        rings |= "ring" in ways.values()
    never = f", and never for layers of {listed(others)}" if others else ""
    ring = "A ring wins for some of them" if rings else "A ring never wins with layers as small as these"
    slow, narrow = ranks.LINKS[1], ranks.NETWORKS[1]
    return (
        "What the model says of the ways to share gradients: sharded updates send least and win while messages are "
        "large. A tree of pairwise exchanges has log R messages in place of R; it wins, depending on the link, "
        f"{listed(trees)}{never}. {ring}. Over {slow.name} a network of "
        f"{narrow.layers} x {narrow.width} is quickest with {ranks.quickest_ranks(narrow, machine, slow)} ranks."
    )


SENTENCES: Mapping[str, Callable[[], str]] = {
    "depth": of_depth,
    "planning in words": of_planning,
    "budgets in FLOPs": of_budgets,
    "over the products": of_floor,
    "products": of_products,
    "predictions": of_predictions,
    "busy machine": of_busy,
    "arenas": of_arenas,
    "traces": of_traces,
    "planning's memory": of_planners_memory,
    "chains": of_chains,
    "gpu in words": in_words,
    "peers in words": of_peers,
    "ranks": of_ranks,
    "ways of ranks": of_ways,
    "checksums": of_checksums,
    "streaming": of_streaming,
    "trial": of_the_trial,
    "searches": of_searches,
}
"""What may stand on a page, by name."""
