"""Ranks beside lanes: the time of a step, the bytes of a rank, waiting, messages, and the bits of whole runs.

    python -m scripts.measure_ranks steps | messages | model [--times N] | mnist FOLDER

Each prints one JSON object a line; `model` writes docs/data/measure_ranks.json. `steps` compares two ranks of one lane
with one process of two lanes, in fresh processes in turns. `messages` measures what messages between two ranks cost,
and how fast numbers are added up; `model` measures these, speeds of layers and updates, and steps on one and two ranks
of one lane, which `analysis/ranks.py` draws beside its model. Speeds are those of two processes that compute at a time
and know nothing of each other: cores of one machine share its memory's bandwidth. `mnist` trains 60 x 128 on 1, 2 and
4 ranks and compares the bits. Linux, with the MPI of `lowmem[mpi]`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import lowmem as lm
from scripts.kill_ranks import launcher
from scripts.measuring import DATA, MEASURED, machine, measured_sources
from scripts.rank_messages import messages

BLOCK, PAUSE = 4, 0.5
"""Steps of a block, of which the first does not count, and seconds between two blocks."""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


SLOW = 'ip link set lo up && tc qdisc add dev lo root tbf rate "$1" burst 256k latency 100ms && shift && exec "$@"'
"""Runs a command where the network is a loopback device that carries no more than so many bits a second, both ways
together. It needs the right to make a network namespace."""

THERE = {"MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": "lo"}
"""Variables by which MPICH uses that network between processes of one machine, and not their memory."""


def on_ranks(size: int, *arguments: str, rate: str | None = None) -> list[dict[str, Any]]:
    """Run a part of this script on so many ranks, and return the objects that it printed.

    rate: of the network between the ranks, as `tc` writes it, such as "1gbit"; None for the machine's memory.
    """
    command = [launcher(), "-n", str(size), sys.executable, "-m", "scripts.measure_ranks", *arguments]
    environment = os.environ if size == 1 else ENVIRONMENT
    if rate is not None:
        command, environment = ["unshare", "-n", "sh", "-c", SLOW, "sh", rate, *command], environment | THERE
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


# Steps ----------------------------------------------------------------------------------------------------------


def one_side(
    layers: int, width: int, batch: int, threads: int, shards: int, optimizer: str | None, *, apart: bool
) -> None:
    """Time steps on this rank and print what they took; `mpiexec` has started as many as there are.

    apart: ranks step at the same time, and each has all shards of a batch of its own.
    """
    from lowmem.distributed import mpi

    group = mpi()
    ranks = 1 if apart else group.size
    architecture = lm.Architecture((64, *[width] * layers, 10))
    options: dict[str, Any] = {"shards": shards, "ranks": ranks, "threads": threads}
    plan = lm.plan(architecture, batch, None, optimizer, "store_all", **options)
    made = None if optimizer is None else lm.make_optimizer(optimizer, lr=1e-6)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 64)).astype(np.float32), rng.integers(0, 10, batch)
    tracemalloc.start()
    backprop = lm.Backprop(lm.MLP(architecture), plan, made, group=group if ranks > 1 else None)
    first, stop = backprop.buffers.shards.own_rows(batch)
    whole = batch if ranks > 1 else None
    backprop.step(x[first:stop], y[first:stop], whole=whole)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times, waits = [], []
    for _ in range(3):
        group.agree(None)
        time.sleep(PAUSE)
        for step in range(BLOCK):
            waited, start = group.waited, time.perf_counter()
            backprop.step(x[first:stop], y[first:stop], whole=whole)
            if step:
                times.append(time.perf_counter() - start)
                waits.append(group.waited - waited)
    everything = group.agree((median(times), median(waits), traced, sum(s.nbytes for s in backprop.optimizer_state)))
    if group.rank == 0:
        print(
            json.dumps(
                {
                    "step": max(one[0] for one in everything),
                    "spread": (max(times) - min(times)) / median(times),
                    "waited": [one[1] for one in everything],
                    "traced": [one[2] for one in everything],
                    "moments": [one[3] for one in everything],
                    "promised": plan.peak_bytes,
                    "promised_optimizer": plan.optimizer_bytes,
                }
            )
        )


def steps(layers: int, width: int, batch: int, times: int) -> Iterator[dict[str, Any]]:
    """Yield the sides in turns: one process of two lanes, and two ranks of one lane with as many shards."""
    shape = [str(layers), str(width), str(batch)]
    sides = {"1 process, 2 lanes": (1, "2", "1"), "2 ranks, 1 lane each": (2, "1", "2")}
    for _ in range(times):
        for name, (ranks, threads, shards) in sides.items():
            (found,) = on_ranks(ranks, "side", *shape, threads, shards, "adam")
            yield {"side": name, "layers": layers, "width": width, "batch": batch, **found}


# Model ----------------------------------------------------------------------------------------------------------

NETWORKS = ((60, 128, 4096), (200, 256, 2048), (20, 2048, 1024))
"""Layers, width and batch of the steps that are measured."""


RATE = "1gbit"
"""Of the slow link, as `tc` writes it."""


def model(times: int) -> dict[str, Any]:
    """Return the constants of the model in `analysis/rank_model.py`, and steps on one and two ranks of one lane.

    A rank's speed at a network is that of two processes which step at the same time, each with a batch of its own.

    Two links: the memory of this machine and, where a network namespace can be made, a slow network.
    """

    def step(
        ranks: int, network: tuple[int, ...], *optimizer: str, rate: str | None = None, how: str = "side"
    ) -> dict[str, Any]:
        shape = [str(number) for number in (*network, 1, 2)]
        found = [on_ranks(ranks, how, *shape, *optimizer, rate=rate)[0] for _ in range(times)]
        return {
            "seconds": median(one["step"] for one in found),
            "waited": median(max(one["waited"]) for one in found),
        }

    def apart(network: tuple[int, ...], *optimizer: str) -> float:
        return float(step(2, network, *optimizer, how="apart")["seconds"])

    def steps_on(sizes: tuple[int, ...], rate: str | None) -> list[dict[str, Any]]:
        return [
            {"layers": layers, "width": width, "batch": batch, "ranks": ranks}
            | step(ranks, (layers, width, batch), "adam", rate=rate)
            for layers, width, batch in NETWORKS
            for ranks in sizes
        ]

    def link(lines: list[dict[str, float]]) -> dict[str, float]:
        told = {line["message"]: line["seconds"] for line in lines if "message" in line}
        latency = told[min(told)]
        (work,) = (line["work"] for line in lines if "work" in line)
        return {"latency": latency, "bandwidth": max(told) / (told[max(told)] - latency), "work": work}

    memory = on_ranks(2, "pingpong")
    (add,) = (line["add_per_number"] for line in memory if "add_per_number" in line)
    rates = {}
    for layers, width, batch in NETWORKS:
        summed = layers * width * width * add  # of two shards
        rates[width] = 6 * layers * width**2 * batch / (apart((layers, width, batch)) - summed)
    layers, width, _ = NETWORKS[-1]
    few = layers, width, 32  # rows, so that the update is most of a step
    update = (apart(few, "adam") - apart(few)) / (layers * width * width)
    slow = []
    if subprocess.run(["unshare", "-n", "sh", "-c", SLOW, "sh", RATE, "true"], check=False).returncode == 0:
        slow = [{"rate": RATE, "link": link(on_ranks(2, "pingpong", rate=RATE)), "steps": steps_on((2,), RATE)}]
    return {
        "command": "python -m scripts.measure_ranks model",
        "date": date.today().isoformat(),
        "on": machine(),
        "sources": measured_sources(MEASURED),
        "machine": {"rates": rates, "add": add, "update": update},
        "link": link(memory),
        "steps": steps_on((1, 2), None),
        "slow": slow,
    }


# Bits -------------------------------------------------------------------------------------------------


def train(folder: Path, ranks: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a command of lowmem on so many ranks in a folder."""
    command = [launcher(), "-n", str(ranks), sys.executable, "-m", "lowmem", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def mnist(data: str, epochs: int, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Yield loss, accuracy and a checksum of the run for each number of ranks."""
    import zlib

    for ranks in sizes:
        with tempfile.TemporaryDirectory() as folder:
            flags = [
                "--data",
                data,
                "--layers",
                "60",
                "--width",
                "128",
                "--activation",
                "tanh",
                "--init",
                "orthogonal",
            ]
            flags += ["--lr", "3e-4", "--batch", "512", "--shards", "4", "--epochs", str(epochs), "--save", "run"]
            start = time.monotonic()
            done = train(Path(folder), ranks, "train", *flags, "--no-calibrate", "--json")
            if done.returncode:
                sys.exit(done.stderr)
            report = json.loads(done.stdout)
            yield {
                "ranks": ranks,
                "seconds": time.monotonic() - start,
                "step": report["seconds_per_step"],
                "loss": report["loss"],
                "accuracy": report["accuracy"],
                "crc32": f"{zlib.crc32((Path(folder) / 'run').read_bytes()):08x}",
                "waited": [rank["waited"] for rank in report["ranks"]],
                "peak": report["plan"]["peak_bytes"],
                "optimizer": report["plan"]["bytes"]["optimizer"],
            }


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Return what the arguments ask for, as it is measured."""
    rest, times = arguments.rest, arguments.times
    if arguments.what == "mnist":
        return mnist(rest[0], arguments.epochs, [int(ranks) for ranks in rest[1:]] or [1, 2, 4])
    layers, width, batch = map(int, rest or ("200", "256", "2048"))
    return steps(layers, width, batch, times)


def main() -> None:
    """Measure what the arguments ask for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("steps", "messages", "model", "mnist", "side", "apart", "pingpong"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.what in ("side", "apart"):
        layers, width, batch, threads, shards = map(int, arguments.rest[:5])
        optimizer = arguments.rest[5] if arguments.rest[5:] else None
        one_side(layers, width, batch, threads, shards, optimizer, apart=arguments.what == "apart")
    elif arguments.what == "pingpong":
        messages()
    elif arguments.what == "messages":
        for line in on_ranks(2, "pingpong"):
            print(json.dumps(line))
    elif arguments.what == "model":
        (DATA / "measure_ranks.json").write_text(json.dumps(model(arguments.times), indent=1) + "\n", encoding="utf-8")
    else:
        for line in measured(arguments):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
