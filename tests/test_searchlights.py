"""Searchlights: neighbourhoods, values equal to those of each neighbourhood alone, bad input."""

import numpy as np
import pytest
import rsatoolbox
import torch
import xarray as xr
from rsatoolbox.inference import eval_fixed
from rsatoolbox.util.searchlight import (
    evaluate_models_searchlight,
    get_searchlight_RDMs,
    get_volume_searchlight,
)
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist

from repalign.metrics import RSA
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.noise import (
    COVARIANCES,
    covariance_of_residuals,
    noise_precision,
    precision_of,
)
from repalign.metrics.rdms import rdm
from repalign.recording import make_rdm_recording, make_recording
from repalign.searchlights import (
    Mesh,
    disc_neighbourhoods,
    gather_neighbourhoods,
    joined_neighbourhoods,
    mask_coordinates,
    nearest_neighbourhoods,
    neighbourhoods_of,
    searchlight,
    sphere_neighbourhoods,
)
from repalign.searchlights import search as search_module

N_CONDITIONS = 8


def icosphere(subdivisions: int, radius: float = 10.0) -> Mesh:
    """A sphere of triangles: the icosahedron, each triangle cut into four."""
    golden = (1 + 5**0.5) / 2
    corners = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    points = [c[-shift:] + c[:-shift] for shift in range(3) for c in corners]
    near = cdist(points, points)
    edge = near[near > 0].min() * 1.01
    faces = [
        (a, b, c)
        for a in range(12)
        for b in range(a)
        for c in range(b)
        if max(near[a, b], near[b, c], near[a, c]) < edge
    ]
    coordinates = [np.array(p) / np.linalg.norm(p) for p in points]
    for _ in range(subdivisions):
        middle: dict[tuple[int, int], int] = {}

        def between(a: int, b: int, middle: dict[tuple[int, int], int] = middle) -> int:
            key = (min(a, b), max(a, b))
            if key not in middle:
                point = coordinates[a] + coordinates[b]
                coordinates.append(point / np.linalg.norm(point))
                middle[key] = len(coordinates) - 1
            return middle[key]

        cut = []
        for a, b, c in faces:
            ab, bc, ca = between(a, b), between(b, c), between(c, a)
            cut += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = cut
    return Mesh(radius * np.array(coordinates), np.array(faces))


@pytest.fixture
def grid():
    """Coordinates of a ragged piece of a volume."""
    mask = np.ones((6, 5, 4))
    mask[0, 0] = 0
    return mask_coordinates(mask)


def responses(n_neuroids, *, repeats=3, seed=0, offset=0.0):
    draw = np.random.default_rng(seed)
    signal = draw.normal(size=(N_CONDITIONS, n_neuroids))
    return offset + signal + draw.normal(size=(repeats, N_CONDITIONS, n_neuroids))


def model(seed=1, n=N_CONDITIONS):
    points = np.random.default_rng(seed).normal(size=(n, 4))
    return cdist(points, points)


# neighbourhoods


@pytest.mark.parametrize("radius", [1.0, 2.0, 2.5])
def test_spheres_are_those_of_all_distances(grid, radius):
    found = sphere_neighbourhoods(grid, radius=radius, minimum=1)
    inside = cdist(grid, grid) <= radius * (1 + 1e-9)
    assert len(found) == len(grid)
    for number in range(len(found)):
        np.testing.assert_array_equal(found.members(number), np.flatnonzero(inside[number]))


def test_a_voxel_on_the_radius_is_inside_whatever_the_affine_rounds(grid):
    voxels = sphere_neighbourhoods(grid, radius=2, unit="voxels")
    affine = np.diag([2.1, 2.1, 2.1, 1.0])
    affine[:3, 3] = -77.77
    mm = sphere_neighbourhoods(grid @ affine[:3, :3] + affine[:3, 3], radius=4.2)
    np.testing.assert_array_equal(voxels.member, mm.member)
    assert mm.kind == "sphere of 4.2 mm"


def test_what_is_left_out_is_reported(grid):
    found = sphere_neighbourhoods(grid, radius=1.5, minimum=12)
    size = (cdist(grid, grid) <= 1.5).sum(1)
    np.testing.assert_array_equal(found.centre, np.flatnonzero(size >= 12))
    np.testing.assert_array_equal(found.left_out, np.flatnonzero(size < 12))
    assert f"{(size < 12).sum()} neuroids with fewer than 12" in str(found)
    with pytest.raises(ValueError, match="the largest has 19. Use a larger radius"):
        sphere_neighbourhoods(grid, radius=1.5, minimum=50)


@pytest.mark.parametrize(
    ("coordinates", "radius", "message"),
    [
        (np.zeros((4, 3)), 1, "neuroids 0 and 1 lie at one place"),
        (np.full((4, 3), np.nan), 1, "NaN or infinity"),
        (np.arange(12.0).reshape(4, 3), 0, "radius is 0"),
    ],
)
def test_bad_coordinates_are_refused(coordinates, radius, message):
    with pytest.raises(ValueError, match=message):
        sphere_neighbourhoods(coordinates, radius=radius, minimum=1)


def test_bad_masks_and_lists_are_refused():
    with pytest.raises(ValueError, match="0 voxels inside"):
        mask_coordinates(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="affine has shape"):
        mask_coordinates(np.ones((2, 2, 2)), np.eye(3))
    with pytest.raises(ValueError, match="position 9"):
        gather_neighbourhoods([np.array([0, 9])], minimum=1)
    with pytest.raises(ValueError, match="stands twice"):
        gather_neighbourhoods([np.array([0, 0])], minimum=1)


def geodesics(mesh):
    """Distances along edges by relaxing all of them until nothing changes (Floyd and Warshall)."""
    n = len(mesh)
    far = np.full((n, n), np.inf)
    for face in mesh.faces:
        for a, b in zip(face, np.roll(face, 1), strict=True):
            far[a, b] = far[b, a] = np.linalg.norm(mesh.coordinates[a] - mesh.coordinates[b])
    np.fill_diagonal(far, 0)
    for k in range(n):
        far = np.minimum(far, far[:, [k]] + far[[k]])
    return far


def test_discs_are_those_of_all_shortest_paths():
    mesh = icosphere(2)
    inside = geodesics(mesh) <= 5.0
    found = disc_neighbourhoods(mesh, radius=5.0, minimum=1)
    assert len(mesh) == len(found) == 162
    for number in range(len(found)):
        np.testing.assert_array_equal(found.members(number), np.flatnonzero(inside[number]))


def test_paths_go_through_vertices_that_were_not_recorded():
    mesh = icosphere(2)
    vertices = np.random.default_rng(0).permutation(162)[:60]
    inside = (geodesics(mesh) <= 7.0)[np.ix_(vertices, vertices)]
    found = disc_neighbourhoods(mesh, radius=7.0, vertices=vertices, minimum=1)
    for number in range(60):
        np.testing.assert_array_equal(found.members(number), np.flatnonzero(inside[number]))


def test_nearest_vertices_are_those_of_the_shortest_paths():
    mesh = icosphere(2)
    far = geodesics(mesh)
    found = nearest_neighbourhoods(mesh, count=20)
    assert set(found.size.tolist()) == {20}
    for number in range(len(found)):
        within = far[number][found.members(number)]
        outside = np.delete(far[number], found.members(number))
        assert within.max() <= outside.min() + 1e-9
        assert number in found.members(number)


def test_nearest_leaves_out_pieces_that_are_too_small():
    one, other = icosphere(1), icosphere(0)
    both = Mesh(
        np.concatenate([one.coordinates, other.coordinates + 100]),
        np.concatenate([one.faces, other.faces + len(one)]),
    )
    found = nearest_neighbourhoods(both, count=20)
    np.testing.assert_array_equal(found.left_out, len(one) + np.arange(12))
    np.testing.assert_array_equal(found.centre, np.arange(len(one)))


def test_areas_of_a_sphere():
    assert icosphere(4).areas().sum() == pytest.approx(4 * np.pi * 100, rel=0.01)


def test_geodesics_of_a_mesh_exceed_the_great_circle_by_little():
    mesh = icosphere(4)
    far = dijkstra(mesh.edges(), indices=[0])[0]
    circle = 10 * np.arccos(np.clip(mesh.coordinates @ mesh.coordinates[0] / 100, -1, 1))
    ratio = far[circle > 2] / circle[circle > 2]
    assert ratio.min() > 0.99
    assert ratio.mean() < 1.12
    assert ratio.max() < 1.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": np.array([[0, 1, 99]])}, "faces name vertices 0 to 99"),
        ({"coordinates": np.zeros((3, 2))}, r"expected \(vertex, 3\)"),
        ({"faces": np.zeros((0, 3), dtype=int)}, "no faces"),
    ],
)
def test_bad_meshes_are_refused(change, message):
    good = {"coordinates": np.eye(3), "faces": np.array([[0, 1, 2]])}
    with pytest.raises(ValueError, match=message):
        Mesh(**(good | change))


# values


CASES = [
    ("correlation", None, "spearman"),
    ("correlation", None, "cosine"),
    ("cosine", None, "tau-a"),
    ("euclidean", None, "corr"),
    ("mahalanobis", "diag", "rho-a"),
    ("mahalanobis", "shrinkage_diag", "corr"),
    ("crossnobis", None, "cosine_cov"),
    ("crossnobis", "shrinkage_eye", "corr_cov"),
    ("crossnobis", "full", "cosine"),
    ("euclidean", None, "bures"),
]


def alone(x, members, method, noise, residuals=None, dof=None):
    """The RDM of one neighbourhood by repalign.metrics."""
    part = x[..., members]
    if noise is None:
        return rdm(part, method=method)
    if residuals is not None:
        covariance = covariance_of_residuals(residuals[:, members], method=noise, dof=dof)
        return rdm(part, method=method, noise=precision_of(covariance))
    return rdm(part, method=method, noise=noise_precision(part, method=noise))


@pytest.mark.parametrize(("method", "noise", "comparator"), CASES)
def test_values_equal_those_of_each_neighbourhood_alone(grid, method, noise, comparator, tmp_path):
    x = responses(len(grid), repeats=4, offset=30.0)
    hoods = sphere_neighbourhoods(grid, radius=1.5, minimum=9)
    models = {"a": model(1), "b": model(2)}
    metric = RSA(
        method,
        comparator,
        model_rdm="euclidean" if noise or method == "crossnobis" else None,
        noise=noise,
    )
    maps = searchlight(
        x, models, metric, neighbourhoods=hoods, to=tmp_path / "a.zarr", keep_rdms=True
    )
    square = torch.tensor(np.stack(list(models.values())))
    for number in range(len(hoods)):
        expected = alone(x, hoods.members(number), method, noise)
        np.testing.assert_allclose(maps["local_rdm"][number], expected, rtol=0, atol=1e-10)
        value = compare_rdms(
            expected[None], torch.stack([_upper(one) for one in square]), method=comparator,
            batch_dims=1,
        )  # fmt: skip
        found = maps["similarity"].values[:, hoods.centre[number]]
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-10)
    assert len(set(hoods.size.tolist())) > 3  # several sizes, none of them padded
    outside = np.setdiff1d(np.arange(len(grid)), hoods.centre)
    assert np.isnan(maps["similarity"].values[:, outside]).all()
    assert set(maps["left_out"].values[outside]) == {"fewer than 9 neuroids around it"}


def _upper(square):
    i, j = np.triu_indices(len(square), 1)
    return square[i, j]


def test_values_of_designs_that_are_not_balanced(grid):
    """Runs that lack conditions, and repetitions within a run."""
    draw = np.random.default_rng(0)
    stimulus = np.array([*range(8), *range(8), *range(5), *range(2, 8), 3])
    run = np.array([0] * 8 + [1] * 8 + [2] * 5 + [3] * 6 + [3])
    x = draw.normal(size=(len(run), len(grid))) + draw.normal(size=(8, len(grid)))[stimulus]
    ids = [f"s{one}" for one in stimulus]
    recording = make_recording(
        x, stimulus_id=ids, region="all", presentation={"run": run.astype(str)}
    )
    hoods = sphere_neighbourhoods(grid, radius=1.5)
    rdms = xr.DataArray(
        model(3), dims=("stimulus_id", "other"), coords={"stimulus_id": [f"s{i}" for i in range(8)]}
    )
    metric = RSA("crossnobis", "cosine", "euclidean", "shrinkage_eye")
    maps = searchlight(recording, {"m": rdms}, metric, neighbourhoods=hoods, fold="run")
    for number in range(0, len(hoods), 5):
        part = x[:, hoods.members(number)]
        precision = noise_precision(part, stimulus=stimulus)
        expected = rdm(part, method="crossnobis", noise=precision, stimulus=stimulus, fold=run)
        value = compare_rdms(expected, _upper(model(3)))
        found = maps["similarity"].values[0, hoods.centre[number]]
        assert found == pytest.approx(value.item(), abs=1e-10)


@pytest.mark.parametrize("noise", sorted(COVARIANCES))
def test_noise_comes_from_residuals_where_they_are_given(grid, noise):
    x = responses(len(grid))
    residuals = np.random.default_rng(5).normal(size=(60, len(grid)))
    hoods = sphere_neighbourhoods(grid, radius=1.5)
    metric = RSA("crossnobis", "corr", "euclidean", noise)
    maps = searchlight(
        x, {"m": model()}, metric, neighbourhoods=hoods, residuals=residuals, degrees_of_freedom=50
    )
    for number in (0, 17, len(hoods) - 1):
        expected = alone(x, hoods.members(number), "crossnobis", noise, residuals, 50)
        value = compare_rdms(expected, _upper(model()), method="corr").item()
        assert maps["similarity"].values[0, hoods.centre[number]] == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("method", ["correlation", "euclidean", "crossnobis"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_float32_is_exact_to_a_millionth_whatever_the_baseline(grid, method, offset):
    x = responses(len(grid), offset=offset)
    hoods = sphere_neighbourhoods(grid, radius=1.5)
    metric = RSA(method, "corr", "euclidean" if method == "crossnobis" else None)
    double, single = (
        searchlight(x, {"m": model()}, metric, neighbourhoods=hoods, dtype=dtype)["similarity"]
        for dtype in ("float64", "float32")
    )
    np.testing.assert_allclose(single, double, rtol=0, atol=5e-6)


def test_equal_to_the_searchlight_of_rsatoolbox():
    mask = np.zeros((7, 7, 7))
    mask[1:6, 1:6, 1:6] = 1
    draw = np.random.default_rng(0)
    data = draw.normal(size=(N_CONDITIONS, mask.size))
    centres, neighbours = get_volume_searchlight(mask, radius=2, threshold=1.0)
    theirs = get_searchlight_RDMs(data, centres, neighbours, np.arange(N_CONDITIONS), verbose=False)
    fixed = rsatoolbox.model.ModelFixed("m", _upper(model()))
    scores = evaluate_models_searchlight(theirs, fixed, eval_fixed, method="corr")
    ijk = np.argwhere(mask)
    # their radius is exclusive: 2 voxels hold the centre and its neighbours at 1, √2 and √3
    hoods = sphere_neighbourhoods(ijk, radius=1.9, unit="voxels", minimum=27)
    ours = searchlight(
        data[:, np.ravel_multi_index(ijk.T, mask.shape)],
        {"m": model()},
        RSA("correlation", "corr"),
        neighbourhoods=hoods,
    )
    places = np.ravel_multi_index(ijk[hoods.centre].T, mask.shape)
    np.testing.assert_array_equal(places, centres)
    expected = [score.evaluations.item() for score in scores]
    found = ours["similarity"].values[0, hoods.centre]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_values_do_not_depend_on_blocks_or_threads(grid):
    x = responses(len(grid))
    hoods = sphere_neighbourhoods(grid, radius=1.5)
    metric = RSA("crossnobis", "spearman", "euclidean", "shrinkage_eye")
    wide = searchlight(x, {"m": model()}, metric, neighbourhoods=hoods)["similarity"]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads = searchlight(x, {"m": model()}, metric, neighbourhoods=hoods, memory="2MB")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(threads["similarity"], wide, rtol=0, atol=1e-13)


def test_a_surface_is_searched_along_itself(grid):
    mesh = icosphere(2)
    draw = np.random.default_rng(0)
    left, right = draw.permutation(162)[:150], draw.permutation(162)
    n = len(left) + len(right)
    recording = make_recording(
        draw.normal(size=(N_CONDITIONS, n)),
        stimulus_id=[f"s{i}" for i in range(N_CONDITIONS)],
        region="all",
        neuroid_id=[f"left-{v}" for v in left] + [f"right-{v}" for v in right],
        neuroid={
            "hemisphere": np.array(["left"] * len(left) + ["right"] * len(right), dtype=object),
            "vertex": np.concatenate([left, right]),
        },
    )
    shuffled = recording.isel(neuroid=draw.permutation(n))
    hoods = neighbourhoods_of(shuffled, radius=6.5, mesh={"left": mesh, "right": mesh})
    inside = geodesics(mesh) <= 6.5
    side, vertex = shuffled["hemisphere"].values, shuffled["vertex"].values
    assert len(hoods) > 250
    for number, centre in enumerate(hoods.centre):
        expected = (side == side[centre]) & inside[vertex[centre]][vertex]
        np.testing.assert_array_equal(hoods.members(number), np.flatnonzero(expected))
    half = neighbourhoods_of(shuffled, nearest=20, mesh={"left": mesh})
    assert set(side[half.centre]) == {"left"}
    assert set(side[half.left_out]) == {"right"}
    with pytest.raises(ValueError, match="are vertices, give mesh="):
        neighbourhoods_of(shuffled, radius=6.5)


def test_a_planted_model_peaks_where_it_was_planted():
    grid = mask_coordinates(np.ones((12, 12, 12)))
    draw = np.random.default_rng(0)
    features = draw.normal(size=(12, 5))
    centre = np.array([8, 4, 6])
    ball = np.linalg.norm(grid - centre, axis=1) <= 2.5
    x = draw.normal(size=(4, 12, len(grid)))
    x[:, :, ball] += 2 * features @ draw.normal(size=(5, ball.sum()))
    hoods = sphere_neighbourhoods(grid, radius=2, unit="voxels")
    metric = RSA("crossnobis", "corr", "euclidean", "shrinkage_diag")
    maps = searchlight(
        x, {"planted": cdist(features, features) ** 2, "other": model(9, 12)}, metric,
        neighbourhoods=hoods,
    )  # fmt: skip
    planted, other = maps["similarity"].values
    assert np.linalg.norm(grid[np.nanargmax(planted)] - centre) <= 3
    assert np.nanmax(planted) > 0.8
    assert np.nanmax(other[ball]) < 0.5
    far = np.linalg.norm(grid - centre, axis=1) > 5
    assert abs(np.nanmean(planted[far])) < 0.05  # crossnobis is unbiased: no model fits noise


# stimuli, stores and bad input


def recorded(n=27, ids=None, repeats=2, **more):
    ids = [f"s{i}" for i in range(N_CONDITIONS)] if ids is None else ids
    ijk = np.argwhere(np.ones((3, 3, 3)))[:n]
    x = np.random.default_rng(0).normal(size=(repeats * len(ids), n))
    coords = {name: ijk[:, axis] for axis, name in enumerate("ijk")}
    coords |= {f"{name}_mm": 2.0 * ijk[:, axis] for axis, name in enumerate("xyz")}
    return make_recording(
        x,
        stimulus_id=list(ids) * repeats,
        region="all",
        neuroid_id=["voxel-" + "-".join(map(str, row)) for row in ijk],
        neuroid=coords | more,
    )


def named(square, ids):
    return xr.DataArray(square, dims=("stimulus_id", "other"), coords={"stimulus_id": list(ids)})


def test_models_are_matched_by_id_never_by_order():
    ids = [f"s{i}" for i in range(N_CONDITIONS)]
    order = np.random.default_rng(0).permutation(N_CONDITIONS)
    square = model()
    recording = recorded()
    straight = searchlight(recording, {"m": named(square, ids)}, radius=4.0)
    turned = named(square[np.ix_(order, order)], np.array(ids)[order])
    for same in (
        searchlight(recording, {"m": turned}, radius=4.0),
        searchlight(
            recording, {"m": turned.values}, radius=4.0, stimulus_id=np.array(ids)[order].tolist()
        ),
        searchlight(
            recording,
            {"m": make_rdm_recording(
                turned.values[None], stimulus_id=np.array(ids)[order].tolist(), subject=["group"],
                species="human", region="IT",
            )},
            radius=4.0,
        ),
    ):  # fmt: skip
        np.testing.assert_allclose(same["similarity"], straight["similarity"], atol=1e-12)
    assert "8 stimuli matched by id" in straight.attrs["note"]
    with pytest.raises(ValueError, match="never matched by order"):
        searchlight(recording, {"m": square}, radius=4.0)


def test_activations_are_models_and_only_shared_stimuli_count():
    draw = np.random.default_rng(1)
    ids = ["s9", "s7", "s6", "s5", "s4", "s3", "x"]
    values = draw.normal(size=(7, 6))
    network = make_recording(values, stimulus_id=ids, region="layer")
    recording = recorded()
    maps = searchlight(recording, {"net": network}, radius=4.0)
    shared = ["s3", "s4", "s5", "s6", "s7"]
    assert maps.attrs["n_stimuli"] == 5
    rows = recording["response"].values.reshape(2, N_CONDITIONS, 27).mean(0)[3:8]
    expected = compare_rdms(  # all voxels are within 4 mm of the one in the middle
        rdm(rows), rdm(values[[ids.index(one) for one in shared]]), method="spearman"
    )
    assert maps["similarity"].values[0, 13] == pytest.approx(expected.item(), abs=1e-12)


def test_a_killed_run_goes_on_and_a_finished_one_is_read(tmp_path, monkeypatch, grid):
    x = responses(len(grid))
    hoods = sphere_neighbourhoods(grid, radius=1.5)
    monkeypatch.setattr(search_module, "CHUNK", 16)
    whole = searchlight(x, {"m": model()}, neighbourhoods=hoods)
    run, calls = search_module.SearchlightPass.run, []

    def dying(self, start, stop, **more):
        calls.append(start)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, start, stop, **more)

    monkeypatch.setattr(search_module.SearchlightPass, "run", dying)
    arguments = {"neighbourhoods": hoods, "to": tmp_path / "map.zarr", "keep_rdms": True}
    with pytest.raises(KeyboardInterrupt):
        searchlight(x, {"m": model()}, **arguments)
    assert not (tmp_path / "map.zarr").exists()
    with pytest.raises(ValueError, match="another searchlight: responses is"):
        searchlight(x + 1, {"m": model()}, **arguments)
    found = searchlight(x, {"m": model()}, **arguments)
    assert calls == [0, 16, 32, 48, 48, *range(64, len(hoods), 16)]
    np.testing.assert_array_equal(found["similarity"], whole["similarity"])
    np.testing.assert_allclose(found["local_rdm"][5], rdm(x[..., hoods.members(5)]), atol=1e-12)
    n = len(calls)
    again = searchlight(x, {"m": model()}, **arguments)
    assert len(calls) == n
    assert not (tmp_path / "map.zarr.part").exists()
    np.testing.assert_array_equal(again["similarity"], whole["similarity"])
    with pytest.raises(ValueError, match="another searchlight: model_rdms is"):
        searchlight(x, {"m": model(7)}, **arguments)


def broken(place, value):
    recording = recorded()
    values = recording["response"].values.copy()
    values[:, place] = value
    return recording.assign(response=(("presentation", "neuroid"), values))


def lost(stimulus):
    recording = recorded()
    return recording.assign(response=recording["response"].where(recording.stimulus_id != stimulus))


CROSSED = RSA("crossnobis", "corr", "euclidean")
IDS = [f"s{i}" for i in range(N_CONDITIONS)]
THREE = sphere_neighbourhoods(np.eye(3), radius=2, minimum=1)
GOOD = {"m": named(model(), IDS)}


@pytest.mark.parametrize(
    ("recording", "models", "options", "message"),
    [
        (broken(4, np.nan), GOOD, {}, "1 neuroids have NaN .*first: voxel-0-1-1"),
        (broken(5, 3.0), GOOD, {}, "same value in all .*first: voxel-0-1-2"),
        (recorded(), GOOD, {"radius": 0.5}, "the largest has 1. Use a larger radius"),
        (recorded(), GOOD, {"radius": None}, "either radius"),
        (recorded(), {}, {}, "there are no models"),
        (recorded(), GOOD, {"metric": "cka"}, "compares RDMs, which cka does not"),
        (recorded(), GOOD, {"stimulus_id": IDS}, "stimulus_id= names the rows"),
        (recorded(), {"m": named(model(), ["s0", *IDS[:-1]])}, {}, "8 rows of 7 different"),
        (recorded(), GOOD, {"seed": None}, "seed is None; expected a whole number"),
        (
            recorded().assign_coords(neuroid_id=("neuroid", ["v"] * 27)),
            GOOD,
            {},
            "the neuroid id 'v' stands for several places",
        ),
        (recorded().isel(presentation=slice(0, 15)), GOOD, {"metric": CROSSED}, "'s7' is in 1"),
        (lost("s3"), GOOD, {}, r"1 stimuli \(first: 's3'\) have no presentation"),
        (
            recorded(),
            {"m": named(model(), [f"t{i}" for i in range(8)])},
            {},
            "0 stimuli are shared",
        ),
        (recorded(ids=["a", "b", "c"]), {"m": named(model(1, 3), ["a", "b", "c"])}, {}, "3 cond"),
        (recorded(), {"m": named(1 - np.eye(8), IDS)}, {}, "constant or undefined"),
        (recorded(), {"m": named(np.arange(64.0).reshape(8, 8), IDS)}, {}, "diagonal of model 'm'"),
        (recorded(), GOOD, {"metric": RSA("poisson")}, "has no rdm='poisson'"),
        (recorded(), GOOD, {"dtype": "float16"}, "expected float64 or float32"),
        (recorded(), GOOD, {"fold": "run"}, "fold= does not apply to rdm='correlation'"),
        (recorded(), GOOD, {"keep_rdms": True}, "needs to="),
        (recorded(), GOOD, {"memory": 10_000}, "memory is 10 KB"),
        (recorded(), GOOD, {"residuals": np.ones((9, 27))}, "this metric does not use"),
        (recorded(repeats=1), GOOD, {"metric": RSA("crossnobis")}, "2 or more folds"),
        (
            recorded(repeats=1),
            GOOD,
            {"metric": RSA("mahalanobis", noise="diag", model_rdm="euclidean")},
            "each stimulus was shown once",
        ),
        (
            recorded(),
            GOOD,
            {"metric": RSA("crossnobis", noise="full", model_rdm="euclidean"), "radius": 6.0},
            "around neuroid 0 .* has no inverse; use noise='shrinkage_eye'",
        ),
        (
            recorded().assign_coords(subject=("neuroid", np.repeat(["a", "b"], [20, 7]))),
            GOOD,
            {},
            "2 subjects .*select",
        ),
        (
            recorded(),
            GOOD,
            {"radius": None, "neighbourhoods": THREE},
            "of 3 neuroids, and the data have 27; mask and data do not fit",
        ),
    ],
)
def test_bad_input_is_refused_and_says_why(recording, models, options, message):
    arguments = {"radius": 4.0} | options
    with pytest.raises(ValueError, match=message):
        searchlight(recording, models, arguments.pop("metric", None), **arguments)


def test_networks_need_a_dissimilarity_without_repetitions():
    network = make_recording(
        np.random.default_rng(0).normal(size=(8, 5)), stimulus_id=IDS, region=""
    )
    with pytest.raises(ValueError, match="model_rdm='euclidean'"):
        searchlight(recorded(), {"net": network}, RSA("crossnobis"), radius=4.0)


def test_a_constant_pattern_is_undefined_and_said():
    grid = np.arange(40.0)[:, None]
    x = responses(40, repeats=1)[0]
    x[3, :15] = 7.0
    hoods = sphere_neighbourhoods(grid, radius=2, minimum=5)
    maps = searchlight(x, {"m": model()}, neighbourhoods=hoods)
    undefined = np.isnan(maps["similarity"].values[0])
    flat = [all(m < 15 for m in hoods.members(n)) for n in range(len(hoods))]
    np.testing.assert_array_equal(undefined[hoods.centre], flat)
    assert set(maps["left_out"].values[hoods.centre][flat]) == {"its RDM is undefined or constant"}
    assert f"{sum(flat)} centres" in maps.attrs["note"]


def test_a_voxel_of_two_regions_counts_once():
    recording = recorded()
    twice = xr.concat([recording, recording.isel(neuroid=slice(0, 5))], dim="neuroid")
    maps = searchlight(twice, GOOD, radius=4.0)
    expected = searchlight(recording, GOOD, radius=4.0)
    np.testing.assert_array_equal(maps["similarity"], expected["similarity"])


def test_hemispheres_are_put_one_after_the_other():
    half = sphere_neighbourhoods(np.arange(5.0)[:, None], radius=1, minimum=3)
    both = joined_neighbourhoods([half, half])
    assert both.centre.tolist() == [1, 2, 3, 6, 7, 8]
    assert both.left_out.tolist() == [0, 4, 5, 9]
    assert both.members(5).tolist() == [7, 8, 9]
