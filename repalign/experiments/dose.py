"""Dose and response: does robustness rise with λ, beyond what clean accuracy explains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from repalign.experiments.paired_tests import Floats
from repalign.experiments.run_records import Experiment, finite

ENUMERATED = 20_000  # permutations; beyond them they are drawn
DRAWN = 9_999
FEWEST_DOSES = 3
FEWEST_RUNS = 5  # a partial correlation of 4 runs has one degree of freedom


@dataclass(frozen=True, kw_only=True)
class DoseResponse:
    """How the area under the robustness curve depends on λ, or on the alignment reached.

    Args:
        by: "lambda" or "alignment".
        n_runs, n_seeds: independent runs, and seeds among them.
        doses: the distinct λ.
        spearman: rank correlation of the dose with AUC over runs.
        pearson: correlation of the dose's rank with AUC itself.
        p: of ``spearman``, by permuting doses within seeds, two-sided.
        partial: Spearman's partial correlation, with clean accuracy held constant.
        p_partial: of ``partial``, by permuting residuals within seeds.
        p_smallest: the smallest p that these runs could give.
        kind: how the permutations were made.
        reason: why values are NaN, or "".
    """

    by: str
    n_runs: int
    n_seeds: int
    doses: tuple[float, ...]
    spearman: float = math.nan
    pearson: float = math.nan
    p: float = math.nan
    partial: float = math.nan
    p_partial: float = math.nan
    p_smallest: float = math.nan
    kind: str = ""
    reason: str = ""


def dose_response(
    experiment: Experiment,
    *,
    condition: str = "aligned",
    by: str = "lambda",
    seed: int = 0,
) -> DoseResponse:
    """Return how robustness depends on the dose, with and without clean accuracy held constant.

    ``r_{da·c} = (r_da − r_dc·r_ac) / √((1 − r_dc²)(1 − r_ac²))`` of the ranks of dose d, AUC a and
    clean accuracy c. One run of one (λ, seed) is one unit; runs of the baseline are its λ = 0.

    Args:
        experiment: the record of the experiment, whose "dose" rows hold condition, lambda, seed,
            clean, auc and alignment.
        condition: whose rows.
        by: "lambda", or "alignment" for the alignment that each run reached.
        seed: seed of the permutations, where they are too many to be enumerated.

    Returns:
        A ``DoseResponse``; its values are NaN, with a reason, for fewer than 3 doses or 5 runs,
        and the partial one also where clean accuracy says all of the dose or of AUC.

    Raises:
        ValueError: another ``by``, or two rows with one λ and seed.

    Note:
        Permutations stay within seeds, so that seeds which differ as a whole say nothing. The
        partial p permutes residuals of AUC on clean accuracy.

    Example:
        >>> rows = [{"condition": "aligned", "lambda": dose, "seed": seed, "clean": 0.9 - noise,
        ...          "auc": 0.3 + dose / 10} for seed, noise in ((0, 0.01), (1, 0.02))
        ...         for dose in (0.0, 0.5, 1.0, 2.0)]
        >>> found = dose_response({"dose": rows})
        >>> found.n_runs, round(found.spearman, 3), round(found.p, 4)
        (8, 1.0, 0.0035)

    Reference:
        Freedman & Lane 1983, https://doi.org/10.1080/07350015.1983.10509354
    """
    if by not in ("lambda", "alignment"):
        raise ValueError(f"by is {by!r}; expected 'lambda' or 'alignment'.")
    rows = _rows(experiment, condition)
    units = [r for r in rows if all(math.isfinite(finite(r.get(k))) for k in (by, "auc"))]
    dose, area, clean = (
        np.array([finite(row.get(name)) for row in units]) for name in (by, "auc", "clean")
    )
    seeds = [row["seed"] for row in units]
    doses = tuple(sorted({finite(row.get("lambda")) for row in units}))
    facts: dict[str, Any] = {
        "by": by, "n_runs": len(units), "n_seeds": len(set(seeds)), "doses": doses,
    }  # fmt: skip
    if len(doses) < FEWEST_DOSES or len(units) < FEWEST_RUNS:
        reason = (
            f"{len(units)} runs at {len(doses)} values of λ; a dose–response needs "
            f"{FEWEST_RUNS} runs and {FEWEST_DOSES} values or more"
        )
        return DoseResponse(**facts, reason=reason)
    orders, kind = _permutations(seeds, seed)
    d, a = rankdata(dose), rankdata(area)
    value, p, least = _tested(d, a, orders)
    partial, p_partial, reason = math.nan, math.nan, ""
    if not np.isfinite(clean).all():
        reason = "no clean accuracy in some run, so none can be held constant"
    else:
        c = rankdata(clean)
        partial, p_partial, _ = _tested(_residual(d, c), _residual(a, c), orders, given=c)
        if math.isnan(partial):
            reason = "clean accuracy says all of the dose or of the robustness"
    return DoseResponse(
        **facts, spearman=value, pearson=_correlation(d, area), p=p, partial=partial,
        p_partial=p_partial, p_smallest=least, kind=kind, reason=reason,
    )  # fmt: skip


def _rows(experiment: Experiment, condition: str) -> list[Mapping[str, Any]]:
    """Rows of the condition, and of the baseline as its λ = 0 unless it has such rows itself."""
    rows = list(experiment.get("dose") or ())
    own = [row for row in rows if row["condition"] == condition]
    at_zero = {row["seed"] for row in own if finite(row["lambda"]) == 0}
    own += [r for r in rows if r["condition"] == "baseline" and r["seed"] not in at_zero]
    seen = set()
    for row in own:
        if (row["lambda"], row["seed"]) in seen:
            raise ValueError(
                f"two dose rows of {condition!r} have λ {row['lambda']} and seed {row['seed']}; "
                "expected one independent run each. Checkpoints of one run are not pooled: keep "
                "its last."
            )
        seen.add((row["lambda"], row["seed"]))
    return own


def _permutations(seeds: Sequence[int], seed: int) -> tuple[NDArray[np.intp], str]:
    """All orders of the runs that stay within their seeds, the given one first, or a draw."""
    places = [np.flatnonzero(np.array(seeds) == one) for one in dict.fromkeys(seeds)]
    total = math.prod(math.factorial(len(own)) for own in places)
    if total <= ENUMERATED:
        orders = np.empty((total, len(seeds)), dtype=np.intp)
        choices = itertools.product(*(itertools.permutations(own) for own in places))
        for row, choice in zip(orders, choices, strict=True):
            for own, new in zip(places, choice, strict=True):
                row[own] = new
        return orders, f"all {total} permutations within seeds"
    random = np.random.default_rng(seed)
    orders = np.tile(np.arange(len(seeds)), (DRAWN + 1, 1))
    for own in places:
        orders[1:, own] = random.permuted(np.tile(own, (DRAWN, 1)), axis=1)
    return orders, f"{DRAWN} random permutations within seeds"


def _tested(
    x: Floats, y: Floats, orders: NDArray[np.intp], *, given: Floats | None = None
) -> tuple[float, float, float]:
    """Correlation, its two-sided permutation p, and the smallest p of these runs."""
    x, moved = x - x.mean(), y[orders]
    if given is not None:  # what was permuted is made orthogonal to the control once more
        c = (given - given.mean()) / max(float(np.linalg.norm(given - given.mean())), 1e-300)
        moved = moved - moved.mean(1, keepdims=True)
        moved = moved - (moved @ c)[:, None] * c
    moved = moved - moved.mean(1, keepdims=True)
    lengths = np.linalg.norm(moved, axis=1) * np.linalg.norm(x)
    tiny = 1e-9 * len(x)
    if lengths[0] <= tiny:
        return math.nan, math.nan, math.nan
    values = np.where(lengths > tiny, moved @ x / np.where(lengths > tiny, lengths, 1.0), 0.0)
    size = np.abs(values)
    p = float((size >= size[0] - 1e-10).mean())
    return float(values[0]), p, float((size >= size.max() - 1e-10).mean())


def _residual(x: Floats, given: Floats) -> Floats:
    x, given = x - x.mean(), given - given.mean()
    length = float(given @ given)
    return x - (float(x @ given) / length) * given if length > 0 else x


def _correlation(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length > 0 else math.nan
