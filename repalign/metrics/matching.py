"""Matching of single neuroids: one to one, softly, or each to its best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import ComparesPopulations, compare_populations
from repalign.metrics.folds import fold_masks, shuffled_folds
from repalign.metrics.gram import centre, in_working_precision

MOST_PIVOTS = 1 << 24  # of the network simplex; POT's default of 100 000 stops before the optimum


def standardised(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "stimulus neuroid"]:
    """Return every neuroid at mean 0 and length 1; one that is constant becomes zero."""
    centred = centre(in_working_precision(x), 0)
    length: Tensor = torch.linalg.vector_norm(centred, dim=0)
    return centred / length.where(length > 0, 1)


def correlations(
    x: Float[Tensor, "stimulus neuroid"], y: Float[Tensor, "stimulus unit"]
) -> Float[Tensor, "neuroid unit"]:
    """Return Pearson's r of all pairs: 0 with a constant neuroid, NaN if all of one side are."""
    a, b = standardised(x), standardised(y)
    r = a.mT @ b
    return r if bool(a.any()) and bool(b.any()) else torch.full_like(r, torch.nan)


def _array(similarity: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return similarity.double().cpu().numpy()


def _one_to_one(similarity: Float[Tensor, "neuroid unit"]) -> Float[Tensor, "neuroid unit"]:
    """Return equal weights on the pairs of greatest total similarity."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = map(torch.from_numpy, linear_sum_assignment(_array(similarity), maximize=True))
    plan = torch.zeros_like(similarity)
    plan[rows, columns] = 1 / len(rows)
    return plan


def _transport(similarity: Float[Tensor, "neuroid unit"]) -> Float[Tensor, "neuroid unit"]:
    """Return the weights of greatest total similarity with equal row sums, and column sums."""
    p, q = similarity.shape
    if p == q:  # a permutation is among the optima (Birkhoff), and found sooner
        return _one_to_one(similarity)
    from ot import emd

    cost = 1 - _array(similarity)
    plan = emd(np.full(p, 1 / p), np.full(q, 1 / q), cost, numItermax=MOST_PIVOTS)
    return torch.from_numpy(plan).to(similarity)


def _best_of_each(similarity: Float[Tensor, "neuroid unit"]) -> Float[Tensor, "neuroid unit"]:
    """Return equal weights on the most similar unit of each neuroid, the first of equal ones."""
    best = similarity.argmax(1, keepdim=True)
    return torch.zeros_like(similarity).scatter_(1, best, 1 / len(best))


def plan_for(
    method: Callable[[Tensor], Tensor], r: Float[Tensor, "neuroid unit"], *, signed: bool = True
) -> Float[Tensor, "neuroid unit"]:
    """Return the matches under ``r`` or |r|: constants, for no small change of r moves them."""
    r = r.detach()
    if bool(r.isnan().any()):
        return torch.full_like(r, torch.nan)
    return method(r if signed else r.abs())


@dataclass(frozen=True)
class _Matching(ComparesPopulations):
    """The mean correlation Σ Tᵢⱼ corr(xᵢ, yⱼ) under the plan T of a method of matching."""

    signed: bool = True
    folds: int | None = None
    seed: int = 0

    method: ClassVar[Callable[[Tensor], Tensor]]
    name: ClassVar[str]
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the folds."""
        if self.folds is not None and self.folds < 2:
            raise ValueError(
                f"folds is {self.folds}; held-out matching needs 2 or more. "
                "Use 5, or None to match and score on the same stimuli."
            )

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: 3 for each correlation, for with 2 it is 1 or −1."""
        return 3 * (self.folds or 1)

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to a population's responses without changing the value."""
        always = ("translation", "isotropic scale", "neuroid order", "neuroid scale")
        return always if self.signed else (*always, "neuroid sign")

    def plan(
        self, x: Float[Tensor, "stimulus neuroid"], y: Float[Tensor, "stimulus unit"]
    ) -> Float[Tensor, "neuroid unit"]:
        """Return the weight of every pair, matched on all stimuli; they sum to 1."""
        return compare_populations(
            lambda a, b: plan_for(type(self).method, correlations(a, b), signed=self.signed),
            x,
            y,
            needs=self,
        )

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        if self.folds is None:
            r = correlations(x, y)
            return self._score(r, r)
        fold = shuffled_folds(len(x), folds=self.folds, seed=self.seed).to(x.device)
        return torch.stack(
            [
                self._score(correlations(x[~out], y[~out]), correlations(x[out], y[out]))
                for out in fold_masks(fold)
            ]
        ).mean()

    def _score(self, fitted: Tensor, r: Tensor) -> Tensor:
        plan = plan_for(type(self).method, fitted, signed=self.signed)
        return (plan * (r if self.signed else fitted.detach().sign() * r)).sum()


@dataclass(frozen=True)
class OneToOne(_Matching):
    """One-to-one matching: the mean correlation of neuroids under the best pairing.

    ``one_to_one(x, y) = max over pairings π of mean corr(xᵢ, y_π(i))``; every neuroid of the
    smaller population has a partner of its own.

    Args:
        signed: match by r; otherwise by |r|, so that a neuroid may match another's negative.
        folds: match on the stimuli of all folds but one and score on that one, averaged over folds;
            None matches and scores on the same stimuli.
        seed: seed of the shuffle into folds.

    Raises:
        ValueError: fewer than 2 folds, fewer than 3 stimuli a fold, or wrong shapes.

    Note:
        A constant neuroid correlates 0 with all; a population (in a fold) of such only gives NaN.
        The best of many pairings is above 0 for unrelated populations: .19, .26 and .36 for
        independent Gaussians at 50 stimuli and 10, 30 and 200 neuroids; with ``folds`` it is 0.

        Costs O(npq), and on the CPU O(k²·max(p, q)) for the pairing, k = min(p, q).

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
        >>> round(OneToOne()(x, 2 * x.flip(1)).item(), 6)
        1.0
        >>> OneToOne().plan(x, 2 * x.flip(1)).argmax(1)
        tensor([4, 3, 2, 1, 0])

    Reference:
        Li et al. 2015, https://doi.org/10.48550/arXiv.1511.07543
    """

    method: ClassVar[Callable[[Tensor], Tensor]] = _one_to_one
    name: ClassVar[str] = "one-to-one"
    formula: ClassVar[str] = "max over pairings π of mean corr(xᵢ, y_π(i))"
    symmetric: ClassVar[bool] = True
    reference: ClassVar[str] = "Li et al. 2015, https://doi.org/10.48550/arXiv.1511.07543"


@dataclass(frozen=True)
class SemiMatching(_Matching):
    """Semi-matching: the mean correlation of each neuroid of ``x`` with its best in ``y``.

    ``semi_matching(x, y) = mean over i of max over j of corr(xᵢ, yⱼ)``; partners may be shared.

    Args:
        signed: match by r; otherwise by |r|, so that a neuroid may match another's negative.
        folds: match on the stimuli of all folds but one and score on that one, averaged over folds;
            None matches and scores on the same stimuli.
        seed: seed of the shuffle into folds.

    Raises:
        ValueError: fewer than 2 folds, fewer than 3 stimuli a fold, or wrong shapes.

    Note:
        Not symmetric: neuroids of ``y`` may stay unmatched. A constant neuroid correlates 0 with
        all; a population (in a fold) of such only gives NaN. The best of many is above 0 for
        unrelated populations: .22, .29 and .38 for independent Gaussians at 50 stimuli and
        10, 30 and 200 neuroids; with ``folds`` it is 0.

        Costs O(npq).

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
        >>> round(SemiMatching()(x[:, :2], x).item(), 6)
        1.0
        >>> SemiMatching().plan(x[:, :2], x).argmax(1)
        tensor([0, 1])

    Reference:
        Li et al. 2015, https://doi.org/10.48550/arXiv.1511.07543
    """

    method: ClassVar[Callable[[Tensor], Tensor]] = _best_of_each
    name: ClassVar[str] = "semi-matching"
    formula: ClassVar[str] = "mean over i of max over j of corr(xᵢ, yⱼ)"
    symmetric: ClassVar[bool] = False
    reference: ClassVar[str] = "Li et al. 2015, https://doi.org/10.48550/arXiv.1511.07543"


@dataclass(frozen=True)
class SoftMatching(_Matching):
    """Soft matching: the mean correlation of neuroids under the best transport between all.

    ``soft_matching(x, y) = max over T of Σ Tᵢⱼ corr(xᵢ, yⱼ)``, T ≥ 0 with row sums 1/p and column
    sums 1/q: every neuroid of both populations counts alike. For p = q it is one-to-one matching.

    Args:
        signed: match by r; otherwise by |r|, so that a neuroid may match another's negative.
        folds: match on the stimuli of all folds but one and score on that one, averaged over folds;
            None matches and scores on the same stimuli.
        seed: seed of the shuffle into folds.

    Raises:
        ValueError: fewer than 2 folds, fewer than 3 stimuli a fold, or wrong shapes.

    Note:
        A constant neuroid correlates 0 with all; a population (in a fold) of such only gives NaN.
        The best of many transports is above 0 for unrelated populations: .20, .28 and .37 for
        independent Gaussians at 50 stimuli and 10, 30 and 200 neuroids (20, 60 and 400 in y);
        with ``folds`` it is 0.

        Costs O(npq), and on the CPU the transport, about O((p + q)³).

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
        >>> round(SoftMatching()(x, torch.cat([x, 3 * x], 1)).item(), 6)
        1.0

    Reference:
        Khosla & Williams 2024, https://doi.org/10.48550/arXiv.2311.09466
    """

    method: ClassVar[Callable[[Tensor], Tensor]] = _transport
    name: ClassVar[str] = "soft-matching"
    formula: ClassVar[str] = "max over transports T of Σ Tᵢⱼ corr(xᵢ, yⱼ)"
    symmetric: ClassVar[bool] = True
    reference: ClassVar[str] = "Khosla & Williams 2024, https://doi.org/10.48550/arXiv.2311.09466"


@dataclass(frozen=True)
class SoftMatchingDistance(ComparesPopulations):
    """Soft matching distance: how far neuroids move under the best transport between all.

    ``distance = √(min over T of Σ Tᵢⱼ ‖xᵢ − yⱼ‖²) = √(2 − 2 soft_matching(x, y))``, with neuroids
    centred and of length 1, and T as in ``SoftMatching``. It obeys the triangle inequality.

    Raises:
        ValueError: fewer than 3 stimuli, or wrong shapes.

    Note:
        Constant neuroids and the null are those of ``SoftMatching``; so is the cost.

    Example:
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
        >>> SoftMatchingDistance()(x, torch.cat([x, 3 * x], 1)).item() < 1e-12
        True

    Reference:
        Khosla & Williams 2024, https://doi.org/10.48550/arXiv.2311.09466
    """

    name: ClassVar[str] = "soft-matching-distance"
    formula: ClassVar[str] = "√(min over transports T of Σ Tᵢⱼ ‖xᵢ − yⱼ‖²), neuroids of length 1"
    minimum_stimuli: ClassVar[int] = 3
    needs_repeats: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 2.0)
    invariances: ClassVar[tuple[str, ...]] = (
        "translation",
        "isotropic scale",
        "neuroid order",
        "neuroid scale",
    )
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    higher_is_more_similar: ClassVar[bool] = False
    reference: ClassVar[str] = "Khosla & Williams 2024, https://doi.org/10.48550/arXiv.2311.09466"

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = standardised(x), standardised(y)
        plan = plan_for(_transport, correlations(x, y))
        if bool(plan.isnan().any()):
            return plan[0, 0]
        i, j = plan.nonzero(as_tuple=True)  # at most p + q − 1 pairs
        weights = plan[i, j].sqrt()
        # Differences keep the digits that 2 − 2r loses. A constant neuroid, of length 0, is as far
        # from all as an uncorrelated one: √2.
        missing = ((~a.any(0))[i].to(plan) + (~b.any(0))[j].to(plan)).sqrt()
        moves = torch.cat([a[:, i] - b[:, j], missing[None]])
        distance: Tensor = torch.linalg.vector_norm(weights * moves)
        return distance
