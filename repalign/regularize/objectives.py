"""Alignment objectives: losses that fall as a layer's responses grow like a population's."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from repalign.choices import parse_choice, parse_value
from repalign.metrics import CKA, METRICS, RSA, Metric, Procrustes
from repalign.metrics.comparators import COMPARATORS, check_choice
from repalign.metrics.gram import centre, in_working_precision
from repalign.regularize.readouts import ReadOut, Ridge

_DAPELLO = "Dapello et al. 2023, ICLR (no DOI), https://openreview.net/forum?id=SMYdcXjJh1q"


@runtime_checkable
class AlignmentObjective(Protocol):
    """A loss between a layer and a target, to be minimised, and the value that is reported."""

    @property
    def name(self) -> str:
        """How rows and errors call it."""

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli for which it is defined."""

    @property
    def formula(self) -> str:
        """The loss in one line."""

    @property
    def reference(self) -> str:
        """The paper, with its DOI."""

    def __call__(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"], /
    ) -> Float[Tensor, ""]:
        """Return the loss."""

    def value(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"], /
    ) -> Float[Tensor, ""]:
        """Return what is reported: the metric, not its loss."""


@runtime_checkable
class FittedObjective(Protocol):
    """An objective with trainable parameters: what ``make`` returns is the objective proper."""

    def make(
        self, units: int, *, mean: Float[Tensor, "neuroid"], variance: Float[Tensor, "neuroid"]
    ) -> ReadOut:
        """Return an `AlignmentObjective` that is a module, for a layer of so many units."""


def differentiable_metrics() -> list[str]:
    """Names of the metrics that can be trained on, with the parameter that makes them so."""
    defaults = {name: kind() for name, kind in METRICS.items()}
    smooth = sorted(repr(name) for name, one in COMPARATORS.items() if one.differentiable)
    return [
        f"rsa with comparator={' or '.join(smooth)}" if name == "rsa" else name
        for name, metric in sorted(defaults.items())
        if metric.differentiable or name == "rsa"
    ]


@dataclass(frozen=True, kw_only=True)
class MetricObjective:
    """Any differentiable metric as a loss.

    ``1 − value`` for a similarity and ``value`` for a distance; with ``log``,
    ``log(1 − value + eps)`` and ``log(value + eps)``.

    Args:
        metric: a metric of `repalign.metrics.METRICS`, or one of your own.
        log: take the logarithm, whose gradient grows as the metric nears its best.
        eps: keeps the logarithm finite at identical responses.

    Raises:
        ValueError: a metric without gradients, or one that needs single repetitions.

    Example:
        >>> import torch
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
        >>> abs(MetricObjective(metric=CKA())(x, 2 * x + 1).item()) < 1e-9
        True

    Reference:
        The metric's; the logarithm is that of Dapello et al. 2023, ICLR (no DOI),
        https://openreview.net/forum?id=SMYdcXjJh1q
    """

    metric: Metric
    log: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what cannot be trained on."""
        if not self.metric.differentiable:
            shown = shorten(repr(self.metric), 120, placeholder=" …)")
            raise ValueError(
                f"{shown} has no gradients, so nothing can be trained on it. Use one of "
                f"{', '.join(differentiable_metrics())}, or a loss of ALIGNMENT_LOSSES: "
                f"{', '.join(ALIGNMENT_LOSSES)}."
            )
        if self.metric.needs_repeats:
            raise ValueError(
                f"{self.metric!r} needs single repetitions, and alignment is trained on their "
                "average. Use rdm='euclidean' instead of a cross-validated or whitened one."
            )
        if self.log and not 0 < self.eps < 1:
            raise ValueError(f"eps is {self.eps}; expected more than 0 and less than 1. Use 1e-6.")

    @property
    def name(self) -> str:
        """The metric's name, after ``log-`` where the logarithm is taken."""
        debiased = "debiased-" if getattr(self.metric, "debiased", False) else ""
        return ("log-" if self.log else "") + debiased + self.metric.name

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: the metric's."""
        return self.metric.minimum_stimuli

    @property
    def higher_is_more_similar(self) -> bool:
        """Whether ``value`` is a similarity: as the metric's."""
        return self.metric.higher_is_more_similar

    @property
    def formula(self) -> str:
        """The loss in one line."""
        left = "1 − v" if self.metric.higher_is_more_similar else "v"
        return f"{f'log({left} + {self.eps:g})' if self.log else left}, v = {self.metric.formula}"

    @property
    def reference(self) -> str:
        """The paper, with its DOI."""
        return f"{_DAPELLO}; {self.metric.reference}" if self.log else self.metric.reference

    def __call__(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the loss."""
        value = self.metric(x, y)
        left = 1 - value if self.metric.higher_is_more_similar else value
        return (left.clamp(min=0) + self.eps).log() if self.log else left

    def value(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the metric."""
        return self.metric(x, y)


@dataclass(frozen=True, kw_only=True)
class PairwiseSimilarity:
    """Pairwise similarity matching: the squared error of Fisher-transformed cosines.

    ``mean over pairs i < j of (arctanh(s · cos(xᵢ, xⱼ)) − arctanh(s · cos(yᵢ, yⱼ)))²``, with
    patterns centred over the stimuli of the batch and ``s = 1 − eps``.

    Args:
        eps: keeps arctanh finite for pairs of equal patterns.

    Raises:
        ValueError: eps outside (0, 1).

    Note:
        The paper also weighs neuroids by their signal-to-noise ratio and learns a mixture of
        layers. Here neuroids weigh as they are recorded, and layers are terms of their own.

    Example:
        >>> import torch
        >>> x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
        >>> PairwiseSimilarity()(x, 3 * x.flip(1) + 1).item() < 1e-9
        True

    Reference:
        Li et al. 2019, https://doi.org/10.48550/arXiv.1911.05072
    """

    eps: float = 1e-3

    name: ClassVar[str] = "pairwise-similarity"
    minimum_stimuli: ClassVar[int] = 3
    higher_is_more_similar: ClassVar[bool] = False
    formula: ClassVar[str] = "mean (arctanh cos(xᵢ, xⱼ) − arctanh cos(yᵢ, yⱼ))² over pairs"
    reference: ClassVar[str] = "Li et al. 2019, https://doi.org/10.48550/arXiv.1911.05072"

    def __post_init__(self) -> None:
        """Check eps."""
        if not 0 < self.eps < 1:
            raise ValueError(f"eps is {self.eps}; expected more than 0 and less than 1. Use 1e-3.")

    def _fisher(self, x: Float[Tensor, "stimulus unit"]) -> Float[Tensor, "stimulus stimulus"]:
        patterns = centre(in_working_precision(x), 0)
        gram = patterns @ patterns.mT
        lengths = gram.diagonal().sqrt()
        return (gram / (lengths[:, None] * lengths) * (1 - self.eps)).atanh()

    def __call__(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the loss."""
        n = len(x)
        wrong = (self._fisher(x) - self._fisher(y)).square()
        return (wrong.sum() - wrong.diagonal().sum()) / (n * (n - 1))

    def value(
        self, x: Float[Tensor, "stimulus unit"], y: Float[Tensor, "stimulus neuroid"]
    ) -> Float[Tensor, ""]:
        """Return the loss, which is the distance itself."""
        return self(x, y)


def _cka(*, debiased: bool, log: bool = False, eps: float = 1e-6) -> MetricObjective:
    return MetricObjective(metric=CKA(debiased=debiased), log=log, eps=eps)


def _rsa(*, rdm: str = "correlation", comparator: str = "corr") -> MetricObjective:
    return MetricObjective(metric=RSA(rdm=rdm, comparator=comparator))


def _procrustes(*, kind: str = "squared distance") -> MetricObjective:
    return MetricObjective(metric=Procrustes(kind=kind))


ALIGNMENT_LOSSES: dict[str, Callable[..., AlignmentObjective | FittedObjective]] = {
    "cka": partial(_cka, debiased=False),
    "debiased-cka": partial(_cka, debiased=True),
    "log-cka": partial(_cka, debiased=False, log=True),
    "pairwise-similarity": PairwiseSimilarity,
    "procrustes": _procrustes,
    "ridge-mse": partial(Ridge, noise="gaussian"),
    "ridge-poisson": partial(Ridge, noise="poisson"),
    "rsa": _rsa,
}


def as_objective(
    metric: Metric | AlignmentObjective | FittedObjective | str,
) -> AlignmentObjective | FittedObjective:
    """Return the objective of a metric, of a name, or the objective itself.

    Args:
        metric: a differentiable metric, an objective, or a name in ``ALIGNMENT_LOSSES``, else in
            ``METRICS``, with parameters where wanted: ``"rsa:rdm=euclidean,comparator=cosine"``.

    Raises:
        ValueError: an unknown name or parameter, or a metric that cannot be trained on.
        TypeError: something else.

    Example:
        >>> as_objective("rsa:rdm=euclidean").metric
        RSA(rdm='euclidean', comparator='corr', model_rdm=None, noise=None)
    """
    if isinstance(metric, str):
        name, _, options = metric.partition(":")
        if name in METRICS and name not in ALIGNMENT_LOSSES:
            return MetricObjective(metric=parse_choice(metric, METRICS, "metric"))
        check_choice(name, ALIGNMENT_LOSSES, "alignment loss")
        factory = ALIGNMENT_LOSSES[name]
        fixed = getattr(factory, "keywords", {})
        given = inspect.signature(factory).parameters.values()
        known = {one.name: one.default for one in given if one.name not in fixed}
        parameters: dict[str, Any] = {}
        for option in filter(None, options.split(",")):
            key, equals, text = option.partition("=")
            if key not in known or not equals:
                raise ValueError(
                    f"{metric!r}: {option!r} is no parameter of {name}; there are "
                    f"{', '.join(known) or 'none'}."
                )
            parameters[key] = parse_value(text, known[key], f"{metric!r}: {option!r}")
        return factory(**parameters)
    if isinstance(metric, FittedObjective | AlignmentObjective):
        return metric
    if isinstance(metric, Metric):
        return MetricObjective(metric=metric)
    raise TypeError(
        f"metric is a {type(metric).__name__}; expected a differentiable metric, an objective, or "
        f"one of {', '.join(ALIGNMENT_LOSSES)}."
    )
