"""Tests from the spread over resamples: t tests, and shares of resamples beyond zero."""

import torch
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import t as student_t
from torch import Tensor

from repalign.inference.monte_carlo import error_of_share
from repalign.inference.significance import Alternative, Significance, check_alternative


def t_test(
    effects: Float[Tensor, "*test"],
    variances: Float[Tensor, "*test"],
    *,
    degrees_of_freedom: int,
    alternative: Alternative = "two-sided",
) -> Significance:
    """Test whether effects are 0, given the variances that resampling estimated.

    ``t = effect/√variance``, with the tail of Student's distribution. The effect is a model's value
    (``Variances.models``), the difference of two models (``differences``), or a model's value less
    a ceiling (``to_lower``, ``to_upper``).

    Args:
        effects: of any shape; a scalar too.
        variances: one an effect.
        degrees_of_freedom: as ``Variances`` has it.
        alternative: ``two-sided``, or ``greater``.

    Returns:
        A ``Significance``; p is 1 (.5 if one-sided) where the effect is 0 without any variance, as
        for a model compared with itself. It does not know how the variances were estimated, and so
        has no ``p_error``.

    Raises:
        ValueError: effects or variances that are NaN, negative variances, fewer than 1 degree of
            freedom, or an unknown alternative.

    Example:
        >>> found = t_test(torch.tensor([3.0]), torch.tensor([1.0]), degrees_of_freedom=11)
        >>> round(found.p.item(), 4)
        0.0121

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    check_alternative(alternative)
    effects, variances = effects.detach().double().cpu(), variances.detach().double().cpu()
    undefined = int((effects.isnan() | ~(variances >= 0)).sum())
    if undefined or degrees_of_freedom < 1:
        raise ValueError(
            f"{undefined} effects or variances are NaN (or a variance is negative), with "
            f"{degrees_of_freedom} degrees of freedom; a t test needs defined values and 1 or more "
            "degrees of freedom. A value is undefined where an RDM is constant, and a lower "
            "ceiling where there is one subject: leave them out."
        )
    p = t_tails(effects, variances, degrees_of_freedom, alternative)
    kind = f"t test with {degrees_of_freedom} degrees of freedom, {alternative}"
    return Significance(p, torch.finfo(torch.float64).tiny, kind, None)


def t_tails(
    effects: Float[Tensor, "*test"],
    variances: Float[Tensor, "*test"],
    degrees_of_freedom: int,
    alternative: Alternative,
) -> Float[Tensor, "*test"]:
    """Return p values of effects/√variances by Student's distribution, never 0."""
    tiny = torch.finfo(torch.float64)
    t = (effects / variances.clamp(min=tiny.eps).sqrt()).numpy()
    tails = (
        2 * student_t.sf(abs(t), degrees_of_freedom)
        if alternative == "two-sided"
        else student_t.sf(t, degrees_of_freedom)
    )
    return torch.as_tensor(tails, dtype=torch.float64).clamp(min=tiny.tiny, max=1)


def resample_test(
    effects: Float[Tensor, "resample *test"],
    *,
    n_units: int | None = None,
    alternative: Alternative = "two-sided",
) -> Significance:
    """Test whether effects are 0, by the share of resamples in which they have the other sign.

    ``p = (1 + number of resamples with effect ≤ 0)/(1 + resamples)`` if ``greater``; two-sided it
    is twice the smaller of that and of the same for ≥ 0, at most 1. Resamples of few units vary too
    little: with ``n_units`` = n the quantile z of each tail becomes ``z √((n − 1)/n)`` of Student's
    distribution with n − 1 degrees of freedom, as in an expanded percentile interval.

    Args:
        effects: values, or differences, in bootstrap resamples of stimuli *or* of subjects; over
            both they vary too much, and ``t_test`` takes the corrected variance.
        alternative: ``two-sided``, or ``greater``.

    Returns:
        A ``Significance``. NaN effects count as both signs: they speak for no effect.

    Raises:
        ValueError: no resample, fewer than 2 units, or an unknown alternative.

    Example:
        >>> resample_test(torch.linspace(-0.1, 0.9, 999), alternative="greater").p
        tensor(0.1010, dtype=torch.float64)

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553; few units: Hesterberg 2015,
        https://doi.org/10.1080/00031305.2015.1089789
    """
    check_alternative(alternative)
    n = len(effects)
    if n < 1:
        raise ValueError("There are no resamples; expected 1 or more.")
    if n_units is not None and n_units < 2:
        raise ValueError(f"n_units is {n_units}; expected 2 or more resampled units.")
    below, above = (
        (wrong.sum(0) + 1).double() / (n + 1) for wrong in (~(effects > 0), ~(effects < 0))
    )
    sides = 1 if alternative == "greater" else 2
    share = below if sides == 1 else below.minimum(above)
    p = (sides * _widened(share, n_units)).clamp(max=1)
    error = error_of_share(share, n)
    low, high = (share - error).clamp(min=0.5 / (n + 1)), (share + error).clamp(max=1)
    p_error = sides * (_widened(high, n_units) - _widened(low, n_units)) / 2
    least = float(_widened(torch.tensor(1 / (n + 1), dtype=torch.float64), n_units))
    least *= sides
    kind = f"share of resamples{'' if n_units is None else f' of {n_units} units'}, {alternative}"
    return Significance(p, least, kind, n, p_error=p_error)


def _widened(p: Float[Tensor, "*test"], n_units: int | None) -> Float[Tensor, "*test"]:
    """Return tails of a normal distribution as those of a wider Student's one, for few units."""
    if n_units is None:
        return p
    t = -ndtri(p.cpu().numpy().clip(max=1 - 1e-16)) * ((n_units - 1) / n_units) ** 0.5
    return torch.as_tensor(student_t.sf(t, n_units - 1), dtype=torch.float64)
