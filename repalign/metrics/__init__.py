"""Metrics: frozen parameters with a call that compares two populations' responses."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Device
from repalign.metrics.cka import CKA, hsic
from repalign.metrics.comparators import COMPARATORS, average_ranks
from repalign.metrics.predictivity import Ridge, fold_scores
from repalign.metrics.rdms import RDM_METHODS, RSA, rdm

__all__ = [
    "CKA",
    "COMPARATORS",
    "METRICS",
    "RDM_METHODS",
    "RSA",
    "InnerProductMetric",
    "Metric",
    "Ridge",
    "average_ranks",
    "fold_scores",
    "hsic",
    "rdm",
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


METRICS: dict[str, type[Metric]] = {"cka": CKA, "ridge": Ridge, "rsa": RSA}
