"""Clips: frames as stimuli, and what a network answers to them in bins of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import repalign as ra
from repalign.clips import (
    bin_frames,
    bin_times,
    clips_from_array,
    read_clips,
    split_time_bins,
)
from repalign.network_cards import Preprocessing
from repalign.networks import Network, preprocess
from repalign.recording import make_activations, make_recording
from repalign.stimuli import encode_png


class Looping(nn.Module):
    """An area that runs three times a pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.area = nn.Linear(3 * 8 * 8, 3 * 8 * 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for _ in range(3):
            x = self.area(x).tanh()
        return x


@pytest.fixture
def clips(random: np.random.Generator) -> np.ndarray[Any, Any]:
    return random.integers(0, 256, (5, 6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def network() -> Network:
    return Network("looping", Looping().eval(), Preprocessing(size=(8, 8)), ("area",))


def test_folders_of_frames_and_arrays_are_the_same_clips(
    clips: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    """Frames in natural order: 10 comes after 9, whatever their first number."""
    for c, clip in enumerate(clips):
        (tmp_path / "clips" / f"c{c}").mkdir(parents=True)
        for f, frame in enumerate(clip):
            (tmp_path / "clips" / f"c{c}" / f"{f + 7}.png").write_bytes(encode_png(frame))
    np.save(tmp_path / "clips.npy", clips)
    folder = read_clips(tmp_path / "clips", visual_degrees=4.0)
    array = clips_from_array(np.load(tmp_path / "clips.npy"), [f"c{c}" for c in range(5)])
    assert folder.ids == array.ids
    assert folder.ids[:7] == (*(f"c0/{f:04d}" for f in range(6)), "c1/0000")
    assert folder.visual_degrees == 4.0
    for i in range(30):
        np.testing.assert_array_equal(folder.image(i), clips[i // 6, i % 6])
        np.testing.assert_array_equal(array.image(i), clips[i // 6, i % 6])
    assert read_clips(tmp_path / "clips.npy").ids[0] == "clip-0000/0000"
    (tmp_path / "clips" / "stray.png").write_bytes(encode_png(clips[0, 0]))
    with pytest.raises(ValueError, match="image 'stray.png' lies in no clip's folder"):
        read_clips(tmp_path / "clips")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 4), np.uint8), r"shape \(2, 3, 4, 4\)"),
        (np.zeros((2, 3, 4, 4, 3)), "type float64; expected clip × frame"),
    ],
)
def test_arrays_that_are_no_clips_are_refused(array: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clips_from_array(array)


def test_recorded_frames_are_binned_as_by_hand(
    clips: np.ndarray[Any, Any], network: Network, tmp_path: Path
) -> None:
    stimuli = clips_from_array(clips, ["e", "d", "c", "b", "a"])
    layer = ra.record(network, stimuli=stimuli, to=tmp_path, device="cpu", progress=False)["area"]
    binned = bin_frames(layer, frame_ms=40, bin_ms=120, start_ms=-120)
    assert binned["response"].dims == ("presentation", "neuroid", "time_bin")
    assert binned["stimulus_id"].values.tolist() == ["a", "b", "c", "d", "e"]
    assert binned["time_bin_start_ms"].values.tolist() == [-120, 0]
    assert binned["time_bin_stop_ms"].values.tolist() == [0, 120]
    flat = torch.stack([preprocess(f, network.preprocessing) for c in clips for f in c]).flatten(1)
    with torch.no_grad():
        area = network.module.area
        hand = area(area(area(flat).tanh()).tanh())
    expected = hand.reshape(5, 2, 3, -1).mean(2).flip(0).swapaxes(1, 2)
    np.testing.assert_allclose(binned["response"], expected, atol=1e-5)
    shuffled = layer.isel(presentation=np.random.default_rng(1).permutation(30))
    xr.testing.assert_allclose(bin_frames(shuffled, frame_ms=40, bin_ms=120, start_ms=-120), binned)
    assert binned.attrs["fingerprint"] != layer.attrs["fingerprint"]


def test_times_of_a_recurrent_layer_become_bins(
    clips: np.ndarray[Any, Any], network: Network, tmp_path: Path
) -> None:
    stimuli = clips_from_array(clips[:, :1])
    layers = ["area@t=all", "area@t=0", "area@t=2"]
    found = ra.record(
        network, stimuli=stimuli, layers=layers, to=tmp_path, device="cpu", progress=False
    )
    binned = bin_times(found["area@t=all"], step_ms=20, start_ms=70)
    assert binned["time_bin_start_ms"].values.tolist() == [70, 90, 110]
    assert binned.attrs["shape"] == [192]
    for time in (0, 2):
        np.testing.assert_allclose(
            binned["response"][..., time], found[f"area@t={time}"]["response"], atol=1e-6
        )
    with pytest.raises(ValueError, match="no axis of time; record it as area@t=all"):
        bin_times(found["area@t=0"], step_ms=20)


def test_the_bin_that_made_the_responses_is_found(random: np.random.Generator) -> None:
    """Time bins are compared as layers are: a brain of the second bin is most like that."""
    hidden = random.normal(size=(20, 30, 3))
    network = make_activations(
        hidden.swapaxes(1, 2).reshape(20, 90),
        [f"s{i}" for i in range(20)],
        "net",
        "L@t=all",
        (3, 30),
    )
    binned = bin_times(network, step_ms=50)
    np.testing.assert_array_equal(binned["response"], hidden)
    noisy = hidden[..., [1, 2]] @ np.eye(2) + random.normal(size=(20, 30, 2)) * 0.3
    brain = make_recording(
        noisy,
        stimulus_id=[f"s{i}" for i in range(20)],
        region="IT",
        time_bins=([0, 50], [50, 100]),
    )
    with pytest.raises(ValueError, match="time bins; repalign.time_resolved"):
        ra.compare(brain, binned, ra.CKA())
    best = []
    for part in split_time_bins(brain).values():
        results = list(ra.compare(part, split_time_bins(binned), ra.CKA(), ceiling=False))
        best.append(max(results, key=lambda one: one.value).layer)
    assert best == ["L@t=all 50–100 ms", "L@t=all 100–150 ms"]


def frames(*ids: str) -> xr.Dataset:
    return make_activations(np.zeros((len(ids), 2)), ids, "net", "layer", (2,))


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (("a/0000", "b"), {}, "stimulus 'b' is no frame of a clip"),
        (("a/0000", "a/0001", "b/0000"), {}, "clip 'b' has frames .0. … .1., and 'a' has 2"),
        (("a/0000", "a/0002"), {}, "all clips must have frames 0 to 1"),
        (("a/0000", "a/0001"), {"bin_ms": 50}, "bins of 50 ms are no whole number of steps of 40"),
        (("a/0000", "a/0001", "a/0002"), {"bin_ms": 80}, "3 steps do not fill bins of 2"),
        (("a/0000",), {"frame_ms": 0}, "a step lasts 0 ms"),
    ],
)
def test_frames_that_do_not_fit_are_refused(
    ids: tuple[str, ...], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bin_frames(frames(*ids), **{"frame_ms": 40, **options})


def test_what_has_no_time_bins_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="there are no time bins"):
        split_time_bins(frames("a/0000"))
