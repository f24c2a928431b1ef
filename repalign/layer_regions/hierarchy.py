"""Do early layers stand for early areas? Scores of hierarchical correspondence and their nulls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import rankdata

from repalign.inference.draws import stream
from repalign.inference.significance import p_of_draws
from repalign.layer_regions.mapping_results import LayerMapping

Array = np.ndarray[Any, np.dtype[Any]]
Summary = Literal["best", "mean"]
Correlation = Literal["spearman", "kendall"]
Exchanged = Literal["levels", "units"]
BLOCK = 1 << 21


@dataclass(frozen=True)
class HierarchyScore:
    """A score of hierarchical correspondence, and its test.

    Args:
        value: rank correlation of levels and depths: 1 if deeper layers stand for higher areas
            throughout; NaN where all depths are the same.
        p: share of orders with as great a value, one-sided; 1 where the value is NaN.
        smallest_p: the least that the test can return for these numbers, whatever the depths.
        kind: how it was made.
        n_draws: number of orders.
        depths: the depth of each area, or unit.
    """

    value: float
    p: float
    smallest_p: float
    kind: str
    n_draws: int
    depths: tuple[float, ...]

    def __str__(self) -> str:
        """Return value, p value, and what p can be at least."""
        said = f"{self.value:.3f}, p {self.p:.4f} (smallest {self.smallest_p:.4f}; {self.kind})"
        return said + (": cannot be significant at .05" if self.smallest_p > 0.05 else "")


def _centred(values: Array, correlation: Correlation) -> Array:
    """Return vectors of unit length whose product is the rank correlation; zero if constant."""
    if correlation == "spearman":
        ranks = rankdata(values, axis=-1)
        scaled = ranks - ranks.mean(-1, keepdims=True)
    else:
        i, j = np.triu_indices(values.shape[-1], 1)
        scaled = np.sign(values[..., i] - values[..., j])
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    unit: Array = np.divide(scaled, length, out=np.zeros_like(scaled, float), where=length > 0)
    return unit


def _orders(n: int, n_permutations: int, seed: int) -> tuple[Array, bool]:
    if n < 12 and factorial(n) <= n_permutations:
        return np.array(list(permutations(range(n)))), True
    generator = stream(seed, "hierarchy")
    drawn = torch.rand(n_permutations, n, generator=generator, dtype=torch.float64)
    return drawn.argsort(1).numpy(), False


def _smallest(levels: Array, n_draws: int, *, exact: bool) -> float:
    """Orders that leave the levels as they are cannot be told apart from the one that was found."""
    if not exact:
        return 1 / (n_draws + 1)
    same = [factorial(int(count)) for count in np.unique(levels, return_counts=True)[1]]
    return float(np.prod(same)) / n_draws


def _tested(
    depths: Array, levels: Array, reordered: Iterator[Array], *, exact: bool, smallest: float,
    kind: str, correlation: Correlation,
) -> HierarchyScore:  # fmt: skip
    unit = _centred(depths, correlation)
    value = float(unit @ _centred(levels, correlation))
    null = np.concatenate([_centred(block, correlation) @ unit for block in reordered])
    p, _ = p_of_draws(
        torch.tensor([value], dtype=torch.float64),
        torch.from_numpy(null)[:, None],
        alternative="greater",
        exact=exact,
    )
    undefined = not unit.any()
    return HierarchyScore(
        float("nan") if undefined else value,
        1.0 if undefined else float(p),
        smallest,
        f"{kind}, {'exact' if exact else 'random'}, one-sided",
        len(null),
        tuple(depths.tolist()),
    )


def _check(scores: Array, n_permutations: int, correlation: str) -> None:
    if scores.ndim != 2 or min(scores.shape) < 2 or scores.dtype.kind not in "fiu":
        raise ValueError(
            f"scores have shape {scores.shape}; expected numbers, 2 or more rows and columns"
        )
    if np.isnan(scores).all(1).any() or np.isinf(scores).any():
        raise ValueError("scores are infinite, or NaN in all columns of a row; leave that row out")
    if correlation not in get_args(Correlation) or n_permutations < 1:
        raise ValueError(
            f"correlation is {correlation!r} and n_permutations {n_permutations}; expected"
            " 'spearman' or 'kendall', and 1 or more"
        )


def hierarchy_score(
    scores: LayerMapping | Array,
    *,
    areas: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    depths: Sequence[float] | None = None,
    summary: Summary = "best",
    correlation: Correlation = "spearman",
    n_permutations: int = 10_000,
    seed: int = 0,
) -> HierarchyScore:
    """Correlate the order of brain areas with the depth of the layers that are most similar.

    The depth of an area is that of its best layer, or (``mean``) the mean depth weighted by scores
    above zero, ``Σ max(sₗ, 0) dₗ / Σ max(sₗ, 0)``. The value is the rank correlation of the areas'
    levels with their depths, and p the share of all orders of the areas with a value as great.

    Args:
        scores: a `LayerMapping`, or similarities, area × layer, in ascending order of both.
        areas: names of a mapping's regions from early to late; all in its order by default.
        levels: level of each area; 1, 2, … by default. Areas of one level are tied.
        depths: depth of each layer; 1, 2, … by default.
        summary: ``best`` or ``mean``.
        correlation: ``spearman`` or ``kendall`` (tau-b).
        n_permutations: how many random orders; all of them where they are no more.
        seed: of random orders.

    Returns:
        A `HierarchyScore`. With 3 areas the smallest p is 1/6, with 4 it is 1/24: three areas
        cannot be significant. Value NaN and p 1 where all areas have the same depth.

    Raises:
        ValueError: shapes that do not fit, NaN scores, or an area without a positive score under
            ``mean``.

    Note:
        Whole areas are exchanged, so that neuroids of an area may depend on each other as they
        like. The hypothesis is that areas' depths are exchangeable.

    Example:
        >>> found = hierarchy_score(np.eye(4)[:, [0, 2, 1, 3]])
        >>> round(found.value, 3), round(found.p, 4), round(found.smallest_p, 4)
        (0.8, 0.1667, 0.0417)

    Reference:
        Yamins et al. 2014, https://doi.org/10.1073/pnas.1403112111; Güçlü & van Gerven 2015,
        https://doi.org/10.1523/JNEUROSCI.5023-14.2015
    """
    if isinstance(scores, LayerMapping):
        whole = scores.to_xarray()["whole"]
        known = whole["region"].values.tolist()
        wanted = known if areas is None else list(areas)
        if len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
            raise ValueError(f"areas are {wanted}; expected some of {known}, each once")
        whole = whole.sel(region=wanted)
        table = whole.values * (-1 if scores.is_distance else 1)
        if scores.is_distance and summary == "mean":
            raise ValueError("summary='mean' weighs by similarities; a distance has 'best' only")
    elif areas is not None:
        raise ValueError("areas= names regions of a LayerMapping; order the rows of an array")
    else:
        table = np.asarray(scores)
    _check(table, n_permutations, correlation)
    of_area = _given(levels, len(table), "levels", "area")
    of_layer = _given(depths, table.shape[1], "depths", "layer")
    if summary == "best":
        found = of_layer[np.nanargmax(table, axis=1)]
    elif summary == "mean":
        weights = np.nan_to_num(table).clip(min=0)
        if not (weights.sum(1) > 0).all():
            raise ValueError("an area has no positive score to weigh depths by; use summary='best'")
        found = weights @ of_layer / weights.sum(1)
    else:
        raise ValueError(f"summary is {summary!r}; expected 'best' or 'mean'")
    orders, exact = _orders(len(table), n_permutations, seed)
    return _tested(
        found,
        of_area,
        iter([of_area[orders]]),
        exact=exact,
        smallest=_smallest(of_area, len(orders), exact=exact),
        kind=f"{correlation}, permutation of {len(table)} areas",
        correlation=correlation,
    )


def _given(values: Sequence[float] | None, n: int, name: str, of: str) -> Array:
    array = np.arange(1.0, n + 1) if values is None else np.asarray(values, dtype=float)
    if array.shape != (n,) or not np.isfinite(array).all() or np.ptp(array) == 0:
        raise ValueError(f"{name} are {array.tolist()}; expected a number for each {of}, not equal")
    return array


def brain_hierarchy_score(
    scores: Array,
    levels: Sequence[float],
    *,
    least: float = 0.0,
    exchange: Exchanged = "levels",
    n_permutations: int = 10_000,
    seed: int = 0,
) -> HierarchyScore:
    """Return one direction of the brain hierarchy score, over single units or neuroids.

    Each unit has a level of its own and a score with every level of the other side; its depth is
    the level of its best score. The value is Spearman's correlation of both over units. Encoding:
    units are neuroids, their levels areas, the columns layers. Decoding: units are those of the
    network, their levels layers, the columns areas. The score of the paper is the mean of the two.

    Args:
        scores: prediction accuracies, unit × level of the other side, in ascending order.
        levels: level of each unit.
        least: units whose best score is not above it are left out; NaN scores count as 0. The
            paper leaves out units whose best correlation has p ≥ .05.
        exchange: what the test permutes: whole ``levels`` (areas, or layers), or single ``units``.
        n_permutations: how many random orders; all of them where they are no more.
        seed: of random orders.

    Returns:
        A `HierarchyScore`.

    Raises:
        ValueError: shapes that do not fit, or fewer than 2 levels left.

    Note:
        ``units`` takes neuroids for independent. They are not: those of one area share noise,
        signals and their best layer, and with correlated neuroids this null rejected far too often
        (see the table of false positive rates). It is here to compare with published values.

    Example:
        >>> scores = np.array([[0.5, 0.1], [0.4, 0.2], [0.1, 0.3], [0.4, 0.2]])
        >>> found = brain_hierarchy_score(scores, [1, 1, 2, 2])
        >>> round(found.value, 3), found.p
        (0.577, 0.5)

    Reference:
        Nonaka et al. 2021, https://doi.org/10.1016/j.isci.2021.103013
    """
    table = np.asarray(scores, dtype=float)
    _check(table, n_permutations, "spearman")
    table = np.nan_to_num(table)
    own = np.asarray(levels, dtype=float)
    if own.shape != (len(table),) or not np.isfinite(own).all():
        raise ValueError(
            f"levels have shape {own.shape}; expected a number for each of {len(table)} units"
        )
    if exchange not in get_args(Exchanged):
        raise ValueError(f"exchange is {exchange!r}; expected 'levels' or 'units'")
    kept = table.max(1) > least
    table, own = table[kept], own[kept]
    distinct, place = np.unique(own, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(
            f"{len(own)} units have a score above {least}, of {len(distinct)} levels; 2 or more"
            " levels are needed"
        )
    depths = table.argmax(1) + 1.0
    by_level = exchange == "levels"
    orders, exact = _orders(len(distinct) if by_level else len(own), n_permutations, seed)
    step = max(1, BLOCK // len(own))
    blocks = (orders[i : i + step] for i in range(0, len(orders), step))
    reordered = (distinct[block][:, place] if by_level else own[block] for block in blocks)
    return _tested(
        depths,
        own,
        reordered,
        exact=exact,
        smallest=_smallest(distinct if by_level else own, len(orders), exact=exact),
        kind=f"spearman, permutation of {len(distinct) if by_level else len(own)} {exchange}",
        correlation="spearman",
    )
