"""Estimators for scikit-learn: `MLPClassifier` and `MLPRegressor`, its parameters, and a memory limit that is kept.

Needs the extra: `pip install lowmem[sklearn]`. Imported before scikit-learn itself, it makes the process about 35 MiB
smaller, see `lowmem.sklearn._light`.
"""

from lowmem.sklearn import _light

_light.postpone("scipy.stats", before="sklearn")

try:
    from lowmem.sklearn._estimators import MLPClassifier, MLPRegressor
except ModuleNotFoundError as problem:
    if problem.name is None or problem.name.split(".")[0] not in ("sklearn", "scipy", "joblib"):
        raise
    raise ModuleNotFoundError(
        f"lowmem.sklearn needs scikit-learn 1.9 or newer ({problem}). Install it: pip install 'lowmem[sklearn]'.",
        name=problem.name,
    ) from None

__all__ = ["MLPClassifier", "MLPRegressor"]
