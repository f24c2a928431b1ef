"""Changes of alignment from one training to another, with what is known of their error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from repalign.experiments.paired_tests import sign_flip_p, smallest_sign_flip_p, t_interval

SMALLEST_GAIN = 0.02  # a smaller change is none, however certain
CONFIDENCE = 0.95  # of the interval that a change must exceed

KEYS = ("layer", "region", "subject", "neuroids", "metric", "stimuli")
Row = Mapping[str, Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A paired change toward the recording, positive where it became more similar.

    Args:
        per_seed: the change of each seed.
        without: the change without each group of stimuli, seed × group; None where unknown.
    """

    per_seed: Floats
    without: Floats | None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.per_seed.mean())

    def _parts(self) -> list[tuple[float, int]]:
        """Squared standard errors over seeds and over stimuli, with their degrees of freedom."""
        parts = []
        n = len(self.per_seed)
        if n > 1:
            parts.append((float(self.per_seed.var(ddof=1)) / n, n - 1))
        if self.without is not None:
            groups = self.without.mean(0)
            spread = float(np.square(groups - groups.mean()).sum())
            parts.append(((len(groups) - 1) / len(groups) * spread, len(groups) - 1))
        return parts

    @property
    def error(self) -> float:
        """Standard error over seeds and stimuli: √(sd²/n + jackknife error over stimuli²).

        With one seed that of the stimuli alone, and where there are too few stimuli that of the
        seeds alone; NaN where neither is known.
        """
        parts = self._parts()
        return math.sqrt(sum(part for part, _ in parts)) if parts else math.nan

    @property
    def reach(self) -> float:
        """Half the width of its 95 % interval; infinite where the error is unknown.

        t · error, t of Student's distribution with Satterthwaite's degrees of freedom,
        (Σ e²)² / Σ (e⁴ / df), so that few seeds count as the few they are.
        """
        error = self.error
        if math.isnan(error):
            return math.inf
        weight = sum(part**2 / freedom for part, freedom in self._parts())
        if weight == 0:
            return 0.0
        return float(student_t.ppf((1 + CONFIDENCE) / 2, error**4 / weight)) * error

    @property
    def threshold(self) -> float:
        """What the change must exceed to count."""
        return max(SMALLEST_GAIN, self.reach)

    @property
    def rose(self) -> bool:
        """Whether it became more similar, beyond its error and by what matters."""
        return self.mean > self.threshold

    @property
    def fell(self) -> bool:
        """Whether it became less similar, beyond its error and by what matters."""
        return self.mean < -self.threshold

    def may_reach(self, value: float) -> bool:
        """Whether its 95 % interval leaves room for a change of ``value``."""
        return self.mean + self.reach >= value


def pooled(changes: Iterable[Change | None]) -> Change | None:
    """Return the mean of the changes that are defined, seed by seed; None where there is none.

    Jackknife groups of the same number are taken as the same stimuli; where numbers differ the
    stimuli's error is left out.
    """
    known = [change for change in changes if change is not None]
    if not known:
        return None
    sizes = {None if change.without is None else change.without.shape for change in known}
    without = None
    if len(sizes) == 1 and sizes != {None}:
        without = np.mean([change.without for change in known if change.without is not None], 0)
    return Change(np.mean([change.per_seed for change in known], axis=0), without)


def rows_by_key(run: Row) -> dict[tuple[Any, ...], Row]:
    """Return a run's alignment rows by what they measure.

    Raises:
        ValueError: a run without rows, a row that lacks a field, or one that stands twice.
    """
    found: dict[tuple[Any, ...], Row] = {}
    rows: Sequence[Row] = run.get("alignment") or ()
    where = f"run {run.get('condition')!r}, seed {run.get('seed')!r}"
    if not rows:
        raise ValueError(f"{where} has no alignment rows; make them with alignment_panel")
    for row in rows:
        missing = [name for name in (*KEYS, "trained_metric", "value") if name not in row]
        if missing:
            raise ValueError(f"{where}: a row has no {missing[0]!r}; see AlignmentPanel.rows")
        key = tuple(row[name] for name in KEYS)
        if key in found:
            raise ValueError(f"{where}: {dict(zip(KEYS, key, strict=True))} stands twice")
        found[key] = row
    return found


def _above_null(row: Row) -> float:
    value = row.get("above_null", row["value"])
    return math.nan if value is None else float(value)


def change_between(before: Sequence[Row], after: Sequence[Row]) -> Change | None:
    """Return the change from rows to rows of the same seeds, or None where one is undefined."""
    sign = -1.0 if after[0].get("is_distance", False) else 1.0
    per_seed = [
        sign * (_above_null(b) - _above_null(a)) for a, b in zip(before, after, strict=True)
    ]
    if not np.isfinite(per_seed).all():
        return None
    groups = [row.get("without") or () for row in (*before, *after)]
    lengths = {len(one) for one in groups}
    without = None
    if len(lengths) == 1 and lengths != {0}:
        array = np.array(groups, dtype=float)
        without = sign * (array[len(before) :] - array[: len(before)])
        without = without if np.isfinite(without).all() else None
    return Change(np.array(per_seed), without)


def table_row(condition: str, before: Sequence[Row], after: Sequence[Row]) -> dict[str, Any]:
    """Return one row of the audit's table: a change with its spread, interval and sign-flip p."""
    found = change_between(before, after)
    seeds = list(found.per_seed) if found is not None else []
    low, high = t_interval(seeds)
    numbers = {
        "before": _mean(before),
        "after": _mean(after),
        "change": math.nan if found is None else found.mean,
        "sd": float(np.std(seeds, ddof=1)) if len(seeds) > 1 else math.nan,
        "low": low,
        "high": high,
        "error": math.nan if found is None else found.error,
        "reach": math.nan if found is None else found.reach,
        "p": sign_flip_p(seeds) if len(seeds) > 1 else math.nan,
        "smallest_p": smallest_sign_flip_p(len(seeds)) if len(seeds) > 1 else math.nan,
    }
    first = after[0]
    return {
        "condition": condition,
        **{name: first[name] for name in KEYS},
        "trained_metric": bool(first["trained_metric"]),
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "rose": found is not None and found.rose,
        "fell": found is not None and found.fell,
        "n_seeds": len(after),
        "ceiling": first.get("ceiling"),
        "n_stimuli": first.get("n_stimuli"),
        "n_neuroids": first.get("n_neuroids"),
        "note": first.get("note", ""),
    }


def _mean(rows: Sequence[Row]) -> float:
    values = [math.nan if row["value"] is None else float(row["value"]) for row in rows]
    return float(np.mean(values))
