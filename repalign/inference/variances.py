"""Variances of models, of their differences and of their distances to the ceilings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.inference.draws import Draws
from repalign.inference.evaluations import DualEvaluations, Evaluations


@dataclass(frozen=True)
class Variances:
    """Sampling variances of what models are tested for.

    Args:
        models: of each model's value.
        differences: of the difference of each pair of models, model × model; 0 on the diagonal.
        to_lower, to_upper: of each model's difference from the lower and from the upper ceiling.
        degrees_of_freedom: for t intervals and t tests.
    """

    models: Float[Tensor, "model"]
    differences: Float[Tensor, "model model"]
    to_lower: Float[Tensor, "model"]
    to_upper: Float[Tensor, "model"]
    degrees_of_freedom: int


Spreads = tuple[Tensor, Tensor, Tensor, Tensor]  # the four variances, in the order of Variances


def _covariance(values: Float[Tensor, "resample value"]) -> Float[Tensor, "value value"]:
    if len(values) < 2:
        return values.new_full((values.shape[1],) * 2, torch.nan)
    centred = values - values.mean(0)
    return centred.T @ centred / (len(values) - 1)


def _spreads(values: Float[Tensor, "resample value"]) -> Spreads:
    """Return the variances over resamples of models, of their differences, and from both ceilings.

    The last two columns are the ceilings. Resamples in which a model is undefined are left out;
    those in which a ceiling is, from its variances only.
    """
    values = values[values[:, :-2].isfinite().all(1)]
    of_models = _covariance(values[:, :-2])
    own = of_models.diagonal()
    differences = (own[:, None] + own - 2 * of_models).clamp(min=0)
    to_ceilings = []
    for ceiling in values[:, -2:].T:
        known = ceiling.isfinite()
        distances = values[known][:, :-2] - ceiling[known, None]
        to_ceilings.append(_covariance(distances).diagonal())
    return own, differences, to_ceilings[0], to_ceilings[1]


def _each(function: Callable[..., Tensor], *spreads: Spreads) -> Spreads:
    first, second, third, fourth = (function(*same) for same in zip(*spreads, strict=True))
    return first, second, third, fourth


def resampling_factor(draws: Draws) -> float:
    """Return what the variance over resamples is multiplied by, to be that of the estimate."""
    n = draws.n_units
    if draws.kind == "bootstrap":
        return n / (n - 1)
    if draws.kind == "jackknife":
        return (n - 1) ** 2 / n
    drawn = int(draws.stimuli[0].sum())
    return drawn / (n - drawn)


def estimated_variances(evaluations: Evaluations, draws: Draws) -> Variances:
    """Return the variances that resampled values give.

    The variance over resamples is multiplied by ``n/(n − 1)`` for a bootstrap of n units, by
    ``m/(n − m)`` for subsets of m of them, and by ``(n − 1)²/n`` for a jackknife. Over stimuli and
    subjects n is the smaller number, and the variance is too large: ``two_factor_variances``.

    Args:
        evaluations: from ``evaluate_resamples``.
        draws: the draws they were evaluated in.

    Returns:
        ``Variances`` with n − 1 degrees of freedom; NaN where fewer than 2 resamples are defined.

    Note:
        Equal to those of rsatoolbox's ``eval_bootstrap``, ``…_pattern`` and ``…_rdm``.

    Example:
        >>> from repalign.inference import bootstrap_draws, evaluate_resamples
        >>> rdms = torch.rand(5, 45, generator=torch.Generator().manual_seed(0))
        >>> draws = bootstrap_draws(10, 3, over="stimuli", n_resamples=100)
        >>> found = estimated_variances(evaluate_resamples(rdms[:2], rdms[2:], draws), draws)
        >>> found.models.shape, found.degrees_of_freedom
        (torch.Size([2]), 9)

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566; Efron & Tibshirani 1993, An
        Introduction to the Bootstrap, chapter 11 (no DOI)
    """
    spreads = _each(lambda x: resampling_factor(draws) * x, _spreads(evaluations.with_ceilings()))
    return Variances(*spreads, draws.n_units - 1)


def _two_factors(n_subjects: int, n_stimuli: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the correction of three variances: over both, over subjects, over stimuli."""
    s, p = n_subjects / (n_subjects - 1), n_stimuli / (n_stimuli - 1)

    def corrected(both: Tensor, of_subjects: Tensor, of_stimuli: Tensor) -> Tensor:
        joint = s * p * (both - of_subjects - of_stimuli)
        found = s * of_subjects + p * of_stimuli - joint
        return found.maximum(s * of_subjects).maximum(p * of_stimuli).minimum(both)

    return corrected


def two_factor_variances(dual: DualEvaluations, draws: Draws) -> Variances:
    """Return the variances for new stimuli *and* new subjects.

    Resampling both counts their interaction (the noise) three times, so that with v₂, vₛ and vₚ
    the variances over both, over S subjects and over P stimuli,
    ``v = S/(S−1) vₛ + P/(P−1) vₚ − SP/((S−1)(P−1)) (v₂ − vₛ − vₚ)``, at least either of the first
    two terms, and at most v₂.

    Args:
        dual: from ``evaluate_dual``.
        draws: the draws it was evaluated in.

    Returns:
        ``Variances`` with min(S, P) − 1 degrees of freedom.

    Note:
        It is a variance that is corrected, no distribution: use t intervals and t tests. Equal to
        that of rsatoolbox's ``eval_dual_bootstrap``.

    Example:
        >>> from repalign.inference import bootstrap_draws, evaluate_dual
        >>> rdms = torch.rand(5, 45, generator=torch.Generator().manual_seed(0))
        >>> draws = bootstrap_draws(10, 3, n_resamples=100)
        >>> two_factor_variances(evaluate_dual(rdms[:2], rdms[2:], draws), draws).degrees_of_freedom
        2

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    correction = _two_factors(draws.subjects.shape[1], draws.stimuli.shape[1])
    spreads = _each(correction, *(_spreads(part.with_ceilings()) for part in dual))
    return Variances(*spreads, draws.n_units - 1)


def _of_repeats(repeats: Float[Tensor, "resample repeat value"]) -> Spreads:
    """Return the variances that infinitely many divisions into folds would leave.

    The variance of the mean of r divisions is V + E/r, that of one V + E: two equations for V.
    """
    count = repeats.shape[1]
    of_mean = _spreads(repeats.mean(1))
    single = [_spreads(repeats[:, i]) for i in range(count)]
    return _each(
        lambda mean, *ones: (count * mean - sum(ones) / count) / (count - 1), of_mean, *single
    )


def crossvalidated_variances(
    repeats: Float[Tensor, "resample repeat value"], draws: Draws
) -> Variances:
    """Return the variances of cross-validated values without what the choice of folds adds.

    ``(r·var(mean of r divisions) − mean var(one division))/(r − 1)``, times n/(n − 1).

    Args:
        repeats: values of the models in each division into folds, with both ceilings as the last
            two columns, as ``CrossvalidatedEvaluations.values`` holds them.
        draws: the draws they were evaluated in.

    Raises:
        ValueError: one division only.

    Note:
        It is that of a value averaged over many divisions (a draw of ones, ``n_repeats=40``), and a
        difference of two estimates, so take hundreds of resamples: with few it varies, and a t test
        rejects too often.
        A variance may come out negative where the choice of folds explains all; it is set to 0.

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    if repeats.shape[1] < 2:
        raise ValueError(
            "There is 1 division into folds; what the choice of folds adds to the variance can be "
            "told from 2 or more. Use n_repeats=2."
        )
    spreads = _each(lambda x: (resampling_factor(draws) * x).clamp(min=0), _of_repeats(repeats))
    return Variances(*spreads, draws.n_units - 1)


def two_factor_crossvalidated_variances(
    both: Float[Tensor, "resample repeat value"],
    of_subjects: Float[Tensor, "resample repeat value"],
    of_stimuli: Float[Tensor, "resample repeat value"],
    draws: Draws,
) -> Variances:
    """Return ``two_factor_variances`` of three ``crossvalidated_variances``."""
    if min(part.shape[1] for part in (both, of_subjects, of_stimuli)) < 2:
        raise ValueError("The correction needs 2 or more divisions into folds. Use n_repeats=2.")
    correction = _two_factors(draws.subjects.shape[1], draws.stimuli.shape[1])
    parts = (_of_repeats(part) for part in (both, of_subjects, of_stimuli))
    spreads = _each(lambda *x: correction(*x).clamp(min=0), *parts)
    return Variances(*spreads, draws.n_units - 1)
