"""Control targets keep what they say, lose what they say, and still find their images."""

from __future__ import annotations

import doctest
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from repalign.loaders import ingest
from repalign.metrics import CKA, reliability
from repalign.processing import average_repeats
from repalign.recording import (
    make_rdm_recording,
    make_recording,
    response_array,
    select,
    stimulus_ids,
)
from repalign.recording_checks import check_recording
from repalign.regularize import controls
from repalign.regularize.controls import CONTROLS, Control
from repalign.regularize.target_responses import average_responses, stimulus_labels
from repalign.stimuli import encode_png, open_stimuli

N, NEUROIDS, REPEATS = 24, 6, 3
CLASSES = np.array([f"class-{i % 4}" for i in range(N)], dtype=object)
IDS = [f"image-{i}" for i in range(N)]
TARGETS = [name for name, control in CONTROLS.items() if control.kind == "target"]
RANDOM = ["row-shuffle", "within-class-shuffle", "gaussian", "spectrum-matched"]
RANDOM += ["non-robust-teacher"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def make_target(seed: int = 0, *, noise: float = 0.5) -> xr.Dataset:
    """Signal of a few dimensions with trial noise, presented in blocks of all images."""
    signal = normal(N, 4, seed=seed) @ normal(4, NEUROIDS, seed=seed + 1) + 5
    trials = signal + noise * normal(REPEATS, N, NEUROIDS, seed=seed + 2)
    return make_recording(
        trials.reshape(-1, NEUROIDS),
        stimulus_id=IDS * REPEATS,
        region="IT",
        subject=["a"] * 4 + ["b"] * 2,
        presentation={
            "object_name": np.tile(CLASSES, REPEATS),
            "trial": np.arange(N * REPEATS),
        },
        attrs={"fingerprint": "sha256:0", "store": "/somewhere.zarr"},
    )


@pytest.fixture
def target() -> xr.Dataset:
    return make_target()


def material(target: xr.Dataset) -> dict:
    return {
        "labels": "object_name",
        "teacher": normal(N, 30, seed=7),
        "other": target.assign_coords(region=("neuroid", ["V4"] * NEUROIDS)) * 1.0,
    }


def made(name: str, target: xr.Dataset, seed: int = 0, **more: object) -> xr.Dataset:
    return CONTROLS[name](target, seed=seed, **material(target), **more)


def averages(ds: xr.Dataset) -> np.ndarray:
    mean = average_repeats(ds)
    order = [mean["stimulus_id"].values.tolist().index(name) for name in IDS]
    return mean["response"].values[order]


def test_examples_run() -> None:
    assert doctest.testmod(controls).failed == 0


def test_the_registry_holds_the_ten_controls() -> None:
    assert list(CONTROLS) == [
        "row-shuffle",
        "within-class-shuffle",
        "gaussian",
        "spectrum-matched",
        "rank-k",
        "one-hot",
        "non-robust-teacher",
        "other-region",
        "jitter",
        "adversarial-training",
    ]
    assert [name for name, c in CONTROLS.items() if c.upper_bound] == ["adversarial-training"]
    assert all(control.name == name for name, control in CONTROLS.items())


@pytest.mark.parametrize("name", TARGETS)
def test_a_control_is_a_recording_of_the_same_stimuli(name: str, target: xr.Dataset) -> None:
    control = made(name, target, seed=3)
    check_recording(control)
    assert stimulus_ids(control) == IDS
    assert control.attrs["control"] == name
    assert control.attrs["control_seed"] == 3
    assert control.attrs["store"] == target.attrs["store"]
    assert control.attrs["fingerprint"] != target.attrs["fingerprint"]
    assert target.attrs == make_target().attrs  # and the target is as it was
    np.testing.assert_array_equal(target["response"].values, make_target()["response"].values)


@pytest.mark.parametrize("name", TARGETS)
def test_labels_stay_with_their_stimuli(name: str, target: xr.Dataset) -> None:
    control = made(name, target)
    labels = dict(zip(control["stimulus_id"].values, control["object_name"].values, strict=True))
    assert [labels[name] for name in IDS] == CLASSES.tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_a_control_follows_its_seed(name: str, target: xr.Dataset) -> None:
    one, again, other = (made(name, target, seed=seed) for seed in (0, 0, 1))
    xr.testing.assert_identical(one, again)
    same = np.array_equal(averages(one), averages(other))
    assert same == (name not in RANDOM)


def test_row_shuffle_moves_whole_rows_and_leaves_none_in_place(target: xr.Dataset) -> None:
    before = response_array(target, IDS)
    for seed in range(20):
        after = response_array(made("row-shuffle", target, seed=seed), IDS)
        rows = [next(i for i in range(N) if (before[:, i] == after[:, j]).all()) for j in range(N)]
        assert sorted(rows) == list(range(N))
        assert not (np.array(rows) == np.arange(N)).any()


def test_derangements_are_uniform() -> None:
    """Of three stimuli there are two derangements, of four nine."""
    for n, expected in ((2, 1), (3, 2), (4, 9)):
        small = make_recording(np.arange(n, dtype=float)[:, None], stimulus_id=IDS[:n], region="IT")
        control = CONTROLS["row-shuffle"]
        orders = [
            tuple(control(small, seed=seed)["response"].values[:, 0].tolist())
            for seed in range(90 * expected)
        ]
        counts = [orders.count(order) for order in set(orders)]
        assert len(counts) == expected
        assert min(counts) > 60  # of 90: 3 standard deviations
        assert max(counts) < 120


def test_row_shuffle_stays_lazy_and_moves_ragged_repetitions() -> None:
    ragged = make_target().isel(presentation=[*range(N), *range(N, N + 5)])
    lazy = made("row-shuffle", ragged.chunk({"presentation": 7}), seed=1)
    assert lazy["response"].chunks is not None
    control = lazy.compute()
    check_recording(control)
    shown = [control["stimulus_id"].values.tolist().count(name) for name in IDS]
    assert sorted(shown) == [1] * (N - 5) + [2] * 5
    rows = sorted(map(tuple, control["response"].values.tolist()))
    assert rows == sorted(map(tuple, ragged["response"].values.tolist()))
    # a trial number belongs to the presentation that moved, a label to the stimulus that stays
    by_trial = dict(zip(ragged["trial"].values, ragged["response"].values[:, 0], strict=True))
    found = [by_trial[trial] for trial in control["trial"].values]
    assert found == control["response"].values[:, 0].tolist()


def test_within_class_shuffle_keeps_the_class_of_every_row(target: xr.Dataset) -> None:
    lone = np.array(["only", *CLASSES[1:]], dtype=object)
    control = CONTROLS["within-class-shuffle"](target, seed=0, labels=lone)
    assert control.attrs["control_unshuffled_stimuli"] == 1
    before, after = averages(target), averages(control)
    kept = [int(np.flatnonzero((before == row).all(1))[0]) for row in after]
    assert [lone[i] for i in kept] == lone.tolist()
    assert [i for i, j in enumerate(kept) if i == j] == [0]


def test_gaussian_has_each_neuroids_mean_and_spread_and_no_correlations() -> None:
    many = 4000
    scale = np.array([1.0, 3.0])
    signal = normal(many, 1) * scale + [5, -2]  # two neuroids that correlate perfectly
    target = make_recording(signal, stimulus_id=[str(i) for i in range(many)], region="IT")
    noise = CONTROLS["gaussian"](target, seed=0)["response"].values
    error = scale / np.sqrt(many)
    assert (np.abs(noise.mean(0) - signal.mean(0)) < 4 * error).all()
    assert (np.abs(noise.std(0) - signal.std(0)) < 4 * error).all()
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / np.sqrt(many)


@pytest.mark.parametrize("neuroids", [6, 60])
def test_spectrum_matched_keeps_the_covariance_exactly(neuroids: int) -> None:
    signal = normal(N, neuroids) @ normal(neuroids, neuroids, seed=1) + 3
    target = make_recording(signal, stimulus_id=IDS, region="IT")
    found = CONTROLS["spectrum-matched"](target, seed=0)["response"].values
    np.testing.assert_allclose(found.mean(0), signal.mean(0), atol=1e-9)
    np.testing.assert_allclose(np.cov(found.T), np.cov(signal.T), atol=1e-9)
    centred = [one - one.mean(0) for one in (signal, found)]
    spectra = [np.linalg.svd(one, compute_uv=False) for one in centred]
    np.testing.assert_allclose(*spectra, atol=1e-9)


def test_spectrum_matched_frames_are_uniformly_random() -> None:
    """The mean over seeds of Q Qᵀ is the same in all directions orthogonal to the constant."""
    target = make_recording(normal(5, 2), stimulus_id=IDS[:5], region="IT")
    total = np.zeros((5, 5))
    for seed in range(800):
        found = CONTROLS["spectrum-matched"](target, seed=seed)["response"].values
        left = np.linalg.svd(found - found.mean(0), full_matrices=False)[0]
        total += left[:, :1] @ left[:, :1].T
    expected = (np.eye(5) - 1 / 5) / 4
    np.testing.assert_allclose(total / 800, expected, atol=0.04)


@pytest.mark.parametrize("name", ["row-shuffle", "gaussian", "spectrum-matched"])
def test_controls_without_stimulus_information_are_unrelated_to_the_target(
    name: str, target: xr.Dataset
) -> None:
    whole = torch.from_numpy(averages(target))
    values = [
        CKA()(torch.from_numpy(averages(made(name, target, seed=seed))), whole).item()
        for seed in range(150)
    ]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert error < 0.02  # so that the line above can fail


def test_rank_k_keeps_the_first_components(target: xr.Dataset) -> None:
    whole = averages(target)
    for k in (1, 2, NEUROIDS):
        control = made("rank-k", target, k=k)
        reduced = averages(control)
        assert np.linalg.matrix_rank(reduced - reduced.mean(0)) == k
        lengths = np.linalg.svd(whole - whole.mean(0), compute_uv=False)
        error = np.square(reduced - whole).sum()
        assert error == pytest.approx(np.square(lengths[k:]).sum(), abs=1e-9)  # Eckart–Young
        share = 1 - np.square(lengths[k:]).sum() / np.square(lengths).sum()
        assert control.attrs["control_variance_share"] == pytest.approx(share)
    np.testing.assert_allclose(reduced, whole)


def test_rank_k_takes_one_component_less_than_there_are_classes(target: xr.Dataset) -> None:
    assert made("rank-k", target).attrs["control_k"] == 3
    assert CONTROLS["rank-k"](target, seed=0).attrs["control_k"] == NEUROIDS  # less than 10
    wide = make_recording(normal(N, 30), stimulus_id=IDS, region="IT")
    assert CONTROLS["rank-k"](wide, seed=0).attrs["control_k"] == 10


def test_one_hot_is_the_geometry_of_labels(target: xr.Dataset) -> None:
    control = made("one-hot", target)
    code = averages(control)
    same = CLASSES[:, None] == CLASSES[None]
    np.testing.assert_array_equal(code @ code.T, same.astype(float))
    gram = torch.from_numpy(same.astype(float))
    found = CKA().compare_prepared(CKA().prepare(torch.from_numpy(code)), gram)
    assert found.item() == pytest.approx(1)
    assert control["neuroid_id"].values.tolist() == [f"label-class-{i}" for i in range(4)]
    assert set(control["subject"].values) == {"a+b"}


def test_the_teacher_is_read_out_as_reliably_as_the_target_was() -> None:
    n, ids = 400, [f"s{i}" for i in range(400)]
    signal = normal(n, 8)
    target = make_recording(
        np.concatenate([signal + normal(n, 8, seed=s) for s in (1, 2, 3, 4)]),
        stimulus_id=ids * 4,
        region="IT",
    )  # reliability of the average: 1 / (1 + 1/4)
    features = normal(n, 50, seed=9)
    control = CONTROLS["non-robust-teacher"](target, seed=0, teacher=features)
    assert control.attrs["control_reliability"] == pytest.approx(0.8, abs=0.04)
    measured = reliability(response_array(control, ids)).median()
    assert measured.item() == pytest.approx(0.8, abs=0.05)
    np.testing.assert_array_equal(control["repetition"], target["repetition"])
    mine, brain = (average_responses(ds) for ds in (control, target))
    np.testing.assert_allclose(mine.mean(0), brain.mean(0), atol=0.15)
    np.testing.assert_allclose(mine.std(0), brain.std(0), rtol=0.2)
    like_teacher = CKA()(torch.from_numpy(mine), torch.from_numpy(features))
    like_brain = CKA()(torch.from_numpy(mine), torch.from_numpy(brain))
    assert like_teacher > 0.2 > 0.03 > like_brain.abs()


def test_a_teacher_may_be_a_function_and_a_single_trial_has_no_noise(target: xr.Dataset) -> None:
    features = torch.from_numpy(normal(N, 5, 3, seed=4))  # unit axes are flattened
    asked: list[list[str]] = []

    def teacher(ids: list[str]) -> torch.Tensor:
        asked.append(ids)
        return features

    single = target.isel(presentation=slice(N))
    control = CONTROLS["non-robust-teacher"](single, seed=0, teacher=teacher)
    assert asked == [IDS]
    given = CONTROLS["non-robust-teacher"](single, seed=0, teacher=features.flatten(1).numpy())
    xr.testing.assert_identical(control, given)
    assert control.attrs["control_reliability"] == 1.0


def test_another_region_is_matched_by_id(target: xr.Dataset) -> None:
    order = np.random.default_rng(5).permutation(N)[:10]
    rows = np.concatenate([order, order + N])
    other = make_recording(
        normal(20, 40, seed=6),
        stimulus_id=[IDS[i % N] for i in rows],
        region="V4",
        attrs={"store": "/elsewhere.zarr"},
    )
    control = CONTROLS["other-region"](target, seed=0, other=other)
    shared = [name for i, name in enumerate(IDS) if i in order]
    assert stimulus_ids(control) == shared
    assert control.attrs["control_shared_stimuli"] == 10
    assert control.attrs["store"] == "/somewhere.zarr"
    assert control.sizes["neuroid"] == NEUROIDS  # of 40
    columns = [int(name.split("-")[1]) for name in control["neuroid_id"].values]
    expected = response_array(other, shared)[..., columns]
    np.testing.assert_array_equal(response_array(control, shared), expected)
    again = CONTROLS["other-region"](target, seed=1, other=other)
    assert again["neuroid_id"].values.tolist() != control["neuroid_id"].values.tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_missing_presentations_are_left_out(name: str, target: xr.Dataset) -> None:
    """A presentation that is NaN in all neuroids counts as one that is not listed."""
    values = target["response"].values.copy()
    values[[N + 2, N + 3, 2 * N + 3]] = np.nan
    holes = target.assign(response=(target["response"].dims, values))
    control = made(name, holes, seed=2)
    assert np.isfinite(averages(control)).all()
    if name in ("gaussian", "spectrum-matched", "rank-k"):
        listed = holes.isel(presentation=~np.isnan(values).all(1))
        np.testing.assert_allclose(averages(made(name, listed, seed=2)), averages(control))
    if name == "non-robust-teacher":
        np.testing.assert_array_equal(np.isnan(control["response"].values), np.isnan(values))


def test_time_bins_keep_their_place() -> None:
    values = normal(N, 3, 4)
    target = make_recording(values[..., 0], stimulus_id=IDS, region="IT")
    target = target.assign(response=(("presentation", "neuroid", "time_bin"), values))
    for name in ("row-shuffle", "gaussian", "spectrum-matched", "rank-k"):
        assert CONTROLS[name](target, seed=0)["response"].dims == target["response"].dims
    found = CONTROLS["spectrum-matched"](target, seed=0)["response"].values.reshape(N, -1)
    np.testing.assert_allclose(np.cov(found.T), np.cov(values.reshape(N, -1).T), atol=1e-9)
    with pytest.raises(ValueError, match="time bins; select one"):
        CONTROLS["non-robust-teacher"](target, seed=0, teacher=normal(N, 5))


def test_images_of_every_control_are_found(tmp_path: Path, random: np.random.Generator) -> None:
    pictures = {f"p{i}.png": random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(6)}
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, picture in pictures.items():
            archive.writestr(name, encode_png(picture))
    np.save(tmp_path / "responses.npy", random.normal(size=(6, 4)).astype(np.float32))
    card = tmp_path / "lab.toml"
    card.write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n[files]\n'
        'responses = "responses.npy"\nimages = "images.zip"\n[options]\n'
    )
    target = ingest(card)
    for name in TARGETS:
        control = CONTROLS[name](
            target, seed=0, labels=list("aabbcc"), teacher=normal(6, 9), other=select(target)
        )
        images = open_stimuli(control).subset(stimulus_ids(control))
        for i, shown in enumerate(images.ids):
            np.testing.assert_array_equal(images.image(i), pictures[f"{shown}.png"])
        assert stimulus_ids(control) == stimulus_ids(target)
        assert control["response"].dtype == np.float32
        digests = (ds["image_sha256"].values.tolist() for ds in (control, target))
        assert next(digests) == next(digests)  # one presentation a stimulus


def test_ways_to_train_are_no_targets(target: xr.Dataset) -> None:
    for name in ("jitter", "adversarial-training"):
        assert CONTROLS[name].parameters
        with pytest.raises(TypeError, match=f"{name} is a way to train, not a target"):
            made(name, target)


def test_applicability_says_what_is_missing() -> None:
    assert CONTROLS["row-shuffle"].applicable(set()) is None
    assert CONTROLS["one-hot"].applicable({"labels"}) is None
    found = CONTROLS["within-class-shuffle"].applicable({"teacher", "task_labels"})
    assert found == "not applicable: the neural stimuli have no class labels."
    assert CONTROLS["adversarial-training"].applicable(set()) is None
    both = Control(
        name="mine", title="", description="", needs=("teacher", "task_labels"), make=made
    )
    assert both.applicable([]) == (
        "not applicable: no features of an ordinary network were given, and the task has no labels."
    )
    with pytest.raises(ValueError, match="available has 'label'; expected some of"):
        both.applicable({"label"})


def test_a_control_of_ones_own_needs_no_registration(target: xr.Dataset) -> None:
    def doubled(target: xr.Dataset, *, seed: int, factor: float = 2.0) -> xr.Dataset:
        return target.assign(response=target["response"] * factor)

    mine = Control(
        name="doubled", title="Twice", description="", make=doubled, parameters={"factor": 2.0}
    )
    found = mine(target, seed=0, labels="object_name", factor=3.0)
    np.testing.assert_allclose(found["response"], 3 * target["response"])
    assert found.attrs["control"] == "doubled"
    with pytest.raises(ValueError, match="needs 'brain'; expected some of"):
        Control(name="x", title="", description="", needs=("brain",), make=doubled)
    with pytest.raises(ValueError, match="make= goes with kind='target'"):
        Control(name="x", title="", description="")
    with pytest.raises(ValueError, match="kind is 'test'"):
        Control(name="x", title="", description="", kind="test")  # type: ignore[arg-type]


def test_materials_that_do_not_fit_are_refused(target: xr.Dataset) -> None:
    one_hot, teacher = CONTROLS["one-hot"], CONTROLS["non-robust-teacher"]
    with pytest.raises(ValueError, match="one-hot needs labels="):
        one_hot(target, seed=0)
    with pytest.raises(ValueError, match="other-region needs other="):
        CONTROLS["other-region"](target, seed=0)
    with pytest.raises(ValueError, match=r"labels has shape \(5,\); expected \(24,\)"):
        one_hot(target, seed=0, labels=list("abcde"))
    with pytest.raises(ValueError, match="all stimuli have the label 'x'"):
        one_hot(target, seed=0, labels=["x"] * N)
    with pytest.raises(ValueError, match="1 stimuli .first 'image-1'. have no label"):
        one_hot(target, seed=0, labels=[0.0, np.nan, *range(N - 2)])
    with pytest.raises(ValueError, match="no coordinate 'kind' on presentation; there are"):
        one_hot(target, seed=0, labels="kind")
    with pytest.raises(ValueError, match="'trial' differs between the presentations of stimulus"):
        one_hot(target, seed=0, labels="trial")
    with pytest.raises(ValueError, match="each of the 24 classes has one stimulus"):
        CONTROLS["within-class-shuffle"](target, seed=0, labels=list(range(N)))
    with pytest.raises(ValueError, match=r"teacher has shape \(3, 2\); expected \(24, unit\)"):
        teacher(target, seed=0, teacher=np.ones((3, 2)))
    with pytest.raises(ValueError, match="teacher has NaN"):
        teacher(target, seed=0, teacher=np.full((N, 2), np.nan))
    with pytest.raises(ValueError, match="k is 7; expected 1 to 6"):
        made("rank-k", target, k=7)
    with pytest.raises(TypeError, match=r"k is 2\.5"):
        made("rank-k", target, k=2.5)
    with pytest.raises(TypeError, match="gaussian has no parameter 'sd'; it has none"):
        made("gaussian", target, sd=2)


def test_targets_that_have_nothing_to_replace_are_refused(target: xr.Dataset) -> None:
    rdm = make_rdm_recording(
        np.zeros((1, 3, 3)), stimulus_id=list("abc"), subject=["s"], species="human", region="IT"
    )
    shuffle, gaussian = CONTROLS["row-shuffle"], CONTROLS["gaussian"]
    with pytest.raises(ValueError, match="published RDMs have no responses"):
        shuffle(rdm, seed=0)
    with pytest.raises(TypeError, match="target is a ndarray"):
        shuffle(np.ones((3, 3)), seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target has 1 stimuli; expected 2 or more"):
        shuffle(target.isel(presentation=[0, N]), seed=0)
    flat = target.assign(response=target["response"] * 0 + 1)
    with pytest.raises(ValueError, match="the same to all stimuli"):
        CONTROLS["spectrum-matched"](flat, seed=0)
    values = target["response"].values.copy()
    values[[4, N + 4, 2 * N + 4], 2] = np.nan
    holes = target.assign(response=(target["response"].dims, values))
    with pytest.raises(ValueError, match="'image-4' has no finite response of neuroid 'neuroid-00"):
        gaussian(holes, seed=0)
    few = target.isel(presentation=[0, 1])
    few = few.assign_coords(stimulus_id=("presentation", ["other", "another"]))
    with pytest.raises(ValueError, match="no shared stimuli"):
        CONTROLS["other-region"](target, seed=0, other=few)


def test_labels_are_read_in_order_of_first_presentation(target: xr.Dataset) -> None:
    shuffled = target.isel(presentation=np.random.default_rng(0).permutation(N * REPEATS))
    own = dict(zip(IDS, CLASSES, strict=True))
    expected = [own[name] for name in stimulus_ids(shuffled)]
    assert stimulus_labels(shuffled, "object_name").tolist() == expected
    assert stimulus_labels(shuffled, expected).tolist() == expected
