"""lowmem's scikit-learn estimators beside scikit-learn's own MLP: what they learn, how long it takes, how much memory.

First, scikit-learn's own data and a synthetic set like its California housing (which it would have to download): the
same settings, splits and seeds, the score on held-out samples. Each fit has a fresh process, the two libraries take
turns. Time is the processor's, of the fit alone. Memory is what Python and NumPy allocate (tracemalloc) in a second
fit, of one epoch, libraries loaded and data in place: such networks are too small for resident memory to tell.

Then a network of 200 hidden layers of 256, in batches of 2048: the peak of the whole process, from its start on.

Needs scikit-learn (`pip install -e ".[sklearn]"`). Run from the repository's root:
python -m scripts.compare_sklearn --threads 1 [--brief] [--quick]
"""

import gc
import importlib
import tracemalloc
import warnings
from collections.abc import Mapping
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowmem.common.process_memory import resident
from lowmem.measure.memory import resident_peak
from scripts.measuring import Case, in_fresh_process, note, run_script

Array = NDArray[Any]

SEEDS, BRIEF_SEEDS = 5, 2
DATA: dict[str, Case] = {
    "digits": {"kind": "MLPClassifier", "settings": {"hidden_layer_sizes": [100]}},
    "digits, float32": {"kind": "MLPClassifier", "settings": {"hidden_layer_sizes": [100]}},
    "breast cancer": {"kind": "MLPClassifier", "settings": {"hidden_layer_sizes": [100]}},
    "diabetes": {"kind": "MLPRegressor", "settings": {"hidden_layer_sizes": [100], "alpha": 10.0}},
    "like California": {
        "kind": "MLPRegressor",
        "settings": {"hidden_layer_sizes": [64, 64], "early_stopping": True, "batch_size": 128},
    },
}
DEEP: Case = {"hidden_layer_sizes": [256] * 200, "batch_size": 2048, "max_iter": 2, "random_state": 0}
LIMITS: list[tuple[str, str, str | None]] = [
    ("ours", "sgd", "66MiB"),
    ("ours", "sgd", None),
    ("theirs", "sgd", None),
    ("ours", "adam", "180MiB"),
    ("ours", "adam", None),
    ("theirs", "adam", None),
]
"""Library, solver ("sgd" without momentum: parameters are all that lasts) and memory limit of the deep network."""


def like_california(samples: int = 8000) -> tuple[Array, Array]:
    """Return eight features and a price that depends on them smoothly, with noise, and a cap as in the real data."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 8))
    x[:, 1] = np.exp(x[:, 1])  # skewed, as rooms and people in a household are
    place = np.sin(2 * x[:, 6]) * np.cos(x[:, 7]) + 0.5 * x[:, 6]
    y = 2 + 0.8 * x[:, 0] + 0.3 * np.log1p(x[:, 1]) - 0.4 * x[:, 2] * (x[:, 3] > 0) + place
    return x, np.clip(y + 0.3 * rng.standard_normal(samples), 0.15, 5.0)


def digits_like(samples: int = 4096) -> tuple[Array, Array]:
    """Return float32 samples of ten classes with 64 features, made without scikit-learn."""
    rng = np.random.default_rng(0)
    centres, y = rng.random((10, 64), np.float32), rng.integers(0, 10, samples)
    x = rng.standard_normal((samples, 64), np.float32)
    x *= 0.1
    x += centres[y]
    return x, y


def split_data(name: str, seed: int) -> tuple[Array, Array, Array, Array]:
    """Return standardised samples and targets to learn from, and those held out."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    loaders = {
        "digits": datasets.load_digits,
        "breast": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
    }
    loader = loaders.get(name.split(",")[0].split()[0])
    x, y = like_california() if loader is None else loader(return_X_y=True)
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)
    if name.endswith("float32"):
        x = x.astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=seed)
    return x_train, y_train, x_test, y_test


def estimator(case: Case, **changes: Any) -> Any:  # noqa: ANN401 - of either library
    """Return the case's estimator."""
    home = importlib.import_module("lowmem.sklearn" if case["library"] == "ours" else "sklearn.neural_network")
    return getattr(home, case["kind"])(**case["settings"] | changes)


def fit(model: Any, x: Array, y: Array) -> Case:  # noqa: ANN401 - of either library
    """Fit and return what it took."""
    gc.collect()
    begin, processor = perf_counter(), process_time()
    model.fit(x, y)
    return {
        "seconds": perf_counter() - begin,
        "cpu_seconds": process_time() - processor,
        "epochs": model.n_iter_,
        "loss": model.loss_,
    }


def allocated(model: Any, x: Array, y: Array) -> int:  # noqa: ANN401 - of either library
    """Return the most bytes that are allocated during a fit above what was before."""
    gc.collect()
    tracemalloc.start()
    model.fit(x, y)
    return tracemalloc.get_traced_memory()[1]


def measure(case: Case) -> Case:
    """Measure one fit in this process."""
    warnings.simplefilter("ignore")  # most fits end at max_iter, in both libraries
    if "data" not in case:
        return measure_deep(case)
    x, y, x_test, y_test = split_data(case["data"], case["seed"])
    estimator(case, max_iter=2).fit(x[:300], y[:300])
    model = estimator(case, random_state=case["seed"])
    found = fit(model, x, y) | {"score": model.score(x_test, y_test), "features": x.shape[1], "samples": len(x)}
    return found | {"allocated_bytes": allocated(estimator(case, max_iter=1), x, y)}


def measure_deep(case: Case) -> Case:
    """Measure the deep network; the process's peak from its start on is what counts."""
    model = estimator(case)
    imported = resident()
    x, y = digits_like()
    begin = process_time()
    model.fit(x, y)
    found = {"peak_bytes": resident_peak(), "imported_bytes": imported, "cpu_seconds": process_time() - begin}
    if case["library"] == "ours":
        found |= {"promised_bytes": model.plan_.peak_bytes, "flop_factor": model.plan_.flop_factor}
    return found | {"losses": model.loss_curve_}


def everything(quick: bool, environment: Mapping[str, str], brief: bool = False) -> list[Case]:
    """Run all fits, libraries in turns, and return their records."""
    records = []
    for name, settings in DATA.items():
        for seed in range(1 if quick else BRIEF_SEEDS if brief else SEEDS):
            for library in ("ours", "theirs"):
                case = settings | {"data": name, "seed": seed, "library": library}
                found = in_fresh_process("scripts.compare_sklearn", case, environment)
                note(f"{name}, seed {seed}, {library}: {found['score']:.4f} in {found['cpu_seconds']:.2f} s")
                records.append(case | found)
    for library, solver, limit in LIMITS[:1] if quick else LIMITS:
        deep = DEEP | {"solver": solver, "momentum": 0.0}
        if library == "ours":
            deep["memory_limit"] = limit
        case = {"library": library, "kind": "MLPClassifier", "settings": deep}
        found = in_fresh_process("scripts.compare_sklearn", case, environment)
        note(f"200 x 256, {library}, {solver}, {limit}: {found['peak_bytes'] / 1e6:.1f} MB")
        records.append(case | found)
    return records


if __name__ == "__main__":
    run_script(
        "Compare lowmem's estimators with scikit-learn's MLP.",
        "compare_sklearn",
        measure,
        everything,
        ("numpy", "scikit-learn", "scipy"),
        brief=f"{BRIEF_SEEDS} seeds of {SEEDS}",
    )
