"""Ranks beside lanes: the time of a step, the bytes of a rank, waiting, messages, and the bits of whole runs.

    python -m scripts.measure_ranks steps | messages | model [--times N] | mnist FOLDER

Each prints one JSON object a line; `model` writes docs/data/measure_ranks.json. `steps` compares two ranks of one lane
with one process of two lanes, in fresh processes in turns. `messages` measures latency and bandwidth between two
ranks, and how fast numbers are added up; `model` measures these, speeds of products and updates, and steps on one and
two ranks of one lane, which `analysis/ranks.py` draws beside its model. `mnist` trains 60 x 128 on 1, 2 and 4 ranks
and compares the bits. Linux, with the MPI of `lowmem[mpi]`.
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
from scripts.measuring import DATA, machine, measured_sources

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


def one_side(layers: int, width: int, batch: int, threads: int, shards: int, optimizer: str | None) -> None:
    """Time steps on this rank and print what they took; `mpiexec` has started as many as there are."""
    from lowmem.distributed import mpi

    group = mpi()
    architecture = lm.Architecture((64, *[width] * layers, 10))
    options: dict[str, Any] = {"shards": shards, "ranks": group.size, "threads": threads}
    plan = lm.plan(architecture, batch, None, optimizer, "store_all", **options)
    made = None if optimizer is None else lm.make_optimizer(optimizer, lr=1e-6)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 64)).astype(np.float32), rng.integers(0, 10, batch)
    tracemalloc.start()
    backprop = lm.Backprop(lm.MLP(architecture), plan, made, group=group if group.size > 1 else None)
    first, stop = backprop.buffers.shards.own_rows(batch)
    whole = batch if group.size > 1 else None
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


# Messages -------------------------------------------------------------------------------------------------------


def messages() -> None:
    """Print how long two ranks take to exchange messages, each way at once, and to add numbers up."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    for size in (8, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 23):
        sent, received, tries = np.ones(size // 8), np.ones(size // 8), 400 if size < 1 << 17 else 20
        world.Barrier()
        taken = []
        for _ in range(tries):
            start = time.perf_counter()
            world.Sendrecv(sent, 1 - world.rank, recvbuf=received, source=1 - world.rank)
            taken.append(time.perf_counter() - start)
        if world.rank == 0:
            print(json.dumps({"message": size, "seconds": median(taken)}))
    if world.rank == 0:
        one, other = np.ones(1 << 16, np.float32), np.ones(1 << 16, np.float32)
        start = time.perf_counter()
        for _ in range(200):
            np.add(one, other, out=one)
        print(json.dumps({"add_per_number": (time.perf_counter() - start) / 200 / len(one)}))


# Model ----------------------------------------------------------------------------------------------------------

NETWORKS = ((60, 128, 4096), (200, 256, 2048), (20, 2048, 1024))
"""Layers, width and batch of the steps that are measured."""


RATE = "1gbit"
"""Of the slow link, as `tc` writes it."""


def model(times: int) -> dict[str, Any]:
    """Return the constants of the model in `analysis/rank_model.py`, and steps on one and two ranks of one lane.

    Two links: the memory of this machine and, where a network namespace can be made, a slow network.
    """

    def step(ranks: int, network: tuple[int, ...], *optimizer: str, rate: str | None = None) -> dict[str, Any]:
        shape = [str(number) for number in (*network, 1, 2)]
        found = [on_ranks(ranks, "side", *shape, *optimizer, rate=rate)[0] for _ in range(times)]
        return {
            "seconds": median(one["step"] for one in found),
            "waited": median(max(one["waited"]) for one in found),
        }

    def steps_on(sizes: tuple[int, ...], rate: str | None) -> list[dict[str, Any]]:
        return [
            {"layers": layers, "width": width, "batch": batch, "ranks": ranks}
            | step(ranks, (layers, width, batch), "adam", rate=rate)
            for layers, width, batch in NETWORKS
            for ranks in sizes
        ]

    def link(rate: str | None) -> dict[str, float]:
        told = {line["message"]: line["seconds"] for line in on_ranks(2, "pingpong", rate=rate) if "message" in line}
        return {"latency": told[min(told)], "bandwidth": max(told) / told[max(told)]}

    (add,) = (line["add_per_number"] for line in on_ranks(2, "pingpong") if "add_per_number" in line)
    found = steps_on((1, 2), None)
    layers, width, batch = NETWORKS[-1]
    numbers = (layers - 1) * width * width
    few = 32  # rows, so that the update is most of a step
    alone = step(1, (layers, width, few))["seconds"]
    update = (step(1, (layers, width, few), "adam")["seconds"] - alone) / numbers
    wide = next(one for one in found if (one["width"], one["ranks"]) == (width, 1))
    slow = []
    if subprocess.run(["unshare", "-n", "sh", "-c", SLOW, "sh", RATE, "true"], check=False).returncode == 0:
        slow = [{"rate": RATE, "link": link(RATE), "steps": steps_on((2,), RATE)}]
    return {
        "command": "python -m scripts.measure_ranks model",
        "date": date.today().isoformat(),
        "on": machine(),
        "sources": measured_sources(),
        "machine": {"rate": 6 * numbers * batch / (wide["seconds"] - numbers * update), "add": add, "update": update},
        "link": link(None),
        "steps": found,
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
    parser.add_argument("what", choices=("steps", "messages", "model", "mnist", "side", "pingpong"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.what == "side":
        layers, width, batch, threads, shards = map(int, arguments.rest[:5])
        one_side(layers, width, batch, threads, shards, arguments.rest[5] if arguments.rest[5:] else None)
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
