"""Significance of maps, their files and the verb; on real data where it is there."""

import re
import sys
from itertools import pairwise

import nibabel
import numpy as np
import pytest
import torch
import xarray as xr
from nilearn.mass_univariate._utils import calculate_tfce
from scipy.ndimage import gaussian_filter, generate_binary_structure, label
from scipy.spatial.distance import cdist
from scipy.stats import binom

from repalign.inference import (
    Graph,
    adjacency_of_voxels,
    find_clusters,
    permutation_map_test,
    sign_flip_map_test,
    tfce,
)
from repalign.inference.graph_clusters import largest_clusters
from repalign.metrics import RSA
from repalign.recording import make_recording
from repalign.searchlights import (
    Mesh,
    as_volume,
    graph_of_map,
    mask_coordinates,
    neighbourhoods_of,
    read_mesh,
    searchlight,
    significance_over_permutations,
    significance_over_subjects,
    sphere_neighbourhoods,
    write_map,
)

ALPHA = 0.05


def smooth_noise(shape, seed, width=1.0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    return noise / noise.std()


def volume_graph(shape, connectivity=26):
    ijk = np.argwhere(np.ones(shape))
    return Graph.of(adjacency_of_voxels(ijk, connectivity=connectivity))


# clusters and enhancement


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_enhancement_is_the_limit_of_nilearns_sum(connectivity, rank):
    noise = smooth_noise((9, 8, 7), 0, 1.5)
    steps = 1000
    theirs = calculate_tfce(
        noise[..., None],
        generate_binary_structure(3, rank),
        dh=np.abs(noise).max() / steps,
        two_sided_test=True,
    )
    ours = tfce(noise.ravel(), volume_graph(noise.shape, connectivity))
    expected = theirs.ravel() * np.abs(noise).max() / steps  # like fslmaths, it leaves out dh
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


def test_enhancement_equals_the_integral_between_all_values():
    """On a graph with weights, with ties, by going through the thresholds one by one."""
    draw = np.random.default_rng(0)
    n = 40
    edges = np.triu(draw.random((n, n)) < 0.06, 1)
    edges = edges | edges.T
    weight = draw.random(n) + 0.5
    values = np.round(draw.normal(size=n), 1)
    graph = Graph.of(edges, weight)
    levels = np.unique(np.concatenate([[0.0], values[values > 0]])).tolist()
    expected = np.zeros(n)
    for low, high in pairwise(levels):
        above = values >= high
        reach = np.linalg.matrix_power(((edges & above) & above[:, None]) + np.eye(n), n) > 0
        extent = (reach * above * weight).sum(1)
        expected += np.where(above, extent**0.7 * (high**2.5 - low**2.5) / 2.5, 0)
    found = tfce(np.maximum(values, 0), graph, extent_power=0.7, height_power=1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_clusters_are_those_of_scipy(connectivity, rank):
    noise = smooth_noise((9, 8, 7), 1)
    found = find_clusters(
        noise.ravel(), volume_graph(noise.shape, connectivity), threshold=1.0, two_sided=True
    )
    for sign in (1, -1):
        theirs, count = label(sign * noise > 1, generate_binary_structure(3, rank))
        for number in range(1, count + 1):
            inside = (theirs == number).ravel()
            own = set(found.label[inside].tolist())
            assert len(own) == 1
            (own_number,) = own
            assert found.extent[own_number] == inside.sum()
            excess = (np.abs(noise.ravel()[inside]) - 1).sum()
            assert found.mass[own_number] == pytest.approx(excess)
    assert (found.label >= 0).sum() == (np.abs(noise) > 1).sum()


@pytest.mark.parametrize("base", [None, 0.0])
@pytest.mark.parametrize("two_sided", [False, True])
def test_the_largest_of_many_maps_is_that_of_each(two_sided, base):
    """By threads too, in the order of the maps; 0 where nothing is beyond the threshold."""
    maps = np.stack([smooth_noise((9, 8, 7), seed).ravel() for seed in range(200)])
    maps[[3, 150]] = 0
    grid = volume_graph((9, 8, 7))
    weight = np.random.default_rng(0).random(len(grid)) + 0.5
    graph = Graph(grid.offset, grid.neighbour, weight)
    settings = {"threshold": 1.0, "two_sided": two_sided, "base": base}
    found = [find_clusters(one, graph, **settings) for one in maps]
    for by in ("extent", "mass"):
        expected = [getattr(one, by).max(initial=0) for one in found]
        assert expected[3] == expected[150] == 0
        for threads in (1, 3):
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                largest = largest_clusters(maps, graph, by_mass=by == "mass", **settings)
                np.testing.assert_array_equal(largest, expected)
            finally:
                torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adjacency_of_voxels([[0, 0, 0]], connectivity=8), "expected 6, 18 or 26"),
        (lambda: adjacency_of_voxels([[0, 0, 0], [0, 0, 0]]), "stands twice"),
        (lambda: Graph.of(np.triu(np.ones((3, 3)), 1)), "not symmetric"),
        (lambda: Graph.of(np.ones((3, 2))), "square matrix"),
        (lambda: Graph.of(np.ones((3, 3)), [1, 0, 1]), "positive numbers"),
        (lambda: tfce([np.nan] * 8, volume_graph((2, 2, 2))), "not finite"),
        (
            lambda: find_clusters([1.0], Graph.of(np.zeros((1, 1))), threshold=0, two_sided=False),
            "threshold is 0",
        ),
        (lambda: sign_flip_map_test(np.ones((1, 4)), statistic="max"), "2 or more subjects"),
        (lambda: sign_flip_map_test(np.ones((4, 4))), "give graph="),
        (lambda: sign_flip_map_test(np.ones((4, 4)), statistic="sum"), "expected one of max"),
        (
            lambda: sign_flip_map_test(np.ones((4, 4)), graph=volume_graph((2, 2, 2))),
            "8 positions, and the map 4",
        ),
        (
            lambda: permutation_map_test(np.ones(3), np.full((5, 3), np.nan), statistic="max"),
            "3 positions hold NaN",
        ),
        (lambda: permutation_map_test(np.ones(3), np.ones((5, 4)), statistic="max"), "expected"),
    ],
)
def test_bad_input_of_tests_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# tests of maps


@pytest.mark.parametrize(
    ("statistic", "alternative"),
    [(one, "greater") for one in ("max", "extent", "mass", "tfce")] + [("tfce", "two-sided")],
)
def test_family_wise_errors_stay_under_the_binomial_bound(statistic, alternative):
    """500 data sets of smooth noise in 6 subjects: how often is anything significant?"""
    shape, n, runs = (5, 5, 4), 6, 500
    graph = volume_graph(shape)
    hits = 0
    for run in range(runs):
        values = gaussian_filter(
            np.random.default_rng(run).normal(size=(n, *shape)), (0, 0.8, 0.8, 0.8)
        )
        found = sign_flip_map_test(
            values.reshape(n, -1),
            graph=graph,
            statistic=statistic,
            cluster_p=0.05,
            alternative=alternative,
            n_flips=2**n,
        )
        assert found.smallest_p == (2 if alternative == "two-sided" else 1) / 2**n
        hits += bool((found.p_family <= ALPHA).any())
    bound = binom.isf(0.05 / 5, runs, ALPHA)  # Bonferroni: five tests
    assert hits <= bound
    assert hits >= runs * ALPHA / 5  # and it is a test


def test_p_values_are_counts_of_flips():
    values = np.random.default_rng(0).normal(0.5, size=(5, 6))
    found = sign_flip_map_test(values, statistic="max", n_flips=100)
    signs = np.array(np.meshgrid(*[[1, -1]] * 5)).reshape(5, -1).T
    flipped = signs[:, :, None] * values
    t = flipped.mean(1) / (flipped.std(1, ddof=1) / np.sqrt(5))
    observed = values.mean(0) / (values.std(0, ddof=1) / np.sqrt(5))
    np.testing.assert_allclose(found.statistic, observed)
    np.testing.assert_allclose(found.p, (t >= observed - 1e-9).mean(0))
    expected = (t.max(1)[:, None] >= observed - 1e-9).mean(0)
    np.testing.assert_allclose(found.p_family, expected)
    assert (found.n_draws, found.smallest_p) == (32, 1 / 32)


def test_permutation_p_values_are_counts_of_z():
    draw = np.random.default_rng(0)
    null, observed = draw.normal(size=(49, 6)) * np.arange(1, 7), np.arange(6.0)
    found = permutation_map_test(observed, null, statistic="max", alternative="two-sided")
    every = np.vstack([observed, null])
    z = np.abs((every - every.mean(0)) / every.std(0))
    np.testing.assert_allclose(found.p, (z >= z[0] - 1e-9).mean(0))
    np.testing.assert_allclose(found.p_family, (z.max(1)[:, None] >= z[0] - 1e-9).mean(0))
    assert found.smallest_p == 0.02


SHAPE = (9, 9, 9)
N_CONDITIONS = 10
FEATURES = np.random.default_rng(0).normal(size=(N_CONDITIONS, 4))
OTHER = np.random.default_rng(7).normal(size=(N_CONDITIONS, 4))  # no more like it than chance
IDS = [f"s{i}" for i in range(N_CONDITIONS)]
BALL = np.linalg.norm(np.argwhere(np.ones(SHAPE)) - [6, 3, 5], axis=1) <= 1.8


def subject(seed, *, strength=1.5, repeats=2, shape=SHAPE):
    """Voxels of 2 mm whose ball codes the features."""
    draw = np.random.default_rng([seed, 1])
    ijk = np.argwhere(np.ones(shape))
    x = draw.normal(size=(repeats, N_CONDITIONS, len(ijk)))
    if strength:
        x[:, :, BALL] += strength * FEATURES @ draw.normal(size=(4, BALL.sum()))
    coords = {name: ijk[:, axis] for axis, name in enumerate("ijk")}
    coords |= {f"{a}_mm": 2.0 * ijk[:, n] - 9.0 * n for n, a in enumerate("xyz")}
    return make_recording(
        x.reshape(-1, len(ijk)),
        stimulus_id=IDS * repeats,
        region="all",
        subject=f"subject-{seed}",
        neuroid_id=["voxel-" + "-".join(map(str, row)) for row in ijk],
        neuroid=coords,
    )


def models():
    return {
        name: xr.DataArray(
            cdist(f, f) ** 2, dims=("stimulus_id", "other"), coords={"stimulus_id": IDS}
        )
        for name, f in (("planted", FEATURES), ("other", OTHER))
    }


METRIC = RSA("crossnobis", "corr", "euclidean")


def distance_to_ball(maps):
    ijk = np.stack([maps[a].values for a in "ijk"], 1)
    return cdist(ijk, np.argwhere(np.ones(SHAPE))[BALL]).min(1)


@pytest.fixture(scope="module")
def group():
    return [searchlight(subject(seed), models(), METRIC, radius=4.0) for seed in range(8)]


@pytest.mark.parametrize("statistic", ["max", "extent", "mass", "tfce"])
def test_what_was_planted_in_all_subjects_is_found_there_only(group, statistic):
    tested = significance_over_subjects(group, statistic=statistic, n_flips=256)
    planted, other = tested["p_family"].values
    assert tested.attrs["smallest_p"] == 1 / 256
    assert np.nanmin(planted) == 1 / 256
    significant = planted <= ALPHA
    reach = 2.01 if statistic == "max" else 4.01  # a sphere sees the ball from 2 voxels away
    assert distance_to_ball(tested)[significant].max() <= reach
    assert significant[BALL].mean() > 0.7
    assert np.nanmin(other) > ALPHA
    assert tested.attrs["n_tested"] + tested.attrs["n_left_out"] == np.prod(SHAPE)
    np.testing.assert_array_equal(np.isnan(planted), np.isnan(group[0]["similarity"].values[0]))


def test_two_models_are_compared(group):
    tested = significance_over_subjects(group, less="other", n_flips=256)
    assert tested["model"].values.tolist() == ["planted"]
    expected = np.mean([one["similarity"][0] - one["similarity"][1] for one in group], 0)
    np.testing.assert_allclose(tested["mean"].values[0], expected)
    assert np.nanmin(tested["p_family"]) == 1 / 256


def test_subjects_are_matched_by_neuroid(group):
    order = np.random.default_rng(0).permutation(group[0].sizes["neuroid"])[:600]
    mixed = [group[0].isel(neuroid=order), *group[1:]]
    tested = significance_over_subjects(mixed, statistic="max", n_flips=256)
    whole = significance_over_subjects(group, statistic="max", n_flips=256)
    np.testing.assert_allclose(tested["statistic"], whole["statistic"].values[:, order])
    with pytest.raises(ValueError, match="needs 2 or more"):
        significance_over_subjects(group[:1])
    with pytest.raises(ValueError, match="none of the models"):
        significance_over_subjects(group, less="nothing")
    moved = group[1].assign_coords(x_mm=group[1]["x_mm"] + 2.0)
    with pytest.raises(ValueError, match=r"x_mm = 0 in map 0 and 2 in map 1: bring the subjects"):
        significance_over_subjects([group[0], moved])
    with pytest.raises(ValueError, match="map 0 holds no 'similarity'"):
        significance_over_subjects([tested, tested])
    assert significance_over_subjects(group, seed=np.int64(0), n_flips=9).attrs["seed"] == 0
    renamed = group[1].assign_coords(model=["a", "b"])
    with pytest.raises(ValueError, match=r"map 1 has models \['a', 'b'\]"):
        significance_over_subjects([group[0], renamed])


def test_permuted_conditions_find_what_was_planted_in_one_subject():
    maps = searchlight(subject(3, strength=3), models(), METRIC, radius=4.0, n_permutations=199)
    assert maps["null"].shape == (199, 2, 729)
    tested = significance_over_permutations(maps)
    planted, other = tested["p_family"].values
    assert tested.attrs["smallest_p"] == 1 / 200
    assert np.nanmin(planted) <= 0.02
    assert distance_to_ball(tested)[planted <= ALPHA].max() <= 4.01
    assert np.nanmin(other) > ALPHA
    with pytest.raises(ValueError, match="have no null"):
        significance_over_permutations(maps.drop_vars("null"))


def test_permuted_models_are_models_whose_conditions_are_permuted():
    one = models()["planted"]
    hoods = neighbourhoods_of(subject(1), radius=4.0)
    maps = searchlight(
        subject(1), {"m": one}, METRIC, neighbourhoods=hoods, n_permutations=3, seed=5
    )
    draws = torch.rand(3, N_CONDITIONS, generator=torch.Generator().manual_seed(5)).argsort(1)
    for number, order in enumerate(draws.numpy()):
        turned = one.copy(data=one.values[np.ix_(order, order)])
        again = searchlight(subject(1), {"m": turned}, METRIC, neighbourhoods=hoods)
        np.testing.assert_allclose(maps["null"][number], again["similarity"], atol=1e-6)


def test_permutations_of_noise_are_rarely_significant():
    grid = mask_coordinates(np.ones((5, 5, 4)))
    hoods = sphere_neighbourhoods(grid, radius=1.5, minimum=8)
    ijk = {name: ("neuroid", grid[:, axis].astype(int)) for axis, name in enumerate("ijk")}
    runs, hits = 120, 0
    for run in range(runs):
        x = np.random.default_rng([run, 3]).normal(size=(7, len(grid)))
        features = np.random.default_rng([run, 4]).normal(size=(7, 3))
        maps = searchlight(
            x,
            {"m": cdist(features, features)},
            RSA("correlation", "corr"),
            neighbourhoods=hoods,
            n_permutations=39,
            seed=run,
        )
        tested = significance_over_permutations(maps.assign_coords(ijk))
        hits += bool((tested["p_family"] <= ALPHA).any())
    assert hits <= binom.isf(0.01, runs, ALPHA)


# surfaces


def bumpy_sheet(n=14):
    """A square sheet of triangles, 2 mm apart."""
    x, y = (one.ravel() for one in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    corner = np.arange(n * n).reshape(n, n)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[:-1, 1:], corner[1:, 1:]
    faces = np.concatenate(
        [np.stack([p.ravel() for p in t], 1) for t in ((a, b, c), (b, d, c))]
    )  # fmt: skip
    return Mesh(np.stack([2.0 * x, 2.0 * y, np.sin(x)], 1), faces)


def surface_subject(seed, mesh):
    draw = np.random.default_rng([seed, 2])
    middle = np.array([18.0, 10.0])
    near = np.linalg.norm(mesh.coordinates[:, :2] - middle, axis=1) <= 4
    x = draw.normal(size=(2, N_CONDITIONS, len(mesh)))
    x[:, :, near] += 1.5 * FEATURES @ draw.normal(size=(4, near.sum()))
    return make_recording(
        x.reshape(-1, len(mesh)),
        stimulus_id=IDS * 2,
        region="all",
        neuroid_id=[f"left-{v}" for v in range(len(mesh))],
        neuroid={
            "hemisphere": np.array(["left"] * len(mesh), dtype=object),
            "vertex": np.arange(len(mesh)),
        },
    ), near


def test_a_surface_is_corrected_along_its_mesh_and_written(tmp_path):
    mesh = bumpy_sheet()
    maps = []
    for seed in range(7):
        recording, near = surface_subject(seed, mesh)
        hoods = neighbourhoods_of(recording, nearest=16, mesh={"left": mesh})
        maps.append(searchlight(recording, models(), METRIC, neighbourhoods=hoods))
    with pytest.raises(ValueError, match="give mesh="):
        significance_over_subjects(maps)
    tested = significance_over_subjects(maps, mesh={"left": mesh}, n_flips=128)
    planted, other = tested["p_family"].values
    far = cdist(mesh.coordinates, mesh.coordinates[near]).min(1)
    assert np.nanmin(planted) == 1 / 128
    assert far[planted <= ALPHA].max() < 8
    assert np.nanmin(other) > ALPHA
    graph = graph_of_map(maps[0], mesh={"left": mesh})
    np.testing.assert_allclose(graph.weight, mesh.areas())
    assert write_map(tested, tmp_path / "mean.func.gii")  # what there is of several subjects
    (written,) = write_map(tested, tmp_path / "p.func.gii", variable="p_family")
    image = nibabel.load(written)
    assert [one.meta["Name"] for one in image.darrays] == ["planted", "other"]
    np.testing.assert_allclose(image.darrays[0].data, planted, rtol=1e-6)


def test_a_mesh_is_read_from_gifti(tmp_path):
    mesh = bumpy_sheet(4)
    arrays = [
        nibabel.gifti.GiftiDataArray(mesh.coordinates.astype("f4"), "NIFTI_INTENT_POINTSET"),
        nibabel.gifti.GiftiDataArray(mesh.faces.astype("i4"), "NIFTI_INTENT_TRIANGLE"),
    ]
    path = tmp_path / "lh.surf.gii"
    nibabel.GiftiImage(darrays=arrays).to_filename(path)
    found = read_mesh(path)
    np.testing.assert_allclose(found.coordinates, mesh.coordinates, rtol=1e-6)
    np.testing.assert_array_equal(found.faces, mesh.faces)
    nibabel.GiftiImage(darrays=arrays[:1]).to_filename(path)
    with pytest.raises(ValueError, match="holds no mesh"):
        read_mesh(path)


def test_both_hemispheres_go_into_two_files(tmp_path):
    maps = xr.Dataset(
        {"similarity": (("model", "neuroid"), np.arange(4.0)[None])},
        coords={
            "model": ["m"],
            "hemisphere": ("neuroid", np.array(["left", "left", "right", "right"], dtype=object)),
            "vertex": ("neuroid", [0, 3, 1, 2]),
        },
    )
    left, right = write_map(maps, tmp_path / "m.func.gii", n_vertices={"left": 6})
    assert (left.name, right.name) == ("m.left.func.gii", "m.right.func.gii")
    np.testing.assert_array_equal(
        nibabel.load(left).darrays[0].data, [0, np.nan, np.nan, 1, np.nan, np.nan]
    )
    np.testing.assert_array_equal(nibabel.load(right).darrays[0].data, [np.nan, 2, 3])


# volumes


def test_a_volume_keeps_values_and_affine(tmp_path, group):
    affine = np.array(
        [[-2.1, 0.1, 0, 90], [0.1, 2.2, 0.3, -126], [0, -0.3, 1.9, -72], [0, 0, 0, 1]]
    )
    ijk = np.stack([group[0][a].values for a in "ijk"], 1)
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    maps = group[0].assign_coords({f"{a}_mm": ("neuroid", mm[:, n]) for n, a in enumerate("xyz")})
    (path,) = write_map(maps, tmp_path / "map.nii.gz")
    image = nibabel.load(path)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    assert image.shape == (*SHAPE, 2)
    np.testing.assert_allclose(
        image.get_fdata()[tuple(ijk.T)].T, maps["similarity"].values, rtol=1e-6
    )
    like = tmp_path / "like.nii"
    nibabel.Nifti1Image(np.zeros((12, 10, 9), "f4"), affine).to_filename(like)
    (path,) = write_map(maps.isel(model=[0]), tmp_path / "map.nii", like=like)
    image = nibabel.load(path)
    assert image.shape == (12, 10, 9)
    np.testing.assert_array_equal(image.affine, nibabel.load(like).affine)
    moved = affine.copy()
    moved[0, 3] += 2
    nibabel.Nifti1Image(np.zeros((12, 10, 9), "f4"), moved).to_filename(like)
    with pytest.raises(ValueError, match="2 mm from where"):
        write_map(maps, tmp_path / "map.nii", like=like)
    assert as_volume(maps, variable="similarity").shape == (*SHAPE, 2)


@pytest.mark.parametrize(
    ("change", "name", "options", "message"),
    [
        ({}, "map.txt", {}, "expected a name that ends in"),
        ({}, "map.func.gii", {}, "are no vertices"),
        ({}, "map.func.gii", {"like": "map.nii"}, "like= does not apply to .func.gii"),
        ({}, "map.nii", {"n_vertices": {"left": 9}}, "n_vertices= applies to .func.gii only"),
        ({}, "map.dscalar.nii", {}, "needs like="),
        ({}, "map.nii", {"variable": "p"}, "no map 'p'; there are similarity"),
        ({"k": ("neuroid", np.zeros(729, int))}, "map.nii", {}, "lie in one slice"),
    ],
)
def test_maps_that_do_not_fit_a_file_are_refused(tmp_path, group, change, name, options, message):
    with pytest.raises(ValueError, match=message):
        write_map(group[0].assign_coords(change), tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_grayordinates_go_into_cifti(tmp_path):
    axis = nibabel.cifti2.BrainModelAxis.from_mask(
        np.ones(5, bool), name="CIFTI_STRUCTURE_CORTEX_LEFT"
    )
    scalars = nibabel.cifti2.ScalarAxis(["old"])
    like = tmp_path / "like.dscalar.nii"
    nibabel.Cifti2Image(np.zeros((1, 5), "f4"), (scalars, axis)).to_filename(like)
    maps = xr.Dataset(
        {"similarity": (("model", "neuroid"), [[1.0, 2.0]])},
        coords={
            "model": ["m"],
            "neuroid_id": ("neuroid", ["cortex_left-3", "cortex_left-0"]),
            "structure": ("neuroid", np.array(["cortex_left"] * 2, dtype=object)),
            "vertex": ("neuroid", [3, 0]),
        },
    )
    (path,) = write_map(maps, tmp_path / "map.dscalar.nii", like=like)
    found = nibabel.load(path)
    np.testing.assert_array_equal(found.get_fdata(), [[2, np.nan, np.nan, 1, np.nan]])
    assert found.header.get_axis(0).name.tolist() == ["m"]


# real data


def test_a_slice_of_haxby_2001(data_folder, tmp_path):
    """Eight categories in twelve runs: halves of the runs predict each other."""
    from repalign.cards import load_card
    from repalign.loaders.haxby2001 import read

    folder = data_folder / "haxby2001_slice"
    card = tmp_path / "haxby_slice.toml"
    card.write_text(CARD)
    files = {
        "bold": folder / "bold.nii.gz",
        "labels": folder / "attributes_literal.txt",
        "mask": folder / "mask.nii.gz",
    }
    recording, _ = read(load_card(str(card), "dataset"), files)
    recording = recording.load()
    runs = recording["run"].values.astype(int)
    halves = [recording.isel(presentation=np.flatnonzero(runs % 2 == half)) for half in (0, 1)]
    rdms = []
    for half in halves:
        hoods = neighbourhoods_of(half, radius=8.0)
        maps = searchlight(
            half,
            {"other half": _category_rdm(halves[1])},
            RSA("crossnobis", "corr", "euclidean", "shrinkage_eye"),
            neighbourhoods=hoods,
            fold="run",
        )
        rdms.append(maps["similarity"].values[0])
    assert np.isfinite(rdms[0]).sum() == len(hoods) > 400
    assert np.nanmax(rdms[0]) > 0.5
    with pytest.raises(ValueError, match="one slice"):
        write_map(maps, tmp_path / "map.nii.gz")
    (path,) = write_map(maps, tmp_path / "map.nii.gz", like=folder / "mask.nii.gz")
    found, like = nibabel.load(path), nibabel.load(folder / "mask.nii.gz")
    np.testing.assert_array_equal(found.affine, like.affine)
    assert found.shape[:3] == like.shape[:3]


CARD = """
name = "haxby_slice"
species = "human"
regions = ["slice"]
units = "arbitrary"
loader = "haxby2001"
[files]
bold = "bold.nii.gz"
labels = "attributes_literal.txt"
mask = "mask.nii.gz"
[options]
presentation = "block"
detrend = true
"""


def _category_rdm(recording):
    from repalign.metrics.pairs import square_form
    from repalign.metrics.rdms import rdm

    ids = np.unique(recording["stimulus_id"].values.astype(str))
    x = recording["response"].values.astype(float)
    condensed = rdm(
        x - x.mean(0),
        method="crossnobis",
        stimulus=recording["stimulus_id"].values.astype(str),
        fold=recording["run"].values,
    )
    square = square_form(condensed).numpy()
    return xr.DataArray(square, dims=("stimulus_id", "other"), coords={"stimulus_id": ids})


def test_the_verb_writes_maps_and_figures(tmp_path, monkeypatch, capsys):
    from repalign.cli import main
    from repalign.opening import save_recording

    def run(*arguments):
        words = ["repalign", "searchlight", "subject.zarr", "features.zarr", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    save_recording(subject(3, strength=3), tmp_path / "subject.zarr")
    features = make_recording(FEATURES, stimulus_id=IDS, region="features")
    save_recording(features, tmp_path / "features.zarr")
    code, out, err = run(
        *("--radius", "4", "--out", "map.nii.gz", "--permutations", "99", "--figure", "map.png"),
        *("--metric", "rsa:rdm=crossnobis,model_rdm=euclidean,comparator=corr"),
    )
    assert not code
    assert out.split() == ["map.nii.gz", "map_p_family.nii.gz", "map.png"]
    assert "smallest p 0.01" in err
    assert re.search(r"features.* [1-9]\d* places with p <= .05", err)
    p = nibabel.load(tmp_path / "map_p_family.nii.gz").get_fdata()
    assert np.nanmin(p) <= ALPHA
    assert (tmp_path / "map.png").stat().st_size > 10_000
    for wrong, message in (
        (("--radius", "1"), "the largest has 1. Use a larger radius"),
        ((), "give either --radius or --nearest"),
        (("--radius", "4", "--metric", "cka"), "a searchlight compares RDMs; use rsa"),
    ):
        code, out, err = run("--out", "b.nii.gz", *wrong)
        assert code == 1
        assert message in err


@pytest.mark.parametrize("view", ["volume", "surface"])
def test_figures_have_a_row_a_model(view, group):
    from repalign.reporting.brain_maps import map_figure

    if view == "volume":
        tested = significance_over_subjects(group, statistic="max", n_flips=256)
        fig = map_figure(tested, variable="statistic", significance=tested)
        outlined = [len(ax.collections) for ax in fig.axes if ax.images]
        assert len(outlined) == 14  # seven slices of two models
        assert sum(outlined[:7]) > 0
        assert sum(outlined[7:]) == 0
        with pytest.raises(ValueError, match="no model 'x'; there are planted, other"):
            map_figure(tested, models=["x"])
    else:
        mesh = bumpy_sheet()
        recording, _ = surface_subject(0, mesh)
        hoods = neighbourhoods_of(recording, nearest=16, mesh={"left": mesh})
        maps = searchlight(recording, models(), METRIC, neighbourhoods=hoods)
        fig = map_figure(maps, mesh={"left": mesh})
        assert sum(ax.name == "3d" for ax in fig.axes) == 4  # two views of two models
        with pytest.raises(ValueError, match="give mesh="):
            map_figure(maps)
