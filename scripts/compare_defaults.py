"""Train with no flag but the file, and compare with scikit-learn's MLP with its defaults.

Five data sets of scikit-learn are written by pandas as CSV and as Parquet. `lowmem train --data FILE --epochs 30`
holds out a fifth of the rows; scikit-learn is trained on the other rows, with and without a StandardScaler before it,
and scored on the same fifth: accuracy, or R² where the target is a number.

Run from the repository's root: python -m scripts.compare_defaults [--json FILE] [flags for lowmem train]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import lowmem as lm
from lowmem.common.tables import Table
from lowmem.data.open import load
from lowmem.data.split import split
from lowmem.training.saved_run import open_run

DATA = ("iris", "wine", "breast_cancer", "digits", "diabetes")
EPOCHS = 30


def written(name: str, folder: Path) -> list[Path]:
    """Write a data set as pandas does, with its defaults but the index, and return the files."""
    from sklearn import datasets

    frame: Any = getattr(datasets, f"load_{name}")(as_frame=True).frame
    paths = [folder / f"{name}.csv", folder / f"{name}.parquet"]
    frame.to_csv(paths[0], index=False)
    frame.to_parquet(paths[1])
    return paths


def ours(path: Path, run: Path, flags: list[str]) -> float:
    """Train by the command, and return accuracy or R² on the rows that it held out."""
    command = [sys.executable, "-m", "lowmem", "train", "--data", str(path), "--epochs", str(EPOCHS)]
    done = subprocess.run([*command, "--save", str(run), *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{path.name}: {done.stderr.strip()}", file=sys.stderr)
        return float("nan")
    saved = open_run(run)
    stream = lm.open_data(path, columns=saved.columns, scale=saved.scale, standardise=saved.standardisation() or False)
    _, held_out = stream.split(0.2, 0)
    batches = held_out.batches(len(held_out), saved.architecture, None)
    (batch,) = batches.epoch(0)
    outputs = saved.network().predict(batch.x)
    if stream.labels:
        return float(np.mean(outputs.argmax(axis=1) == batch.y))
    return 1 - float(np.sum((outputs - batch.y) ** 2) / np.sum((batch.y - batch.y.mean()) ** 2))


def theirs(path: Path, *, scaled: bool) -> float:
    """Train scikit-learn's MLP with its defaults on the same rows, and return its score on the others."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    whole = load(path)
    train, rest = split(whole, 0.2, 0)
    network: Any = (MLPClassifier if whole.labels else MLPRegressor)(random_state=0)
    model: Any = make_pipeline(StandardScaler(), network) if scaled else network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that 200 epochs are few
        model.fit(whole.x[train], whole.y[train])
    return float(model.score(whole.x[rest], whole.y[rest]))


def main() -> None:
    """Compare on all data sets and formats, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments, flags = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in DATA:
            for path in written(name, Path(folder)):
                raw, scaled = (theirs(path, scaled=scaled) for scaled in (False, True))
                score = ours(path, path.with_suffix(".run"), flags)
                rows.append({"data": path.name, "lowmem": score, "scikit-learn": raw, "standardised": scaled})
    cells = [
        [row["data"], *(f"{row[name]:.3f}" for name in ("lowmem", "scikit-learn", "standardised"))] for row in rows
    ]
    for row, line in zip(rows, cells, strict=True):
        line.append(f"{100 * (row['lowmem'] - row['scikit-learn']):+.1f}")
    columns = ["data", "lowmem", "scikit-learn", "with StandardScaler", "points"]
    note = f"lowmem train --data FILE --epochs {EPOCHS}; accuracy, or R² of diabetes, on the same held-out rows."
    print(Table("defaults", columns, cells, note))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
