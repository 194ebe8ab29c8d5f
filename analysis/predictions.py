"""Tabulate how predicted seconds rank plans, and how long work takes on a busy machine.

Reads docs/data/rank_predictions.json and busy_machine.json, writes docs/tables/predictions.md.
Run: python -m analysis.predictions
"""

from analysis.drawing import Record, caption, load, save_tables
from lowmem.common.tables import Table

NOTE = (
    "Plans of one network, by strategies, budgets and passes, in interleaved rounds in one process; predicted seconds "
    "are those of the cost model that was measured on this machine. Rank correlation: Spearman's."
)
BUSY = "Fresh processes, alone and beside others in turns. Beside: medians of the seconds, over those of work alone."


def main() -> None:
    """Write the tables."""
    predictions, busy = load("rank_predictions"), load("busy_machine")
    tables = [of_predictions(predictions["records"]), of_busy(busy["records"])]
    save_tables(tables, "predictions", f"{NOTE} {BUSY}\n{caption(predictions)}\n{caption(busy)}")


def over_predicted(record: Record) -> list[float]:
    """Return the measured seconds of each plan of a network over the predicted ones."""
    pairs = zip(record["measured_seconds"], record["predicted_seconds"], strict=True)
    return [measured / predicted for measured, predicted in pairs]


def over_alone(record: Record) -> float:
    """Return how many times as long work takes beside others as alone."""
    return float(record["busy"] / record["alone"])


def of_predictions(records: list[Record]) -> Table:
    """Return a row for each network."""
    rows = []
    for record in records:
        ratios = over_predicted(record)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append([record["network"], str(len(ratios)), f"{record['rank_correlation']:.2f}", spread])
    columns = ["network", "plans", "rank correlation", "measured / predicted"]
    return Table("**Predicted and measured seconds of plans**", columns, rows)


def of_busy(records: list[Record]) -> Table:
    """Return a row for each kind of work."""
    rows = [
        [record["work"], f"{1e3 * record['alone']:.1f} ms", str(record["beside"]), f"{over_alone(record):.2f} ×"]
        for record in records
    ]
    return Table("**Beside processes that never rest**", ["work", "alone", "others", "beside them"], rows)


if __name__ == "__main__":
    main()
