"""Estimators for scikit-learn: `MLPClassifier` and `MLPRegressor` with scikit-learn's parameters and a memory limit.

They need the extra `pip install lowmem[sklearn]`. If this package is imported before scikit-learn, the process takes
about 35 MiB less, see `lowmem.sklearn._light`.
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
