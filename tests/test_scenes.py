"""Procedural scenes: what repeats, what is balanced, and whether the table tells the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from repalign.scenes import BACKGROUNDS, SHAPES, TEXTURES, Scenes, _plan, _render, make_scenes


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return make_scenes(360, seed=5, size=32)


def test_scenes_repeats_bit_for_bit():
    first, second = make_scenes(6, seed=3, size=48), make_scenes(6, seed=3, size=48)
    np.testing.assert_array_equal(first.images, second.images)
    for name, column in first.table.items():
        np.testing.assert_array_equal(column, second.table[name])


def test_a_picture_does_not_depend_on_how_many_are_drawn(drawn):
    few = make_scenes(30, seed=5, size=32)
    np.testing.assert_array_equal(few.images, drawn.images[:30])
    assert few.stimulus_id == drawn.stimulus_id[:30]
    for name, column in few.table.items():
        np.testing.assert_array_equal(column, drawn.table[name][:30])


def test_table_does_not_depend_on_size(drawn):
    large = make_scenes(8, seed=5, size=96)
    for name, column in large.table.items():
        np.testing.assert_array_equal(column, drawn.table[name][:8])


def test_a_scene_keeps_its_look_at_another_size():
    small, large = make_scenes(24, size=64).images, make_scenes(24, size=128).images
    halved = large.reshape(24, 64, 2, 64, 2, 3).mean((2, 4))
    smooth = make_scenes(24, size=64).table["background"] != "cloud"  # noise is drawn per pixel
    smooth &= make_scenes(24, size=64).table["texture"] != "grain"
    assert smooth.sum() > 5
    assert np.abs(halved - small)[smooth].mean() < 4


def test_seeds_and_indices_give_different_pictures():
    images = np.concatenate([make_scenes(12, seed=seed, size=32).images for seed in range(3)])
    assert len({image.tobytes() for image in images}) == 36


def test_scenes_have_the_stated_form():
    drawn = make_scenes(5, size=40)
    assert drawn.images.shape == (5, 40, 40, 3)
    assert drawn.images.dtype == np.uint8
    assert drawn.stimulus_id[::4] == ("scene-0000", "scene-0004")
    assert list(drawn.table) == [
        "category",
        "texture",
        "background",
        "x",
        "y",
        "scale",
        "rotation_deg",
    ]
    assert all(column.shape == (5,) for column in drawn.table.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawn.images = drawn.images  # type: ignore[misc]


def test_categories_are_balanced_in_every_block_of_twelve(drawn):
    category = drawn.table["category"]
    assert len(SHAPES) == 12
    for start in range(0, len(category), 12):
        assert sorted(category[start : start + 12]) == sorted(SHAPES)
    # Even and odd halves must both hold every category, or splitting by row would confound.
    assert set(category[::2]) == set(category[1::2]) == set(SHAPES)


def test_every_texture_and_background_appears(drawn):
    for column, choices in (("texture", TEXTURES), ("background", BACKGROUNDS)):
        names, count = np.unique(drawn.table[column], return_counts=True)
        assert set(names) == set(choices)
        assert count.min() > 0.6 * len(drawn.images) / len(choices)


@pytest.mark.parametrize("category", SHAPES)
def test_recorded_place_and_size_are_those_of_the_drawn_object(category):
    size, tolerance = 64, {"crescent": 0.25, "letter": 0.35, "fish": 0.25, "tree": 0.25}
    centre = (np.arange(size) + 0.5) / size
    plans = [_plan(11, index) for index in range(144)]
    chosen = [(plan, random) for plan, random in plans if plan.category == category]
    assert len(chosen) == 12
    for plan, random in chosen:
        image, coverage = _render(plan, random, size)
        weight = coverage / coverage.sum()
        x, y = weight.sum(0) @ centre, weight.sum(1) @ centre
        assert np.hypot(x - plan.x, y - plan.y) < tolerance.get(category, 0.16) * plan.scale
        spread = np.sqrt(weight.sum(0) @ (centre - x) ** 2 + weight.sum(1) @ (centre - y) ** 2)
        assert 0.35 * plan.scale < spread < 0.9 * plan.scale
        edge = np.concatenate([coverage[0], coverage[-1], coverage[:, 0], coverage[:, -1]])
        assert edge.max() == 0, "the object lies wholly inside the picture"
        assert coverage.max() == pytest.approx(1)
        assert image.std() > 5


def test_rotation_is_counter_clockwise():
    plan, _ = _plan(0, 0)
    upright = dataclasses.replace(
        plan, category="tree", rotation_deg=0.0, shear=0.0, aspect=1.0, perspective=(0.0, 0.0)
    )
    leaning = dataclasses.replace(upright, rotation_deg=45.0)
    crown = {}
    for name, pose in (("upright", upright), ("leaning", leaning)):
        _, coverage = _render(pose, np.random.default_rng(0), 128)
        crown[name] = (coverage.sum(0) @ np.arange(128) + 0.5) / coverage.sum() / 128 - pose.x
    # The crown outweighs the trunk, so a turn to the left carries the centroid left.
    assert crown["leaning"] < crown["upright"] - 0.02


def test_objects_have_antialiased_edges():
    plan, random = _plan(2, 0)
    _, coverage = _render(dataclasses.replace(plan, category="disk"), random, 128)
    assert len(np.unique(np.round(coverage[(coverage > 0) & (coverage < 1)], 2))) > 20


def test_luminance_and_hue_vary_between_pictures(drawn):
    colour = drawn.images.reshape(len(drawn.images), -1, 3).mean(1)
    assert colour.mean(1).std() > 15
    assert (colour - colour.mean(1, keepdims=True)).std() > 8
    assert 90 < colour.mean() < 170


def test_category_is_decodable_from_the_silhouette_and_hardly_from_raw_pixels():
    size, count = 32, 480
    plans = [_plan(7, index) for index in range(count)]
    rendered = [_render(plan, random, size) for plan, random in plans]
    category = np.array([plan.category for plan, _ in plans])
    target = (category[:, None] == np.array(list(SHAPES))).astype(float)
    # Power of the silhouette in rings of the Fourier plane, blind to place.
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :]) * size
    ring = np.minimum(frequency.astype(int), 15).ravel()
    spectrum = np.abs(np.fft.fft2([coverage for _, coverage in rendered])).reshape(count, -1)
    silhouette = np.log([np.bincount(ring, row) for row in spectrum])
    pixels = np.array([image for image, _ in rendered]).reshape(count, -1) / 255.0
    train, test = np.arange(count) < count // 2, np.arange(count) >= count // 2

    def accuracy(features: np.ndarray, ridge: float) -> float:
        mean, spread = features[train].mean(0), features[train].std(0) + 1e-9
        z = (features - mean) / spread
        kernel = z @ z[train].T + 1
        weight = np.linalg.solve(kernel[train] + ridge * np.eye(train.sum()), target[train])
        return float((np.argmax(kernel[test] @ weight, 1) == np.argmax(target[test], 1)).mean())

    # Chance is 1/12; the three-sigma bound for 240 draws is 0.137.
    assert accuracy(silhouette, 0.1) > 0.35
    assert accuracy(pixels, 1e3) < 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, r"n is 0; make_scenes draws 1 or more pictures\. Pass n=1 or more"),
        ({"n": 2, "size": 31}, r"size is 31; .* 32 or more .* Draw at size=32 or more"),
        ({"n": 2, "seed": -1}, r"seed is -1; it must be 0 or more\. Pass a non-negative"),
    ],
)
def test_impossible_requests_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_scenes(**arguments)
