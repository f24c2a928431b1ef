"""Terms of an alignment: one layer, the population it is drawn to, and how they are compared."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repalign.metrics import CKA, Metric
from repalign.regularize.cka_bias import BiasedMetricWarning, biased_null
from repalign.regularize.neural_batches import NeuralBatches
from repalign.regularize.neural_pass import Probe
from repalign.regularize.neural_sources import Target
from repalign.regularize.objectives import AlignmentObjective, FittedObjective, as_objective

Pair = tuple[Tensor, Tensor]
AnyMetric = Metric | AlignmentObjective | FittedObjective | str


class UndefinedLossError(ValueError):
    """A neural loss is not finite.

    Args:
        kind: ``alignment`` or ``labels``.
        value: what the loss is.
        message: which term, and what may help.
    """

    def __init__(self, kind: str, value: float, message: str) -> None:
        """Keep which loss it was."""
        self.kind, self.value = kind, value
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class AlignmentTerm:
    """One layer, the population it is drawn to, and how their likeness is measured.

    Args:
        layer: exact name of a module.
        target: a recording (`repalign.ingest`, `repalign.select`), or an array whose rows are the
            images: (stimulus, neuroid) or (repeat, stimulus, neuroid).
        metric: a differentiable metric, an objective, or a name in ``ALIGNMENT_LOSSES``.
        weight: of the term in the sum.
        name: in rows, logs and errors; made of layer and metric if empty.
    """

    layer: str
    target: Target
    metric: AnyMetric = "cka"
    weight: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class BoundTerm:
    """A term whose layer and target are known.

    Args:
        name: in rows, logs and errors.
        layer: exact name of the module.
        source: which of the targets it has.
        objectives: one a time bin, or a single one.
        weight: in the sum.
        bins: time bins of the target; None where it has none.
    """

    name: str
    layer: str
    source: int
    objectives: tuple[AlignmentObjective, ...]
    weight: float
    bins: int | None

    def pairs(self, outputs: Sequence[Tensor], y: Tensor) -> list[Pair]:
        """Return the layer's responses beside the target's, one pair a time bin."""
        if outputs and len(outputs[-1]) != len(y):
            raise ValueError(
                f"term {self.name!r}: {len(outputs[-1])} images and {len(y)} rows of responses; "
                "expected one row an image."
            )
        xs = [_in_full(output).flatten(1) for output in outputs]
        if self.bins is None:
            return [(xs[-1], y)]
        if y.ndim != 3 or len(xs) not in (1, self.bins) or y.shape[2] != self.bins:
            raise ValueError(
                f"term {self.name!r}: {len(xs)} outputs of layer {self.layer!r} and responses of "
                f"shape {tuple(y.shape)}; expected {self.bins} time bins, and 1 output or as many."
            )
        xs = xs * self.bins if len(xs) == 1 else xs
        return [(x, y[:, :, time]) for time, x in enumerate(xs)]

    def loss(self, pairs: Sequence[Pair]) -> Float[Tensor, ""]:
        """Return the mean loss over time bins.

        Raises:
            UndefinedLossError: it is not finite (a ValueError).
            ValueError: the responses do not fit the objective.
        """
        try:
            parts = [
                objective(x, y) for objective, (x, y) in zip(self.objectives, pairs, strict=True)
            ]
        except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            if not all(bool(x.isfinite().all()) for x, _ in pairs):
                raise self._undefined(float("nan")) from error
            raise ValueError(f"term {self.name!r} (layer {self.layer!r}): {error}") from error
        loss = torch.stack(parts).mean() if len(parts) > 1 else parts[0]
        if not bool(loss.isfinite()):
            raise self._undefined(loss.item())
        return loss

    def _undefined(self, value: float) -> UndefinedLossError:
        return UndefinedLossError(
            "alignment",
            value,
            f"the loss of term {self.name!r} (layer {self.layer!r}, {self.objectives[0].name}) "
            f"is {value}: the responses of the layer or of the target are alike for all "
            "stimuli of the batch, or have grown beyond measure. Look at the layer's "
            "activations, lower the learning rate, or raise batch_size.",
        )

    def value(self, pairs: Sequence[Pair]) -> float:
        """Return the mean value over time bins."""
        values = [
            float(objective.value(x, y))
            for objective, (x, y) in zip(self.objectives, pairs, strict=True)
        ]
        return sum(values) / len(values)

    def null(self, pairs: Sequence[Pair]) -> float | None:
        """Return the mean value of unrelated responses over time bins, where it is not 0."""
        found = [biased_null(self.objectives[0], x, y) for x, y in pairs]
        known = [value for value in found if value is not None]
        return sum(known) / len(known) if known else None


def _in_full(output: Tensor) -> Tensor:
    return output.float() if output.dtype in (torch.float16, torch.bfloat16) else output


def chosen_terms(
    layer: str | None,
    target: Target | None,
    metric: AnyMetric | None,
    terms: Sequence[AlignmentTerm] | None,
) -> list[AlignmentTerm]:
    """Return the terms, or the one that a layer and a target make.

    Raises:
        ValueError: both or neither were given.
    """
    if terms is not None:
        if layer is not None or target is not None or metric is not None or not terms:
            raise ValueError(
                "terms= stands in place of layer, target and metric, and holds one term or more."
            )
        names = [term.name for term in terms if term.name]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two terms are called {twice!r}; names must be unique.")
        return list(terms)
    if layer is None or target is None:
        raise ValueError("an alignment needs a layer and a target, or terms=[AlignmentTerm(…), …].")
    return [AlignmentTerm(layer=layer, target=target, metric=CKA() if metric is None else metric)]


def distinct_targets(chosen: Sequence[AlignmentTerm]) -> tuple[dict[str, Target], list[int]]:
    """Return the targets by name, one that several terms share once, and which one each has."""
    first = {id(term.target): term for term in reversed(chosen)}
    order = list(dict.fromkeys(id(term.target) for term in chosen))
    alone = "target" if len(order) == 1 else ""
    named = {
        first[key].name or alone or f"target {i + 1}": first[key].target
        for i, key in enumerate(order)
    }
    return named, [order.index(id(term.target)) for term in chosen]


def bind_terms(
    chosen: Sequence[AlignmentTerm],
    layers: Sequence[str],
    sources: Sequence[int],
    batches: NeuralBatches,
    probe: Probe,
) -> tuple[BoundTerm, ...]:
    """Return terms that know their layer and their target, with read-outs of the right size.

    Args:
        chosen: the terms.
        layers: exact name of each one's module.
        sources: which target of ``batches`` each one has.
        batches: the stimuli trained on.
        probe: what is known of the network.

    Raises:
        ValueError: a metric that cannot be trained on, a layer that does not run as often as its
            target has time bins, or two terms of one name.
    """
    position = {name: row for row, name in enumerate(batches.shared)}
    rows = np.array([position[name] for name in batches.ids])
    bound: list[BoundTerm] = []
    for term, layer, source in zip(chosen, layers, sources, strict=True):
        responses, calls = batches.responses[source], probe.calls[layer]
        if responses.bins is not None and calls not in (1, responses.bins):
            raise ValueError(
                f"layer {layer!r} runs {calls} times in a pass and its target has "
                f"{responses.bins} time bins; expected 1 (compared with every bin) or as many as "
                "bins. Select or average bins, or name another layer."
            )
        objective = as_objective(term.metric)
        parts: list[AlignmentObjective] = []
        for time in range(responses.bins or 1):
            if isinstance(objective, FittedObjective):
                mean, variance = (
                    moment if responses.bins is None else moment[:, time]
                    for moment in responses.moments(rows)
                )
                parts.append(objective.make(probe.units[layer], mean=mean, variance=variance))
            else:
                parts.append(objective)
        name = _unique(term.name, f"{layer} {parts[0].name}", [other.name for other in bound])
        bound.append(BoundTerm(name, layer, source, tuple(parts), term.weight, responses.bins))
    return tuple(bound)


def _unique(given: str, made: str, taken: Sequence[str]) -> str:
    number = sum(other == made or other.startswith(f"{made} #") for other in taken)
    return given or (f"{made} #{number + 1}" if number else made)


def readouts_of(terms: Sequence[BoundTerm]) -> nn.ModuleList:
    """Return the trainable objectives of all terms."""
    return nn.ModuleList(
        part for term in terms for part in term.objectives if isinstance(part, nn.Module)
    )


def warn_of_weakness(term: BoundTerm, pairs: Sequence[Pair], *, stacklevel: int) -> None:
    """Warn where a term cannot do what it is there for: it is biased, or moves nothing."""
    _warn_of_bias(term, pairs, stacklevel=stacklevel)
    moves = any(x.requires_grad for x, _ in pairs) or isinstance(term.objectives[0], nn.Module)
    if torch.is_grad_enabled() and not moves:
        warnings.warn(
            f"term {term.name!r} trains nothing: no parameter up to layer {term.layer!r} requires "
            "gradients. Unfreeze some, or draw a later layer to the target.",
            UserWarning,
            stacklevel=stacklevel - 1,
        )


def _warn_of_bias(term: BoundTerm, pairs: Sequence[Pair], *, stacklevel: int) -> None:
    """Warn where a biased CKA is trained on fewer stimuli than there are units or neuroids."""
    x, y = pairs[0]
    null = term.null(pairs)
    if null is None or len(x) >= max(x.shape[1], y.shape[1]):
        return
    warnings.warn(
        f"term {term.name!r} trains on the biased CKA of {len(x)} stimuli, with {x.shape[1]} units "
        f"and {y.shape[1]} neuroids: unrelated responses of these dimensions would score "
        f"{null:.2f}. Larger batches lower it; metric='debiased-cka' has none.",
        BiasedMetricWarning,
        stacklevel=stacklevel,
    )
