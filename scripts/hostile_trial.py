"""The adversarial trial: random networks, trainings, kills, mutated files and junk calls against the promises.

networks: random networks and plans. The budget is kept when every allocation is traced, and gradients have the bits of
    storing everything, on both engines; every budget from the least one on is planned (scripts.hostile_networks).
trainers: random trainings with evaluation. The budget is kept, another plan gives the same bits, and a run that is
    saved after some epochs and resumed by another plan ends with the same bits (scripts.hostile_networks).
kills: processes that train are killed at random moments and resumed, to the same bits (scripts.kill_and_resume).
files: mutated files of data and mutated saved runs are read or refused in one line (scripts.fuzz_readers).
calls: calls with junk end in a result or in one line (scripts.junk_calls).

Each part is tried in pieces, and number n of a seed is the same case whoever tries it. An error that is none of
lowmem's is a finding like any other, and the trial goes on. With --done, what came of a piece becomes a line of JSON
in that file as soon as it is tried, and is not tried again: a trial that was broken off goes on.

Run from the repository's root:
python -m scripts.hostile_trial [--quick] [--only networks] [--networks 2000] ... [--seed N] [--done FILE]
[--output FILE]
"""

import argparse
import json
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from lowmem.common.tables import Table
from scripts import fuzz_readers, junk_calls, kill_and_resume
from scripts.hostile_networks import Found, described, try_networks, try_trainers, warm_up
from scripts.measuring import about, write_data


def try_kills(numbers: range, seed: int) -> Found:
    """Kill and resume a training as many times as there are numbers, or a few where it ends before."""
    counts: Counter[str] = Counter()
    broke = []
    kinds = kill_and_resume.KINDS
    flags = (*kill_and_resume.FLAGS, *kinds[numbers.start // len(numbers) % len(kinds)])
    for attempt in range(3):
        moments = 1_000_000 * seed + 3 * numbers.start + attempt
        came = kill_and_resume.kill_and_compare(len(numbers) - counts["kills"], moments, flags)
        counts.update(kills=came.kills, runs=1, unsaved=came.unsaved, same=came.same)
        broke += [] if came.same else [f"killed with {flags}, seed {moments}: other weights"]
        if counts["kills"] == len(numbers):
            break
    return counts, broke


def try_files(numbers: range, seed: int) -> Found:
    """Open mutated files."""
    outcomes, broke = fuzz_readers.fuzzed(numbers, seed)
    counts: Counter[str] = Counter(files=len(numbers))
    for held in outcomes.values():
        counts.update({name: number for name, number in held.items() if name in ("read", "refused")})
    return counts, broke


def try_calls(numbers: range, seed: int) -> Found:
    """Make junk calls."""
    broke = junk_calls.raw_errors(1_000_000 * seed + numbers.start, len(numbers))
    return Counter(calls=len(numbers)), broke


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the trial.

    try_numbers: tries the cases of these numbers and a seed. full, quick: how many cases there are. piece: how many
    are tried at a time. prepare: is called first in each process.
    """

    try_numbers: Callable[[range, int], Found]
    full: int
    quick: int
    piece: int
    prepare: Callable[[], None] | None = None


PARTS: dict[str, Part] = {
    "networks": Part(try_networks, 2_000, 20, 1, warm_up),
    "trainers": Part(try_trainers, 500, 6, 1, warm_up),
    "kills": Part(try_kills, 200, 0, 10),
    "files": Part(try_files, 100_000, 300, 2_500),
    "calls": Part(try_calls, 5_000, 100, 250),
}

MOST = "most over, bytes"
"""Bytes that allocations were above the promise, at most; it leaves 64 KiB for what is not counted."""

Record = dict[str, Any]
"""What came of a piece: its part, seed and numbers, what was tried, what broke, and the seconds it took."""


def try_piece(part: str, numbers: range, seed: int) -> Record:
    """Try some cases of a part. Whatever is raised is a finding."""
    warnings.simplefilter("ignore")
    begin = monotonic()
    try:
        counts, broke = PARTS[part].try_numbers(numbers, seed)
    except (Exception, SystemExit) as error:
        counts, broke = Counter[str](), [f"{part} {numbers.start} to {numbers[-1]}: {described(error)}"]
    record = {"part": part, "seed": seed, "first": numbers.start, "count": len(numbers)}
    return record | {"tried": dict(counts), "broke": broke, "seconds": monotonic() - begin}


def tried(part: str, numbers: range, seed: int, workers: int, done: Path | None) -> Iterator[Record]:
    """Yield what came of the pieces of a part, of those that a file holds from there; others are tried and added."""
    lines = done.read_text().splitlines() if done is not None and done.exists() else []
    known = {(one["part"], one["seed"], one["first"], one["count"]): one for one in map(json.loads, lines)}
    size = PARTS[part].piece
    pieces = [numbers[first : first + size] for first in range(0, len(numbers), size)]
    new = [piece for piece in pieces if (part, seed, piece.start, len(piece)) not in known]
    for piece in set(pieces) - set(new):
        yield known[part, seed, piece.start, len(piece)]
    if not new:
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, PARTS[part].prepare) as pool:
        futures = {pool.submit(try_piece, part, piece, seed): piece for piece in new}
        for future in as_completed(futures):
            try:
                record = future.result()
            except BrokenExecutor:
                piece = futures[future]
                yield {"tried": {}, "broke": [f"{part} {piece.start}: a process died"], "seconds": 0}
                continue
            if done is not None:
                with done.open("a") as out:
                    out.write(json.dumps(record) + "\n")
            yield record


def main() -> None:
    """Try all parts. Print what broke as soon as it is found, and at the end what was tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a small share of each part, without kills")
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="one part; may be given several times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to go on in pieces")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--done", type=Path, metavar="FILE", help="what was tried; it is not tried again")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a JSON file for the figures, as in docs/data")
    for name, part in PARTS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"how many (default {part.full:,})")
    arguments = parser.parse_args()
    records: list[Record] = []
    for name, part in PARTS.items():
        count = getattr(arguments, name)
        count = (part.quick if arguments.quick else part.full) if count is None else count
        if (arguments.only and name not in arguments.only) or not count:
            continue
        numbers = range(arguments.first, arguments.first + count)
        records.append(tried_in_all(name, numbers, arguments.seed, arguments.workers, arguments.done))
    rows = [[one["part"], told(one), f"{len(one['broke'])}", f"{one['seconds']:.0f}"] for one in records]
    print(Table(f"Adversarial trial, seed {arguments.seed}", ("part", "tried", "broke", "seconds"), rows))
    if arguments.output is not None:
        write_data(about("hostile_trial", records), arguments.output)
    sys.exit(any(one["broke"] for one in records))


def tried_in_all(part: str, numbers: range, seed: int, workers: int, done: Path | None) -> Record:
    """Return what came of a part. Print what broke as soon as it is found."""
    counts, broke, seconds, most = Counter[str](), list[str](), 0.0, 0
    for record in tried(part, numbers, seed, workers, done):
        most = max(most, record["tried"].pop(MOST, 0))
        counts.update(record["tried"])
        broke += record["broke"]
        seconds += record["seconds"]
        print("".join(f"{words}\n" for words in record["broke"]), end="", flush=True)
    if most:
        counts[MOST] = most
    of_part = {"part": part, "seed": seed, "first": numbers.start, "count": len(numbers), "in full": PARTS[part].full}
    return of_part | {"tried": dict(counts), "broke": broke, "seconds": seconds}


def told(record: Record) -> str:
    """Write what was tried of a part in a line."""
    return ", ".join(f"{what} {number:,}" for what, number in record["tried"].items() if number)


if __name__ == "__main__":
    main()
