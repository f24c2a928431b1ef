"""Scores of layers on parts of the stimuli, in any order of the brain's stimuli."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics import CKA, RSA, InnerProductMetric, Metric
from repalign.metrics.cka import centre_gram
from repalign.metrics.comparators import comparator_named
from repalign.metrics.folds import fold_scores, group_numbers, median_of_defined
from repalign.metrics.gram import in_working_precision
from repalign.metrics.pairs import condensed, square_form
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.subsets import take_stimuli

BLOCK_ELEMENTS = 1 << 22
ANGLES = ("cosine", "corr", "spearman", "rho-a", "cosine_cov", "corr_cov")  # products of vectors
Unit = Callable[[Float[Tensor, "*batch stimulus stimulus"]], Float[Tensor, "*batch feature"]]


@dataclass(frozen=True)
class PartScores:
    """Scores of one brain's layers in some orders of its stimuli.

    Args:
        choosing: on the stimuli of all folds but one, order × fold × layer.
        held_out: on the stimuli of that fold, order × fold × layer.
        whole: on all stimuli, order × layer.
    """

    choosing: Float[Tensor, "order fold layer"]
    held_out: Float[Tensor, "order fold layer"]
    whole: Float[Tensor, "order layer"]


def as_square(prepared: Tensor) -> Float[Tensor, "stimulus stimulus"]:
    """Return a condensed RDM as a matrix, and a Gram matrix as it is."""
    return square_form(prepared) if prepared.ndim == 1 else prepared


def at_places(
    square: Float[Tensor, "stimulus stimulus"], places: Int[Tensor, "*batch chosen"]
) -> Float[Tensor, "*batch chosen chosen"]:
    """Return the rows and columns of the chosen stimuli, in their order."""
    return square[places[..., :, None], places[..., None, :]]


def unit_vectors(metric: Metric) -> Unit | None:
    """Return what makes vectors of matrices, so that the metric is their product; None if none."""
    if isinstance(metric, CKA):

        def of_gram(gram: Tensor) -> Tensor:
            centred = centre_gram(gram, debiased=metric.debiased).flatten(-2)
            lengths: Tensor = centred.norm(dim=-1, keepdim=True)
            return centred / lengths

        return of_gram
    if not isinstance(metric, RSA) or comparator_named(metric.comparator).name not in ANGLES:
        return None
    compare = comparator_named(metric.comparator)

    def of_rdm(square: Tensor) -> Tensor:
        embedded: Tensor = compare.embedded(condensed(square))
        return embedded / compare.square(embedded).sqrt()[..., None]

    return of_rdm


def parts_of_folds(fold: Int[Tensor, "stimulus"]) -> list[tuple[Tensor, Tensor]]:
    """Return the rows outside and inside each fold."""
    return [
        ((fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0])
        for k in range(int(fold.max()) + 1)
    ]


def score_parts(
    metric: Metric,
    brains: Sequence[Tensor],
    models: Sequence[Tensor],
    fold: Int[Tensor, "stimulus"] | None,
    orders: Int[Tensor, "order stimulus"],
    *,
    groups: Sequence[str] | None = None,
) -> list[PartScores]:
    """Score every layer on what each fold leaves, on the fold, and on all stimuli.

    A predictivity metric is fitted to the other folds and scored on the one held out; on the
    choosing part it divides that part into folds of its own. All other metrics compare within a
    part.

    Args:
        metric: any metric.
        brains, models: as ``match_population`` prepares them.
        fold: fold of each stimulus, from 0; None divides nothing: all scores are the whole's.
        orders: orders of the brain's stimuli, the identity for the scores themselves.
        groups: label of each stimulus; stimuli of one group are in one fold.
    """
    parts = [] if fold is None else [rows for both in parts_of_folds(fold) for rows in both]
    parts.append(torch.arange(orders.shape[1]))
    unit = unit_vectors(metric)
    every: list[Tensor]
    if unit is not None:
        every = [torch.stack(list(one)) for one in _products(unit, brains, models, parts, orders)]
    elif isinstance(metric, Predictivity):
        every = [
            torch.stack(
                [_each_predictivity(metric, y[order], models, fold, groups) for order in orders]
            )
            for y in brains
        ]
    else:
        every = [
            torch.stack([_slowly(metric, brain, models, parts, order) for order in orders])
            for brain in brains
        ]
    if fold is None:
        return [PartScores(one, one, one[:, 0]) for one in every]
    return [PartScores(one[:, 0:-1:2], one[:, 1:-1:2], one[:, -1]) for one in every]


def _products(
    unit: Unit,
    brains: Sequence[Tensor],
    models: Sequence[Tensor],
    parts: Sequence[Int[Tensor, "chosen"]],
    orders: Int[Tensor, "order stimulus"],
) -> Iterator[Iterator[Float[Tensor, "part layer"]]]:
    """Yield each brain's scores in each order, as products of unit vectors of many orders."""
    squares = torch.stack([as_square(model) for model in models])
    places = [rows.to(squares.device) for rows in parts]
    vectors = [unit(squares[:, rows[:, None], rows]) for rows in places]

    def of_brain(square: Tensor) -> Iterator[Tensor]:
        for block in torch.split(
            orders.to(square.device), max(1, BLOCK_ELEMENTS // square.numel())
        ):
            found = [
                unit(at_places(square, block[:, rows])) @ of_models.mT
                for rows, of_models in zip(places, vectors, strict=True)
            ]
            yield from torch.stack(found, 1).cpu()

    yield from (of_brain(as_square(brain)) for brain in brains)


def _slowly(
    metric: Metric,
    brain: Tensor,
    models: Sequence[Tensor],
    parts: Sequence[Int[Tensor, "chosen"]],
    order: Int[Tensor, "stimulus"],
) -> Float[Tensor, "part layer"]:
    """Return the scores of one order, a comparison each."""
    compare = getattr(metric, "compare_prepared", metric)
    matrices = isinstance(metric, InnerProductMetric)

    def taken(prepared: Tensor, rows: Tensor) -> Tensor:
        return take_stimuli(prepared, rows) if matrices else prepared[..., rows, :]

    return torch.tensor(
        [
            [float(compare(taken(model, rows), taken(brain, order[rows]))) for model in models]
            for rows in parts
        ],
        dtype=torch.float64,
    )


def predict_folds(
    metric: Predictivity,
    brain: Float[Tensor, "stimulus neuroid"],
    model: Tensor,
    fold: Int[Tensor, "stimulus"],
    groups: Sequence[str] | None,
) -> Float[Tensor, "stimulus neuroid"]:
    """Return the predictions of each fold's responses by a fit to the other folds."""
    numbers = None if groups is None else group_numbers(groups, len(brain)).to(brain.device)
    y = in_working_precision(brain)
    return metric.held_out_predictions(model, y, fold.to(brain.device), numbers)


def _each_predictivity(
    metric: Predictivity,
    brain: Float[Tensor, "stimulus neuroid"],
    models: Sequence[Tensor],
    fold: Int[Tensor, "stimulus"] | None,
    groups: Sequence[str] | None,
) -> Float[Tensor, "part layer"]:
    return torch.stack([_predictivities(metric, brain, x, fold, groups) for x in models], 1)


def _predictivities(
    metric: Predictivity,
    brain: Float[Tensor, "stimulus neuroid"],
    model: Tensor,
    fold: Int[Tensor, "stimulus"] | None,
    groups: Sequence[str] | None,
) -> Float[Tensor, "part"]:
    whole = metric.compare_prepared(model, brain, groups=groups).cpu().double()
    if fold is None:
        return whole[None]
    values = []
    predictions = predict_folds(metric, brain, model, fold, groups)
    for rows, held_out in parts_of_folds(fold):
        labels = None if groups is None else [groups[row] for row in rows.tolist()]
        part = metric.take_prepared(model, rows)
        values.append(metric.compare_prepared(part, brain[rows], groups=labels))
        one = torch.zeros(len(held_out), dtype=torch.int64)
        each = fold_scores(predictions[held_out], brain[held_out], one, score=metric.score)
        values.append(median_of_defined(each))
    return torch.stack([*(value.cpu().double() for value in values), whole])
