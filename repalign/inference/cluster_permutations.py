"""Tests of clusters along time, or time by time: where is there an effect, over all points?"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.inference.graph_clusters import Graph, find_clusters, largest_clusters
from repalign.inference.map_draws import DrawnMaps, flipped_maps, permuted_maps
from repalign.inference.significance import Alternative, check_alternative

ClusterSize = Literal["mass", "extent"]
POINTWISE = 0.05  # p of a single point at the default threshold


@dataclass(frozen=True)
class TestedClusters:
    """Clusters of neighbouring points beyond a threshold, the largest first.

    Args:
        statistic: t of each point, or z for permutations of labels; NaN where nothing was measured.
        labels: k in the points of the k-th cluster, counted from 1, and 0 elsewhere.
        size: of each cluster: the sum of the statistic (below 0 for a negative cluster), or the
            number of points with the cluster's sign.
        p: of each cluster, corrected for all points (family-wise); never 0.
        threshold: of the statistic.
        smallest_p: the least that the test can return, whatever the effect.
        kind: how it was made.
        null: size of the largest cluster of each draw: sign pattern, or permutation.
    """

    statistic: Float[Tensor, "*point"]
    labels: Int[Tensor, "*point"]
    size: Float[Tensor, "cluster"]
    p: Float[Tensor, "cluster"]
    threshold: float
    smallest_p: float
    kind: str
    null: Float[Tensor, "draw"]

    def significant(self, alpha: float = 0.05) -> Bool[Tensor, "*point"]:
        """Return which points lie in a cluster of p at most ``alpha``."""
        chosen = torch.cat([torch.zeros(1, dtype=torch.bool), self.p <= alpha])
        return chosen[self.labels]


def cluster_permutation_test(
    values: Float[Tensor, "subject *point"],
    *,
    threshold: float | None = None,
    alternative: Alternative = "two-sided",
    size: ClusterSize = "mass",
    n_flips: int = 10_000,
    seed: int = 0,
) -> TestedClusters:
    """Find clusters where the mean over subjects differs from 0, by flipping signs of subjects.

    Points with ``|t| > threshold``, ``t = mean/(sd/√n)``, of one sign that touch each other form a
    cluster, and ``mass = Σ t`` over its points. Under the null hypothesis a subject's values are as
    likely as their negatives; p is the share of sign patterns whose *largest* cluster is at least
    as large, so that it holds for all points together. All 2ⁿ patterns are used where they are no
    more than ``n_flips``, random ones otherwise.

    Args:
        values: one row a subject: a similarity less chance, or the difference of two models; the
            other dimensions are points: time, or time × time. Points that differ by 1 in one
            dimension are neighbours (2 along time, 4 in time × time). A point that is NaN in all
            subjects belongs to no cluster.
        threshold: of t; None is that of p < .05 for a single point.
        alternative: ``two-sided``, or ``greater``: only clusters above 0.
        size: ``mass``, or ``extent``: the number of points.
        n_flips: largest number of sign patterns.
        seed: seed of random patterns.

    Returns:
        ``TestedClusters``; none where no point is beyond the threshold. ``smallest_p`` is 2/2ⁿ for
        n subjects (1/2ⁿ if one-sided), so that with fewer than 6 subjects no cluster is significant
        at .05, two-sided.

    Raises:
        ValueError: fewer than 2 subjects, no points, fewer than 1 flip, points that are NaN in some
            subjects only, a threshold that is not positive, or an unknown choice.

    Note:
        A significant cluster says that there is an effect somewhere; its borders depend on the
        threshold and are no estimate of when the effect begins (Sassenhage & Draschkow 2019): use
        ``latency`` for that. Equal to ``permutation_cluster_1samp_test`` of MNE for all patterns.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> values = torch.randn(10, 40, generator=draw, dtype=torch.float64)
        >>> values[:, 10:20] += 2
        >>> found = cluster_permutation_test(values)
        >>> found.significant().nonzero()[:, 0].tolist() == list(range(10, 20)), found.smallest_p
        (True, 0.001953125)

    Reference:
        Maris & Oostenveld 2007, https://doi.org/10.1016/j.jneumeth.2007.03.024; Sassenhage &
        Draschkow 2019, https://doi.org/10.1111/psyp.13335
    """
    _check_choices(alternative, size, threshold)
    n = len(values) if values.ndim else 0
    if n < 2 or values.ndim < 2 or values.numel() == 0 or n_flips < 1:
        raise ValueError(
            f"values has shape {tuple(values.shape)} and n_flips is {n_flips}; a sign-flip test "
            "needs 2 or more subjects × 1 or more points, and 1 or more flips. Permute the labels "
            "of the stimuli for the subjects there are."
        )
    rows = values.detach().double().cpu().reshape(n, -1)
    measured = _measured(rows)
    drawn = flipped_maps(
        rows.where(measured, 0), alternative=alternative, n_flips=n_flips, seed=seed
    )
    return _tested(drawn, measured.reshape(values.shape[1:]), threshold, size)


def cluster_test_of_null(
    observed: Float[Tensor, "*point"],
    null: Float[Tensor, "draw *point"],
    *,
    threshold: float | None = None,
    alternative: Alternative = "greater",
    size: ClusterSize = "mass",
    draws: str = "permutation of stimulus labels",
) -> TestedClusters:
    """Find clusters in one map, given the same map for random permutations of the labels.

    Each point is brought to ``z = (value − mean)/sd`` over the permutations and the observed map;
    p is ``(1 + number of draws whose largest cluster is as large)/(1 + draws)``.

    Args:
        observed: similarity at each point: time, or time × time.
        null: the same with permuted labels, one permutation for all points of a draw.
        threshold: of z; None is that of p < .05 for a single point of a normal distribution.
        alternative: ``greater``: only clusters above chance, or ``two-sided``.
        size: ``mass``, Σ z, or ``extent``, the number of points.
        draws: what a draw is, for ``kind``.

    Returns:
        ``TestedClusters``, with z as ``statistic`` and 1/(1 + draws) as ``smallest_p``.

    Raises:
        ValueError: shapes that do not fit, no draws, NaN in some draws of a point only, a
            threshold that is not positive, or an unknown choice.

    Note:
        The hypothesis is that the stimuli are exchangeable, for these subjects: it says nothing of
        new subjects.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> null = torch.randn(199, 30, generator=draw)
        >>> observed = torch.randn(30, generator=draw)
        >>> observed[5:12] += 5
        >>> cluster_test_of_null(observed, null).p[0].item()
        0.005

    Reference:
        Maris & Oostenveld 2007, https://doi.org/10.1016/j.jneumeth.2007.03.024
    """
    _check_choices(alternative, size, threshold)
    if null.ndim != observed.ndim + 1 or null.shape[1:] != observed.shape or 0 in null.shape:
        raise ValueError(
            f"observed has shape {tuple(observed.shape)} and null {tuple(null.shape)}; expected "
            "points, and one or more draws × the same points."
        )
    every = torch.cat([observed[None], null]).detach().double().cpu().reshape(1 + len(null), -1)
    measured = _measured(every, what="draws (row 0 is the observed map)")
    maps = every.where(measured, 0).numpy()
    drawn = permuted_maps(maps[0], maps[1:], alternative=alternative, draws=draws)
    return _tested(drawn, measured.reshape(observed.shape), threshold, size)


def _check_choices(alternative: str, size: str, threshold: float | None) -> None:
    check_alternative(alternative)
    if size not in get_args(ClusterSize):
        raise ValueError(f"size is {size!r}; expected 'mass' or 'extent'.")
    if threshold is not None and not 0 < threshold < float("inf"):
        raise ValueError(
            f"threshold is {threshold}; expected more than 0, in units of the statistic. Use None "
            "for that of p < .05."
        )


def _measured(rows: Float[Tensor, "row point"], *, what: str = "subjects") -> Bool[Tensor, "point"]:
    """Return the points that have values; those without are NaN in all rows."""
    finite = rows.isfinite()
    mixed = finite.any(0) & ~finite.all(0)
    if bool(mixed.any()):
        bad = (~finite[:, mixed]).any(1).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{int(mixed.sum())} points (the first is {int(mixed.nonzero()[0])}) are NaN or "
            f"infinite in some {what}, {bad[:5]}, and not in others. Leave out these rows, or "
            "these points for all."
        )
    if not bool(finite.any()):
        raise ValueError("All values are NaN or infinite: there is nothing to test.")
    return finite.all(0)


def _tested(
    drawn: DrawnMaps, measured: Bool[Tensor, "*point"], threshold: float | None, size: ClusterSize
) -> TestedClusters:
    """Compare the clusters of the observed map with the largest of each draw."""
    graph, beyond = Graph.of_grid(measured.shape), threshold or drawn.threshold(POINTWISE)
    forming: dict[str, Any] = {
        "graph": graph,
        "threshold": beyond,
        "two_sided": drawn.two_sided,
        "base": 0.0,
    }
    by_mass = size == "mass"
    found = find_clusters(drawn.observed, **forming)
    largest = [largest_clusters(block, by_mass=by_mass, **forming) for block in drawn.blocks]
    null = np.concatenate(largest)
    sizes = found.mass if by_mass else found.extent
    order = np.argsort(-sizes, kind="stable")
    place = np.append(np.argsort(order) + 1, 0)  # 0 for the label -1
    inside = found.label >= 0
    sign = np.ones(len(sizes))
    sign[found.label[inside]] = np.sign(drawn.observed[inside])
    return TestedClusters(
        statistic=torch.from_numpy(drawn.observed).reshape(measured.shape).where(measured, np.nan),
        labels=torch.from_numpy(place[found.label]).reshape(measured.shape),
        size=torch.from_numpy((sign * sizes)[order]),
        p=torch.from_numpy(drawn.family_p(sizes[order], null)),
        threshold=beyond,
        smallest_p=drawn.smallest_p,
        kind=f"clusters by {size}, {drawn.kind}",
        null=torch.from_numpy(null),
    )
