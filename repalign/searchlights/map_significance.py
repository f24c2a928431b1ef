"""Significance of searchlight maps: over subjects, or against permuted conditions in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import coo_array

from repalign.choices import as_whole_number
from repalign.inference.graph_clusters import Graph, Statistic, adjacency_of_voxels
from repalign.inference.map_tests import (
    CLUSTER_P,
    MapSignificance,
    permutation_map_test,
    sign_flip_map_test,
)
from repalign.inference.significance import Alternative
from repalign.recording import NEUROID
from repalign.searchlights.around_neuroids import UNITS, Meshes, read_meshes, side_of

SURFACE_EXTENT_POWER = 1.0  # of enhancement: areas grow with the square of a length, volumes with
VOLUME_EXTENT_POWER = 0.5  # its cube
MOST_APART = 0.1  # mm, or voxels, between the places of a neuroid in maps of one space


def graph_of_map(maps: xr.Dataset, *, connectivity: int = 26, mesh: Meshes | None = None) -> Graph:
    """Return which neuroids of a map touch: voxels, or vertices that share an edge of a mesh.

    Vertices count with their area in mm², voxels one each.

    Args:
        maps: with ``i``, ``j``, ``k``, or with ``vertex`` and ``hemisphere`` (or ``structure``).
        connectivity: of voxels: 6, 18 or 26.
        mesh: of each hemisphere, as ``neighbourhoods_of`` takes it.

    Raises:
        ValueError: neuroids that say neither, or vertices without their mesh.
    """
    side = side_of(maps)
    if mesh is None:
        names = ("i", "j", "k")
        if side is not None or any(name not in maps.coords for name in names):
            raise ValueError(
                "these neuroids are vertices, whose neighbours are known from a mesh; give mesh="
                if side is not None
                else "the neuroids have no i, j, k, so that nothing says which touch; use"
                " statistic='max'"
            )
        ijk = np.stack([maps[name].values for name in names], axis=1)
        return Graph.of(adjacency_of_voxels(ijk, connectivity=connectivity))
    if side is None:
        raise ValueError("mesh= was given, and the neuroids are no vertices; leave it out")
    n = maps.sizes[NEUROID]
    weight = np.zeros(n)
    rows, columns = [], []
    for name, one in read_meshes(mesh).items():
        places = np.flatnonzero(side == name)
        number = np.full(len(one), -1)
        number[maps["vertex"].values[places]] = places
        i, j = one.edges().nonzero()
        both = (number[i] >= 0) & (number[j] >= 0)
        rows.append(number[i[both]])
        columns.append(number[j[both]])
        weight[places] = one.areas()[maps["vertex"].values[places]]
    if (weight <= 0).any():
        raise ValueError(
            f"{int((weight <= 0).sum())} neuroids lie on no surface that mesh= gives; select one"
            " hemisphere, or give the mesh of each"
        )
    pair = np.concatenate(rows), np.concatenate(columns)
    edges = coo_array((np.ones(len(pair[0]), np.int8), pair), shape=(n, n))
    return Graph.of(edges.tocsr(), weight)


def _part(graph: Graph | None, kept: NDArray[np.bool_]) -> Graph | None:
    """The graph among some of its positions."""
    if graph is None or kept.all():
        return graph
    number = np.cumsum(kept) - 1
    source = np.repeat(np.arange(len(graph)), np.diff(graph.offset))
    both = kept[source] & kept[graph.neighbour]
    counts = np.bincount(number[source[both]], minlength=int(kept.sum()))
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    neighbour = number[graph.neighbour[both]].astype(np.int32)
    return Graph(offset, neighbour, graph.weight[kept])


def significance_over_subjects(
    maps: Sequence[xr.Dataset],
    *,
    less: str | float = 0.0,
    statistic: Statistic = "tfce",
    cluster_p: float = CLUSTER_P,
    connectivity: int = 26,
    mesh: Meshes | None = None,
    alternative: Alternative = "greater",
    n_flips: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """Test where subjects' maps are above chance, or above another model's, family-wise.

    Args:
        maps: one a subject, as ``searchlight`` gives them, of the same models on the same grid;
            neuroids are matched by id, and those that some subject has not, or where a value is
            undefined, are not tested.
        less: what is subtracted: a number, or the name of a model that all others are
            compared with.
        statistic: ``tfce``; ``extent`` or ``mass`` of clusters; or ``max``, of t itself.
        cluster_p: forms clusters.
        connectivity: of voxels: 6, 18 or 26.
        mesh: of each hemisphere, where neuroids are vertices.
        alternative: ``greater`` or ``two-sided``.
        n_flips: largest number of sign patterns.
        seed: of random patterns.

    Returns:
        A dataset with ``mean``, ``statistic`` (t), ``p`` (of each neuroid by itself) and
        ``p_family`` (corrected over the map, for each model by itself), of (model, neuroid); NaN
        where nothing was tested. Attributes say ``smallest_p``, the test and what was left out.

    Raises:
        ValueError: fewer than 2 subjects, different models, no neuroid that all share, or one that
            lies elsewhere in another subject's map.

    Note:
        Against a number the claim is of these stimuli: what they share with a model by chance is
        found in every subject. ``less=`` another model is free of that.

    Reference:
        Smith & Nichols 2009, https://doi.org/10.1016/j.neuroimage.2008.03.061; Nichols & Holmes
        2002, https://doi.org/10.1002/hbm.1058
    """
    seed, n_flips = as_whole_number(seed, "seed"), as_whole_number(n_flips, "n_flips")
    first, values = _same_grid(maps)
    names = [str(name) for name in first["model"].values]
    if isinstance(less, str):
        if less not in names or len(names) < 2:
            raise ValueError(f"less={less!r} is none of the models {', '.join(names)}, or alone")
        values = values - values[:, [names.index(less)]]
        kept_models = [name for name in names if name != less]
        values = values[:, [names.index(name) for name in kept_models]]
        names = kept_models
    else:
        values = values - less
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=(0, 1)))
    graph = _graph_for(first, statistic, kept, connectivity, mesh)
    power = VOLUME_EXTENT_POWER if mesh is None else SURFACE_EXTENT_POWER
    found = [
        sign_flip_map_test(
            values[:, number, kept],
            graph=graph,
            statistic=statistic,
            cluster_p=cluster_p,
            extent_power=power,
            alternative=alternative,
            n_flips=n_flips,
            seed=seed,
        )
        for number in range(len(names))
    ]
    result = _dataset(first, names, kept, found)
    mean = np.full((len(names), len(kept)), np.nan)
    mean[:, kept] = values[:, :, kept].mean(0)
    result["mean"] = (("model", NEUROID), mean)
    result.attrs |= {"n_subjects": len(values), "less": less, "seed": seed}
    return result


def significance_over_permutations(
    maps: xr.Dataset,
    *,
    statistic: Statistic = "tfce",
    cluster_p: float = CLUSTER_P,
    connectivity: int = 26,
    mesh: Meshes | None = None,
    alternative: Alternative = "greater",
) -> xr.Dataset:
    """Test where one subject's maps are above those of models with permuted conditions.

    Args:
        maps: of ``searchlight(..., n_permutations=...)``, with ``null``.
        statistic, cluster_p, connectivity, mesh, alternative: as ``significance_over_subjects``
            takes them.

    Returns:
        As ``significance_over_subjects`` does; ``statistic`` is z over the permutations.

    Raises:
        ValueError: maps without ``null``, or without a neuroid that can be tested.

    Reference:
        Nichols & Holmes 2002, https://doi.org/10.1002/hbm.1058
    """
    if "null" not in maps:
        raise ValueError(
            "the maps have no null; make them by searchlight(..., n_permutations=1000)"
        )
    names = [str(name) for name in maps["model"].values]
    # Rounded as the null is, so that an order of conditions that changes nothing is a tie.
    values = maps["similarity"].values.astype(np.float32)
    null = maps["null"].values
    kept = np.isfinite(values).all(0) & np.isfinite(null).all(axis=(0, 1))
    graph = _graph_for(maps, statistic, kept, connectivity, mesh)
    found = [
        permutation_map_test(
            values[number, kept],
            null[:, number, kept],
            graph=graph,
            statistic=statistic,
            cluster_p=cluster_p,
            extent_power=VOLUME_EXTENT_POWER if mesh is None else SURFACE_EXTENT_POWER,
            alternative=alternative,
        )
        for number in range(len(names))
    ]
    return _dataset(maps, names, kept, found)


def _same_grid(maps: Sequence[xr.Dataset]) -> tuple[xr.Dataset, NDArray[np.float64]]:
    """The first map and all values, (subject, model, neuroid), of the neuroids that all share."""
    if len(maps) < 2:
        raise ValueError(
            f"{len(maps)} maps were given; a test over subjects needs 2 or more. In one subject"
            " use significance_over_permutations"
        )
    lacking = [n for n, one in enumerate(maps) if "similarity" not in getattr(one, "variables", ())]
    if lacking:
        raise ValueError(
            f"map {lacking[0]} holds no 'similarity'; expected what repalign.searchlight gives"
        )
    first = maps[0]
    names = first["model"].values.tolist()
    for number, one in enumerate(maps):
        if one["model"].values.tolist() != names:
            raise ValueError(
                f"map {number} has models {one['model'].values.tolist()}, the first has {names}"
            )
    if any("neuroid_id" not in one.coords for one in maps):
        sizes = {one.sizes[NEUROID] for one in maps}
        if len(sizes) > 1:
            raise ValueError(f"the maps have {sorted(sizes)} neuroids and no ids to match them by")
        return first, np.stack([one["similarity"].values for one in maps])
    place = [{name: i for i, name in enumerate(one["neuroid_id"].values)} for one in maps]
    shared = [name for name in place[0] if all(name in other for other in place[1:])]
    if not shared:
        raise ValueError("the maps share no neuroid; bring the subjects to one space before")
    aligned = [
        one[["similarity"]].isel({NEUROID: [where[name] for name in shared]})
        for one, where in zip(maps, place, strict=True)
    ]
    for number, one in enumerate(aligned):
        _check_places(aligned[0], one, number)
    return aligned[0], np.stack([one["similarity"].values for one in aligned])


def _check_places(first: xr.Dataset, one: xr.Dataset, number: int) -> None:
    """Raise a ValueError where a neuroid lies elsewhere in another map."""
    for name in (*UNITS["mm"], *UNITS["voxels"], "vertex"):
        if name not in first.coords or name not in one.coords:
            continue
        apart = np.abs(first[name].values.astype(float) - one[name].values)
        at = int(np.argmax(apart))
        if apart[at] > MOST_APART:
            raise ValueError(
                f"neuroid {str(first['neuroid_id'].values[at])!r} has {name} ="
                f" {first[name].values[at]:g} in map 0 and {one[name].values[at]:g} in map"
                f" {number}: bring the subjects to one space before"
            )


def _graph_for(
    maps: xr.Dataset,
    statistic: str,
    kept: NDArray[np.bool_],
    connectivity: int,
    mesh: Meshes | None,
) -> Graph | None:
    if not kept.any():
        raise ValueError("no neuroid has a defined value in all maps; there is nothing to test")
    if statistic == "max":
        return None
    return _part(graph_of_map(maps, connectivity=connectivity, mesh=mesh), kept)


def _dataset(
    maps: xr.Dataset, names: list[str], kept: NDArray[np.bool_], found: list[MapSignificance]
) -> xr.Dataset:
    about = maps.drop_vars([str(v) for v in maps.variables if maps[v].dims != (NEUROID,)])
    result = about.drop_vars("neighbourhood_size", errors="ignore").assign_coords(
        model=("model", np.array(names, dtype=object))
    )
    for name in ("statistic", "compared", "p", "p_family"):
        values = np.full((len(names), len(kept)), np.nan)
        values[:, kept] = [getattr(one, name) for one in found]
        result[name] = (("model", NEUROID), values)
    said: dict[str, Any] = asdict(found[0])
    result.attrs = {
        "kind": "significance of a searchlight",
        "test": said["kind"],
        "smallest_p": said["smallest_p"],
        "n_draws": said["n_draws"],
        "n_tested": int(kept.sum()),
        "n_left_out": int((~kept).sum()),
        "neighbourhoods": maps.attrs.get("neighbourhoods", ""),
    }
    if said["threshold"] is not None:
        result.attrs["threshold"] = said["threshold"]
    return result
