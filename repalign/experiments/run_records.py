"""Reading the record of an experiment: its runs by condition and seed, their curves and values.

An experiment is one JSON-able mapping: conditions (aligned, baseline, controls), each trained with
the same seeds, and per run its clean accuracy and the rows of its robustness curves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Experiment = Mapping[str, Any]


def finite(value: Any) -> float:
    """Return a number as float, and NaN for None or anything that is no finite number."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else math.nan


def runs_of(experiment: Experiment, condition: str) -> dict[int, Mapping[str, Any]]:
    """Return the runs of a condition by seed, at the λ that its entry names if it names one.

    Raises:
        ValueError: two runs of one condition, λ and seed.

    Example:
        >>> runs = [{"condition": "baseline", "seed": 3, "lambda": 0.0}]
        >>> list(runs_of({"runs": runs}, "baseline"))
        [3]
    """
    named = [one for one in experiment.get("conditions") or () if one["name"] == condition]
    wanted = finite(named[0].get("lambda")) if named else math.nan
    runs = [run for run in experiment.get("runs") or () if run["condition"] == condition]
    at_wanted = [run for run in runs if finite(run.get("lambda")) == wanted]
    found: dict[int, Mapping[str, Any]] = {}
    for run in at_wanted or runs:
        if run["seed"] in found:
            raise ValueError(
                f"two runs of condition {condition!r} have seed {run['seed']}; expected one run a "
                "condition and seed. Runs at other λ belong into 'dose', checkpoints of one run "
                "are no runs of their own."
            )
        found[run["seed"]] = run
    return dict(sorted(found.items()))


def attacks_of(experiment: Experiment) -> list[tuple[str, str]]:
    """Return (attack, norm) of all curves, in the order of the first runs."""
    rows = (row for run in experiment.get("runs") or () for row in run.get("curves") or ())
    return list(dict.fromkeys((row["attack"], row["norm"]) for row in rows))


def curve_label(attack: str | None, norm: str | None) -> str:
    """Return how text names a curve, as in "PGD-20 Linf"."""
    return f"{attack} {norm}"


def curve_of(run: Mapping[str, Any], attack: str, norm: str) -> dict[float, Mapping[str, Any]]:
    """Return the rows of one curve of a run by ε, in ascending order."""
    rows = (r for r in run.get("curves") or () if (r["attack"], r["norm"]) == (attack, norm))
    return dict(sorted((float(row["eps"]), row) for row in rows))


def auc_of(run: Mapping[str, Any], attack: str, norm: str) -> float:
    """Return the area under one curve of a run, NaN where there is none."""
    return next((finite(row.get("auc")) for row in curve_of(run, attack, norm).values()), math.nan)


def titles_of(experiment: Experiment) -> dict[str, str]:
    """Return condition → title, in the order of the conditions; runs may add to them."""
    conditions = experiment.get("conditions") or ()
    named = {one["name"]: str(one.get("title") or one["name"]) for one in conditions}
    return named | {
        run["condition"]: str(run["condition"])
        for run in experiment.get("runs") or ()
        if run["condition"] not in named
    }


def moments(values: Iterable[Any]) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values, NaN of too few."""
    kept = [value for value in map(finite, values) if math.isfinite(value)]
    mean = float(np.mean(kept)) if kept else math.nan
    return mean, float(np.std(kept, ddof=1)) if len(kept) > 1 else math.nan


def masking_by_condition(experiment: Experiment) -> dict[str, bool | None]:
    """Return per condition whether all its audited runs passed; None if none was audited."""
    found: dict[str, list[Any]] = {}
    for run in experiment.get("runs") or ():
        found.setdefault(run["condition"], []).append((run.get("masking") or {}).get("passed"))
    return {
        name: False if False in passed else True if True in passed else None
        for name, passed in found.items()
    }
