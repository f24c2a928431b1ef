"""Tidy tables of what was found: one row a model, a test, a pair of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from repalign.evidence.materials import Region
from repalign.evidence.plans import Plan
from repalign.evidence.resampled import Scored, known
from repalign.evidence.testing import Tested, pair_indices
from repalign.evidence.verdicts import corrected, verdict
from repalign.inference import (
    Interval,
    bca_intervals,
    percentile_intervals,
    t_intervals,
)
from repalign.metrics import Metric


@dataclass(frozen=True)
class Named:
    """A model as tables name it."""

    name: str
    model: str
    layer: str | None


@dataclass(frozen=True)
class RegionFound:
    """All that was found of one region."""

    region: Region
    scored: Scored
    tests: list[Tested]


@dataclass(frozen=True)
class Tables:
    """The three tables of an inference."""

    table: pd.DataFrame
    tests: pd.DataFrame
    pairs: pd.DataFrame


def intervals_of(
    values: Tensor,
    variances: Tensor,
    resampled: Tensor,
    left_out: Tensor | None,
    scored: Scored,
    plan: Plan,
) -> list[Interval]:
    """Confidence intervals of the kind that was asked for."""
    kind = f"{plan.method} over {plan.over}"
    if plan.interval == "percentile":
        return percentile_intervals(resampled, confidence=plan.confidence, kind=kind)
    if plan.interval == "bca" and left_out is not None:
        return bca_intervals(resampled, values, left_out, confidence=plan.confidence, kind=kind)
    return t_intervals(
        values,
        variances,
        degrees_of_freedom=scored.variances.degrees_of_freedom,
        n_resamples=len(resampled),
        confidence=plan.confidence,
        kind=kind,
    )


def make_tables(
    found: Sequence[RegionFound], models: Sequence[Named], metric: Metric, plan: Plan
) -> Tables:
    """Rows of all regions, whose p values are corrected together, one family a hypothesis."""
    tests = _tests(found, models, plan)
    by_model: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for test in tests:
        by_model.setdefault(_key(test), {})[test["hypothesis"]] = test
    known_tests = dict.fromkeys(test["hypothesis"] for test in tests)
    rows: list[dict[str, Any]] = []
    for row in (row for one in found for row in _rows(one, models, plan)):
        of_row = by_model.get(_key(row), {})
        for hypothesis in known_tests:
            for column in TOLD:
                row[PREFIXES[hypothesis] + column] = of_row.get(hypothesis, {}).get(column)
        said = [of_row[name]["verdict"] for name in known_tests if name in of_row]
        rows.append({**row, "verdict": "; ".join(said) or "not tested"})
    return Tables(
        pd.DataFrame(rows),
        pd.DataFrame(tests, columns=None if tests else TEST_COLUMNS),
        _pairs(found, models, metric, plan),
    )


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["dataset"], row["species"], row["region"], row["name"]


WHERE = ("dataset", "species", "region")
PREFIXES = {"chance": "", "labels": "labels_", "ceiling": "ceiling_"}  # of columns in the table
TOLD = ["p", "p_error", "p_corrected", "p_corrected_error", "smallest_p", "test"]  # in the table
P_COLUMNS = [*TOLD, "n_draws"]
TEST_COLUMNS = [*WHERE, "name", "hypothesis", "effect", *P_COLUMNS, "verdict"]
PAIR_COLUMNS = [*WHERE, "first", "second", "difference", "low", "high", *P_COLUMNS, "verdict"]


def _where(one: RegionFound) -> dict[str, str]:
    return dict(
        zip(WHERE, (one.region.dataset, one.region.species, one.region.region), strict=True)
    )


def _rows(one: RegionFound, models: Sequence[Named], plan: Plan) -> list[dict[str, Any]]:
    scored, resampled = one.scored, one.scored.resampled
    intervals = intervals_of(
        scored.values, scored.variances.models, resampled.models, scored.left_out, scored, plan
    )
    bounds = [
        _ceiling_interval(scored, i, value, plan)
        for i, value in enumerate((scored.lower, scored.upper))
    ]
    rows = []
    for i, (model, interval) in enumerate(zip(models, intervals, strict=True)):
        rows.append(
            {
                **_where(one),
                "name": model.name,
                "model": model.model,
                "layer": model.layer,
                "value": float(scored.values[i]),
                "low": known(interval.low),
                "high": known(interval.high),
                "chance": None if scored.chance is None else float(scored.chance.mean(0)[i]),
                "ceiling_kind": scored.ceiling,
                "ceiling_lower": scored.lower,
                "ceiling_lower_low": bounds[0][0],
                "ceiling_lower_high": bounds[0][1],
                "ceiling_upper": scored.upper,
                "ceiling_upper_low": bounds[1][0],
                "ceiling_upper_high": bounds[1][1],
                "interval": interval.kind,
                "n_subjects": len(one.region.brains),
                "n_stimuli": len(one.region.brains[0].ids),
                "n_resamples": interval.n_resamples,
            }
        )
    return rows


def _ceiling_interval(
    scored: Scored, which: int, value: float | None, plan: Plan
) -> tuple[float | None, float | None]:
    """The t interval of a ceiling, or that of its percentiles where those were asked for."""
    variance = scored.ceiling_variances[which]
    if value is None or not bool(variance.isfinite()):
        return None, None
    resampled = (scored.resampled.lower, scored.resampled.upper)[which]
    if plan.interval == "t":
        found = t_intervals(
            torch.tensor([value], dtype=torch.float64),
            variance[None],
            degrees_of_freedom=scored.variances.degrees_of_freedom,
            n_resamples=len(resampled),
            confidence=plan.confidence,
        )[0]
    else:
        found = percentile_intervals(resampled[:, None], confidence=plan.confidence, kind="")[0]
    return known(found.low), known(found.high)


def _tests(
    found: Sequence[RegionFound], models: Sequence[Named], plan: Plan
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for hypothesis in ("chance", "labels", "ceiling"):
        families = [
            (one, test) for one in found for test in one.tests if test.hypothesis == hypothesis
        ]
        adjusted, least = corrected([test for _, test in families], plan)
        for (one, test), numbers in zip(families, adjusted, strict=True):
            n = _units(one, plan)
            for i, model in enumerate(models):
                own, effect = numbers.of(i), float(test.effects[i])
                rows.append(
                    {
                        **_where(one),
                        "name": model.name,
                        "hypothesis": hypothesis,
                        "effect": effect,
                        **own,
                        **_how(test),
                        "verdict": verdict(hypothesis, effect, own["p_corrected"], least, plan, n),
                    }
                )
    return rows


def _units(one: RegionFound, plan: Plan) -> int:
    return len(one.region.brains) if plan.over != "stimuli" else len(one.region.brains[0].ids)


def _how(test: Tested) -> dict[str, Any]:
    return {
        "smallest_p": test.significance.smallest_p,
        "test": test.significance.kind,
        "n_draws": test.significance.n_draws,
    }


def _pairs(
    found: Sequence[RegionFound], models: Sequence[Named], metric: Metric, plan: Plan
) -> pd.DataFrame:
    families = [(one, test) for one in found for test in one.tests if test.hypothesis == "pairs"]
    adjusted, least = corrected([test for _, test in families], plan)
    first, second = pair_indices(len(models))
    rows: list[dict[str, Any]] = []
    for (one, test), numbers in zip(families, adjusted, strict=True):
        scored, resampled = one.scored, one.scored.resampled.models
        left_out = scored.left_out
        intervals = intervals_of(
            test.effects,
            scored.variances.differences[first, second],
            resampled[:, first] - resampled[:, second],
            None if left_out is None else left_out[:, first] - left_out[:, second],
            scored,
            plan,
        )
        for i, (a, b) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            own = numbers.of(i)
            better = float(test.effects[i]) * (1 if metric.higher_is_more_similar else -1)
            said = verdict("pairs", better, own["p_corrected"], least, plan, _units(one, plan))
            winner = {"first": models[a].name, "second": models[b].name}.get(said)
            rows.append(
                {
                    **_where(one),
                    "first": models[a].name,
                    "second": models[b].name,
                    "difference": float(test.effects[i]),
                    "low": known(intervals[i].low),
                    "high": known(intervals[i].high),
                    **own,
                    **_how(test),
                    "verdict": f"{winner} is more similar" if winner else said,
                }
            )
    return pd.DataFrame(rows, columns=None if rows else PAIR_COLUMNS)
