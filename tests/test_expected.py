"""Advice on memory counts the data: the first number that a refusal names works, data and all."""

import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowmem as lm
from lowmem.cli import main, train
from lowmem.measure.expected import Expected, Made, plan_counting
from lowmem.planning.choose import plan_for, request_of
from lowmem.planning.request import PlanRequest
from lowmem.training import step_memory
from tests.test_cli import ROOT, Ran

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((600, 40)), RNG.integers(0, 3, 600)
NAMES = np.array(["no", "so", "all"])
ADVISED = r"(?:Give|With ram,|Try budget=\"|Try --budget) ?\"?([\d.]+ ?[KMGk]?i?B)"


def advised(text: str) -> str:
    """Return the size that a refusal names."""
    named = re.search(ADVISED, text)
    assert named is not None, text
    return named[1]


def npz(folder: Path) -> lm.Stream:
    np.savez(folder / "a.npz", x=X, y=Y)
    return lm.open_data(folder / "a.npz")


def text(folder: Path) -> lm.Stream:
    lines = (",".join([*map(repr, row), str(NAMES[label])]) for row, label in zip(X.tolist(), Y, strict=True))
    (folder / "a.csv").write_text("\n".join(lines))
    return lm.open_data(folder / "a.csv", standardise=True)


def wide_parquet(path: Path, rows: int, columns: int, group: int) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = RNG.standard_normal((columns, rows), np.float32)
    table = {f"x{n}": column for n, column in enumerate(values)} | {"y": RNG.integers(0, 3, rows)}
    parquet.write_table(pyarrow.table(table), path, row_group_size=group)


def parquet(folder: Path) -> lm.Stream:
    wide_parquet(folder / "a.parquet", 600, 40, 100)
    return lm.open_data(folder / "a.parquet")


@pytest.mark.parametrize("make", [npz, text, parquet])
@pytest.mark.parametrize("engine", ["numpy", None])
@pytest.mark.parametrize("told", [True, False], ids=["expected", "open"])
def test_the_budget_that_a_trainer_names_has_room_for_the_data(
    tmp_path: Path, make: Any, engine: str | None, told: bool
) -> None:
    train, held_out = make(tmp_path).split(0.2)
    mlp = lm.MLP(lm.Architecture((40, *[24, 9, 17] * 3, 3)))
    options: dict[str, Any] = {"batch_size": 70, "engine": engine}
    options["expected"] = Expected(train, held_out, patience=True) if told else None
    with pytest.raises(lm.BudgetError) as error:
        lm.Trainer(mlp, "adam", budget=1, **options)
    trainer = lm.Trainer(mlp, "adam", budget=error.value.minimum, **options)
    list(trainer.epochs(train, 1, held_out, patience=2 if told else None))
    if told:
        with pytest.raises(lm.BudgetError):
            lm.Trainer(mlp, "adam", budget=error.value.minimum - 1, **options)


def test_a_trainer_that_knows_its_data_plans_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = npz(tmp_path).split(0.2)
    trainer = lm.Trainer(
        lm.MLP(lm.Architecture((40, 9, 3))), batch_size=70, budget="4MB", expected=Expected(train, held_out)
    )
    planned = trainer.plan
    list(trainer.epochs(train, 1, held_out))
    assert trainer.plan is planned


PLANS = {
    "plain": ["--budget", "60% of activations"],
    "numpy": ["--budget", "60% of activations", "--engine", "numpy", "--clip-norm", "1"],
    "patient": ["--budget", "60% of activations", "--patience", "1", "--class-weights", "balanced"],
    "disk": ["--budget", "300KB", "--disk", "{}", "--micro-batch", "32"],
    "free": [],
}


@pytest.mark.parametrize("flags", PLANS.values(), ids=list(PLANS))
def test_a_command_plans_before_memory_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    traced = []

    def noting(request: PlanRequest) -> lm.Plan:
        traced.append(tracemalloc.is_tracing())
        return plan_for(request)

    for module in (train, step_memory):
        monkeypatch.setattr(module, "plan_for", noting)
    network = ["--data", "digits", "--layers", "6", "--width", "24", "--batch", "32", "--epochs", "1"]
    assert main(["train", *network, *(flag.format(tmp_path) for flag in flags)]) == 0
    assert traced
    assert not any(traced)


def test_a_plan_that_a_trainer_would_not_make_is_not_taken() -> None:
    samples, arch = lm.open_data("digits"), lm.Architecture((64, *[24] * 6, 10))

    def planned(counted: int, **options: Any) -> Made:
        request = request_of(lm.MLP(arch), 32, "420KB", "sgd", batch_buffers=counted, odd_batches=True, **options)
        return Made(request, plan_for(request))

    def trained(made: Made | None, **options: Any) -> lm.Plan:
        expected = Expected(samples, made=made)
        return lm.Trainer(lm.MLP(arch), "sgd", batch_size=32, budget="420KB", expected=expected, **options).plan

    usual = trained(None)
    counted = Expected(samples).bytes_with(usual, 0)
    taken = trained(planned(counted + 1000))
    assert taken.peak_bytes == usual.peak_bytes + 1000
    assert trained(planned(counted - 1)) == usual
    for other in ({"micro_batch": 16}, {"strategy": "revolve"}, {"engine": "numpy"}):
        assert trained(planned(counted, **other)) == usual
    assert trained(planned(counted), micro_batch=16).micro_batch == 16


def test_a_refused_command_names_a_budget_that_works_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    flags = ["train", "--data", str(tmp_path / "a.npz"), "--layers", "9", "--width", "20", "--batch", "64"]
    flags += ["--epochs", "2", "--patience", "2", "--no-calibrate"]
    ran = Ran(capsys, *flags, "--budget", "10KB")
    assert ran.code == 2
    budget = advised(ran.err)
    saved = str(tmp_path / "run")
    assert Ran(capsys, *flags, "--budget", budget, "--save", saved).code == 0
    ran = Ran(capsys, "resume", saved, "--epochs", "3", "--budget", "10KB")
    assert ran.code == 2
    assert Ran(capsys, "resume", saved, "--epochs", "3", "--budget", advised(ran.err)).code == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_the_first_cap_named_has_room_for_the_readers_of_a_wide_table(tmp_path: Path) -> None:
    wide_parquet(tmp_path / "wide.parquet", 2000, 700, 500)
    flags = ["train", "--data", "wide.parquet", "--layers", "1", "--width", "8", "--batch", "512", "--epochs", "1"]

    def trained(cap: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "lowmem", *flags, "--no-calibrate", "--ram", cap]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    refused = trained("1MB")
    assert refused.returncode == 2
    done = trained(advised(refused.stderr))
    assert done.returncode == 0, done.stderr


def test_a_plan_counts_what_the_data_take_with_this_very_plan() -> None:
    """The plan of the least memory has more ops than others; what is kept for each op decides whether it fits."""
    arch = lm.Architecture((30, *[20, 7, 31, 12] * 6, 3))

    def make(budget: int, beside: int) -> lm.Plan:
        return lm.plan(arch, 50, budget, batch_buffers=beside, engine="numpy")

    def needs(plan: lm.Plan) -> int:
        return 160 * len(plan.schedule)

    with pytest.raises(lm.BudgetError) as error:
        plan_counting(lambda beside: make(1, beside), make, needs)
    least = error.value.minimum
    for budget in (least, least + 200, int(1.1 * least), int(1.5 * least)):
        plan = plan_counting(lambda beside, budget=budget: make(budget, beside), make, needs)  # type: ignore[misc]
        alone = lm.plan(arch, 50, engine="numpy", strategy=plan.schedule).peak_bytes
        assert plan.peak_bytes <= budget
        assert plan.peak_bytes >= alone + needs(plan)
