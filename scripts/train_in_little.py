"""Train for real in little memory, and see that the limit holds: three cases, each in a fresh process.

deep: 200 x 256, batch 2048, SGD, a data file larger than memory, under 112 MiB, its step beside storing everything.
mnist: a 60-layer network on MNIST in a process under 96 MB: accuracy on the test set, time of an epoch.
large: a data file of 2 GB in a process under 128 MB.

The limit is a control group's where one can be made (`--limit group`), else one on the data segment, beyond which the
kernel gives nothing (`--limit data`; what libraries have reserved and not touched is added to it), else the peak is
looked at afterwards (`--limit peak`), as it is in any case.

Run from the repository's root: python -m scripts.train_in_little [--quick]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from scripts.measuring import ROOT, Case

MNIST = Path(os.environ.get("LOWMEM_MNIST", ROOT.parent / "shared" / "data" / "mnist"))
MIB = 1 << 20


def cases(folder: Path, quick: bool) -> Iterator[Case]:
    """Yield what is run: the data, the network, the limit in bytes."""
    features, rows, hidden, steps = 64, 600_000, 200, 6
    if quick:
        rows, hidden, steps = 8_192, 20, 4
    made = made_file(folder, "deep", rows, features)
    settings = {"activation": "tanh", "initialiser": "orthogonal"}  # what learns at such depth
    deep = {"data": made, "widths": [features, *[256] * hidden, 10], "batch": 2048, "steps": steps} | settings
    deep |= {"optimizer": "sgd", "lr": 1e-3, "shuffle_rows": 4096}
    yield {"name": "deep, storing everything", "limit": None, **deep}
    yield {"name": "deep", "limit": (70 if quick else 112) * MIB, "count": "anonymous", **deep}
    if MNIST.is_dir():
        widths = [784, *[128] * 60, 10]
        epochs = {"steps": 20} if quick else {"epochs": 12}
        mnist = {"data": [str(MNIST), None], "widths": widths, "batch": 128, "optimizer": "adam", "lr": 3e-4}
        yield {"name": "mnist", "limit": 96_000_000, **mnist, **settings, **epochs}
    rows = 8_000 if quick else 500_000
    large = {"data": made_file(folder, "large", rows, 1000), "widths": [1000, *[256] * 10, 10], "optimizer": "sgd"}
    yield {"name": "large", "limit": 128_000_000, "batch": 256, "epochs": 1, **large}


def made_file(folder: Path, name: str, rows: int, features: int) -> list[str]:
    """Write a data file, a block at a time: classes are told by a direction in the inputs each."""
    rng = np.random.default_rng(0)
    x_path, y_path = folder / f"{name}_x.npy", folder / f"{name}_y.npy"
    directions = rng.standard_normal((10, features), np.float32)
    y = rng.integers(0, 10, rows).astype(np.uint8)
    np.save(y_path, y)
    with x_path.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, features)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, rows, 4096):
            part = y[start : start + 4096]
            out.write((directions[part] + rng.standard_normal((len(part), features), np.float32)).tobytes())
    return [str(x_path), str(y_path)]


class EnoughError(Exception):
    """The steps that were wanted have been run."""


def train(case: Case) -> Case:
    """Train a case in this process."""
    import lowmem as lm
    from lowmem.meter import resident_peak
    from lowmem.ram import warm_up

    warm_up("float32")  # BLAS reserves its buffers
    if case["how"] == "data" and case["limit"]:
        limit = case["limit"] + status("VmData") - status("RssAnon")
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    data, targets = case["data"]
    stream = lm.open_data(data, targets, shuffle_rows=case.get("shuffle_rows"))
    network = lm.Architecture(tuple(case["widths"]), case.get("activation", "relu"))
    mlp = lm.MLP(network, initialiser=case.get("initialiser"))
    optimizer = lm.make_optimizer(case["optimizer"], lr=case.get("lr"))
    memory: dict[str, Any] = {}
    if case["limit"] and case.get("count") == "anonymous":
        # A group is charged for anonymous memory; pages of libraries are the system's, and can be dropped.
        floor = status("RssAnon") - mlp.parameters.nbytes
        memory = {"budget": case["limit"] - floor - 2 * MIB}
    elif case["limit"]:
        memory = {"ram": case["limit"]}
    trainer = lm.Trainer(mlp, optimizer, batch_size=case["batch"], **memory)
    times, begin = [], [perf_counter()]

    def on_step(done: int, count: int) -> None:
        times.append(perf_counter() - begin[0])
        begin[0] = perf_counter()
        if len(times) == case.get("steps"):
            raise EnoughError

    validation = lm.open_data(data, targets, part="test") if case["name"] == "mnist" else None
    epoch = None
    try:
        for epoch in trainer.epochs(stream, case.get("epochs", 1000), validation, on_step=on_step):
            print(epoch, file=sys.stderr, flush=True)
    except EnoughError:
        pass
    return {
        "peak_bytes": resident_peak(),
        "anonymous_bytes": status("RssAnon"),
        "plan_bytes": trainer.plan.peak_bytes,
        "flop_factor": trainer.plan.flop_factor,
        "steps": len(times),
        "step_seconds": float(np.median(times[1:])),
        "epoch_seconds": None if epoch is None else epoch.seconds,
        "accuracy": None if epoch is None else epoch.accuracy,
        "loss": None if epoch is None else epoch.loss,
    }


def status(name: str) -> int:
    """Return a size of this process, as the system tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def group_of(limit: int) -> Iterator[Path | None]:
    """Make a control group for a child below this process's own, where that is allowed; None elsewhere."""
    made = None
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        base = "/sys/fs/cgroup" if not controllers else "/sys/fs/cgroup/memory"
        file = "memory.max" if not controllers else "memory.limit_in_bytes"
        if controllers in ("", "memory") and Path(f"{base}{path}", file).exists():
            made = Path(f"{base}{path}", f"lowmem-{os.getpid()}")
            try:
                made.mkdir()
                (made / file).write_text(str(limit))
                break
            except OSError:
                made = None
    try:
        yield made
    finally:
        if made is not None:
            made.rmdir()


def limited(case: Case, how: str) -> Case:
    """Run a case in a process of its own under its limit."""
    limit, held = case["limit"], "data" if how == "auto" else how
    if limit and how in ("auto", "group"):
        with group_of(limit) as group:
            if group is not None:
                join = group / "cgroup.procs"
                return one(case | {"how": "group"}, lambda: join.write_text(str(os.getpid())))
        if how == "group":
            raise SystemExit("no control group can be made here; try --limit data")
    return one(case | {"how": held if limit else "none"}, None)


def one(case: Case, before: Any) -> Case:  # noqa: ANN401 - what the child does first
    """Run a case in a fresh process and return what it prints."""
    command = [sys.executable, "-m", "scripts.train_in_little", "--case", json.dumps(case)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=before, check=False
    )
    if done.returncode:
        return {"held": case["how"], "failed": done.returncode}
    result: Case = json.loads(done.stdout.splitlines()[-1])
    return {"held": case["how"], **result}


def main() -> None:
    """Run all cases, or one in this process."""
    parser = argparse.ArgumentParser(description="Train for real in little memory.")
    parser.add_argument("--quick", action="store_true", help="small data and networks, to see that it works")
    parser.add_argument("--limit", default="auto", choices=("auto", "group", "data", "peak"), help="how it is held")
    parser.add_argument("--folder", type=Path, help="where data files are made (a temporary folder)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(train(json.loads(arguments.case))))
        return
    failed, base = False, None
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for case in cases(Path(folder), arguments.quick):
            result = limited(case, arguments.limit)
            failed |= "failed" in result
            if case["name"].startswith("deep") and "failed" not in result:
                base = base or result["step_seconds"]
                result["times_storing_everything"] = result["step_seconds"] / base
            limit = case["limit"]
            if limit and "failed" not in result:
                counted = "anonymous_bytes" if case.get("count") else "peak_bytes"
                result["within"] = result[counted] <= limit
                failed |= not result["within"]
            print(json.dumps({"case": case["name"], "limit": limit, **result}), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
