"""What comes of matching features to neuroids: who matches whom, how well, and what to conclude."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

LEVEL = 0.05  # of the error of naming any unit at all
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Matches:
    """Units of one side, each with its best partner on the other.

    Args:
        names: of the units.
        partner: number of each unit's best partner on all stimuli; −1 where the unit is constant.
        partner_names: their names.
        r: correlation with it on the same stimuli, which the choice inflates.
        held_out: correlation with the partner that the other folds choose, on the stimuli of each
            fold, averaged: 0 is expected of unrelated units.
        p: of ``r``, against the best of all partners when stimuli are permuted.
        q: ``p`` after Benjamini and Hochberg's correction over the units.
        p_family: of ``r``, against the best of all pairs when stimuli are permuted: the error of
            naming any unit at all.
        held_out_null: ``held_out`` when stimuli are permuted.
        density: share of the stimuli at which the unit is not 0.
    """

    names: tuple[str, ...]
    partner: Array
    partner_names: tuple[str, ...]
    r: Float[np.ndarray, " unit"]
    held_out: Float[np.ndarray, " unit"]
    p: Float[np.ndarray, " unit"]
    q: Float[np.ndarray, " unit"]
    p_family: Float[np.ndarray, " unit"]
    held_out_null: Float[np.ndarray, "permutation unit"]
    density: Float[np.ndarray, " unit"]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a unit; what is undefined is None."""
        columns = {
            name: [None if math.isnan(value) else value for value in getattr(self, name).tolist()]
            for name in ("r", "held_out", "p", "q", "p_family", "density")
        }
        names = zip(self.names, self.partner_names, *columns.values(), strict=True)
        return [dict(zip(("name", "partner", *columns), row, strict=True)) for row in names]

    @property
    def defined(self) -> Array:
        """Which units vary over the stimuli, so that they can be matched."""
        return np.asarray(self.partner >= 0)

    @property
    def median_held_out(self) -> float:
        """Median held-out correlation of the units that vary; NaN where there is none."""
        return _median(self.held_out)

    @property
    def p_held_out(self) -> float:
        """``(1 + #{medians of permuted stimuli ≥ the median}) / (1 + permutations)``: one test."""
        if math.isnan(self.median_held_out):
            return math.nan
        medians = np.array([_median(row) for row in self.held_out_null])
        return float((1 + (medians >= self.median_held_out).sum()) / (1 + len(medians)))

    @property
    def n_certain(self) -> int:
        """Units whose family-wise p is at most ``LEVEL``."""
        return int((self.p_family <= LEVEL).sum())

    def share_significant(self, level: float = 0.05) -> float:
        """Share of the units that vary whose q is at most ``level``."""
        return float((self.q[self.defined] <= level).mean()) if self.defined.any() else math.nan


def _median(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


@dataclass(frozen=True)
class FeatureMatches:
    """Features matched to neuroids, and neuroids to features.

    Args:
        features: each feature with its best neuroid.
        neuroids: each neuroid with its best feature.
        n_stimuli: shared stimuli.
        note: how stimuli were matched.
        permutations, seed: of the null.
        signed: whether a negative correlation is no match.
    """

    features: Matches
    neuroids: Matches
    n_stimuli: int
    note: str
    permutations: int
    seed: int
    signed: bool

    def summary(self) -> dict[str, float]:
        """Medians over the units that vary, their p, and how many units are significant."""
        found: dict[str, float] = {}
        for side in ("features", "neuroids"):
            matches: Matches = getattr(self, side)
            found |= {
                f"{side}_matched": int(matches.defined.sum()),
                f"{side}_held_out": matches.median_held_out,
                f"{side}_held_out_p": matches.p_held_out,
                f"{side}_significant": matches.share_significant(),
                f"{side}_certain": matches.n_certain,
            }
        return found

    def conclusion(self) -> str:
        """Say in words what may be concluded of the neuroids, and what not."""
        neuroids = self.neuroids
        n = int(neuroids.defined.sum())
        if not n or not self.features.defined.any():
            return "No feature, or no neuroid, varies over these stimuli: nothing can be matched."
        if 1 / (1 + self.permutations) > LEVEL:
            return (
                f"{self.permutations} permutations cannot give a p of {LEVEL} or less: take 1000."
            )
        least = float(np.nanmin(neuroids.p_family))
        median = f"{neuroids.median_held_out:.2f}".replace("-", "−")
        held_out = (
            f"on stimuli that did not choose it, a neuroid's best feature correlates with it at"
            f" {median} (median; p = {p_text(neuroids.p_held_out)} against permuted stimuli)"
        )
        if not neuroids.n_certain:
            text = (
                "No neuroid has a feature of its own beyond what the best of all pairs reaches by"
                f" chance (smallest family-wise p = {p_text(least)}); {held_out}."
            )
            if neuroids.p_held_out <= LEVEL:
                text += (
                    " The area as a whole shares something with the features, but none is named."
                )
            return text
        return (
            f"{neuroids.n_certain} of {n} neuroids have a feature that is closer to them than"
            f" chance would bring any pair (family-wise p ≤ {LEVEL}); {held_out}. Whether it takes"
            " these features to find that, only other seeds, the untrained network and principal"
            " components can say (feature_study; on the command line --untrained)."
        )


def p_text(p: float) -> str:
    """A p value as it is written: three decimals, or fewer where it is 0.1 and more."""
    return "unknown" if math.isnan(p) else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
