"""Representational dissimilarity matrices (RDMs), and representational similarity analysis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import (
    Array,
    ComparesPopulations,
    Device,
    as_responses,
    average_of_repeats,
)
from repalign.metrics.comparators import check_choice, comparator_named
from repalign.metrics.dissimilarities import RDM_METHODS, Options, as_precision
from repalign.metrics.gram import cores_for_blas
from repalign.metrics.noise import COVARIANCES, noise_precision
from repalign.metrics.pairs import condensed, square_form, stimulus_count
from repalign.metrics.presentations import (
    Labels,
    Presentations,
    Repeated,
    averages,
    from_labels,
    from_repeats,
    labelled_responses,
)

__all__ = ["RDM_METHODS", "RSA", "condensed", "rdm", "square_form", "stimulus_count"]


def _check_applicable(method: str, **given: bool) -> None:
    """Raise a ValueError if an argument was given that the method does not know."""
    for name, was_given in given.items():
        if was_given and name not in RDM_METHODS[method].takes:
            known = ", ".join(other for other, kind in RDM_METHODS.items() if name in kind.takes)
            raise ValueError(
                f"{name}= does not apply to method={method!r}. Leave it out, or use one of {known}."
            )


def _of_presentations(
    presentations: Presentations, *, method: str, options: Options
) -> Float[Tensor, "pair"]:
    kind = RDM_METHODS[method]
    if presentations.n_stimuli < Repeated.minimum_stimuli:
        raise ValueError(
            f"stimulus= names 1 stimulus, {presentations.names[0]!r}; an RDM needs 2 or more."
        )
    if kind.of_patterns is not None and not presentations.ragged:
        return kind.of_patterns(averages(presentations), options)
    if kind.of_presentations is None:
        raise ValueError(
            f"In some presentations a few neuroids are NaN, and method={method!r} needs all of "
            "them. Leave these neuroids out, or use method='euclidean'."
        )
    return kind.of_presentations(presentations, options)


def _each_population(
    x: Float[Tensor, "*batch row neuroid"], measure: Callable[[Tensor], Tensor], *, batch_dims: int
) -> Float[Tensor, "*batch pair"]:
    batch = x.shape[:batch_dims]
    found = torch.stack([measure(one) for one in x.reshape(-1, *x.shape[batch_dims:])])
    return found.reshape(*batch, -1)


def rdm(
    x: Array,
    *,
    method: str = "correlation",
    noise: Array | None = None,
    stimulus: Labels | None = None,
    fold: Labels | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    weighting: str = "number",
    batch_dims: int = 0,
    device: Device = None,
) -> Float[Tensor, "*batch pair"]:
    """Return the dissimilarities of all pairs of stimuli, by rsatoolbox's names.

    For p neuroids and patterns x, y: ``correlation`` is 1 − r; ``cosine`` is 1 − cos; ``euclidean``
    is the *squared* distance |x − y|² / p; ``mahalanobis`` is (x − y)ᵀP(x − y) / p, P the precision
    of the noise; ``poisson`` is (x − y)·(log x − log y) / p, the symmetrised Kullback–Leibler
    divergence of two Poisson rates. ``crossnobis`` and ``poisson_cv`` take one factor of the
    product from one fold and the other from another, averaged over all pairs of folds: noise adds
    nothing to the expectation of a crossnobis distance, and values may be negative.

    Args:
        x: (stimulus, neuroid); (repeat, stimulus, neuroid), where a missing presentation is NaN in
            all neuroids; or (presentation, neuroid) with ``stimulus``. Repetitions are the folds of
            cross-validated methods and averaged by the others. In any unit; computed in float64.
        method: a name in ``RDM_METHODS``, each of which has its ``formula``.
        noise: precision over neuroids, (neuroid, neuroid), as ``noise_precision`` gives it; for
            ``crossnobis`` also one a fold, (fold, neuroid, neuroid), in ascending order of the
            folds. The identity if None.
        stimulus: label of each presentation.
        fold: label of the run or session of each presentation, for cross-validated methods with
            ``stimulus``. None: the first presentation of each stimulus is one fold, and so on.
        prior_lambda, prior_weight: rate and weight of the prior of Poisson rates,
            (x + λw) / (1 + w), taken of averages.
        weighting: where some presentations lack neuroids, whether each weighs as many as the pair
            of presentations shares (``number``) or the same (``equal``).
        batch_dims: number of leading dimensions that number populations.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where ``x`` is.

    Returns:
        The upper triangle row by row (scipy's ``pdist`` order), n(n − 1)/2 values; with
        ``stimulus``, in ascending order of its labels. NaN are the pairs of a pattern that is
        constant over neuroids under ``correlation`` or zero under ``cosine``, and those whose
        presentations share no neuroid.

    Raises:
        ValueError: unknown method, an argument that does not apply to it, another shape, values
            that are not finite, rates that are not positive, one neuroid under ``correlation``, or
            a stimulus in fewer than 2 folds.
        TypeError: no real numbers.

    Note:
        Values equal rsatoolbox's ``calc_rdm``, but ``poisson_cv`` averages over folds where it
        keeps the last one. For designs that are not balanced, euclidean, mahalanobis and crossnobis
        follow its ``calc_rdm_unbalanced``, where all pairs of presentations in different folds
        weigh the same (it orders stimuli as they appear); correlation, cosine and poisson average
        each stimulus' presentations, poisson_cv those within a fold. Then, or where presentations
        of different stimuli lack different neuroids, a constant added to all patterns changes the
        value: subtract each neuroid's baseline first.

    Example:
        >>> rdm(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]]), method="euclidean")
        tensor([12.5000,  2.0000,  6.5000], dtype=torch.float64)

    Reference:
        Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008; crossnobis:
        Walther et al. 2016, https://doi.org/10.1016/j.neuroimage.2015.12.012; in rsatoolbox:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    check_choice(method, RDM_METHODS, "RDM method")
    check_choice(weighting, ("number", "equal"), "weighting")
    _check_applicable(
        method,
        noise=noise is not None,
        fold=fold is not None,
        prior_lambda=prior_lambda != Options.prior_lambda,
        prior_weight=prior_weight != Options.prior_weight,
        weighting=weighting != Options.weighting,
    )
    kind = RDM_METHODS[method]
    if stimulus is None:
        if fold is not None:
            raise ValueError("fold= labels presentations, as stimulus= does; give both or neither.")
        needs = Repeated(f"method={method!r}")
        tensor = as_responses(x, needs=needs, batch_dims=batch_dims, device=device)
    else:
        tensor = labelled_responses(x, batch_dims=batch_dims, device=device)
    repeated = tensor.ndim - batch_dims == 3
    options = Options(as_precision(noise, like=tensor), prior_lambda, prior_weight, weighting)
    if stimulus is None and kind.of_patterns is not None:
        with cores_for_blas(tensor):
            return kind.of_patterns(average_of_repeats(tensor) if repeated else tensor, options)
    if stimulus is None and not repeated:
        raise ValueError(
            f"x has shape {tuple(tensor.shape)}; method={method!r} needs (repeat, stimulus, "
            "neuroid), or (presentation, neuroid) with stimulus=. Give repetitions, or use "
            "method='euclidean'."
        )

    def measure(one: Tensor) -> Tensor:
        if stimulus is None:
            presentations = from_repeats(one)
        else:
            presentations = from_labels(one, stimulus, fold, folds_needed=kind.cross_validated)
        return _of_presentations(presentations, method=method, options=options)

    with cores_for_blas(tensor):
        return _each_population(tensor, measure, batch_dims=batch_dims)


@dataclass(frozen=True)
class RSA(ComparesPopulations):
    """Representational similarity analysis: the similarity of two RDMs of the same stimuli.

    ``rsa(x, y) = compare(rdm(x), rdm(y))``, with compare a similarity of the upper triangles.

    Args:
        rdm: the dissimilarity of two patterns, a name in ``RDM_METHODS``.
        comparator: the similarity of two RDMs, a name in ``COMPARATORS``. Gradients flow where it
            is differentiable; ranks have none.
        model_rdm: the dissimilarity for a population without repetitions, where ``rdm`` or
            ``noise`` needs them: a network has no noise to cross-validate or to whiten.
        noise: for ``mahalanobis`` and ``crossnobis``, how the covariance of the noise is estimated
            from each population's own repetitions, a name in ``COVARIANCES``. None: the identity.

    Raises:
        ValueError: unknown name, a parameter that does not apply, wrong shape, different numbers of
            stimuli, or no repetitions where they are needed and no ``model_rdm``.

    Note:
        The value is NaN where an RDM is constant (2 stimuli, or equidistant patterns) or holds
        NaN (a pattern constant over neuroids, under the correlation distance). Unlike in scipy,
        distances within 1e-12 of the largest are tied: equal distances differ by rounding.

    Example:
        >>> x = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))
        >>> round(RSA(rdm="euclidean")(x, 3 * x + 1).item(), 6)
        1.0

    Reference:
        Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008
    """

    rdm: str = "correlation"
    comparator: str = "spearman"
    model_rdm: str | None = None
    noise: str | None = None

    name: ClassVar[str] = "rsa"
    formula: ClassVar[str] = "compare(rdm(x), rdm(y))"
    minimum_stimuli: ClassVar[int] = 3
    symmetric: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = False
    reference: ClassVar[str] = (
        "Kriegeskorte, Mur & Bandettini 2008, https://doi.org/10.3389/neuro.06.004.2008"
    )

    def __post_init__(self) -> None:
        """Check the names."""
        check_choice(self.rdm, RDM_METHODS, "RDM method")
        comparator_named(self.comparator)
        if self.noise is not None:
            check_choice(self.noise, COVARIANCES, "covariance method")
            _check_applicable(self.rdm, noise=True)
        if self.model_rdm is None:
            return
        check_choice(self.model_rdm, RDM_METHODS, "RDM method")
        if RDM_METHODS[self.model_rdm].cross_validated or not self.needs_repeats:
            raise ValueError(
                f"model_rdm={self.model_rdm!r} does not apply to rdm={self.rdm!r}: it is for "
                "populations without repetitions, where rdm is cross-validated or noise is given, "
                "and cannot be cross-validated itself. Use rdm='crossnobis', model_rdm='euclidean'."
            )

    @property
    def needs_repeats(self) -> bool:
        """Whether it takes single repetitions: to cross-validate, or to estimate their noise."""
        return RDM_METHODS[self.rdm].cross_validated or self.noise is not None

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value: the comparator's."""
        return comparator_named(self.comparator).range

    @property
    def higher_is_more_similar(self) -> bool:
        """Whether it is a similarity: as the comparator is."""
        return comparator_named(self.comparator).higher_is_more_similar

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow: not through ranks."""
        return comparator_named(self.comparator).differentiable

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to a population's responses without changing the value."""
        own = RDM_METHODS[self.rdm].invariances
        if self.noise is not None:
            own = COVARIANCES[self.noise].invariances
        if self.model_rdm is None:
            return own
        return tuple(word for word in own if word in RDM_METHODS[self.model_rdm].invariances)

    def _value(self, x: Tensor, y: Tensor) -> Tensor:
        return self.compare_prepared(self.prepare(x), self.prepare(y))

    def prepare(self, x: Float[Tensor, "*repeat stimulus neuroid"]) -> Float[Tensor, "pair"]:
        """Return the RDM of ``x``: what a loop over comparisons computes once."""
        if not self.needs_repeats:
            return rdm(x, method=self.rdm)
        if x.ndim == 3 and len(x) > 1:
            noise = None if self.noise is None else noise_precision(x, method=self.noise)
            return rdm(x, method=self.rdm, noise=noise)
        if self.model_rdm is None:
            raise ValueError(
                f"A population has no repetitions, and {self!r} needs them. Pass (repeat, "
                "stimulus, neuroid), or say with model_rdm='euclidean' how patterns without noise "
                "differ."
            )
        return rdm(x, method=self.model_rdm)

    def inner(self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]) -> Float[Tensor, ""]:
        """Return the inner product of two RDMs on the comparator's scale."""
        return comparator_named(self.comparator).inner(a, b)

    def compare_rdms(self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]) -> Float[Tensor, ""]:
        """Return the similarity of two RDMs, whichever way they were measured."""
        return comparator_named(self.comparator)(a, b)

    def compare_prepared(
        self, a: Float[Tensor, "pair"], b: Float[Tensor, "pair"]
    ) -> Float[Tensor, ""]:
        """Return the similarity of two prepared populations: ``compare_rdms``."""
        return self.compare_rdms(a, b)
