"""The sparse autoencoder: planted features, losses, layouts, streaming, files."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA

from repalign import compare
from repalign.autoencoders.components import principal_components
from repalign.autoencoders.data import Source, hold_out, shuffled_batches, summarise
from repalign.autoencoders.files import (
    autoencoder_features,
    load_autoencoder,
    save_autoencoder,
)
from repalign.autoencoders.layout import Layout
from repalign.autoencoders.networks import (
    KINDS,
    SparseAutoencoder,
    auxiliary_loss,
    l1_loss,
    resample_dead,
)
from repalign.autoencoders.report import loss_recovered
from repalign.autoencoders.training import train_autoencoder
from repalign.metrics import CKA
from repalign.recording import make_activations, make_recording
from repalign.store import open_store, write_store

Array = np.ndarray[Any, Any]
# noise on few stimuli, which most tests train on, is overfitted; one test is about that
pytestmark = pytest.mark.filterwarnings("ignore:.*explained variance is:UserWarning")


@pytest.fixture(scope="module")
def planted() -> tuple[Array, Array]:
    """Sums of 4 of 128 unit directions in 64 dimensions, and the directions."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(128, 64))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((12_000, 128))
    for row in codes:
        row[random.choice(128, 4, replace=False)] = random.uniform(0.5, 1.5, 4)
    x = codes @ directions + 0.01 * random.normal(size=(12_000, 64)) + 3
    return (7 * x).astype(np.float32), directions


def layer(
    values: Array, shape: tuple[int, ...] | None = None, ids: list[str] | None = None
) -> xr.Dataset:
    names = ids or [f"s{i}" for i in range(len(values))]
    return make_activations(values, names, "net", "layer4", shape or values.shape[1:])


def stored(path: Path, ds: xr.Dataset, rows: int) -> xr.Dataset:
    """The dataset from a store whose shards have so many rows."""
    write_store(path, {"": ds}, provenance={})
    return open_store(path).chunk({"presentation": rows})


# planted truth


@pytest.mark.parametrize("kind", [{"kind": "topk", "k": 4}, {"kind": "l1", "sparsity": 2.0}])
def test_planted_features_are_recovered(planted: tuple[Array, Array], kind: dict[str, Any]) -> None:
    x, directions = planted
    found = train_autoencoder(x, features=192, steps=1500, device="cpu", **kind)
    cosines = directions @ found.network.directions.numpy().T
    assert cosines.max(axis=1).mean() > 0.9
    untrained = SparseAutoencoder(64, 192, kind="pca").directions.detach().numpy()
    assert (directions @ untrained.T).max(axis=1).mean() < 0.5  # what chance gives
    assert found.report.held_out is not None
    assert found.report.held_out.l0 < 20
    assert found.report.held_out.explained_variance > 0.75


def test_principal_components_do_not_recover_them(planted: tuple[Array, Array]) -> None:
    x, directions = planted
    pca = principal_components(x, features=64, device="cpu")
    assert np.abs(directions @ pca.network.directions.numpy().T).max(axis=1).mean() < 0.5


def test_topk_of_all_features_reconstructs_all(random: np.random.Generator) -> None:
    x = random.normal(size=(2000, 6))
    found = train_autoencoder(x, features=24, k=24, steps=1200, device="cpu", learning_rate=3e-3)
    assert found.report.held_out is not None
    assert found.report.held_out.explained_variance > 0.99


def half_dead(bias: float, gain: float) -> Callable[..., SparseAutoencoder]:
    """Makes autoencoders whose first half of features hardly, or never, answers."""

    def make(*sizes: int, **options: Any) -> SparseAutoencoder:
        network = SparseAutoencoder(*sizes, **options)
        half = network.n_features // 2
        with torch.no_grad():
            network.encoder[:half] *= gain
            network.encoder_bias[:half] = bias
        return network

    return make


def test_auxiliary_loss_revives_dead_features(
    planted: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = planted[0][:4000]
    options: dict[str, Any] = {"features": 256, "k": 3, "steps": 400, "device": "cpu"}
    make = half_dead(bias=0.0, gain=0.01)
    monkeypatch.setattr("repalign.autoencoders.training.SparseAutoencoder", make)
    with_it = train_autoencoder(x, dead_after=20, **options)
    monkeypatch.setattr("repalign.autoencoders.loop.AUXILIARY_WEIGHT", 0.0)
    without = train_autoencoder(x, dead_after=20, **options)
    assert without.report.dead_fraction > 0.4
    assert with_it.report.dead_fraction < 0.8 * without.report.dead_fraction


def test_resampling_points_dead_features_at_badly_explained_samples() -> None:
    network = SparseAutoencoder(3, 4, kind="l1")
    samples = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    with torch.no_grad():
        network.encoder_bias.fill_(-100.0)  # all are dead, and reconstruct 0
    dead = torch.tensor([True, True, False, False])
    kept = network.directions[2:].clone()
    resample_dead(network, samples, dead, torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.directions[:2], torch.tensor([[0.0, 0.0, 1.0]] * 2))
    torch.testing.assert_close(network.encoder[:2], torch.tensor([[0.0, 0.0, 0.2]] * 2))
    assert network.encoder_bias[:2].tolist() == [0, 0]
    assert torch.equal(network.directions[2:], kept)


def test_resampling_leaves_no_dead_features(
    planted: tuple[Array, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = planted[0][:4000]
    options: dict[str, Any] = {"kind": "l1", "features": 256, "sparsity": 1.0, "steps": 400}
    make = half_dead(bias=-100.0, gain=1.0)
    monkeypatch.setattr("repalign.autoencoders.training.SparseAutoencoder", make)
    found = train_autoencoder(x, device="cpu", dead_after=20, **options)
    monkeypatch.setattr("repalign.autoencoders.loop.resample_dead", lambda *_: None)
    without = train_autoencoder(x, device="cpu", dead_after=20, **options)
    assert without.report.dead_fraction == 0.5
    assert found.report.dead_fraction < 0.05


# losses and the module


def test_l1_gradient_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    d, n_features, n, sparsity = 5, 7, 11, 0.7
    network = SparseAutoencoder(d, n_features, kind="l1").double()
    x = torch.randn(n, d, generator=generator).double()
    drive = network.drive(x)
    f = network.activate(drive)
    l1_loss(x, network.assemble(f), f, sparsity=sparsity).backward()
    with torch.no_grad():
        error = network.assemble(f) - x
        on = (drive > 0).double()
        of_features = (2 * error @ network.directions.T + sparsity) * on / (n * d)
        expected = {
            "directions": 2 * f.T @ error / (n * d),
            "encoder": of_features.T @ (x - network.input_bias),
            "encoder_bias": of_features.sum(0),
            "input_bias": 2 * error.sum(0) / (n * d) - of_features.sum(0) @ network.encoder,
        }
    for name, gradient in expected.items():
        torch.testing.assert_close(getattr(network, name).grad, gradient)


def test_l1_shrinks_a_lone_feature_by_half_the_penalty() -> None:
    values = torch.linspace(0, 2, 2001).double()
    target = torch.tensor([[1.5]]).double()
    losses = [l1_loss(target, f[None, None], f[None, None], sparsity=0.6) for f in values]
    best = values[torch.stack(losses).argmin()].item()
    assert best == pytest.approx(1.5 - 0.3, abs=1e-3)


def test_topk_keeps_the_k_largest_positive_values(random: np.random.Generator) -> None:
    drive = torch.from_numpy(random.normal(size=(50, 12)))
    found = KINDS["topk"](drive, 3).numpy()
    for row, values in zip(found, drive.numpy(), strict=True):
        expected = np.zeros(12)
        largest = np.argsort(values)[-3:]
        expected[largest] = np.maximum(values[largest], 0)
        np.testing.assert_array_equal(row, expected)


def test_auxiliary_loss_reaches_dead_features_only() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(8, 4, generator=generator).requires_grad_()
    drive = torch.randn(8, 6, generator=generator).requires_grad_()
    directions = torch.randn(6, 4, generator=generator).requires_grad_()
    dead = torch.tensor([False, True, False, True, True, False])
    auxiliary_loss(residual, drive, directions, dead).backward()
    assert residual.grad is None
    assert drive.grad is not None
    assert directions.grad is not None
    assert (drive.grad[:, ~dead] == 0).all()
    assert (directions.grad[~dead] == 0).all()
    assert (directions.grad[dead] != 0).any()
    assert float(auxiliary_loss(residual, drive, directions, torch.zeros(6, dtype=bool))) == 0


@pytest.mark.parametrize("kind", [{"k": 3}, {"kind": "l1", "sparsity": 0.5}])
def test_directions_keep_length_1(random: np.random.Generator, kind: dict[str, Any]) -> None:
    found = train_autoencoder(random.normal(size=(300, 8)), features=16, steps=150, **kind)
    lengths = torch.linalg.vector_norm(found.network.directions, dim=1)
    torch.testing.assert_close(lengths, torch.ones(16))


def test_training_ignores_units_and_offset_of_the_layer(random: np.random.Generator) -> None:
    x = random.normal(size=(500, 8))
    options: dict[str, Any] = {"features": 16, "k": 3, "steps": 200, "device": "cpu"}
    small, large = (train_autoencoder(y, **options) for y in (x, 1000 * x + 5000))
    a, b = small.report.held_out, large.report.held_out
    assert a is not None
    assert b is not None
    assert a.explained_variance == pytest.approx(b.explained_variance, abs=0.01)


# the report


def test_report_agrees_with_numpy(random: np.random.Generator) -> None:
    ids = [f"s{i}" for i in range(90)]
    ds = layer(random.normal(size=(90, 5)).astype(np.float32) + 2, ids=ids)
    found = train_autoencoder(ds, features=9, k=2, steps=100, holdout=30, device="cpu")
    out = np.isin(ids, found.held_out)
    assert out.sum() == 30
    x = ds["response"].values[out]
    features = found.network.encode(torch.from_numpy(x)).numpy()
    reconstruction = found.network(torch.from_numpy(x)).numpy()
    report = found.report.held_out
    assert report is not None
    expected = 1 - ((x - reconstruction) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert report.explained_variance == pytest.approx(expected, abs=1e-5)
    assert report.l0 == pytest.approx((features > 0).sum(axis=1).mean())
    np.testing.assert_allclose(report.density, (features > 0).mean(axis=0))
    assert report.n_samples == 30
    assert sum(found.report.density_histogram.values()) == 9
    assert found.history[-1]["step"] == 100
    assert found.history[-1]["held_out_loss"] == pytest.approx(report.loss, rel=1e-4)


def test_loss_recovered_is_1_for_the_layer_itself_and_0_for_its_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    images = torch.randn(40, 1, 4, 4, generator=generator)
    with torch.no_grad():
        target, maps = net(images), net[0](images)

    def loss() -> float:
        return float((net(images) - target).square().mean())

    layout = Layout("positions", (3, 2, 2))
    values = layer(maps.flatten(1).numpy(), (3, 2, 2))
    whole = principal_components(values, features=3, samples="positions", holdout=0, device="cpu")
    assert loss_recovered(net, "0", whole.network, loss, layout=layout) == pytest.approx(1)
    with torch.no_grad():
        whole.network.directions.zero_()
    assert loss_recovered(net, "0", whole.network, loss, layout=layout) == pytest.approx(0)
    with pytest.raises(ValueError, match="no layer 'x'; there are 0, 1, 2"):
        loss_recovered(net, "x", whole.network, loss, layout=layout)
    with pytest.raises(ValueError, match="nothing to recover"):
        loss_recovered(net, "0", whole.network, lambda: 1.0, layout=layout)


def test_principal_components_are_those_of_sklearn(random: np.random.Generator) -> None:
    x = (random.normal(size=(200, 12)) @ random.normal(size=(12, 12)) + 50).astype(np.float32)
    found = principal_components(x, features=5, holdout=0.25, device="cpu")
    kept = ~np.isin(np.arange(200).astype(str), found.held_out)
    theirs = PCA(5, svd_solver="full").fit(x[kept].astype(np.float64))
    cosines = np.abs((found.network.directions.numpy() * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    assert found.report.train.explained_variance == pytest.approx(
        theirs.explained_variance_ratio_.sum(), abs=1e-5
    )
    ours = autoencoder_features(found, x, device="cpu")["response"].values
    signs = np.sign((found.network.directions.numpy() * theirs.components_).sum(axis=1))
    scale = float(found.network.scale)
    np.testing.assert_allclose(ours * scale, theirs.transform(x) * signs, atol=2e-3)


# layouts


@pytest.mark.parametrize(
    ("shape", "axis", "channels"),
    [((3, 4, 5), None, 3), ((7, 6), None, 6), ((4, 5, 3), -1, 3)],
)
def test_positions_are_channel_vectors_and_go_back(
    random: np.random.Generator, shape: tuple[int, ...], axis: int | None, channels: int
) -> None:
    maps = random.normal(size=(2, *shape))
    layout = Layout("positions", shape, axis)
    rows = torch.from_numpy(maps.reshape(2, -1))
    samples = layout.take(rows)
    where = {(3, 4, 5): 1, (7, 6): 2, (4, 5, 3): 3}[shape]
    expected = np.moveaxis(maps, where, -1).reshape(-1, channels)
    np.testing.assert_array_equal(samples.numpy(), expected)
    assert torch.equal(layout.put_back(samples), rows)
    mean = Layout("mean", shape, axis).take(rows)
    np.testing.assert_allclose(mean.numpy(), expected.reshape(2, -1, channels).mean(axis=1))


def test_features_at_positions_keep_their_places_or_are_pooled(random: np.random.Generator) -> None:
    ds = layer(random.normal(size=(40, 24)).astype(np.float32), (4, 2, 3))
    found = train_autoencoder(ds, features=6, k=2, samples="positions", steps=50, device="cpu")
    assert found.report.train.n_samples == 36 * 6
    maps = autoencoder_features(found, ds, device="cpu")
    assert maps.attrs["shape"] == [6, 2, 3]
    cube = maps["response"].values.reshape(40, 6, 2, 3)
    one = ds["response"].values.reshape(40, 4, 2, 3)[7, :, 1, 2]
    np.testing.assert_allclose(
        cube[7, :, 1, 2], found.network.encode(torch.from_numpy(one[None])).numpy()[0], atol=1e-6
    )
    for pool, expected in {"max": cube.max(axis=(2, 3)), "mean": cube.mean(axis=(2, 3))}.items():
        pooled = autoencoder_features(found, ds, pool=pool, device="cpu")
        np.testing.assert_allclose(pooled["response"].values, expected, atol=1e-6)
        assert pooled.attrs["layer"] == f"layer4#topk-6-{pool}"


# held-out stimuli and streaming


def test_held_out_stimuli_are_whole_stimuli() -> None:
    ids = [f"s{i % 20}" for i in range(60)]
    ds = make_recording(np.zeros((60, 2)), stimulus_id=ids, region="IT")
    kept, out, names = hold_out(ds, holdout=0.25, seed=0)
    assert len(names) == 5
    assert set(np.array(ids)[out]) == set(names)
    assert not set(np.array(ids)[kept]) & set(names)
    assert (kept ^ out).all()
    assert hold_out(ds, holdout=0.25, seed=1)[2] != names
    assert hold_out(ds, holdout=5, seed=0)[2] == names


def test_held_out_stimuli_do_not_touch_training(random: np.random.Generator) -> None:
    x = random.normal(size=(60, 8)).astype(np.float32)
    options: dict[str, Any] = {"features": 8, "k": 2, "steps": 50, "device": "cpu"}
    first = train_autoencoder(layer(x), **options)
    changed = x.copy()
    changed[[int(name[1:]) for name in first.held_out]] += 100
    second = train_autoencoder(layer(changed), **options)
    for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_small_shards_are_read_together(random: np.random.Generator) -> None:
    ds = layer(random.normal(size=(100, 256)).astype(np.float32))  # rows of 1 kB
    kept = np.ones(100, dtype=bool)
    layout = Layout("flat", (256,))
    small = Source(ds.chunk({"presentation": 7}), kept, layout)
    assert small.spans() == [(0, 100)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repalign.autoencoders.data.READ_BYTES", 20 << 10)
        assert small.spans() == [
            (0, 14),
            (14, 28),
            (28, 42),
            (42, 56),
            (56, 70),
            (70, 84),
            (84, 100),
        ]
        large = Source(ds.chunk({"presentation": 50}), kept, layout)
        assert large.spans() == [(0, 50), (50, 100)]
        whole = Source(ds, np.arange(100) < 30, layout)
        assert whole.spans() == [(0, 20), (20, 40)]
        for source in (small, large, whole):
            found = torch.cat(list(source.blocks())).numpy()
            np.testing.assert_array_equal(found, ds["response"].values[source.kept])


def test_streaming_equals_memory_given_the_same_shards(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repalign.autoencoders.data.READ_BYTES", 1)  # each shard by itself
    x = random.normal(size=(200, 8)).astype(np.float32)
    memory = layer(x).chunk({"presentation": 16})
    store = stored(tmp_path / "a.zarr", layer(x), 16)
    kept, _, _ = hold_out(memory, holdout=0.1, seed=0)
    layout = Layout("flat", (8,))
    for buffer in (40, 1000):  # smaller and larger than the data
        streams = [
            shuffled_batches(
                Source(ds, kept, layout),
                batch_size=10,
                buffer_samples=buffer,
                seed=3,
            )
            for ds in (memory, store)
        ]
        for _ in range(15):
            a, b = (next(stream) for stream in streams)
            assert torch.equal(a, b)
    options: dict[str, Any] = {"features": 8, "k": 2, "steps": 30, "buffer_samples": 40}
    one, two = (train_autoencoder(ds, device="cpu", **options) for ds in (memory, store))
    assert torch.equal(one.network.directions, two.network.directions)


@pytest.mark.parametrize("buffer", [30, 1000])
def test_every_epoch_shows_every_sample_about_once(
    buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repalign.autoencoders.data.READ_BYTES", 1)
    x = np.arange(160, dtype=np.float32)[:, None]
    ds = layer(x).chunk({"presentation": 16})
    source = Source(ds, np.ones(160, dtype=bool), Layout("flat", (1,)))
    stream = shuffled_batches(source, batch_size=10, buffer_samples=buffer, seed=0)
    shown = torch.cat([next(stream) for _ in range(160)])[:, 0].numpy()  # ten epochs
    counts = np.bincount(shown.astype(int), minlength=160)
    assert counts.min() >= 8
    assert counts.max() <= 12
    assert abs(np.corrcoef(shown[:-1], shown[1:])[0, 1]) < 0.1 if buffer > 160 else True


def test_the_same_seed_gives_the_same_autoencoder(random: np.random.Generator) -> None:
    x = random.normal(size=(100, 8))
    options: dict[str, Any] = {"features": 16, "k": 3, "steps": 100, "device": "cpu"}
    a, b = (train_autoencoder(x, seed=4, **options) for _ in range(2))
    assert torch.equal(a.network.directions, b.network.directions)
    assert a.history == b.history
    other = train_autoencoder(x, seed=5, **options)
    assert not torch.equal(a.network.directions, other.network.directions)
    assert other.held_out == a.held_out


def test_overfitting_is_told_with_both_figures_and_what_helps(random: np.random.Generator) -> None:
    maps = random.normal(size=(60, 4, 5, 5))
    options: dict[str, Any] = {"features": 64, "k": 4, "steps": 300, "device": "cpu"}
    with pytest.warns(UserWarning, match="explained variance is") as told:
        found = train_autoencoder(layer(maps.reshape(60, -1), (4, 5, 5)), **options)
    (message,) = [str(one.message) for one in told]
    assert f"{found.report.train.explained_variance:.2f} of trained stimuli" in message
    assert found.report.held_out is not None
    assert f"{found.report.held_out.explained_variance:.2f} of held-out ones" in message
    assert "the layer is 4×5×5" in message
    assert "--samples positions" in message
    with warnings.catch_warnings():  # channels at each position are 25 times as many samples
        warnings.simplefilter("error")
        train_autoencoder(layer(maps.reshape(60, -1), (4, 5, 5)), samples="positions", **options)


MEMORY = """
import resource, sys
import numpy as np, dask.array as da
from repalign.autoencoders.training import train_autoencoder
from repalign.recording import make_activations

def rows(block_info=None):
    (start, stop), (_, d) = block_info[None]["array-location"]
    return np.random.default_rng(start).random((stop - start, d), dtype=np.float32)

def run(shards):
    n = shards * 256
    x = da.map_blocks(rows, chunks=((256,) * shards, (1024,)), dtype=np.float32)
    ds = make_activations(x, [f"s{i}" for i in range(n)], "net", "layer", (1024,))
    train_autoencoder(ds, features=8, k=2, steps=10, buffer_samples=1024, holdout=0.5, device="cpu")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small = run(40)
print(run(int(sys.argv[1])) - small)
"""


def test_memory_does_not_grow_with_the_stimuli() -> None:
    shards = 200  # of 1 MB, five times as many as in the run before
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(shards)], capture_output=True, text=True, check=True
    )
    grown = float(done.stdout.split()[-1])
    assert grown < 60, f"{grown:.0f} MB more for {shards - 40} MB more of activations"


def test_summary_agrees_with_numpy(random: np.random.Generator) -> None:
    x = (random.normal(size=(300, 6)) * [1, 2, 3, 4, 5, 6] + 1000).astype(np.float32)
    ds = layer(x).chunk({"presentation": 32})
    found = summarise(
        Source(ds, np.ones(300, dtype=bool), Layout("flat", (6,))), seed=0, covariance=True
    )
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-6)
    assert found.spread == pytest.approx(np.sqrt(x.astype(np.float64).var(axis=0).mean()))
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance, np.cov(x.T.astype(np.float64), ddof=0), rtol=1e-8)
    assert sorted(found.probe[:, 0].tolist()) == sorted(x[:, 0].tolist())


# features as a layer, and files


def test_features_are_a_layer_that_can_be_compared(
    tmp_path: Path, random: np.random.Generator
) -> None:
    x = random.normal(size=(50, 8)).astype(np.float32)
    ds = stored(tmp_path / "layer.zarr", layer(x), 16)
    found = train_autoencoder(ds, features=12, k=3, steps=50, device="cpu")
    lazy = autoencoder_features(found, ds, device="cpu")
    assert lazy["response"].chunks is not None
    assert lazy.attrs["layer"] == "layer4#topk-12"
    written = autoencoder_features(found, ds, to=tmp_path / "features.zarr", device="cpu")
    np.testing.assert_array_equal(lazy["response"].values, written["response"].values)
    np.testing.assert_allclose(
        lazy["response"].values, found.network.encode(torch.from_numpy(x)).numpy(), atol=1e-6
    )
    brain = make_recording(x[::-1], stimulus_id=[f"s{i}" for i in range(50)][::-1], region="IT")
    result = compare(brain, written, CKA(), n_resamples=0, null_draws=0)[0]
    assert (result.layer, result.n_stimuli) == ("layer4#topk-12", 50)
    assert result.value > 0.5
    with pytest.raises(FileExistsError, match="overwrite"):
        autoencoder_features(found, ds, to=tmp_path / "features.zarr", device="cpu")
    other = layer(x).assign_attrs(layer="layer3")
    with pytest.raises(ValueError, match="trained on net layer4"):
        autoencoder_features(found, other)
    assert lazy.attrs["fingerprint"] != ds.attrs["fingerprint"]


def test_a_saved_autoencoder_is_the_same(tmp_path: Path, random: np.random.Generator) -> None:
    ds = layer(random.normal(size=(60, 12)).astype(np.float32), (3, 2, 2))
    found = train_autoencoder(ds, features=6, k=2, samples="positions", steps=50, device="cpu")
    save_autoencoder(tmp_path / "a.safetensors", found)
    again = load_autoencoder(tmp_path / "a.safetensors")
    for name in ("settings", "layout", "source", "held_out", "history"):
        assert getattr(again, name) == getattr(found, name)
    assert again.report.row() == found.report.row()
    for name, value in found.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]  # no temporaries


def test_files_that_are_no_autoencoder_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save

    with pytest.raises(FileNotFoundError, match="train an autoencoder first"):
        load_autoencoder(tmp_path / "no.safetensors")
    path = tmp_path / "a.safetensors"
    found = principal_components(np.eye(8, 3), features=2, holdout=0)
    save_autoencoder(path, found)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 20])
    with pytest.raises(ValueError, match="is damaged"):
        load_autoencoder(path)
    path.write_bytes(save({"a": torch.zeros(2)}, metadata={"format": "pt"}))
    with pytest.raises(ValueError, match="is no repalign-autoencoder-1"):
        load_autoencoder(path)
    path.write_bytes(whole.replace(b"topk", b"tapk").replace(b"pca", b"pcb"))
    with pytest.raises(ValueError, match=r"damaged: kind 'pcb'"):
        load_autoencoder(path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_autoencoder(tmp_path / "a.pt", found)


# bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "relu"}, "kind 'relu'; expected one of topk, l1, pca"),
        ({"kind": "pca", "k": None}, "call principal_components"),
        ({"features": 0}, "features is 0, expected 1 or more"),
        ({"k": 9}, "k is 9, expected 1 to 8, the number of features"),
        ({"k": 0}, "k is 0, expected 1 to 8"),
        ({"k": None}, "needs k"),
        ({"kind": "l1", "k": None}, "sparsity is None; kind 'l1' needs"),
        ({"kind": "l1", "sparsity": 1.0}, "k = 2 applies to kind 'topk'"),
        ({"sparsity": 1.0}, "sparsity applies to kind 'l1'"),
        ({"steps": 0}, "steps is 0"),
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"split_seed": None}, "split_seed is None; expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0"),
        ({"holdout": 20}, "holdout = 20 of 20 stimuli"),
        ({"holdout": 30}, "holdout = 30 of 20 stimuli"),
        ({"holdout": 0.01}, r"holdout = 0\.01 of 20 stimuli holds out 0"),
        ({"holdout": -1}, "holdout is -1"),
        ({"holdout": 1.5}, r"holdout is 1\.5"),
        ({"samples": "pixels"}, "samples 'pixels'; expected one of flat, positions, mean"),
        ({"samples": "positions"}, "needs a layer with positions"),
        ({"channel_axis": 0}, "channel_axis applies to samples 'positions' and 'mean'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_bad_settings_are_named(
    options: dict[str, Any], message: str, random: np.random.Generator
) -> None:
    good: dict[str, Any] = {"features": 8, "k": 2, "steps": 5, "device": "cpu"}
    with pytest.raises(ValueError, match=message):
        train_autoencoder(random.normal(size=(20, 4)), **{**good, **options})


def test_bad_activations_are_named(random: np.random.Generator) -> None:
    x = random.normal(size=(20, 4))
    options: dict[str, Any] = {"features": 8, "k": 2, "steps": 5, "device": "cpu", "holdout": 0}
    for value in (np.nan, np.inf):
        bad = x.copy()
        bad[7, 2] = value
        with pytest.raises(ValueError, match="net layer4 has NaN or infinite values at .*'s7'"):
            train_autoencoder(layer(bad), **options)
    with pytest.raises(ValueError, match="the same for all 20 training samples"):
        train_autoencoder(np.ones((20, 4)), **options)
    with pytest.raises(ValueError, match=r"needs response\(presentation, neuroid\)"):
        train_autoencoder(xr.Dataset({"rdm": ("a", [1.0])}), **options)
    with pytest.raises(ValueError, match="principal components"):
        principal_components(x, features=5)
    with pytest.raises(ValueError, match=r"4 units and attrs\['shape'\] \(3, 2\)"):
        train_autoencoder(layer(x, (3, 2)), **options)
    with pytest.raises(ValueError, match="pool 'max'"):
        autoencoder_features(principal_components(x, features=2), x, pool="max")
