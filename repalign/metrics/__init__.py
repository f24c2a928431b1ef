"""Metrics: frozen parameters with a call that compares two populations' responses."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repalign.metrics.banded import BandedRidge
from repalign.metrics.calls import Device
from repalign.metrics.cka import CKA, biased_cka_null, hsic
from repalign.metrics.comparators import COMPARATORS, Comparator, average_ranks, compare_rdms
from repalign.metrics.folds import fold_scores
from repalign.metrics.matching import OneToOne, SemiMatching, SoftMatching, SoftMatchingDistance
from repalign.metrics.model_rdms import crossvalidated_weights, fit_weights
from repalign.metrics.movies import rdm_movie
from repalign.metrics.neighbours import CKNNA, MutualKNN
from repalign.metrics.noise import noise_covariance, noise_precision
from repalign.metrics.noise_correction import noise_corrected, noise_corrected_scores, reliability
from repalign.metrics.pls import PLS
from repalign.metrics.predictivity import both_directions
from repalign.metrics.rdms import RDM_METHODS, RSA, rdm
from repalign.metrics.ridge import Ridge
from repalign.metrics.ridge_selection import ridge_cv
from repalign.metrics.shape import AngularShape, Procrustes
from repalign.metrics.shared_variance import (
    partial_correlation,
    partial_correlation_interval,
    variance_partitioning,
)
from repalign.metrics.single_unit import SingleUnit
from repalign.metrics.streaming import cka_of_batches
from repalign.metrics.subspace import CCA, PWCCA, SVCCA

__all__ = [
    "CCA",
    "CKA",
    "CKNNA",
    "COMPARATORS",
    "METRICS",
    "PLS",
    "PWCCA",
    "RDM_METHODS",
    "RSA",
    "SVCCA",
    "AngularShape",
    "BandedRidge",
    "Comparator",
    "InnerProductMetric",
    "Metric",
    "MutualKNN",
    "OneToOne",
    "Procrustes",
    "Ridge",
    "SemiMatching",
    "SingleUnit",
    "SoftMatching",
    "SoftMatchingDistance",
    "average_ranks",
    "biased_cka_null",
    "both_directions",
    "cka_of_batches",
    "compare_rdms",
    "crossvalidated_weights",
    "fit_weights",
    "fold_scores",
    "hsic",
    "noise_corrected",
    "noise_corrected_scores",
    "noise_covariance",
    "noise_precision",
    "partial_correlation",
    "partial_correlation_interval",
    "rdm",
    "rdm_movie",
    "reliability",
    "ridge_cv",
    "variance_partitioning",
]


@runtime_checkable
class Metric(Protocol):
    """What every metric states and does; ``dataclasses.asdict`` gives its parameters."""

    @property
    def name(self) -> str:
        """The name in ``METRICS``."""

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value."""

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to the responses without changing the value."""

    @property
    def symmetric(self) -> bool:
        """Whether x and y may be exchanged."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow to the responses."""

    @property
    def needs_responses(self) -> bool:
        """Whether it needs responses, so that a published RDM is not enough."""

    @property
    def higher_is_more_similar(self) -> bool:
        """Whether it is a similarity rather than a distance."""

    @property
    def formula(self) -> str:
        """The definition in one line."""

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli for which it is defined."""

    @property
    def needs_repeats(self) -> bool:
        """Whether it takes the single repetitions, not their average."""

    @property
    def reference(self) -> str:
        """The paper, with its DOI."""

    def __call__(
        self,
        x: Float[Tensor, "*batch stimulus neuroid"],
        y: Float[Tensor, "*batch stimulus unit"],
        /,
        *,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Compare responses whose rows are the same stimuli; repetitions come before stimuli."""


@runtime_checkable
class InnerProductMetric(Metric, Protocol):
    """A metric ⟨x, y⟩ / √(⟨x, x⟩⟨y, y⟩) of what it prepares from each population once."""

    def prepare(self, x: Float[Tensor, "stimulus neuroid"], /) -> Tensor:
        """Return what the inner product is taken of: an RDM, or a Gram matrix."""

    def inner(self, a: Tensor, b: Tensor, /) -> Float[Tensor, ""]:
        """Return the inner product of two prepared populations."""

    def compare_prepared(self, a: Tensor, b: Tensor, /) -> Float[Tensor, ""]:
        """Return the value for two prepared populations."""


METRICS: dict[str, type[Metric]] = {
    "angular-shape": AngularShape,
    "banded-ridge": BandedRidge,
    "cca": CCA,
    "cka": CKA,
    "cknna": CKNNA,
    "mutual-knn": MutualKNN,
    "one-to-one": OneToOne,
    "pls": PLS,
    "procrustes": Procrustes,
    "pwcca": PWCCA,
    "ridge": Ridge,
    "rsa": RSA,
    "semi-matching": SemiMatching,
    "single-unit": SingleUnit,
    "soft-matching": SoftMatching,
    "soft-matching-distance": SoftMatchingDistance,
    "svcca": SVCCA,
}
