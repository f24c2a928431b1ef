"""Tests of whole maps with the largest statistic over the map: sign flips and permutations."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from repalign.inference.graph_clusters import (
    STATISTICS,
    Graph,
    Statistic,
    find_clusters,
    largest_clusters,
    of_each_map,
    tfce,
)
from repalign.inference.map_draws import DrawnMaps, flipped_maps, permuted_maps
from repalign.inference.significance import ROUNDING, Alternative, check_alternative

CLUSTER_P = 0.001  # forms clusters: .01 and above let small effects of one place join another's

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class MapSignificance:
    """What a test of a map returns.

    Args:
        statistic: t or z of each position.
        compared: what was compared with its largest value over the map: the statistic, its
            enhancement, or the extent or mass of the position's cluster.
        p: of each position by itself, uncorrected, of the statistic.
        p_family: corrected for all positions of the map (family-wise), of ``compared``.
        smallest_p: the least that the test can return, whatever the effect.
        kind: how it was made, in words.
        n_draws: number of sign patterns or permutations.
        threshold: of the statistic, that forms clusters; None where it is not needed.
    """

    statistic: Numbers
    compared: Numbers
    p: Numbers
    p_family: Numbers
    smallest_p: float
    kind: str
    n_draws: int
    threshold: float | None = None


def _check(statistic: str, graph: Graph | None, cluster_p: float, n_positions: int) -> None:
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}; expected one of {', '.join(STATISTICS)}")
    if statistic != "max" and graph is None:
        raise ValueError(
            f"statistic={statistic!r} needs to know which positions touch; give graph="
        )
    if graph is not None and len(graph) != n_positions:
        raise ValueError(f"the graph has {len(graph)} positions, and the map {n_positions}")
    if not 0 < cluster_p < 0.5:
        raise ValueError(f"cluster_p is {cluster_p}; expected a number between 0 and .5")


def _tested(
    drawn: DrawnMaps, graph: Graph | None, statistic: Statistic, cluster_p: float, **powers: float
) -> MapSignificance:
    """Compare each position by itself, and with the largest of each draw."""
    threshold, two_sided = drawn.threshold(cluster_p), drawn.two_sided
    clusters, by_mass = statistic in ("extent", "mass"), statistic == "mass"

    def sided(values: Numbers) -> Numbers:
        return np.abs(values) if two_sided else values

    def at_positions(values: Numbers) -> Numbers:
        if graph is None or statistic == "max":
            return sided(values)
        if not clusters:
            return sided(tfce(values, graph, **powers))
        found = find_clusters(values, graph, threshold=threshold, two_sided=two_sided)
        return found.at_positions(found.mass if by_mass else found.extent)

    def largest(maps: Numbers) -> Numbers:
        if graph is None or not clusters:
            return of_each_map(lambda part: np.array([at_positions(m).max() for m in part]), maps)
        return largest_clusters(
            maps, graph, threshold=threshold, two_sided=two_sided, by_mass=by_mass
        )

    slack = ROUNDING * max(float(np.abs(drawn.observed).max()), np.finfo(float).tiny)
    least = sided(drawn.observed) - slack
    compared, beyond, tops = at_positions(drawn.observed), np.zeros(len(drawn.observed)), []
    for block in drawn.blocks:
        beyond += (sided(block) >= least).sum(0)
        tops.append(largest(block))
    null = np.concatenate(tops)
    return MapSignificance(
        drawn.observed,
        compared,
        drawn.share(beyond, len(null)),
        drawn.family_p(compared, null),
        drawn.smallest_p,
        f"{drawn.kind}, largest {statistic} over the map",
        len(null),
        threshold if clusters else None,
    )


def sign_flip_map_test(
    values: NDArray[np.floating],
    *,
    graph: Graph | None = None,
    statistic: Statistic = "tfce",
    cluster_p: float = CLUSTER_P,
    extent_power: float = 0.5,
    height_power: float = 2.0,
    alternative: Alternative = "greater",
    n_flips: int = 2000,
    seed: int = 0,
) -> MapSignificance:
    """Test where the mean of subjects' maps is above 0, by flipping the signs of whole subjects.

    The family-wise p value of a position is the share of flips in which the largest value over the
    map reaches its own: of t (``max``), of the extent or the mass of clusters, or of the
    threshold-free enhancement (``tfce``).

    Args:
        values: (subject, position), finite: similarity less chance, or the difference of models.
        graph: which positions touch; ``max`` needs none.
        statistic: ``max``, ``extent``, ``mass`` or ``tfce``.
        cluster_p: p value, uncorrected, of the t that forms clusters.
        extent_power, height_power: of ``tfce``.
        alternative: ``greater``, or ``two-sided``.
        n_flips: largest number of sign patterns; all 2ⁿ of them where they are no more.
        seed: seed of random patterns.

    Returns:
        A ``MapSignificance`` with t of n − 1 degrees of freedom; ``smallest_p`` is 1/2ⁿ for n
        subjects (2/2ⁿ if two-sided), or 1/(n_flips + 1).

    Raises:
        ValueError: fewer than 2 subjects, values that are not finite, no graph where it is needed.

    Note:
        A significant cluster says that there is an effect in it, not where in it, nor how far it
        reaches; ``max`` speaks of single positions.

    Example:
        >>> values = np.random.default_rng(0).normal(size=(8, 5)) + [0, 0, 0, 0, 3]
        >>> found = sign_flip_map_test(values, statistic="max")
        >>> found.p_family.round(3).tolist(), found.smallest_p
        ([1.0, 0.926, 1.0, 0.82, 0.004], 0.00390625)

    Reference:
        Nichols & Holmes 2002, https://doi.org/10.1002/hbm.1058; Smith & Nichols 2009,
        https://doi.org/10.1016/j.neuroimage.2008.03.061
    """
    check_alternative(alternative)
    rows = torch.as_tensor(np.asarray(values, dtype=np.float64))
    if rows.ndim != 2 or len(rows) < 2 or n_flips < 1 or not bool(rows.isfinite().all()):
        raise ValueError(
            f"values have shape {tuple(rows.shape)} with {int((~rows.isfinite()).sum())} that are"
            f" not finite, and {n_flips} flips; expected (subject, position) of 2 or more subjects,"
            " finite, and 1 or more flips"
        )
    _check(statistic, graph, cluster_p, rows.shape[1])
    drawn = flipped_maps(rows, alternative=alternative, n_flips=n_flips, seed=seed)
    powers = {"extent_power": extent_power, "height_power": height_power}
    return _tested(drawn, graph, statistic, cluster_p, **powers)


def permutation_map_test(
    observed: NDArray[np.floating],
    null: NDArray[np.floating],
    *,
    graph: Graph | None = None,
    statistic: Statistic = "tfce",
    cluster_p: float = CLUSTER_P,
    extent_power: float = 0.5,
    height_power: float = 2.0,
    alternative: Alternative = "greater",
) -> MapSignificance:
    """Test where a map is above those of permuted labels, within one subject.

    Each position is brought to z: less its mean over the permutations, by its standard deviation
    over them, so that noisy positions do not make the largest value.

    Args:
        observed: (position,), finite.
        null: the same for permuted labels, (permutation, position); the permutations are random and
            do not hold the observed one.
        graph, statistic, cluster_p, extent_power, height_power, alternative: as
            ``sign_flip_map_test`` takes them; clusters form above the normal quantile.

    Returns:
        A ``MapSignificance``; ``smallest_p`` is 1/(permutations + 1).

    Raises:
        ValueError: no permutations, other shapes, or values that are not finite.

    Note:
        The hypothesis is that the conditions are exchangeable for this subject.

    Example:
        >>> null = np.random.default_rng(0).normal(size=(99, 4))
        >>> permutation_map_test(np.array([0, 0, 0, 9.0]), null, statistic="max").p_family.tolist()
        [0.91, 0.91, 0.87, 0.01]

    Reference:
        Nichols & Holmes 2002, https://doi.org/10.1002/hbm.1058
    """
    check_alternative(alternative)
    everything = np.asarray(null)
    own = np.asarray(observed, dtype=np.float64)
    if everything.ndim != 2 or not len(everything) or everything.shape[1:] != own.shape:
        raise ValueError(
            f"observed has shape {own.shape} and null {everything.shape}; expected (position,) and"
            " (permutation, position)"
        )
    _check(statistic, graph, cluster_p, len(own))
    drawn = permuted_maps(own, everything, alternative=alternative)
    powers = {"extent_power": extent_power, "height_power": height_power}
    return _tested(drawn, graph, statistic, cluster_p, **powers)
