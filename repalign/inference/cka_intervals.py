"""Intervals of CKA over stimuli: the jackknife, and subsets drawn without replacement."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor

from repalign.inference.draws import Draws
from repalign.inference.intervals import Interval, check_confidence
from repalign.metrics.cka import CKA, centre_gram, check_same_size
from repalign.metrics.gram import centre


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
    check_confidence(confidence)
    without = delete_one_cka(gram_a, gram_b, debiased=debiased)
    value = CKA(debiased=debiased).compare_prepared(gram_a, gram_b).item()
    n = len(without)
    error = ((n - 1) / n * centre(without, 0).square().sum()).sqrt().item()
    reach = float(student_t.ppf((1 + confidence) / 2, n - 1)) * error
    kind = f"jackknife over stimuli, {100 * confidence:g} %"
    return Interval(value - reach, value + reach, kind, n)


def subsampled_cka(
    gram: Float[Tensor, "stimulus stimulus"],
    grams: Float[Tensor, "model stimulus stimulus"],
    draws: Draws,
    *,
    debiased: bool = True,
) -> Float[Tensor, "resample model"]:
    """Return the linear CKA of each model with one population in every subset of the stimuli.

    All subsets are one product of matrices: with the rows' sums r and s over a subset of m stimuli,
    debiased HSIC is ``Σkᵢⱼlᵢⱼ + ΣrᵢΣsᵢ/((m − 1)(m − 2)) − 2Σrᵢsᵢ/(m − 2)``, without the diagonals,
    and biased ``Σkᵢⱼlᵢⱼ − 2Σrᵢsᵢ/m + ΣrᵢΣsᵢ/m²``.

    Args:
        gram: Gram matrix of the brain, as ``CKA.prepare`` gives it.
        grams: Gram matrices of the models, model × stimulus × stimulus.
        draws: from ``subsample_draws`` or ``jackknife_draws``.
        debiased: which CKA.

    Returns:
        resample × model; ``estimated_variances`` scales their variance to all stimuli.

    Raises:
        ValueError: draws with replacement or over subjects, subsets too small, or Gram matrices of
            another size.

    Note:
        Stimuli drawn twice would put self-products among the pairs, where debiasing does not remove
        them: a null of −.001 becomes .89.

    Example:
        >>> from repalign.inference import subsample_draws
        >>> x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        >>> values = subsampled_cka(x @ x.T, (x @ x.T)[None], subsample_draws(20, n_resamples=3))
        >>> [round(value, 6) for value in values[:, 0].tolist()]
        [1.0, 1.0, 1.0]

    Reference:
        Song et al. 2012 (no DOI, https://jmlr.org/papers/v13/song12a.html); Politis & Romano 1994,
        https://doi.org/10.1214/aos/1176325770
    """
    if draws.over != "stimuli" or draws.kind == "bootstrap":
        raise ValueError(
            f"The draws are a {draws.kind} over {draws.over}; CKA is resampled over stimuli "
            "without replacement, since duplicates count noise as signal. Use subsample_draws or "
            "jackknife_draws."
        )
    for one in grams:
        check_same_size(gram, one)
    least = 4 if debiased else 2
    if draws.stimuli.shape[1] != len(gram) or int(draws.stimuli[0].sum()) < least:
        raise ValueError(
            f"The subsets hold {int(draws.stimuli[0].sum())} of {draws.stimuli.shape[1]} stimuli, "
            f"and the Gram matrices {len(gram)}; expected subsets of {least} or more of the same."
        )
    products = SubsampledProducts([gram, *grams], draws.stimuli, debiased=debiased)
    own = products.of(0, 0).sqrt()
    values = [
        products.of(0, i) / (own * products.of(i, i).sqrt()) for i in range(1, len(grams) + 1)
    ]
    return torch.stack(values, 1)


class SubsampledProducts:
    """HSIC of any two of some Gram matrices, in subsets of the stimuli.

    Args:
        grams: Gram matrices of the same stimuli.
        chosen: which stimuli each subset holds (1) or not (0), resample × stimulus; 4 or more if
            debiased, 2 or more otherwise, and as many in each subset.
        debiased: which HSIC.
    """

    def __init__(
        self,
        grams: Sequence[Float[Tensor, "stimulus stimulus"]],
        chosen: Int[Tensor, "resample stimulus"],
        *,
        debiased: bool,
    ) -> None:
        """Centre each matrix, so that little is left to cancel, and sum its rows."""
        self._grams = [centre_gram(one, debiased=debiased) for one in grams]
        self._chosen = chosen.to(self._grams[0])
        self._sums = [self._chosen * (self._chosen @ one) for one in self._grams]
        self._m, self._debiased = self._chosen.sum(1), debiased

    def of(self, a: int, b: int) -> Float[Tensor, "resample"]:
        """Return the HSIC of matrices ``a`` and ``b``, up to a factor that all of them share."""
        plain = (self._chosen * (self._chosen @ (self._grams[a] * self._grams[b]))).sum(1)
        rows = (self._sums[a] * self._sums[b]).sum(1)
        total = self._sums[a].sum(1) * self._sums[b].sum(1)
        m = self._m
        if self._debiased:
            return plain + total / ((m - 1) * (m - 2)) - 2 * rows / (m - 2)
        return plain - 2 * rows / m + total / m.square()
