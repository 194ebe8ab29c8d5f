"""Tabulate what the adversarial trial, the search for budgets and the caps of whole processes came to.

Reads docs/data/hostile_trial.json, search_least.json and try_caps.json, writes docs/tables/trial.md.
Run: python -m analysis.trial
"""

from analysis.drawing import Record, caption, load, save_tables
from analysis.wording import ends, listed
from lowmem.common.tables import Table
from lowmem.units import format_bytes
from scripts.hostile_trial import told
from scripts.try_caps import WITHIN

TRIAL = (
    "Trial: random networks with plans, random trainings, kills at random moments, mutated files and junk calls, "
    "from seeds of their own. Broke: cases that broke a promise. Over: what Python and NumPy allocated above the "
    "promise, at most; it leaves 64 KiB for what is not counted."
)
BUDGETS = (
    "Least: of random uneven networks of 26 to 200 layers, `minimum_budget` over the least that any strategy takes, "
    "and whether what refusals advise works at once. Dearer: plans for budgets from the least to what storing "
    "everything takes, half of the networks short, half with random cost models; wrong: a plan that costs more than "
    "one for fewer bytes."
)
CAPS = (
    "Caps: `lowmem train --ram` on a file of each kind gets 1 MB, is refused, and gets the cap that the refusal "
    "names, then a quarter more, in a control group of that size. Over the promise: peak of the process over the "
    "promised one."
)


def main() -> None:
    """Write the tables."""
    trial, budgets, caps = load("hostile_trial"), load("search_least"), load("try_caps")
    tables = [of_trial(trial["records"]), of_budgets(budgets["records"]), of_caps(caps["records"])]
    captions = "\n".join(map(caption, (trial, budgets, caps)))
    save_tables(tables, "trial", f"{TRIAL} {BUDGETS} {CAPS}\n{captions}")


def of_trial(records: list[Record]) -> Table:
    """Return a row for each part of the trial."""
    rows = [
        [one["part"], f"{one['in full']:,}", f"{one['count']:,}", told(one), str(len(one["broke"]))] for one in records
    ]
    return Table("**The adversarial trial**", ["part", "in full", "tried", "of them", "broke"], rows)


def of_budgets(records: list[Record]) -> Table:
    """Return a row for each search."""
    rows = []
    for one in records:
        if one["search"] == "least":
            found = f"{min(one['ratios']):.3f} to {max(one['ratios']):.3f} of the best strategy"
        else:
            found = f"{one['plans']:,} plans"
        rows.append([one["search"], str(one["networks"]), found, str(len(one["wrong"]))])
    return Table("**Budgets**", ["search", "networks", "found", "wrong"], rows)


def of_caps(records: list[Record]) -> Table:
    """Return a row for each file, with the cap that was advised, and what came of it and of a quarter more."""
    rows = []
    for name in dict.fromkeys(one["file"] for one in records):
        advised, more = (one for one in records if one["file"] == name)
        assert "failed" not in advised, advised
        assert "failed" not in more, more
        off = [f"{1 + one['off']:.3f}" for one in (advised, more)]
        sizes = [format_bytes(advised[key]) for key in ("cap", "promise", "peak")]
        rows.append([name, str(advised["refused"]), *sizes, *off, str(advised["over"] + more["over"])])
    columns = ["file", "refused", "cap", "promised", "process", "over the promise", "with more", "over the cap"]
    return Table("**Caps of the whole process**", columns, rows)


# Sentences ---------------------------------------------------------------------------------------------------------


def of_the_trial() -> str:
    """Tell what the trial tried, and how much broke."""
    trial = load("hostile_trial")
    parts = {one["part"]: one for one in trial["records"]}
    said = {"networks": "random networks", "trainers": "trainings", "files": "mutated files", "calls": "junk calls"}
    told_parts = [
        f"{one['count']:,} {said.get(part, part)}"
        + (f" with {one['tried']['plans']:,} plans" if part == "networks" else "")
        + (f" (of {one['in full']:,} in full)" if one["count"] < one["in full"] else "")
        for part, one in parts.items()
    ]
    broke = sum(len(one["broke"]) for one in parts.values())
    return (
        f"On {trial['date']} it tried {listed(told_parts)}; {broke or 'none'} broke a promise "
        "([table](tables/trial.md))."
    )


def of_searches() -> str:
    """Tell what the search for budgets found, and the caps."""
    budgets = {one["search"]: one for one in load("search_least")["records"]}
    least, dearer = budgets["least"], budgets["dearer"]
    caps = load("try_caps")["records"]
    files, off = len({one["file"] for one in caps}), sum(abs(one["off"]) > WITHIN for one in caps)
    return (
        f"`python -m scripts.search_least` tried {least['networks']} uneven networks: the least budget was "
        f"{ends(least['ratios'], '.3f')} times what the best strategy takes, and in {len(least['wrong'])} some advice "
        f"failed. Of {dearer['networks']} networks with {dearer['plans']:,} plans for ever larger budgets, in "
        f"{len(dearer['wrong'])} a plan was dearer than one for less. `python -m scripts.try_caps` trained on {files} "
        "kinds of files, at the cap that the first refusal named and at a quarter more, in groups of that size: "
        f"{sum(one['over'] for one in caps) or 'no'} process was above its cap, and each took "
        f"{ends((1 + one['off'] for one in caps), '.3f')} of what it had promised; {off} of {len(caps)} were more "
        f"than {WITHIN:.0%} off."
    )


if __name__ == "__main__":
    main()
