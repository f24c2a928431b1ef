"""Which neuroid each feature of a layer is most like, and each neuroid which feature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import false_discovery_control
from torch import Tensor

from repalign.metrics.calls import check_finite, pick_device
from repalign.metrics.folds import fold_masks, shuffled_folds
from repalign.metrics.matching import SemiMatching, standardised
from repalign.populations import Population, as_population, match_population, shared_stimuli
from repalign.progress import track
from repalign.recording import NEUROID, Target

BLOCK_ELEMENTS = 1 << 24  # correlations that are in memory at a time
TIE = 1e-6  # correlations that differ by less are the same, but for rounding
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

    def share_significant(self, level: float = 0.05) -> float:
        """Share of the units that vary whose q is at most ``level``."""
        return float((self.q[self.defined] <= level).mean()) if self.defined.any() else math.nan


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
        """Medians over the units that vary, and the share of them that is significant."""
        found: dict[str, float] = {}
        for side in ("features", "neuroids"):
            matches: Matches = getattr(self, side)
            held_out = matches.held_out[matches.defined]
            defined = held_out[~np.isnan(held_out)]
            found |= {
                f"{side}_matched": int(matches.defined.sum()),
                f"{side}_held_out": float(np.median(defined)) if len(defined) else math.nan,
                f"{side}_significant": matches.share_significant(),
            }
        return found


def match_features(
    features: Population,
    recording: Population,
    *,
    signed: bool = True,
    folds: int = 2,
    permutations: int = 1000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> FeatureMatches:
    """Match each feature to its best neuroid, and each neuroid to its best feature.

    ``r(i) = max over j of corr(featureᵢ, neuroidⱼ)`` over stimuli, repetitions averaged. The null
    permutes the stimuli of the recording as wholes, which keeps all correlations within either
    side, and takes the same maximum: ``p = (1 + #{r of a permutation ≥ r}) / (1 + permutations)``.
    How good the match is, is said by its correlation on stimuli that did not choose it.

    Args:
        features: features of a layer as `repalign.autoencoders.files.autoencoder_features` gives
            them, any layer, or an array of stimulus × feature.
        recording: with responses; select one region first where a region is asked about.
        signed: match by r; otherwise by |r|, for features whose sign says nothing, such as
            principal components. Held-out correlations then count with the sign of the choice.
        folds: of the stimuli, for the held-out correlation: with 2, one half chooses and the
            other scores, and then the other way.
        permutations: of the null; the smallest p is 1 / (1 + permutations).
        seed: of folds and permutations.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: no shared stimuli or fewer than 3 a fold, no responses, responses that are not
            finite, fewer than 2 folds or 1 permutation.

    Note:
        The null takes stimuli as exchangeable. Where they come in groups (views of one object,
        frames of one film) that are more alike than others, p is too small.

        A unit that is constant has no partner, and NaN. A held-out correlation leaves out folds in
        which a feature is constant, as a rare one may be.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> features = torch.randn(60, 5, generator=generator).relu()
        >>> recording = features[:, [3]] + 0.5 * torch.randn(60, 1, generator=generator)
        >>> found = match_features(features, recording, permutations=99, device="cpu")
        >>> found.neuroids.partner.tolist(), found.neuroids.p.tolist()
        ([3], [0.01])

    References:
        Maximum statistic: Westfall & Young 1993, Resampling-Based Multiple Testing (no DOI);
        Nichols & Holmes 2002, https://doi.org/10.1002/hbm.1058. False discovery rate: Benjamini &
        Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}, expected 1 or more")
    needs = SemiMatching(signed=signed, folds=folds, seed=seed)  # says how many stimuli it takes
    where = pick_device(device)
    first, second = as_population(features, "features"), as_population(recording, "recording")
    ids, note = shared_stimuli(second, first)
    anyone = Target("", "", "")
    y = match_population(anyone, second, ids, needs, where).prepared
    x = match_population(anyone, first, ids, needs, where).prepared
    check_finite(x, name="features")
    check_finite(y, name="recording")
    orders = _orders(len(x), permutations, seed)
    r_x, r_y, best_x, best_y = _best(x, y, signed=signed)
    null_x, null_y = _null_maxima(x, y, orders, signed=signed, progress=progress)
    held_x, held_y = _held_out(x, y, needs)
    names = [_names(ds, word) for ds, word in ((first, "feature"), (second, "neuroid"))]
    return FeatureMatches(
        _matches(x, names[0], names[1], best_x, r_x, held_x, null_x),
        _matches(y, names[1], names[0], best_y, r_y, held_y, null_y),
        len(x),
        note,
        permutations,
        seed,
        signed,
    )


def _names(ds: xr.Dataset, word: str) -> tuple[str, ...]:
    if "neuroid_id" in ds.coords:
        return tuple(map(str, ds["neuroid_id"].values))
    return tuple(f"{word}-{i:04d}" for i in range(ds.sizes[NEUROID]))


def _orders(n: int, permutations: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(n, generator=generator) for _ in range(permutations)])


def _blocks(x: Tensor, y: Tensor) -> list[tuple[int, Tensor]]:
    """Columns of x, so few at a time that their correlations with all of y fit into memory."""
    size = max(1, BLOCK_ELEMENTS // y.shape[1])
    return [(start, x[:, start : start + size]) for start in range(0, x.shape[1], size)]


def _similarity(r: Tensor, *, signed: bool) -> Tensor:
    return r if signed else r.abs()


def _best(x: Tensor, y: Tensor, *, signed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best correlation of each column of x and of y, and where it is.

    A constant column is no partner of any, unless all are.
    """
    x, y = standardised(x), standardised(y)
    r_x, best_x = [], []
    r_y = torch.full_like(y[0], -math.inf)
    best_y = torch.zeros(y.shape[1], dtype=torch.int64, device=y.device)
    x_varies, y_varies = x.any(0), y.any(0)
    for start, part in _blocks(x, y):
        varies = x_varies[start : start + part.shape[1]]
        likeness = _similarity(part.mT @ y, signed=signed)
        values, places = likeness.masked_fill(~y_varies, -math.inf).max(1)
        r_x.append(values)
        best_x.append(places)
        values, places = likeness.masked_fill(~varies[:, None], -math.inf).max(0)
        better = values > r_y
        r_y, best_y = values.where(better, r_y), (places + start).where(better, best_y)
    return torch.cat(r_x), r_y, torch.cat(best_x), best_y


def _null_maxima(
    x: Tensor, y: Tensor, orders: Tensor, *, signed: bool, progress: bool
) -> tuple[Float[Tensor, "permutation feature"], Float[Tensor, "permutation neuroid"]]:
    """The best correlation of each unit, for each order of the stimuli.

    Constant units are left out: they would be the best wherever all others correlate negatively.
    """
    x, y = standardised(x).float(), standardised(y).float()
    x_varies, y_varies = x.any(0), y.any(0)
    null_x = x.new_full((len(orders), x.shape[1]), -math.inf)
    null_y = x.new_full((len(orders), y.shape[1]), -math.inf)
    blocks = _blocks(x, y)
    for number in track(range(len(orders)), "permutations", show=progress):
        shuffled = y[orders[number].to(y.device)]
        for start, part in blocks:
            columns = slice(start, start + part.shape[1])
            likeness = _similarity(part.mT @ shuffled, signed=signed)
            null_x[number, columns] = likeness.masked_fill(~y_varies, -math.inf).amax(1)
            over = likeness.masked_fill(~x_varies[columns, None], -math.inf).amax(0)
            null_y[number] = torch.maximum(null_y[number], over)
    return null_x, null_y


def _held_out(x: Tensor, y: Tensor, needs: SemiMatching) -> tuple[Tensor, Tensor]:
    """Correlations on each fold with the partners that the other folds choose, averaged."""
    assert needs.folds is not None
    fold = shuffled_folds(len(x), folds=needs.folds, seed=needs.seed).to(x.device)
    scores_x, scores_y = [], []
    for out in fold_masks(fold):
        _, _, best_x, best_y = _best(x[~out], y[~out], signed=needs.signed)
        score: Callable[[Tensor, Tensor], Tensor] = _score(out, signed=needs.signed)
        scores_x.append(score(x, y[:, best_x]))
        scores_y.append(score(y, x[:, best_y]))
    return torch.stack(scores_x).nanmean(0), torch.stack(scores_y).nanmean(0)


def _score(out: Tensor, *, signed: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The correlation of columns side by side on one fold, NaN where one is constant in a part."""

    def paired(a: Tensor, b: Tensor) -> Tensor:
        a, b = standardised(a), standardised(b)
        r = (a * b).sum(0)
        return r.masked_fill(~(a.any(0) & b.any(0)), math.nan)

    def score(a: Tensor, b: Tensor) -> Tensor:
        chosen, r = paired(a[~out], b[~out]), paired(a[out], b[out])
        r = r if signed else chosen.sign() * r
        return r.masked_fill(chosen.isnan(), math.nan)

    return score


def _matches(
    units: Tensor,
    names: tuple[str, ...],
    partner_names: tuple[str, ...],
    best: Tensor,
    r: Tensor,
    held_out: Tensor,
    null: Float[Tensor, "permutation unit"],
) -> Matches:
    """Put p values to the best correlations; constant units have none."""
    varies = standardised(units).any(0) & r.isfinite()
    reached = r.to(null) - TIE
    n = 1 + len(null)
    p = (1 + (null >= reached).sum(0)).cpu().double() / n
    largest = null[:, varies].amax(1) if bool(varies.any()) else null[:, 0]
    p_family = (1 + (largest[:, None] >= reached).sum(0)).cpu().double() / n

    def values(tensor: Tensor) -> Array:
        filled: Array = tensor.cpu().double().masked_fill(~varies.cpu(), math.nan).numpy()
        return filled

    q = values(p)
    defined = ~np.isnan(q)
    if defined.any():
        q[defined] = false_discovery_control(q[defined])
    partner = best.masked_fill(~varies, -1).cpu().numpy()
    return Matches(
        names=names,
        partner=partner,
        partner_names=tuple("" if i < 0 else partner_names[i] for i in partner),
        r=values(r),
        held_out=values(held_out),
        p=values(p),
        q=q,
        p_family=values(p_family),
        density=(units != 0).cpu().double().mean(0).numpy(),
    )
