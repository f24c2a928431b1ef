"""Which neuroid each feature of a layer is most like, and each neuroid which feature."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import false_discovery_control
from torch import Tensor

from repalign.autoencoders.matches import Array, FeatureMatches, Matches
from repalign.autoencoders.partners import (
    best_partners,
    held_out_correlations,
    held_out_null,
    null_maxima,
    stimulus_orders,
)
from repalign.metrics.calls import check_finite, pick_device
from repalign.metrics.matching import SemiMatching, standardised
from repalign.populations import Population, as_population, match_population, shared_stimuli
from repalign.recording import NEUROID, Target

TIE = 1e-6  # correlations that differ by less are the same, but for rounding
HELD_OUT_PERMUTATIONS = 100  # at most, for the null of held-out correlations


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
    How good the match is, is said by its correlation on stimuli that did not choose it; the first
    ``HELD_OUT_PERMUTATIONS`` of the permutations are taken through that too.

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
    orders = stimulus_orders(len(x), permutations, seed)
    r_x, r_y, best_x, best_y = best_partners(x, y, signed=signed)
    null_x, null_y = null_maxima(x, y, orders, signed=signed, progress=progress)
    held_x, held_y = held_out_correlations(x, y, needs)
    chance_x, chance_y = held_out_null(x, y, orders[:HELD_OUT_PERMUTATIONS], needs)
    names = [_names(ds, word) for ds, word in ((first, "feature"), (second, "neuroid"))]
    return FeatureMatches(
        _matches(x, names[0], names[1], best_x, r_x, held_x, null_x, chance_x),
        _matches(y, names[1], names[0], best_y, r_y, held_y, null_y, chance_y),
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


def _matches(
    units: Tensor,
    names: tuple[str, ...],
    partner_names: tuple[str, ...],
    best: Tensor,
    r: Tensor,
    held_out: Tensor,
    null: Float[Tensor, "permutation unit"],
    chance: Float[Tensor, "permutation unit"],
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
        held_out_null=chance.cpu().masked_fill(~varies.cpu(), math.nan).numpy(),
        density=(units != 0).cpu().double().mean(0).numpy(),
    )
