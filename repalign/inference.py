"""Confidence intervals of comparisons over stimuli: bootstrap and jackknife."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor

from repalign.metrics.cka import CKA, centre_gram, check_same_size
from repalign.metrics.folds import fold_masks, median_of_defined
from repalign.metrics.gram import centre, in_working_precision
from repalign.metrics.pairs import stimulus_count
from repalign.metrics.resampled import (
    BLOCK_ELEMENTS,
    draw_multiplicities,
    resampled_similarities,
    weighted_spread,
)


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        low, high: its ends.
        kind: how it was made, such as ``"bootstrap over stimuli, percentile, 95 %"``.
        n_resamples: number of resamples, or of delete-one values.
    """

    low: float
    high: float
    kind: str
    n_resamples: int


def default_resamples(n_pairs: int) -> int:
    """Return as many of 1000 resamples as keep pairs × resamples within 2e8, at least 100."""
    return max(100, min(1000, 200_000_000 // n_pairs))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a share between 0 and 1, as 0.95.")


def _percentile_intervals(
    values: Float[Tensor, "resample model"], *, confidence: float, kind: str
) -> list[Interval]:
    tail = (1 - confidence) / 2
    ends = values.nanquantile(values.new_tensor([tail, 1 - tail]), dim=0).T.tolist()
    kind = f"{kind}, percentile, {100 * confidence:g} %"
    return [Interval(low, high, kind, len(values)) for low, high in ends]


def bootstrap_rsa(
    rdm: Float[Tensor, "pair"],
    rdms: Float[Tensor, "model pair"],
    *,
    comparator: str = "spearman",
    n_resamples: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Interval]:
    """Return the percentile bootstrap interval, over stimuli, of each model's RSA with one RDM.

    Stimuli are drawn with replacement, pairs of a stimulus with itself are excluded, and resamples
    with fewer than 3 distinct stimuli are drawn again. All models share the resamples.

    Args:
        rdm: condensed RDM of the brain (or of any reference).
        rdms: condensed RDMs to compare it with, model × pair.
        comparator: a name in ``resampled.WEIGHTED``.
        n_resamples: number of resamples; ``default_resamples(n_pairs)`` if None.
        seed: seed of the resamples, which are the same on every device.
        confidence: share of the resamples within the interval.

    Returns:
        One ``Interval`` a model, in order. Resamples in which an RDM is constant are left out.

    Raises:
        ValueError: RDMs of different sizes or with NaN, fewer than 3 stimuli, unknown comparator,
            or a confidence outside (0, 1).

    Note:
        The interval is for other stimuli and the same subjects: it says nothing of new subjects.

    Example:
        >>> rdms = torch.rand(3, 45, generator=torch.Generator().manual_seed(0))
        >>> [interval.n_resamples for interval in bootstrap_rsa(rdms[0], rdms[1:])]
        [1000, 1000]

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553;
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    _check_confidence(confidence)
    n_resamples = default_resamples(len(rdm)) if n_resamples is None else n_resamples
    generator = torch.Generator().manual_seed(seed)
    n = stimulus_count(len(rdm))
    multiplicities = draw_multiplicities(n, n_resamples=n_resamples, generator=generator)
    values = resampled_similarities(rdm, rdms, multiplicities, comparator=comparator)
    return _percentile_intervals(values, confidence=confidence, kind="bootstrap over stimuli")


def _products_without_one(
    u: Float[Tensor, "n n"], v: Float[Tensor, "n n"], *, debiased: bool
) -> Float[Tensor, "n"]:
    """Return the inner product of two centred Gram matrices without each stimulus in turn.

    The remaining rows are centred anew. Of u without stimulus i, row j sums to −uᵢⱼ, and all of it
    to uᵢᵢ, for the rows of u sum to zero. With m stimuli left and qᵢ = Σⱼ uᵢⱼvᵢⱼ that gives
    ⟨u, v⟩ − 2qᵢ − 2qᵢ/(m − 2) U-centred, where uᵢᵢ = 0, and in the doubly centred case
    ⟨u, v⟩ − 2qᵢ + uᵢᵢvᵢᵢ − 2(qᵢ − uᵢᵢvᵢᵢ)/m + uᵢᵢvᵢᵢ/m².
    """
    product = u * v
    rows, m = product.sum(1), len(u) - 1
    if debiased:
        return rows.sum() - 2 * rows * (m - 1) / (m - 2)
    own = product.diagonal()
    return rows.sum() - 2 * rows + own - 2 * (rows - own) / m + own / m**2


def delete_one_cka(
    gram_a: Float[Tensor, "stimulus stimulus"],
    gram_b: Float[Tensor, "stimulus stimulus"],
    *,
    debiased: bool = True,
) -> Float[Tensor, "stimulus"]:
    """Return the CKA without each stimulus in turn, all of them in O(n²)."""
    check_same_size(gram_a, gram_b)
    if len(gram_a) < (5 if debiased else 3):
        raise ValueError(
            f"{'Debiased' if debiased else 'Biased'} CKA without one stimulus needs "
            f"{5 if debiased else 3} or more stimuli; there are {len(gram_a)}. Add stimuli."
        )
    u, v = (centre_gram(gram, debiased=debiased) for gram in (gram_a, gram_b))
    uv, uu, vv = (
        _products_without_one(left, right, debiased=debiased)
        for left, right in ((u, v), (u, u), (v, v))
    )
    return uv / (uu.sqrt() * vv.sqrt())


def jackknife_cka(
    gram_a: Float[Tensor, "stimulus stimulus"],
    gram_b: Float[Tensor, "stimulus stimulus"],
    *,
    debiased: bool = True,
    confidence: float = 0.95,
) -> Interval:
    """Return the delete-one jackknife interval, over stimuli, of linear CKA.

    ``value ± t · √((n − 1)/n · Σᵢ (cka₍ᵢ₎ − mean)²)``, with cka₍ᵢ₎ the value without stimulus i and
    t the quantile of Student's distribution with n − 1 degrees of freedom.

    Args:
        gram_a, gram_b: Gram matrices, as ``CKA.prepare`` gives them.
        debiased: which CKA.
        confidence: coverage of the interval.

    Returns:
        An ``Interval``; its ends may lie outside [−1, 1]. NaN where CKA, or one without a
        stimulus, is undefined.

    Raises:
        ValueError: matrices not alike, fewer than 5 stimuli (3 if biased), or a confidence outside
            (0, 1).

    Note:
        Resampling with replacement is wrong here: each duplicate puts a self-product back among the
        pairs, where debiasing no longer removes it, and the noise it carries counts as shared
        signal (a debiased null of −.001 became .89). Near a true value of 0 or 1 CKA is not
        asymptotically normal and the interval only approximate.

    Example:
        >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        >>> interval = jackknife_cka(x @ x.T, x[:, :3] @ x[:, :3].T)
        >>> interval.low < CKA()(x, x[:, :3]).item() < interval.high
        True

    Reference:
        Efron & Stein 1981, https://doi.org/10.1214/aos/1176345462
    """
    _check_confidence(confidence)
    without = delete_one_cka(gram_a, gram_b, debiased=debiased)
    value = CKA(debiased=debiased).compare_prepared(gram_a, gram_b).item()
    n = len(without)
    error = ((n - 1) / n * centre(without, 0).square().sum()).sqrt().item()
    reach = float(student_t.ppf((1 + confidence) / 2, n - 1)) * error
    kind = f"jackknife over stimuli, {100 * confidence:g} %"
    return Interval(value - reach, value + reach, kind, n)


def _resampled_correlations(
    p: Float[Tensor, "stimulus neuroid"],
    t: Float[Tensor, "stimulus neuroid"],
    weights: Float[Tensor, "resample stimulus"],
) -> Float[Tensor, "resample neuroid"]:
    p, t = centre(p, 0), centre(t, 0)
    weight = weights.sum(1, keepdim=True)
    p_sum, t_sum = weights @ p, weights @ t
    p_spread = weighted_spread(weights @ p.square(), p_sum, weight)
    t_spread = weighted_spread(weights @ t.square(), t_sum, weight)
    return (weights @ (p * t) - p_sum * t_sum / weight) / (p_spread.sqrt() * t_spread.sqrt())


def bootstrap_predictions(
    predictions: Float[Tensor, "stimulus neuroid"],
    targets: Float[Tensor, "stimulus neuroid"],
    fold: Int[Tensor, "stimulus"],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval, over stimuli, of predictivity.

    Held-out predictions are resampled with replacement within their folds, and scored as they were:
    Pearson within folds, mean over folds, median over neuroids. No model is fitted again, so that
    no duplicate is ever in a training and a test set.

    Args:
        predictions, targets: held-out predictions and responses, stimulus × neuroid.
        fold: fold of each stimulus, as ``Ridge.predict`` gives it.
        n_resamples: number of resamples.
        seed: seed of the resamples, which are the same on every device.
        confidence: share of the resamples within the interval.

    Returns:
        An ``Interval``; in a resample, a neuroid that is constant within a fold leaves that fold
        out.

    Raises:
        ValueError: shapes that differ, or a confidence outside (0, 1).

    Note:
        The interval is for other held-out stimuli and the same fitted models: it leaves out how the
        fit varies with the training stimuli.

    Example:
        >>> y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> bootstrap_predictions(y, y, torch.arange(40) % 4, n_resamples=100).low > 0.999
        True

    Reference:
        Efron & Tibshirani 1993, https://doi.org/10.1201/9780429246593
    """
    _check_confidence(confidence)
    if predictions.shape != targets.shape or len(fold) != len(targets):
        raise ValueError(
            f"predictions has shape {tuple(predictions.shape)}, targets {tuple(targets.shape)} and "
            f"fold {tuple(fold.shape)}; expected one row a stimulus in each, and as many columns."
        )
    p, t = in_working_precision(predictions), in_working_precision(targets)
    generator = torch.Generator().manual_seed(seed)
    folds = []
    for held_out in fold_masks(fold):
        n = int(held_out.sum())
        weights = draw_multiplicities(
            n, n_resamples=n_resamples, generator=generator, at_least=min(2, n)
        )
        folds.append((p[held_out], t[held_out], weights.to(p)))
    size = max(1, BLOCK_ELEMENTS // p.shape[1])
    values = []
    for start in range(0, n_resamples, size):
        scores = [_resampled_correlations(p, t, w[start : start + size]) for p, t, w in folds]
        values.append(median_of_defined(torch.stack(scores).nanmean(0)))
    kind = "bootstrap over held-out stimuli"
    return _percentile_intervals(torch.cat(values)[:, None], confidence=confidence, kind=kind)[0]
