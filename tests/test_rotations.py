"""Rotated layers: the values of the stored path, under a cap of memory, and after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import repalign as ra
from repalign import rotation_run
from repalign.activations import open_layers, record
from repalign.metrics import METRICS
from repalign.metrics.neighbours import DISTANCES
from repalign.metrics.rotation import GramSum, ignores_rotation, rotate_gram
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.rotation_plan import plan_passes
from repalign.rotations import rotated_layers
from repalign.scenes import make_scenes
from repalign.scratch import PREFIX, remove_stale, scratch_folder
from repalign.stimuli import Stimuli, encode_png

N_STIMULI = 30
LAYERS = ["stem", "relu", "block", "deep", "head"]


class Convolutional(nn.Module):
    """In-place rectifiers, one of which runs twice, a tuple output, and few units at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Conv2d(6, 8, 3, stride=2)
        self.deep = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8 * 4 * 4, 7)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.block(self.relu(self.stem(x))))
        return self.head(self.deep(x).flatten(1))


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    scenes = make_scenes(N_STIMULI, size=32)
    return Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])


@pytest.fixture
def network() -> Network:
    return Network("small", Convolutional().eval(), Preprocessing(size=(16, 16)), tuple(LAYERS))


def both(network: Network, stimuli: Stimuli, folder: Path, **options: Any) -> list[dict]:
    """The layers as they are, and rotated."""
    stored = record(network, stimuli=stimuli, to=folder, progress=False)
    return [stored, rotated_layers(network, stimuli=stimuli, to=folder, progress=False, **options)]


def many_metrics() -> list[Any]:
    """Every metric, with all its settings that could matter to a rotation."""
    found: list[Any] = [kind() for kind in METRICS.values() if kind.name != "rsa"]
    found += [ra.METRICS["mutual-knn"](distance=name) for name in DISTANCES]
    for method in ("correlation", "cosine", "euclidean", "poisson"):
        found += [ra.RSA(rdm=method, comparator=name) for name in ("spearman", "cosine")]
    found += [
        ra.CKA(debiased=False),
        METRICS["angular-shape"](alpha=0.5),
        METRICS["cknna"](as_released=True),
        METRICS["semi-matching"](signed=False),
        ra.Ridge(inner_folds=3),
    ]
    return found


def few_folds(metric: Any) -> Any:
    """A metric for 30 stimuli."""
    return replace(metric, folds=3) if hasattr(metric, "scores") else metric


@pytest.mark.parametrize("metric", many_metrics(), ids=repr)
def test_every_metric_is_the_same_on_rotated_units_or_is_refused(metric: Any) -> None:
    """Whether it is allowed is what the numbers say, for responses like a layer's."""
    draw = np.random.default_rng(0)
    drivers = draw.normal(size=(40, 12)) * 0.7 ** np.arange(12)
    x = np.maximum(drivers @ draw.normal(size=(12, 2000)) + draw.normal(size=2000), 0) + 0.1
    y = torch.from_numpy(drivers[:, :4] @ draw.normal(size=(4, 6)) + draw.normal(size=(40, 6)))
    y = y.abs() + 0.1
    rotated = rotate_gram(x @ x.T, x.mean(1), 2000)
    rotated = rotated - min(0.0, rotated.min()) if metric.invariances == () else rotated
    metric = few_folds(metric)

    def value(responses: np.ndarray) -> float:
        return float(metric(torch.from_numpy(responses), y))

    if "rdm='poisson'" in repr(metric):
        with pytest.raises(ValueError, match="rates"):
            value(rotated)
        assert not ignores_rotation(metric)
        return
    expected, found = value(x), value(rotated)
    if metric.name in ("cca", "pwcca"):  # undefined: a layer of more units than stimuli spans all
        assert np.isnan(expected)
        assert np.isnan(found)
        return
    assert np.isfinite(expected)
    same = abs(found - expected) <= 1e-8 * max(1, abs(expected))
    assert same == ignores_rotation(metric)


@pytest.mark.parametrize(
    ("scratch_size", "batch_size"), [(None, None), ("20KB", 1), ("20KB", 7), (9000, None)]
)
def test_scores_equal_those_of_stored_layers(
    network: Network, stimuli: Stimuli, tmp_path: Path, scratch_size: Any, batch_size: int | None
) -> None:
    """With scratch for a fifteenth of one layer, which is then made in many passes."""
    stored, rotated = both(
        network, stimuli, tmp_path, scratch_size=scratch_size, batch_size=batch_size
    )
    assert list(rotated) == list(stored)
    brain = np.random.default_rng(1).normal(size=(N_STIMULI, 9))
    brain[:, :4] += stored["relu"]["response"].values[:, 5:9]
    metrics = [ra.RSA(), ra.RSA(rdm="euclidean", comparator="cosine"), ra.CKA(), ra.Procrustes()]
    metrics += [ra.Ridge(folds=3), ra.PLS(folds=3, components=4)]
    for metric in metrics:
        expected, found = (
            ra.compare(brain, layers, metric, n_resamples=0, null_draws=0, ceiling=False)
            for layers in (stored, rotated)
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.layer == theirs.layer
            assert ours.n_stimuli == theirs.n_stimuli
            np.testing.assert_allclose(
                ours.value, theirs.value, rtol=1e-5, atol=1e-6
            )  # scores from −1 to 1


def test_rdms_gram_matrices_and_means_are_those_of_the_layer(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    stored, rotated = both(network, stimuli, tmp_path)
    for name in ("stem", "relu", "block"):
        x, y = (one[name]["response"].values.astype(np.float64) for one in (stored, rotated))
        assert y.shape == (N_STIMULI, N_STIMULI + 1)
        assert rotated[name].attrs["reduction"] == "rotation"
        assert rotated[name].attrs["units"] == x.shape[1]
        assert rotated[name].attrs["shape"] == stored[name].attrs["shape"]
        np.testing.assert_allclose(y.mean(1), x.mean(1), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(y @ y.T / y.shape[1], x @ x.T / x.shape[1], rtol=1e-6, atol=1e-7)
        for method in ("correlation", "cosine", "euclidean"):
            np.testing.assert_allclose(
                ra.METRICS["rsa"](rdm=method).prepare(torch.from_numpy(y)),
                ra.METRICS["rsa"](rdm=method).prepare(torch.from_numpy(x)),
                rtol=1e-5,
                atol=1e-8,
            )


def test_a_layer_of_few_units_is_kept_as_it_is(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    stored, rotated = both(network, stimuli, tmp_path)
    assert "reduction" not in rotated["head"].attrs
    np.testing.assert_allclose(
        rotated["head"]["response"].values, stored["head"]["response"].values, rtol=1e-4, atol=1e-6
    )
    brain = np.random.default_rng(0).normal(size=(N_STIMULI, 5))
    assert ra.compare(brain, rotated["head"], METRICS["soft-matching"]())[0].n_neuroids == 5


def test_metrics_of_single_units_refuse_a_rotated_layer(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    rotated = rotated_layers(network, stimuli=stimuli, layers="stem", to=tmp_path, progress=False)
    brain = np.random.default_rng(0).normal(size=(N_STIMULI, 5))
    with pytest.raises(ValueError, match="layer stem, was rotated .* soft-matching needs"):
        ra.compare(brain, rotated, METRICS["soft-matching"]())
    with pytest.raises(ValueError, match="layer stem, was rotated .* ridge predicts"):
        ra.compare(rotated["stem"], brain, ra.Ridge())
    found = ra.compare(rotated["stem"], brain, ra.CKA())[0]
    assert found.n_neuroids == 6 * 14 * 14


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e-25, 1e25])
def test_sums_of_pieces_keep_the_digits_of_units_far_from_zero(offset: float) -> None:
    """Offsets of 1000 standard deviations, and values whose squares float32 cannot hold."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 9000))
    if offset == 1e3:
        x += offset * draw.normal(size=9000)
    elif offset:
        x *= offset
    x = x.astype(np.float32)
    total = GramSum(40)
    for piece in np.array_split(x, 7, axis=1):
        total.add(piece)
    rotated = rotate_gram(total.gram(), total.means(), total.units)
    exact = x.astype(np.float64)
    spread, expected = (y - y.mean(0) for y in (rotated * np.sqrt(9000 / 41), exact))
    gram = expected @ expected.T
    assert np.abs(spread @ spread.T - gram).max() < 1e-6 * gram.max()
    np.testing.assert_allclose(total.means(), exact.mean(1), rtol=1e-6, atol=1e-9 * abs(x).max())
    as_float32 = rotated.astype(np.float32).astype(np.float64) * np.sqrt(9000 / 41)
    as_float32 -= as_float32.mean(0)
    lost = np.abs(as_float32 @ as_float32.T - gram).max() / gram.max()
    assert (lost > 2e-6) == (offset == 1e3)  # why rotated layers are kept in float64


def test_a_pass_runs_no_deeper_than_it_must(
    network: Network, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def add(_module: Any, inputs: Any) -> None:
            shown[name] = shown.get(name, 0) + len(inputs[0])

        return add

    for name in LAYERS:
        network.module.get_submodule(name).register_forward_pre_hook(count(name))
    plans = []
    make = rotation_run.plan_passes
    monkeypatch.setattr(
        rotation_run, "plan_passes", lambda *a, **k: plans.append(make(*a, **k)) or plans[-1]
    )
    rotated_layers(
        network,
        stimuli=stimuli,
        layers=["stem", "head"],
        scratch_size=30_000,
        to=tmp_path,
        progress=False,
    )
    passes = plans[0].passes
    probe = 2 + 1 + 8 + 8
    assert {piece.layer for piece in passes[0]} == {"head", "stem"}
    assert {piece.layer for one in passes[1:] for piece in one} == {"stem"}
    assert len(passes) > 3
    assert shown["head"] == probe + N_STIMULI
    assert shown["stem"] == probe + N_STIMULI * len(passes)
    assert shown["block"] == shown["head"]
    assert shown["relu"] == 2 * shown["head"]  # it runs twice, and not after the stem alone


def test_finished_layers_are_not_computed_again(
    network: Network, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotated_layers(network, stimuli=stimuli, to=tmp_path, progress=False)

    def fail(*_: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(Convolutional, "forward", fail)
    again = rotated_layers(network, stimuli=stimuli, to=tmp_path, progress=False)
    assert list(again) == LAYERS
    with pytest.raises(ValueError, match="was run"):  # layers as they are have other stores
        record(network, stimuli=stimuli, to=tmp_path, progress=False)


def test_the_planted_layer_is_the_best_in_both_paths(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    stored, rotated = both(network, stimuli, tmp_path, scratch_size="40KB")
    for planted in ("stem", "relu", "deep"):
        features = stored[planted]["response"].values
        population = ra.simulate(features, n_neuroids=60, repetitions=8, mean_count=50.0, seed=0)
        brain = population.responses.mean(axis=0)
        for metric in (ra.RSA(), ra.CKA()):
            best = [
                max(ra.compare(brain, layers, metric, n_resamples=0), key=lambda one: one.value)
                for layers in (stored, rotated)
            ]
            assert best[0].layer == best[1].layer == planted


def test_killed_run_goes_on_and_its_scratch_is_removed(tmp_path: Path) -> None:
    """A child is killed when its first layer is there; the next run does the others only."""
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from test_rotations import Convolutional, N_STIMULI
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.rotations import rotated_layers
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
torch.set_num_threads(1)
class Slow(Convolutional):
    def forward(self, x):
        time.sleep(0.05)
        return super().forward(x)
scenes = make_scenes(N_STIMULI, size=32)
stimuli = Stimuli(scenes.stimulus_id, [encode_png(i) for i in scenes.images])
network = Network("slow", Slow().eval(), Preprocessing(size=(16, 16)), ("stem", "relu", "deep"))
rotated_layers(network, stimuli=stimuli, to={str(tmp_path)!r}, batch_size=6, scratch_size="60KB")
"""
    command = [sys.executable, "-c", script]

    def finished() -> set[str]:
        return {path.parent.name for path in tmp_path.rglob("manifest.json")}

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not finished() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    first = finished()
    assert 0 < len(first) < 3
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
    assert [path for path in tmp_path.glob(f"{PREFIX}*") if path.is_dir()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"{3 - len(first)} layers of 30 stimuli" in done.stderr
    assert finished() == {"stem", "relu", "deep"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    (root,) = (tmp_path / "activations").glob("*.zarr")
    assert set(open_layers(root)) == {"stem", "relu", "deep"}


def test_scratch_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as mine:
        (tmp_path / f"{PREFIX}1-dead").mkdir()
        remove_stale(tmp_path)
        assert mine.is_dir()
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [mine.name]
    assert not list(tmp_path.iterdir())


def test_full_disk_names_the_folder_and_leaves_nothing(
    network: Network, stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"could not write into .*: No space left.* scratch="):
        rotated_layers(network, stimuli=stimuli, to=tmp_path, progress=False)
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_what_cannot_be_done_is_one_clear_line(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    def run(**options: Any) -> None:
        rotated_layers(network, stimuli=stimuli, to=tmp_path, progress=False, **options)

    with pytest.raises(ValueError, match=r"memory is 1 MB, and 30 stimuli .* give memory='"):
        run(memory="1MB")
    with pytest.raises(ValueError, match="'plenty' is no size of memory"):
        run(memory="plenty")
    with pytest.raises(
        ValueError, match="scratch_size is 10 bytes; the smallest piece .* 840 bytes"
    ):
        run(scratch_size=10)
    with pytest.raises(ValueError, match="scratch_size is 1,000,000 GB and .* free"):
        run(scratch_size="1000TB")
    with pytest.raises(ValueError, match="layer 'unused' is not used"):
        run(layers="unused")
    with pytest.raises(ValueError, match="precision"):
        run(precision="float16")
    with torch.no_grad():
        network.module.block.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="layer block: NaN or infinite .* 'scene-0000'"):
        run(layers=["stem", "block"])
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_memory_that_is_asked_for_is_enough(
    network: Network, stimuli: Stimuli, tmp_path: Path
) -> None:
    """The error's own remedy works."""
    with pytest.raises(ValueError, match="give memory=") as caught:
        rotated_layers(network, stimuli=stimuli, memory="1MB", to=tmp_path, progress=False)
    remedy = str(caught.value).split("memory='")[1].split("'")[0]
    rotated_layers(network, stimuli=stimuli, memory=remedy, to=tmp_path, progress=False)


UNITS = [("conv1", 40_000), ("conv2", 10_000), ("conv3", 9000), ("fc", 50)]


@pytest.mark.parametrize("scratch", [20_000, 1_000_000, 5_000_000, 10**9])
@pytest.mark.parametrize("memory", [10**9, 300_000_000])
def test_plan_covers_every_unit_once_within_its_limits(scratch: int, memory: int) -> None:
    plan = plan_passes(
        UNITS, n_stimuli=100, memory=memory, base=50_000_000, stimulus_bytes=10**7, scratch=scratch
    )
    for name, count in UNITS:
        pieces = [piece for one in plan.passes for piece in one if piece.layer == name]
        assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
        assert (pieces[0].start, pieces[-1].stop) == (0, count)
        assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert plan.scratch_bytes <= scratch
    assert plan.resident_bytes <= memory
    assert 1 <= plan.batch_size <= 32
    assert plan.total_bytes == sum(count for _, count in UNITS) * 400
    depth = {name: place for place, (name, _) in enumerate(UNITS)}
    deepest = [max(depth[piece.layer] for piece in one) for one in plan.passes]
    assert deepest == sorted(deepest, reverse=True)
    assert sum(place == 3 for place in deepest) == 1  # one pass through the whole network


def test_plan_with_enough_scratch_is_one_pass() -> None:
    plan = plan_passes(
        UNITS, n_stimuli=10, memory=10**9, base=0, stimulus_bytes=1000, scratch=10**7
    )
    assert len(plan.passes) == 1


def test_memory_stays_under_the_cap_for_layers_five_times_as_large(tmp_path: Path) -> None:
    script = f"""
import sys, threading, time
import psutil, torch
from torch import nn
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.rotations import rotated_layers
from repalign.scenes import make_scenes
from repalign.stimuli import Stimuli, encode_png
torch.set_num_threads(1)
scenes = make_scenes(320, size=32)
stimuli = Stimuli(scenes.stimulus_id, [encode_png(i) for i in scenes.images])
module = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 1))
network = Network("wide", module.eval(), Preprocessing(size=(112, 112)), ("0", "1", "2"))
peak, own = 0, psutil.Process()
def look():
    global peak
    while True:
        peak = max(peak, own.memory_info().rss)
        time.sleep(0.005)
threading.Thread(target=look, daemon=True).start()
rotated_layers(network, stimuli=stimuli, to={str(tmp_path)!r}, memory="600MB", scratch_size="1GB")
print(peak)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300
    )
    said = float(done.stderr.split("memory about ")[1].split("MB")[0]) * 1e6
    peak = int(done.stdout)
    assert 3 * 64 * 112 * 112 * 320 * 4 > 5 * 600e6
    assert peak < 600e6, done.stderr
    assert said / 1.25 < peak < said * 1.25, done.stderr
