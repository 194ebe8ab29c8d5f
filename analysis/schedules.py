"""Draw what five plans do in one step side by side: the schedule, and the memory that it takes.

Nothing is measured for it: plans say both. Writes docs/figures/schedules.{svg,png}. Run: python -m analysis.schedules
"""

from typing import Any

import lowmem as lm
from analysis.drawing import save
from lowmem.network.specs import ACTIVATIONS
from lowmem.planning.cost_model import ROWS, WIDTHS, CostModel
from lowmem.planning.engines.machine import DiskTier
from lowmem.plots import side_by_side
from lowmem.schedule.disk.transfers import DiskRates

HIDDEN, WIDTH, BATCH, SLOTS = 35, 256, 512, 3
"""The network has one layer more than hidden ones: 36, whose root is 6."""

WHOLE: dict[str, Any] = {"micro_batch": BATCH, "engine": "numpy"}

FLOP_RATE, DISK_RATE = 100e9, 1e9
DISK = DiskTier(".", DiskRates((1 << 20,), (DISK_RATE,), (DISK_RATE,)))

NOTE = (
    f"Plans of one step: {HIDDEN + 1} layers, {WIDTH} wide, relu, batch {BATCH}. A line that rises is a forward, one "
    "that falls a backward; a level line is a state that is kept from when it is made until its backward. Below: what "
    "is alive at each moment. √L and Revolve have one size each; optimal is the cheapest for any number of bytes, "
    "here half of what storing everything takes; the disk has 1 GB/s beside 100 GFLOP/s, and nothing is run again. "
    "All panels are on the same scales."
)


def main() -> None:
    """Draw the figure."""
    save(side_by_side(plans()), "schedules", NOTE)


def plans() -> dict[str, lm.Plan]:
    """Return the plans by the names that they have in the figure."""
    architecture = lm.Architecture((64, *[WIDTH] * HIDDEN, 10))

    def plan(strategy: str, budget: str | None = None, slots: int | None = None) -> lm.Plan:
        return lm.plan(architecture, BATCH, budget, "sgd", strategy, slots=slots, **WHOLE)

    return {
        "store all": plan("store_all"),
        "√L: Chen et al.": plan("sqrt"),
        f"Revolve, {SLOTS} slots": plan("revolve", slots=SLOTS),
        "optimal for a half": plan("optimal", "50% of activations"),
        "with a disk": lm.plan(architecture, BATCH, "30% of activations", "sgd", disk=DISK, costs=costs(), **WHOLE),
    }


def costs() -> CostModel:
    """Return the costs of a made-up machine, so that the figure does not depend on the one that draws it."""
    grid = tuple(tuple(1 / FLOP_RATE for _ in WIDTHS) for _ in ROWS)
    each = dict.fromkeys(ACTIVATIONS, 1e-10)
    return CostModel("made up", "float32", grid, grid, each, each, 1e-10, 1e-10)


if __name__ == "__main__":
    main()
