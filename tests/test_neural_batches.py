"""Neural batches: what is matched and averaged, in which order, and how it is read."""

from __future__ import annotations

import doctest
import gc
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from repalign.loaders import ingest
from repalign.network_cards import Preprocessing
from repalign.networks import preprocess
from repalign.processing import average_repeats
from repalign.recording import make_rdm_recording, make_recording, select
from repalign.regularize import batch_statistics, neural_batches, neural_labels
from repalign.regularize.neural_batches import NeuralBatches
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png

SMALL = Preprocessing(size=(8, 8))


def recording(n: int = 10, repeats: int = 3, *, prefix: str = "s", bins: int = 0) -> xr.Dataset:
    """Presentations in random order, a few of them missing."""
    random = np.random.default_rng(0)
    ids = [f"{prefix}{i}" for i in range(n)] * repeats
    order = random.permutation(len(ids))
    values = random.normal(size=(len(ids), 4))
    ds = make_recording(
        values, stimulus_id=[ids[i] for i in order], region=["V4", "V4", "IT", "IT"]
    )
    if not bins:
        return ds
    timed = random.normal(size=(len(ids), 4, bins))
    return ds.assign(response=(("presentation", "neuroid", "time_bin"), timed))


def pictures(ids: list[str]) -> Stimuli:
    scenes = make_scenes(len(ids), size=32)
    return Stimuli(tuple(ids), [encode_png(image) for image in scenes.images], 4.0)


def by_id(ds: xr.Dataset) -> dict[str, np.ndarray]:
    mean = average_repeats(ds)
    return dict(zip(mean["stimulus_id"].values, mean["response"].values, strict=True))


@pytest.fixture
def stored(tmp_path: Path) -> xr.Dataset:
    """A recording with images that went through a card and a store."""
    scenes = make_scenes(12, size=32)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, image in enumerate(scenes.images):
            archive.writestr(f"image{i:02d}.png", encode_png(image))
    raw = np.random.default_rng(1).normal(size=(12, 3, 5))
    raw[4, 1:] = np.nan
    np.save(tmp_path / "responses.npy", raw)
    (tmp_path / "lab.toml").write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n[files]\n'
        'responses = "responses.npy"\nimages = "images.zip"\n[options]\n'
        'dims = ["stimulus", "repetition", "neuroid"]\n'
    )
    return ingest(tmp_path / "lab.toml")


@pytest.mark.parametrize("module", [neural_batches, neural_labels, batch_statistics])
def test_examples_run(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_responses_are_averages_matched_to_their_images_by_id() -> None:
    ds = recording()
    stimuli = pictures([f"s{i}" for i in (7, 3, 1, 0, 2, 4, 5, 6, 9, 8)])
    batches = NeuralBatches(ds, images=stimuli, preprocessing=SMALL, batch_size=4)
    expected = by_id(ds)
    for _ in range(3):
        batch = next(batches)
        assert batch.images.shape == (4, 3, 8, 8)
        for name, image, response in zip(batch.ids, batch.images, batch.responses[0], strict=True):
            shown = preprocess(stimuli.image(stimuli.ids.index(name)), SMALL)
            torch.testing.assert_close(image, shown)
            np.testing.assert_allclose(response, expected[name])


def test_degrees_of_visual_angle_scale_the_images() -> None:
    ds, stimuli = recording(), pictures([f"s{i}" for i in range(10)])
    batches = NeuralBatches(
        ds, images=stimuli, preprocessing=SMALL, batch_size=2, field_degrees=8.0
    )
    batch = next(batches)
    shown = preprocess(
        stimuli.image(int(batch.ids[0][1:])), SMALL, shown_degrees=4.0, field_degrees=8.0
    )
    torch.testing.assert_close(batch.images[0], shown)


def test_missing_presentations_are_left_out_of_the_average() -> None:
    ds = recording()
    values = ds["response"].values.copy()
    rows = np.flatnonzero(ds["stimulus_id"].values == "s3")
    values[rows[0]] = np.nan
    batches = NeuralBatches(ds.assign(response=(ds["response"].dims, values)), images=zeros(10))
    found = batches.read(["s3"]).responses[0]
    np.testing.assert_allclose(found[0], values[rows[1:]].mean(0))


def zeros(n: int) -> torch.Tensor:
    return torch.arange(n * 3.0).reshape(n, 3)


def test_rows_of_a_tensor_are_the_stimuli_in_order_of_first_presentation() -> None:
    ds = recording()
    order = list(dict.fromkeys(ds["stimulus_id"].values))
    batch = next(NeuralBatches(ds, images=zeros(10), batch_size=10))
    for name, image in zip(batch.ids, batch.images, strict=True):
        torch.testing.assert_close(image, zeros(10)[order.index(name)])


def test_plain_arrays_match_by_row_and_repeats_are_averaged() -> None:
    array = np.random.default_rng(0).normal(size=(2, 6, 3))
    batch = next(NeuralBatches(array, images=zeros(6), batch_size=6))
    np.testing.assert_allclose(batch.responses[0], array.mean(0)[batch.rows])
    torch.testing.assert_close(batch.images, zeros(6)[torch.from_numpy(batch.rows)])


def test_only_shared_stimuli_are_used_and_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (
        recording(10),
        select(recording(14), stimulus_id=[f"s{i}" for i in range(4, 14)]),
    )
    stimuli = pictures([f"s{i}" for i in range(12)])
    batches = NeuralBatches(
        {"V4": first, "IT": second}, images=stimuli, preprocessing=SMALL, batch_size=6
    )
    assert batches.shared == [f"s{i}" for i in range(4, 10)]
    assert capsys.readouterr().err == (
        "6 stimuli matched by id, of 12 images and 10 in V4, 10 in IT\n"
    )
    batch = next(batches)
    for i, ds in enumerate((first, second)):
        np.testing.assert_allclose(batch.responses[i], [by_id(ds)[name] for name in batch.ids])


def test_every_epoch_is_a_permutation_of_its_own_and_drops_the_rest() -> None:
    batches = NeuralBatches(recording(), images=zeros(10), batch_size=3, seed=4)
    assert batches.batches_per_epoch == 3
    epochs = [[name for _ in range(3) for name in next(batches).ids] for _ in range(4)]
    for i, names in enumerate(epochs):
        assert len(set(names)) == 9
        assert names == [batches.shared[row] for row in batches.order(i)[:9]]
    assert len({tuple(names) for names in epochs}) == 4
    other = NeuralBatches(recording(), images=zeros(10), batch_size=3, seed=5)
    assert next(other).ids != tuple(epochs[0][:3])


def test_a_training_split_is_all_that_is_drawn() -> None:
    train = ["s5", "s1", "s8", "s2"]
    batches = NeuralBatches(recording(), images=zeros(10), batch_size=2, stimulus_ids=train)
    drawn = {name for _ in range(4) for name in next(batches).ids}
    assert drawn == set(train)
    assert len(batches.read(["s9"]).ids) == 1


def test_a_batch_is_never_larger_than_the_stimuli() -> None:
    assert NeuralBatches(recording(), images=zeros(10), batch_size=128).batch_size == 10


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 3, 7])
def test_a_saved_place_goes_on_with_the_same_stimuli(stop: int, *, prefetch: bool) -> None:
    def fresh() -> NeuralBatches:
        return NeuralBatches(recording(), images=zeros(10), batch_size=3, prefetch=prefetch)

    whole = fresh()
    expected = [next(whole).ids for _ in range(12)]
    first = fresh()
    for _ in range(stop):
        next(first)
    second = fresh()
    next(second)  # and has read ahead
    second.load_state_dict(first.state_dict())
    assert [next(second).ids for _ in range(12 - stop)] == expected[stop:]
    first.load_state_dict(fresh().state_dict())
    assert next(first).ids == expected[0]


def test_a_state_of_another_stream_is_refused() -> None:
    first = NeuralBatches(recording(), images=zeros(10), batch_size=3, seed=1)
    second = NeuralBatches(recording(), images=zeros(10), batch_size=3, seed=2)
    with pytest.raises(ValueError, match="seed=1, and this run has 2"):
        second.load_state_dict(first.state_dict())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_stored_recording_gives_what_arrays_in_memory_give(
    stored: xr.Dataset, *, in_memory: bool
) -> None:
    sizes = {} if in_memory else {"response_bytes": 0, "image_bytes": 0}
    assert stored["response"].chunks is not None
    streamed = NeuralBatches(stored, preprocessing=SMALL, batch_size=5, **sizes)
    assert streamed.responses[0].in_memory is in_memory
    every = streamed.read(streamed.shared)
    plain = NeuralBatches(every.responses[0], images=every.images, batch_size=5)
    for _ in range(5):
        a, b = next(streamed), next(plain)
        np.testing.assert_array_equal(a.rows, b.rows)
        torch.testing.assert_close(a.images, b.images)
        torch.testing.assert_close(a.responses[0], b.responses[0])
        np.testing.assert_allclose(a.responses[0], [by_id(stored)[name] for name in a.ids])


def test_no_more_than_a_block_of_a_large_recording_is_held(monkeypatch) -> None:
    ds = recording(10).chunk(presentation=7)
    seen = []
    original = neural_batches.Responses._accumulate.__globals__["row_blocks"]

    def spy(variable):
        for block in original(variable):
            seen.append(len(block))
            yield block

    monkeypatch.setitem(neural_batches.Responses._accumulate.__globals__, "row_blocks", spy)
    batches = NeuralBatches(ds, images=zeros(10), response_bytes=0)
    assert max(seen) == 7
    found = batches.read(["s7", "s2"]).responses[0]
    np.testing.assert_allclose(found, [by_id(ds)[name] for name in ("s7", "s2")])


def test_time_bins_are_kept() -> None:
    ds = recording(bins=3)
    found = NeuralBatches(ds, images=zeros(10)).read(["s4"]).responses[0]
    rows = ds["stimulus_id"].values == "s4"
    np.testing.assert_allclose(found[0], ds["response"].values[rows].mean(0))


@pytest.mark.parametrize("bins", [0, 3])
def test_moments_are_those_of_the_average_responses(bins: int) -> None:
    batches = NeuralBatches(recording(bins=bins), images=zeros(10))
    rows = np.array([1, 4, 6])
    values = batches.read([batches.shared[row] for row in rows]).responses[0].numpy()
    mean, variance = batches.responses[0].moments(rows)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(variance, values.var(0), atol=1e-12)


def test_the_thread_ends_with_the_object() -> None:
    def running() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("neural-batches")]

    before = len(running())
    batches = NeuralBatches(recording(), images=zeros(10), batch_size=3)
    assert len(running()) == before
    next(batches)
    assert len(running()) == before + 1
    del batches
    gc.collect()
    deadline = time.monotonic() + 60
    while len(running()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(running()) == before


def test_an_error_of_the_thread_is_raised_where_the_batch_is_asked_for() -> None:
    ids = [f"s{i}" for i in range(10)]
    good = pictures(ids)
    batches = NeuralBatches(recording(), images=good, preprocessing=SMALL, batch_size=4, seed=0)
    second = batches.order(0)[4]
    files = list(good.files)
    files[ids.index(batches.shared[second])] = b"no image"
    broken = NeuralBatches(
        recording(), images=Stimuli(good.ids, files), preprocessing=SMALL, batch_size=4, seed=0
    )
    next(broken)
    with pytest.raises(ValueError, match="is corrupt: not an image file"):
        next(broken)


def partly_missing() -> xr.Dataset:
    ds = recording()
    values = ds["response"].values.copy()
    values[5, 1] = np.nan
    return ds.assign(response=(ds["response"].dims, values))


def never_seen() -> xr.Dataset:
    ds = recording()
    values = ds["response"].values.copy()
    values[ds["stimulus_id"].values == "s6"] = np.nan
    return ds.assign(response=(ds["response"].dims, values))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": zeros(9)}, "images has 9 rows and the target 10 stimuli"),
        ({"target": np.ones((4, 2)), "images": zeros(5)}, r"4 rows .* 5 images"),
        ({"target": np.ones((4, 2))}, "brings no images"),
        ({}, "has no images: ingest it"),
        ({"images": pictures(["a", "b"]), "preprocessing": SMALL}, "0 stimuli are shared by the 2"),
        ({"images": pictures(["s1", "s2"])}, "how the model wants them is unknown"),
        ({"images": zeros(10), "preprocessing": SMALL}, "preprocessing applies to stimuli"),
        ({"images": zeros(10).long()}, "type torch.int64; expected floats"),
        ({"images": zeros(10), "stimulus_ids": ["s1", "t"]}, r"1 of 2 stimulus_ids \(first 't'\)"),
        ({"images": zeros(10), "minimum": 11}, "batch has 10 stimuli .* needs 11 or more"),
        ({"images": zeros(10), "batch_size": 3, "minimum": 4}, r"batch_size=3, of 10 stimuli"),
        ({"images": zeros(10), "batch_size": 0}, "batch_size is 0"),
        ({"target": partly_missing(), "images": zeros(10)}, "1 presentations are NaN or infinite"),
        ({"target": never_seen(), "images": zeros(10)}, r"1 stimuli \(first 's6'\) have no pres"),
        (
            {
                "target": make_rdm_recording(
                    np.zeros((1, 2, 2)),
                    stimulus_id=["a", "b"],
                    subject=["g"],
                    species="human",
                    region="IT",
                ),
                "images": zeros(2),
            },
            "holds no responses",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralBatches(**{"target": recording(), **arguments})


def test_an_unknown_stimulus_is_named() -> None:
    with pytest.raises(ValueError, match="no stimulus 'x'"):
        NeuralBatches(recording(), images=zeros(10)).read(["s1", "x"])
