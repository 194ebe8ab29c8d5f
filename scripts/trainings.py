"""What `scripts.train_in_little` runs in a process of its own: data, network and schedule of a case, then training."""

import resource
import sys
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import lowmem as lm
from lowmem.common.process_memory import give_back, resident
from lowmem.data.stream import Stream
from lowmem.measure.memory import resident_peak
from lowmem.measure.ram import warm_up
from lowmem.training.learning_rate import LearningRate
from scripts.measuring import Case

MIB = 1 << 20


class EnoughError(Exception):
    """The steps that were wanted have been run."""


class Laps:
    """Seconds of each step, elapsed and of processors, the wait for its batch included.

    enough: steps after which `take` raises `EnoughError`; None goes on.
    """

    def __init__(self, enough: int | None) -> None:
        self._enough = enough
        self._elapsed: list[float] = []
        self._processor: list[float] = []
        self._begin = perf_counter(), process_time()

    def take(self) -> None:
        """End a step and begin the next one."""
        now = perf_counter(), process_time()
        self._elapsed.append(now[0] - self._begin[0])
        self._processor.append(now[1] - self._begin[1])
        self._begin = now
        if len(self._elapsed) == self._enough:
            raise EnoughError

    def summary(self) -> Case:
        """Return the number of steps and the median one, the first left out as a warm-up."""
        seconds, cpu = median(self._elapsed[1:]), median(self._processor[1:])
        return {"steps": len(self._elapsed), "step_seconds": seconds, "step_cpu_seconds": cpu}

    def of_epochs(self, count: int) -> Case:
        """Return what the median epoch took, of `count` that were run; nothing where none was finished."""
        if not count:
            return {}
        length = len(self._elapsed) // count
        starts = range(0, count * length, length)
        return {
            "epoch_seconds": median(sum(self._elapsed[at : at + length]) for at in starts),
            "epoch_cpu_seconds": median(sum(self._processor[at : at + length]) for at in starts),
        }


def opened(case: Case) -> tuple[Stream, Stream | None]:
    """Return what is trained on, and what is judged on afterwards, once: a part held out, or the test part."""
    data, targets = case["data"]
    stream = lm.open_data(data, targets, shuffle_rows=case.get("shuffle_rows"))
    if "held_out" in case:
        return stream.split(case["held_out"])
    return stream, lm.open_data(data, targets, part="test") if case.get("test") else None


def made(case: Case) -> lm.MLP:
    """Return the network as it begins: `gain` multiplies the weights of every layer."""
    network = lm.Architecture(tuple(case["widths"]), case.get("activation", "relu"))
    mlp = lm.MLP(network, initialiser=case.get("initialiser"), seed=case.get("seed", 0))
    for w in mlp.weights:
        w *= case.get("gain", 1.0)
    return mlp


def rates(case: Case, samples: int) -> LearningRate | None:
    """Return the schedule of a run over all its epochs; `warm_up` is a share of its steps."""
    if "schedule" not in case:
        return None
    steps = case["epochs"] * -(-samples // case["batch"])
    return LearningRate(case["lr"], case["schedule"], warm_up=int(case["warm_up"] * steps), steps=steps)


def train(case: Case) -> Case:
    """Train a case in this process."""
    warm_up(lm.Architecture((512, 512)), 512, None)  # BLAS reserves its buffers
    floor = resident()
    if case["how"] == "data" and case["limit"]:
        limit = case["limit"] + status("VmData") - status("RssAnon")
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    stream, judge = opened(case)
    mlp = made(case)
    memory: dict[str, Any] = {}
    if case["limit"] and case.get("count") == "anonymous":
        # A group is charged for anonymous memory; pages of libraries are the system's, and can be dropped.
        give_back()
        room = case["limit"] - status("RssAnon")
        memory = {"budget": room + mlp.parameters.nbytes - 2 * MIB, "table_bytes": room // 3}
    elif case["limit"]:
        memory = {"ram": case["limit"]}
    trainer = lm.Trainer(
        mlp,
        lm.make_optimizer(case["optimizer"], lr=case.get("lr")),
        batch_size=case["batch"],
        seed=case.get("seed", 0),
        schedule=rates(case, len(stream)),
        **memory,
    )
    laps, epoch, accuracy = Laps(case.get("steps")), None, None
    epochs = trainer.epochs(stream, case.get("epochs", 1000), on_step=lambda *_: laps.take())
    try:
        for epoch in islice(epochs, case.get("epochs_run")):
            print(epoch, file=sys.stderr, flush=True)
        accuracy = None if judge is None else trainer.evaluate(judge)[1]
    except EnoughError:
        pass
    return (
        laps.summary()
        | laps.of_epochs(0 if epoch is None else epoch.number)
        | {
            "peak_bytes": resident_peak(),
            "floor_bytes": floor,
            "anonymous_bytes": status("RssAnon"),
            "plan_bytes": trainer.plan.peak_bytes,
            "flop_factor": trainer.plan.flop_factor,
            "accuracy": accuracy,
            "loss": None if epoch is None else epoch.loss,
        }
    )


def status(name: str) -> int:
    """Return a size of this process, as the system tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
