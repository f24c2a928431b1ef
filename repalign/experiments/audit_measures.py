"""One metric on one population of neuroids: its value, its null, and its values without a tenth.

The neuroids' side is prepared once and then meets every network that is audited.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics import CKA, RSA, InnerProductMetric, Metric
from repalign.metrics.cka import centre_gram
from repalign.metrics.comparators import comparator_named
from repalign.metrics.folds import fold_scores, median_of_defined
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.shape import compact
from repalign.metrics.subsets import take_stimuli

GROUPS = 10  # of stimuli, of which the jackknife leaves out one at a time
NULL_DRAWS = 10  # shuffles for the null of a metric that has none in closed form
MINIMUM_PREDICTED = 20  # stimuli: with fewer, correlations within held-out folds are ±1 by chance


@dataclass(frozen=True)
class Measurement:
    """What one metric says of one network.

    Args:
        value: of the metric; NaN where it is undefined.
        null: the value to expect with the stimuli shuffled.
        without: the values without each tenth of the stimuli; empty where there are too few.
    """

    value: float
    null: float
    without: tuple[float, ...]


@dataclass(frozen=True)
class Instrument:
    """A metric and one population, ready to meet networks.

    Args:
        prepare: what the metric makes of a network's responses whichever population it meets, so
            that several populations can share it.
        measure: from that to the measurement.
    """

    prepare: Callable[[Tensor], Tensor]
    measure: Callable[[Tensor], Measurement]

    def __call__(self, responses: Float[Tensor, "stimulus unit"]) -> Measurement:
        """Measure a network whose responses nobody shares."""
        return self.measure(self.prepare(responses))


def metric_label(metric: Metric) -> str:
    """Return a metric's name with the parameters that are not its usual ones.

    Example:
        >>> metric_label(RSA(rdm="cosine", comparator="corr")), metric_label(CKA())
        ('rsa:rdm=cosine,comparator=corr', 'cka')
    """
    fields = getattr(metric, "__dataclass_fields__", {})
    values = {name: getattr(metric, name) for name in fields}
    said = [
        f"{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in values.items()
        if value != fields[name].default
    ]
    return f"{metric.name}:{','.join(said)}" if said else metric.name


def fewest_stimuli(metric: Metric) -> int:
    """Return how many stimuli the audit asks of a metric."""
    least = MINIMUM_PREDICTED if isinstance(metric, Predictivity) else 3
    return max(metric.minimum_stimuli, least)


def tenths(n: int, *, at_least: int) -> list[Int[Tensor, "kept"]]:
    """Return the stimuli kept when each of 10 random groups is left out; the same for equal n.

    Fewer groups where there are fewer than 20 stimuli; none where fewer than ``at_least`` stimuli
    would be left.
    """
    groups = min(GROUPS, n // 2)
    if groups < 2 or n - -(-n // groups) < at_least:
        return []
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    member = torch.empty(n, dtype=torch.int64)
    member[order] = torch.arange(n) % groups
    return [(member != group).nonzero()[:, 0] for group in range(groups)]


def make_instrument(metric: Metric, brain: Float[Tensor, "stimulus neuroid"]) -> Instrument:
    """Return what measures a network against ``brain`` with ``metric``.

    Raises:
        ValueError: a metric that needs single repetitions, which networks do not have.
    """
    if metric.needs_repeats:
        raise ValueError(
            f"{metric_label(metric)} needs single repetitions; audit with a metric of averages,"
            " such as RSA(rdm='euclidean')"
        )
    kept = tenths(len(brain), at_least=metric.minimum_stimuli)
    if isinstance(metric, InnerProductMetric):
        return Instrument(
            metric.prepare, partial(_of_products, metric, metric.prepare(brain), kept)
        )
    if isinstance(metric, Predictivity):
        return Instrument(metric.prepare, partial(_of_predictions, metric, brain, kept))
    narrowed = partial(_narrowed, metric)
    return Instrument(narrowed, partial(_of_responses, metric, narrowed(brain), kept))


def _of_products(
    metric: InnerProductMetric, brain: Tensor, kept: list[Tensor], network: Tensor
) -> Measurement:
    value = float(metric.compare_prepared(network, brain))
    without = [
        float(metric.compare_prepared(take_stimuli(network, rows), take_stimuli(brain, rows)))
        for rows in kept
    ]
    return Measurement(value, _null_of_products(metric, network, brain), tuple(without))


def _null_of_products(metric: InnerProductMetric, a: Tensor, b: Tensor) -> float:
    """The mean over all orders of the stimuli, exactly.

    Biased CKA: a doubly centred Gram's off-diagonal sums to −tr, which leaves
    tr(K)tr(L) / ((n − 1)‖K‖‖L‖). Cosines of RDMs: every pair goes to every pair equally often.
    The debiased CKA and correlations of RDMs have 0.
    """
    if isinstance(metric, CKA) and not metric.debiased:
        k, m = (centre_gram(gram, debiased=False) for gram in (a, b))
        traces = k.trace() * m.trace() / (len(k) - 1)
        return float(traces / (torch.linalg.vector_norm(k) * torch.linalg.vector_norm(m)))
    if isinstance(metric, RSA) and comparator_named(metric.comparator).name == "cosine":
        means = a.double().mean() * b.double().mean() * len(a)
        return float(means / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)))
    return 0.0


def _of_predictions(
    metric: Predictivity, brain: Tensor, kept: list[Tensor], prepared: Tensor
) -> Measurement:
    """Held-out predictions are scored without a tenth of them; nothing is fitted again."""
    predictions, fold = metric.predict_prepared(prepared, brain)

    def score(rows: Any) -> float:
        found = fold_scores(predictions[rows], brain[rows], fold[rows], score=metric.score)
        return float(median_of_defined(found))

    return Measurement(score(slice(None)), 0.0, tuple(score(rows) for rows in kept))


def _of_responses(
    metric: Metric, brain: Tensor, kept: list[Tensor], network: Tensor
) -> Measurement:
    without = [float(metric(network[rows], brain[rows])) for rows in kept]
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(brain), generator=generator) for _ in range(NULL_DRAWS)]
    null = sum(float(metric(network[order], brain)) for order in orders) / NULL_DRAWS
    return Measurement(float(metric(network, brain)), null, tuple(without))


def _narrowed(metric: Metric, responses: Tensor) -> Tensor:
    """As many columns as stimuli at most, where the metric does not tell the difference."""
    blind = {"rotation", "translation"} <= set(metric.invariances)
    return compact(responses) if blind else responses
