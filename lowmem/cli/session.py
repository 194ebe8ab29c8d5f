"""What `train` and `resume` share: data, progress, signals, saving, and the report at the end."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from lowmem.errors import InputError, StoppedError

if TYPE_CHECKING:
    from lowmem.data.samples import Samples
    from lowmem.measure.memory import TracedPeak
    from lowmem.training.loop import Epoch
    from lowmem.training.saved_run import SavedRun
    from lowmem.training.trainer import Trainer

BAR = 24


def add_data(parser: argparse._ArgumentGroup, *, default: str | None) -> None:
    """Add the flags that say where samples are."""
    kinds = "digits, or a .npz, .npy, .csv, .parquet, idx file or folder"
    parser.add_argument("--data", default=default, metavar="WHAT", help=kinds)
    parser.add_argument("--targets", metavar="PATH", help="the file with y, where the data file holds x alone")
    parser.add_argument("--target", metavar="NAME", help="the column with y, of a table (default: the last)")
    parser.add_argument(
        "--weights", metavar="WHAT", help="weights of samples: a column of a table, an array of a .npz, or a .npy file"
    )


def add_run(group: argparse._ArgumentGroup) -> None:
    """Add the flags of a run that may be given anew when it is resumed."""
    group.add_argument(
        "--ram", metavar="SIZE", help="cap for the whole process, 128MB or auto; data are streamed then"
    )
    group.add_argument("--save", metavar="FILE", help="save the run here: after epochs, on SIGTERM, on Ctrl-C")
    group.add_argument("--save-every", metavar="N", help="save after N steps, or after a time such as 30s or 10min")
    group.add_argument("--journal", metavar="FILE", help="append a line of JSON for each epoch and event")
    group.add_argument("--patience", type=int, metavar="N", help="stop after N epochs without a better loss")


def streamed(arguments: argparse.Namespace) -> bool:
    """Say whether data stay in their file. A resumed run keeps to it, as the order depends on it."""
    table = Path(arguments.data).suffix.lower() in (".csv", ".tsv", ".parquet")
    given = (arguments.shuffle_rows, arguments.ram, arguments.weights)
    return table or arguments.stream or arguments.standardise or any(value is not None for value in given)


def open_samples(
    arguments: argparse.Namespace, class_names: tuple[str, ...] | None = None
) -> tuple["Samples", "Samples"]:
    """Return training and held-out data: two parts of a folder that has them, else a split.

    class_names: of labels that are text, where a run knows them already.
    """
    from lowmem.data.open import load, open_data
    from lowmem.data.split import split

    if not 0 < arguments.held_out < 1:
        raise InputError(f"--held-out must be a share between 0 and 1, such as 0.2; got {arguments.held_out:g}.")
    folder = Path(arguments.data).is_dir()
    if arguments.stream:
        options: dict[str, Any] = {"target": column(arguments.target), "shuffle_rows": arguments.shuffle_rows}
        options |= {"weights": column(arguments.weights), "class_names": class_names}
        one = open_data(arguments.data, arguments.targets, standardise=arguments.standardise, **options)
        if not folder:
            return one.split(arguments.held_out)
        return one, open_data(arguments.data, part="test", standardise=one.standardisation or False)
    if folder:
        return load(arguments.data), load(arguments.data, part="test")
    whole = load(arguments.data, arguments.targets, class_names=class_names)
    train, held_out = split(whole, arguments.held_out, arguments.seed)
    return whole.take(train), whole.take(held_out)


def column(name: str | None) -> str | int | None:
    """Return a column's name, or its number."""
    return int(name) if name is not None and name.lstrip("-").isdecimal() else name


def kept_columns(arguments: argparse.Namespace, saved: "SavedRun") -> dict[str, str | int | None]:
    """Return the columns of a table that are target and weights: as told, or as in training."""
    flags = saved.notes.get("flags")
    kept = flags if isinstance(flags, dict) else {}
    told = {name: getattr(arguments, name) or kept.get(name) for name in ("target", "weights")}
    return {name: column(value) if isinstance(value, str) else None for name, value in told.items()}


def run_epochs(
    trainer: "Trainer",
    data: tuple["Samples", "Samples"],
    count: int | None,
    arguments: argparse.Namespace,
    traced: "TracedPeak | None",
) -> int:
    """Train, say how it goes, and print the report; the exit code is 0, or an error is raised."""
    from lowmem.data.class_names import listed

    train, held_out = data
    say = (lambda text: print(text, file=sys.stderr)) if arguments.json else print
    progress = Progress(sys.stderr)
    options: dict[str, Any] = {name: getattr(arguments, name) for name in ("save_every", "patience", "journal")}
    before = trainer.epochs_done
    epochs = trainer.epochs(train, count, held_out, save_to=arguments.save, on_step=progress.step, **options)
    if traced is not None:
        traced.restart()  # planning, which may take memory of its own for a moment, is over; all is allocated
    until = trainer.epochs_planned
    say(str(trainer.plan))
    classes = "" if train.class_names is None else f"; classes {listed(train.class_names)}"
    say(f"\n{train.name}: {len(train):,} samples to train on, {len(held_out):,} held out{classes}\n")
    peak, start = None, perf_counter()
    with _ended_by_signals(trainer, arguments.save):
        for epoch in epochs:
            if traced is not None and peak is None:
                peak = traced.stop()  # one epoch has seen every kind of step; the others run untraced
            left = (perf_counter() - start) / (epoch.number - before) * (until - epoch.number)
            progress.clear()
            say(_line(epoch, until, left))
    report = replace(trainer.report(), traced_peak=peak)
    say(f"\n{report}")
    if arguments.json:
        print(json.dumps(report.to_dict()))
    return 0


@contextmanager
def _ended_by_signals(trainer: "Trainer", path: str | None) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError("", signal=number)

    main = threading.current_thread() is threading.main_thread()
    earlier = signal.signal(signal.SIGTERM, stop) if main else None
    try:
        yield
    except (KeyboardInterrupt, StoppedError) as end:
        number = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
        if path and trainer.between_epochs:  # else the trainer has saved, or stands in the middle of a step
            trainer.save(path)
        saved = trainer.last_save
        if trainer.save_problem is not None:
            raise trainer.save_problem from None
        hint = f" The run is in {saved}; go on with: lowmem resume {path}" if path and saved else " Nothing was saved."
        raise StoppedError(f"stopped by {signal.Signals(number).name}.{hint}", signal=number) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if earlier is None else earlier)


class Progress:
    """A bar with the time left of an epoch, on a terminal; elsewhere nothing, as there are lines for epochs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._shown = stream.isatty()
        self._begin, self._first, self._told, self._width = clock(), 0, 0.0, 0

    def step(self, done: int, count: int) -> None:
        """Show so many steps of an epoch, ten times a second at most."""
        now = self._clock()
        if done <= self._first or self._first == 0:
            self._begin, self._first = now, done
        if not self._shown or (now - self._told < 0.1 and done < count):
            return
        self._told = now
        filled = BAR * done // count
        left = (now - self._begin) / max(done - self._first, 1) * (count - done)
        text = f"\r{'█' * filled}{'░' * (BAR - filled)} {done:,}/{count:,} steps, {left:.0f} s left"
        self._stream.write(text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def clear(self) -> None:
        """Take the bar away."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._width = 0


def _line(epoch: "Epoch", count: int, left: float) -> str:
    """Write one epoch for people."""
    parts = [f"epoch {epoch.number:>{len(str(count))}}/{count}", f"loss {epoch.loss:.4f}"]
    if epoch.validation_loss is not None:
        parts.append(f"held-out loss {epoch.validation_loss:.4f}")
    if epoch.accuracy is not None:
        parts.append(f"accuracy {epoch.accuracy:6.2%}")
    if epoch.skipped:
        parts.append(f"{epoch.skipped} steps skipped")
    parts.append(f"{epoch.samples_per_second:,.0f} samples/s")
    if epoch.number < count:
        parts.append(f"{left:.0f} s left")
    return "  ".join(parts)
