"""Write measured figures into README.md and pages of docs/, between comments that name what stands there.

Reads docs/data/*.json and docs/tables/*.md. A page marks a place by `<!-- quoted: name -->` and `<!-- end -->`.
Run: python -m analysis.quoted
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from textwrap import fill

from analysis.drawing import DOCS, Record, caption, load
from analysis.peers import time_of
from analysis.sentences import SENTENCES
from analysis.step_time import is_plain, network
from analysis.torch_gpu import kept
from analysis.wording import listed
from lowmem.common.tables import Table

PAGES = (
    DOCS.parent / "README.md",
    *(
        DOCS / f"{name}.md"
        for name in ("comparison", "disk", "how_it_works", "promises", "pytorch_chains", "several_machines")
    ),
)
PLACE = re.compile(r"(<!-- quoted: ([^>]+?) -->\n).*?(\n<!-- end -->)", re.DOTALL)

NETWORK = {"hidden": 200, "width": 256, "batch": 2048, "activation": "relu"}
"""What the three scripts have in common that measure what a budget costs."""

LINE = 119
"""Characters of a line of a page, at most."""

ENGINELESS = ("scripts.benchmark_planning",)
"""Scripts that carry out no plan."""

TUNED = {"glibc": "", "mmap": ", allocator tuned"}
"""How the allocators of a case are told."""


def main() -> None:
    """Write all places of all pages anew."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(written(text), encoding="utf-8")


def written(page: str) -> str:
    """Return a page with its places written anew."""
    return PLACE.sub(lambda place: f"{place[1]}\n{text_of(place[2])}\n{place[3]}", page)


def text_of(name: str) -> str:
    """Return what stands at a place, sentences in lines as long as the pages have."""
    if name in SENTENCES:
        return fill(SENTENCES[name](), LINE, break_long_words=False, break_on_hyphens=False)
    return TEXTS[name]()


def prices() -> dict[str, dict[str, float]]:
    """Return by budget and script how many times as long a step takes as one that stores everything."""
    compared = [record for record in load("compare_peers")["records"] if record["library"] == "lowmem"]
    steps = [record for record in load("benchmark_step")["records"] if record["part"] == "frontier"]
    profiles = [record for record in load("profile_memory")["records"] if record["family"] == "budgets"]
    found: dict[str, dict[str, float]] = {}
    for script, seconds in {
        "compare_peers": {str(r["budget"]): time_of(r) for r in compared},
        "benchmark_step": {str(r["budget"]): r["over_floor"]["median"] for r in steps if r["library"] == "lowmem"},
        "profile_memory": {
            str(r["budget"]): r["measured"]["cpu_seconds"]
            for r in profiles
            if all(r[name] == value for name, value in NETWORK.items())
        },
    }.items():
        whole = seconds.get("None", seconds.get("100% of activations"))
        for budget, each in seconds.items():
            if whole and "%" in budget and not budget.startswith("100%"):
                found.setdefault(budget, {})[script] = each / whole
    return found


def peers(*, brief: bool = False) -> str:
    """Return what a step takes in lowmem and its peers, and with what it was measured.

    brief: two rows for each peer, and of lowmem's times the least favourable of all scripts; else each method of a
        peer, and the times of the script that measured the peers.
    """
    data = load("compare_peers")
    records, dear = data["records"], prices() if brief else {}
    whole = time_of(records[0])
    rows = []
    for record in ends_of(records) if brief else chosen(records):
        times = [time_of(record) / whole]
        if record["library"] == "lowmem":
            times += dear.get(str(record["budget"]), {}).values()
        rows.append([named(record), f"{record['above_floor_bytes'] / 2**20:.0f}", f"{max(times):.2f} ×"])
    return f"{Table('', ['', 'memory (MiB)', 'time'], rows).markdown()}\n\n{measured(data)}"


def measured(data: Record) -> str:
    """Say when data were measured, and with which engine; before there was a choice it was NumPy's."""
    engine = {"native": "with the compiled engine ", "numpy": "with the NumPy engine "}[data.get("engine", "numpy")]
    when = caption(data).splitlines()[0].partition(", ")[2]
    brief = ", in brief (fewer rounds or cases)" if "--brief" in data["command"] else ""
    threads = data["machine"]["threads"]
    machine = f"{data['machine']['processor']}, {threads} core{'s' * (threads != 1)}"
    engine = engine if data["command"].split()[2] not in ENGINELESS else ""
    return f"Measured {engine}on {machine}, {when.replace(', measured before', ', before')}{brief}."


def from_table(page: str, title: str, data: str, leave: int = 0) -> str:
    """Return a table of a page of docs/tables, without some columns after the name, and how it was measured.

    title: what its bold line begins with. data: the file of docs/data. leave: how many columns are left out at the
    left.
    """
    text = (DOCS / "tables" / f"{page}.md").read_text(encoding="utf-8")
    lines = text[text.index(f"**{title}") :].split("\n\n")[1].splitlines()
    table = "\n".join("|" + "|".join(line.split("|")[1 + leave :]) for line in lines)
    return f"{table}\n\n{measured(load(data))}"


def chosen(records: list[Record]) -> list[Record]:
    """Return lowmem's budgets, and of each method of a peer and each allocator the setting of least memory."""
    ours = [record for record in records if record["library"] == "lowmem"]
    rest = sorted(
        (record for record in records if record["library"] != "lowmem"),
        key=lambda record: (record["name"], record.get("allocator") or "", record["above_floor_bytes"]),
    )
    best = [next(group) for _, group in groupby(rest, key=lambda r: (r["name"], r.get("allocator")))]
    # A tuned allocator is shown where it saves a tenth of the memory.
    plain = {r["name"]: r["above_floor_bytes"] for r in best if r.get("allocator") != "mmap"}
    return ours + [
        r for r in best if r.get("allocator") != "mmap" or r["above_floor_bytes"] < 0.9 * plain.get(r["name"], 0)
    ]


def ends_of(records: list[Record]) -> list[Record]:
    """Return lowmem's budgets, and of each peer storing everything as it comes, and the setting of least memory."""
    rows = [record for record in records if record["library"] == "lowmem"]
    for library in ("torch", "jax", "sklearn", "numpy"):
        own = [record for record in records if record["library"] == library]
        stored = next(record for record in own if not record.get("segments"))
        least = min(own, key=lambda record: float(record["above_floor_bytes"]))
        rows += [stored, least] if least.get("segments") else [stored]
    return rows


def cost() -> str:
    """Say in a sentence what less memory costs, by the least favourable script."""
    dear = {budget: max(each.values()) for budget, each in prices().items()}
    records = {str(r["budget"]): r for r in load("compare_peers")["records"] if r["library"] == "lowmem"}
    sizes = {budget: f"{record['above_floor_bytes'] / 2**20:.0f}" for budget, record in records.items()}
    chosen = [f"{share}% of activations" for share in (50, 25, 6)]
    return fill(
        f"**What it costs.** Training a network of 200 layers takes {sizes['None']} MiB with everything stored. "
        f"Budgets bring that to {listed(sizes[budget] for budget in chosen)} MiB; a step then takes "
        f"{listed(f'{dear[budget]:.2f}' for budget in chosen)} times as long. Where everything fits, lowmem stores "
        "everything, and saves nothing.",
        LINE,
        break_on_hyphens=False,
    )


NAMES = {
    "PyTorch checkpoint": "PyTorch `checkpoint_sequential`",
    "PyTorch checkpoint, hook": "PyTorch `checkpoint_sequential`, parameters updated in hooks",
    "JAX remat": "JAX with remat",
    "JAX scan, remat": "JAX, scan with remat",
    "naive NumPy": "a plain NumPy loop",
    "scikit-learn": "scikit-learn's MLP",
}


def named(record: Record) -> str:
    """Say what a row of the table of peers is."""
    if record["library"] == "lowmem":
        budget = record["budget"]
        return "lowmem, everything stored" if budget is None else f"**lowmem, {budget.replace('%', ' %')}**"
    name = NAMES.get(record["name"], record["name"])
    setting = f", {record['segments']} segments" if record.get("segments") else ", everything stored"
    return f"{name}{setting}{TUNED.get(record.get('allocator') or 'glibc', '')}"


def budgets() -> str:
    """Return what each budget costs, by the most favourable script and by the least."""
    rows = [
        [
            budget.replace("%", " %"),
            f"{min(each.values()):.2f} ×",
            f"{max(each.values()):.2f} ×",
            ", ".join(sorted(each)),
        ]
        for budget, each in prices().items()
    ]
    heads = ["budget", "most favourable", "least favourable", "scripts"]
    return Table("", heads, rows).markdown()


def step_times() -> str:
    """Return PyTorch's time of a step over lowmem's, by network and activation."""
    steps = [record for record in load("benchmark_step")["records"] if record["part"] == "step" and is_plain(record)]
    names = list(dict.fromkeys(record["activation"] for record in steps))
    rows = []
    for title, group in groupby(steps, key=network):
        ratios = {record["activation"]: record["torch_over_lowmem"]["median"] for record in group}
        rows.append([title, *(f"{ratios[name]:.2f} ×" if name in ratios else "" for name in names)])
    table = Table("", ["", *names], rows).markdown()
    return f"{table}\n\n{measured(load('benchmark_step'))}"


TEXTS: Mapping[str, Callable[[], str]] = {
    "cost": cost,
    "peers": partial(peers, brief=True),
    "peers alone": peers,
    "budgets": budgets,
    "step times": step_times,
    "planning": partial(from_table, "planning", "Beside rotor", "benchmark_planning", 1),
    "disk": partial(from_table, "disk", "States on a disk", "measure_disk"),
    "gpu": kept,
    "scikit-learn": partial(from_table, "sklearn", "The same settings", "compare_sklearn"),
    "scikit-learn, deep": partial(from_table, "sklearn", "200 hidden layers", "compare_sklearn"),
}
"""What may stand on a page, by name."""


if __name__ == "__main__":
    main()
