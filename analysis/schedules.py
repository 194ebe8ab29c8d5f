"""Draw what four strategies do in one step side by side: the schedule, and the memory that it takes.

Nothing is measured for it: plans say both. Writes docs/figures/schedules.{svg,png}. Run: python -m analysis.schedules
"""

import lowmem as lm
from analysis.drawing import save
from lowmem.plots import side_by_side

HIDDEN, WIDTH, BATCH, SLOTS = 35, 256, 512, 3
"""The network has one layer more than hidden ones: 36, whose root is 6."""

NOTE = (
    f"Plans of one step: {HIDDEN + 1} layers, {WIDTH} wide, relu, batch {BATCH}. A line that rises is a forward, one "
    "that falls a backward; a level line is a state that is kept from when it is made until its backward. Below: what "
    "is alive at each moment. √L and Revolve have one size each; optimal is the cheapest for any number of bytes, "
    "here half of what storing everything takes. All panels are on the same scales."
)


def main() -> None:
    """Draw the figure."""
    save(side_by_side(plans()), "schedules", NOTE)


def plans() -> dict[str, lm.Plan]:
    """Return the plans by the names that they have in the figure."""
    architecture = lm.Architecture((64, *[WIDTH] * HIDDEN, 10))

    def plan(strategy: str, budget: str | None = None, slots: int | None = None) -> lm.Plan:
        return lm.plan(architecture, BATCH, budget, "sgd", strategy, slots=slots, micro_batch=BATCH, engine="numpy")

    return {
        "store all": plan("store_all"),
        "√L: Chen et al.": plan("sqrt"),
        f"Revolve, {SLOTS} slots": plan("revolve", slots=SLOTS),
        "optimal for a half": plan("optimal", "50% of activations"),
    }


if __name__ == "__main__":
    main()
