"""Train 1000 layers: residual ones within 2 % of the activations, beside storing everything and beside plain layers.

Each case is a training in a fresh process, with the same settings and seed: residual layers with scaled branches
whose states take 2 % of what storing everything needs; the same with everything stored, which must end at the same
bits; with LayerNorm before each activation; and plain layers of the same number and width. On the digits that lowmem
ships, and on MNIST where its files are.

Run from the repository's root: python -m scripts.train_deep [--brief] [--quick] [--only digits]
Writes docs/data/train_deep.json; `python -m analysis.depth` draws it.
"""

from collections.abc import Iterator
from typing import Any
from zlib import crc32

from scripts.measuring import Case, in_fresh_process, note, run_script
from scripts.train_in_little import MNIST, has_mnist

DIGITS: Case = {"data": "digits", "inputs": 64, "width": 64, "batch": 64, "epochs": 20, "lr": 1e-3}
ON_MNIST: Case = {"data": str(MNIST), "inputs": 784, "width": 64, "batch": 512, "epochs": 5, "lr": 1e-3}
SHARE = "2% of activations"
WARM_UP = 0.1
"""Share of all steps in which the rate rises; then it falls along half a cosine."""


def cases(quick: bool, only: str | None) -> Iterator[Case]:
    """Yield the trainings."""
    for name, settings in (("digits", DIGITS), ("mnist", ON_MNIST)):
        if (only or name) != name or (name == "mnist" and not has_mnist()):
            continue
        common = {"set": name, **settings, "layers": 50 if quick else 1000}
        if quick:
            common["epochs"] = 2
        budget = "20% of activations" if quick else SHARE
        residual = {"residual": "scaled"}
        yield {"name": "residual", **common, "network": residual, "budget": budget}
        yield {"name": "plain", **common, "network": {}, "budget": budget}
        if name == "digits":
            yield {"name": "residual, everything stored", **common, "network": residual, "budget": None}
            yield {"name": "residual, LayerNorm", **common, "network": residual | {"norm": "layer"}, "budget": budget}


def train(case: Case) -> Case:
    """Train a case in this process."""
    import lowmem as lm
    from lowmem.data.open import load
    from lowmem.data.split import split
    from lowmem.measure.memory import resident_peak

    if case["set"] == "digits":
        whole = load("digits")
        chosen, rest = split(whole, 0.2, 0)
        samples: Any = whole.take(chosen)
        held_out: Any = whole.take(rest)
    else:
        samples, held_out = lm.open_data(case["data"]), lm.open_data(case["data"], part="test")
    widths = (case["inputs"], *[case["width"]] * case["layers"], 10)
    mlp = lm.MLP(lm.Architecture(widths, "relu", **case["network"]))
    steps = case["epochs"] * -(-len(samples) // case["batch"])
    rates = lm.LearningRate(case["lr"], "cosine", warm_up=int(WARM_UP * steps), steps=steps)
    trainer = lm.Trainer(mlp, lm.Adam(), batch_size=case["batch"], budget=case["budget"], schedule=rates)
    curve = []
    for epoch in trainer.epochs(samples, case["epochs"], held_out):
        note(f"{case['set']}, {case['name']}: {epoch.number} {epoch.loss:.4f} {epoch.accuracy:.2%}")
        curve.append({"loss": epoch.loss, "accuracy": epoch.accuracy, "seconds": epoch.seconds})
    plan = trainer.plan
    return {
        "curve": curve,
        "parameters": crc32(mlp.parameters.tobytes()),
        "arena_bytes": plan.arena_bytes,
        "store_all_bytes": plan.store_all_bytes,
        "peak_bytes": plan.peak_bytes,
        "stored_peak_bytes": plan.fixed_bytes + plan.store_all_bytes,
        "flop_factor": plan.flop_factor,
        "process_bytes": resident_peak(),
    }


def everything(
    quick: bool,
    environment: dict[str, str],
    only: str | None = None,
    threads: int | None = None,
    brief: bool = False,
) -> list[Case]:
    """Run all trainings, one after the other."""
    records = []
    for case in cases(quick, only):
        if brief:
            case["epochs"] = max(2, case["epochs"] * 2 // 5)
        measured = in_fresh_process("scripts.train_deep", case, environment)
        note(f"{case['set']}, {case['name']}: {measured['curve'][-1]['accuracy']:.2%} at last")
        records.append(case | {"data": case["set"], "measured": measured})
    same = [one["measured"]["parameters"] for one in records if one["set"] == "digits" and one["name"] in SAME]
    if len(set(same)) > 1:
        raise SystemExit("recomputation changed the bits of the weights")
    return records


SAME = ("residual", "residual, everything stored")

if __name__ == "__main__":
    run_script(
        "Train 1000 residual layers within 2 % of the activations.",
        "train_deep",
        train,
        everything,
        ("numpy",),
        {"choices": ["digits", "mnist"], "help": "one data set"},
        brief="two fifths of the epochs",
    )
