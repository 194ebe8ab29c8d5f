"""Tell what plans for PyTorch chains promise and keep on a GPU, and their time beside checkpoint_sequential.

Reads docs/data/torch_cuda_check.json, writes docs/tables/torch_gpu.md. Run: python -m analysis.torch_gpu
"""

from collections.abc import Iterable
from statistics import median

from analysis.drawing import Record, caption, load, save_tables
from analysis.torch_chains import CHAINS, fastest, over_even_cuts
from analysis.wording import ends
from lowmem.common.tables import Table
from lowmem.units import format_bytes

LARGE = {
    "large transformer": "24 transformer encoder layers, width 2048, 32 heads, 4 x 2048 tokens, bfloat16",
    "large mlp": "MLP, 64 x 4096, gelu, batch 32768, bfloat16",
    "large convolutions": "20 convolutions with BatchNorm, sizes falling, 256 images of 224 x 224, bfloat16",
}
"""Under autocast."""

ALLOCATORS = ("default", "expandable")

MOST_APART = 1.2
"""Times that repeats of a step may differ; else the row is marked."""

NOTE = (
    "Requested, allocated and reserved: the most bytes of a step over those promised, above what was held before; "
    "requested of PyTorch's allocator, as torch.cuda.max_memory_allocated tells, and taken from the GPU, beginning "
    "with an empty cache (not told for small chains, which fit in gaps that were there); by the default allocator and "
    "with expandable segments. Time: medians of steps in turns, until the GPU was done, relative to storing "
    "everything, with the default allocator; predicted by the seconds of stages. *: repeats of the plan, of plain "
    "PyTorch or of checkpoint_sequential differ by more than a fifth. checkpoint_sequential: the fastest number of "
    "segments that takes no more memory than the budget; none where no number does. Its median leaves out the budget "
    "that everything fits in. Every gradient had the bits of the plain model's."
)

COLUMNS = [
    "budget",
    "promised",
    "requested",
    "allocated, default",
    "allocated, expandable",
    "reserved, default",
    "reserved, expandable",
    "time, predicted",
    "time",
    "checkpoint_sequential",
    "plan over it",
]


def main() -> None:
    """Write the tables."""
    data = load("torch_cuda_check")
    tables = []
    for name, title in (LARGE | CHAINS).items():
        records = of_chain(data["records"], name)
        whole, ratios = format_bytes(records[0]["store_all_bytes"]), over(records)
        title = (
            f"**{title}** (storing everything: {whole}; median plan over checkpoint_sequential {median(ratios):.3f})"
        )
        tables.append(Table(title, COLUMNS, [row(record) for record in records]))
    device = f"GPU: {data['records'][0]['device']}."
    save_tables(tables, "torch_gpu", f"{NOTE}\n{device}\n{caption(data)}")


def of_chain(records: Iterable[Record], name: str) -> list[Record]:
    """Return the records of one chain."""
    return [record for record in records if record["chain"] == name]


def over(records: Iterable[Record]) -> list[float]:
    """Return the time of plans over that of the fastest even cuts, but not where everything fits."""
    return [ratio for record in records if (ratio := over_even_cuts(record)) is not None and record["share"] < 1]


def share(record: Record, allocator: str, what: str) -> float:
    """Return bytes of a step over those promised."""
    found = record[allocator]
    assert found["same_gradients"], record
    assert found["requested"] <= found["promised"], record
    return float(found[what] / found["promised"])


def factor(record: Record) -> float:
    """Return the time of a plan over that of storing everything."""
    return float(record["times"]["plan"]["median"] / record["times"]["plain"]["median"])


def disturbed(record: Record) -> bool:
    """Say whether repeats of a step differ by more than a fifth."""
    repeats = [side["all"][1:] for side in record["times"].values()]
    return any(max(seconds) > MOST_APART * min(seconds) for seconds in repeats)


def row(record: Record) -> list[str]:
    """Return what one budget took."""
    plain = record["times"]["plain"]["median"]
    best, ratio = fastest(record), over_even_cuts(record)
    reserved = [f"{share(record, each, 'reserved'):.2f}" for each in ALLOCATORS]
    return [
        format_bytes(record["budget"]),
        format_bytes(record["default"]["promised"]),
        f"{share(record, 'default', 'requested'):.4f}",
        *(f"{share(record, each, 'allocated'):.4f}" for each in ALLOCATORS),
        *(reserved if record["chain"] in LARGE else ("", "")),
        f"{record['cost_factor']:.3f} ×",
        f"{factor(record):.3f} ×{' *' if disturbed(record) else ''}",
        "none" if best is None else f"{best[1] / plain:.3f} × ({best[0]})",
        "" if ratio is None else f"{ratio:.3f} ×",
    ]


def kept() -> str:
    """Return what steps took of what was promised, by allocator, over all chains and budgets."""
    records = load("torch_cuda_check")["records"]
    rows = []
    for what, words in (("requested", "requested bytes"), ("allocated", "`max_memory_allocated`")):
        cells = []
        for allocator in ALLOCATORS:
            shares = [share(record, allocator, what) for record in records]
            above = sum(each > 1 for each in shares)
            cell = f"{min(shares):.4f} to {max(shares):.4f}"
            cells.append(f"{cell}, above it in {above} of {len(shares)}" if above else cell)
        rows.append([words, *cells])
    return Table("", ["of the promise", "default allocator", "expandable segments"], rows).markdown()


def in_words() -> str:
    """Tell what plans cost in time, and what the allocator takes beyond the promise."""
    records = load("torch_cuda_check")["records"]
    large = [record for record in records if record["chain"] in LARGE]
    small = [record for record in records if record["chain"] not in LARGE]
    uneven = of_chain(large, "large convolutions")
    even = [share(record, each, "reserved") for each in ALLOCATORS for record in large if record not in uneven]
    by_default, expandable = (max(share(record, each, "reserved") for record in uneven) for each in ALLOCATORS)
    return (
        f"On the large chains steps took {times(large)}. The small ones leave such a GPU waiting for Python, and "
        f"plans run more of it: steps took {times(small)}. These times vary by more than a fifth. "
        "The allocator may take more from the GPU than it hands out, where gaps between tensors are too small for the "
        f"next one. No plan counts that. For the large transformer and MLP it took at most {max(even):.2f} times the "
        f"promise; for the convolutions, whose sizes are uneven, up to {by_default:.2f} times with the default "
        f"allocator and {expandable:.2f} times with expandable segments, most at the smallest budget."
    )


def times(records: Iterable[Record]) -> str:
    """Tell the times of plans that do not store everything."""
    some = [record for record in records if record["share"] < 1]
    return (
        f"{ends(map(factor, some), '.3f')} times as long as storing everything, where the seconds of stages "
        f"predicted {ends((record['cost_factor'] for record in some), '.3f')}, and {ends(over(some), '.3f')} times as "
        "long as the best even cuts that take no more memory"
    )


if __name__ == "__main__":
    main()
