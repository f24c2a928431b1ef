"""The dissimilarities of two patterns by name, with what each takes and ignores."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Array, as_tensor
from repalign.metrics.crossvalidated import (
    crossnobis,
    poisson_cv,
    ragged_euclidean,
    regularised_rates,
)
from repalign.metrics.distances import factor_distances, squared_distances
from repalign.metrics.gram import centre, column_blocks, in_working_precision, product
from repalign.metrics.presentations import Presentations

Patterns = Float[Tensor, "*batch stimulus neuroid"]
Pairs = Float[Tensor, "*batch pair"]


@dataclass(frozen=True)
class Options:
    """What ``rdm`` takes beside the responses, and which some methods do not know."""

    noise: Tensor | None = None
    prior_lambda: float = 1.0
    prior_weight: float = 0.1
    weighting: str = "number"


def as_precision(
    noise: Array | None, *, like: Float[Tensor, "*row neuroid"]
) -> Float[Tensor, "*fold neuroid neuroid"] | None:
    """Return precision matrices beside the responses ``like``, checked.

    Raises:
        ValueError: another shape, values that are not finite, or no symmetry.
    """
    if noise is None:
        return None
    precision = in_working_precision(as_tensor(noise, name="noise", device=like.device))
    p = like.shape[-1]
    if precision.ndim not in (2, 3) or precision.shape[-2:] != (p, p):
        raise ValueError(
            f"noise has shape {tuple(precision.shape)}; expected (neuroid, neuroid), or (fold, "
            f"neuroid, neuroid), with {p} neuroids. Make one with noise_precision(x)."
        )
    some = precision.detach()[..., :8, :]  # a few rows tell: all of them take as long as the RDM
    skew = (some - precision.detach()[..., :8].mT).abs().amax()
    own = precision.detach().diagonal(dim1=-2, dim2=-1)
    finite = bool(precision.detach().sum().isfinite())
    if not finite or bool((own <= 0).any()) or bool(skew > 1e-6 * some.abs().amax()):
        raise ValueError(
            "noise is no precision matrix: it is not symmetric, not finite, or its diagonal is not "
            "positive. Make one with noise_precision(x)."
        )
    return precision


@dataclass(frozen=True)
class Dissimilarity:
    """A dissimilarity of two patterns.

    Args:
        formula: the definition in one line, for p neuroids.
        invariances: what may be done to responses without changing an RDM but for its scale.
        takes: the arguments of ``rdm`` that it knows.
        of_patterns: from averages over presentations to pairs; None if cross-validated.
        of_presentations: from single presentations to pairs; None if it needs the averages of all
            neuroids.
    """

    formula: str
    invariances: tuple[str, ...]
    takes: tuple[str, ...] = ()
    of_patterns: Callable[[Tensor, Options], Tensor] | None = None
    of_presentations: Callable[[Presentations, Options], Tensor] | None = None

    @property
    def cross_validated(self) -> bool:
        """Whether it compares presentations across folds."""
        return self.of_patterns is None


def _correlation(x: Patterns, options: Options) -> Pairs:
    """Return 1 − r as half the squared distance of standardised patterns, exact near r = 1."""
    if x.shape[-1] < 2:
        raise ValueError(
            "The correlation distance needs 2 or more neuroids; x has 1. Use method='euclidean'."
        )
    return squared_distances(x, centred=True, unit=True) / 2


def _cosine(x: Patterns, options: Options) -> Pairs:
    return squared_distances(x, unit=True) / 2


def _euclidean(x: Patterns, options: Options) -> Pairs:
    return squared_distances(x) / x.shape[-1]


def _mahalanobis(x: Patterns, options: Options) -> Pairs:
    if options.noise is None:
        return _euclidean(x, options)
    if options.noise.ndim == 3:
        raise ValueError(
            f"noise has shape {tuple(options.noise.shape)}; one precision matrix a fold goes with "
            "method='crossnobis'. Give one of shape (neuroid, neuroid)."
        )
    centred = centre(in_working_precision(x), -2)
    whitened = product(centred, options.noise)

    def factors() -> Iterator[tuple[Tensor, Tensor]]:
        return zip(column_blocks(whitened), column_blocks(centred), strict=True)

    return factor_distances(factors) / x.shape[-1]


def _poisson(x: Patterns, options: Options) -> Pairs:
    def factors() -> Iterator[tuple[Tensor, Tensor]]:
        for block in column_blocks(x):
            rates = regularised_rates(
                block, prior_lambda=options.prior_lambda, prior_weight=options.prior_weight
            )
            yield rates, rates.log()

    return factor_distances(factors) / x.shape[-1]


def _ragged_euclidean(x: Presentations, options: Options) -> Pairs:
    if options.noise is not None:
        raise ValueError(
            "In some presentations a few neuroids are NaN, and noise= needs all of them. Leave out "
            "noise=, or these neuroids."
        )
    return ragged_euclidean(x, weighting=options.weighting)


def _crossnobis(x: Presentations, options: Options) -> Pairs:
    return crossnobis(x, noise=options.noise, weighting=options.weighting)


def _poisson_cv(x: Presentations, options: Options) -> Pairs:
    return poisson_cv(
        x,
        prior_lambda=options.prior_lambda,
        prior_weight=options.prior_weight,
        weighting=options.weighting,
    )


_EUCLIDEAN = ("rotation", "translation", "isotropic scale", "neuroid order")
_PRIOR = ("prior_lambda", "prior_weight")

RDM_METHODS: dict[str, Dissimilarity] = {
    "correlation": Dissimilarity(
        "1 − r, r the Pearson correlation over neuroids",
        ("pattern offset", "pattern scale", "isotropic scale", "neuroid order"),
        of_patterns=_correlation,
    ),
    "cosine": Dissimilarity(
        "1 − x·y / (|x| |y|)",
        ("rotation", "pattern scale", "isotropic scale", "neuroid order"),
        of_patterns=_cosine,
    ),
    "euclidean": Dissimilarity(
        "|x − y|² / p",
        _EUCLIDEAN,
        takes=("weighting",),
        of_patterns=_euclidean,
        of_presentations=_ragged_euclidean,
    ),
    "mahalanobis": Dissimilarity(
        "(x − y)ᵀP(x − y) / p, P the precision of the noise",
        _EUCLIDEAN,
        takes=("noise", "weighting"),
        of_patterns=_mahalanobis,
        of_presentations=_ragged_euclidean,
    ),
    "crossnobis": Dissimilarity(
        "mean over folds f ≠ g of (xᶠ − yᶠ)ᵀP(xᵍ − yᵍ) / p",
        _EUCLIDEAN,
        takes=("noise", "weighting", "fold"),
        of_presentations=_crossnobis,
    ),
    "poisson": Dissimilarity(
        "(x − y)·(log x − log y) / p",
        ("neuroid order",),
        takes=_PRIOR,
        of_patterns=_poisson,
    ),
    "poisson_cv": Dissimilarity(
        "mean over folds f ≠ g of (xᶠ − yᶠ)·(log xᵍ − log yᵍ) / p",
        ("neuroid order",),
        takes=(*_PRIOR, "weighting", "fold"),
        of_presentations=_poisson_cv,
    ),
}
