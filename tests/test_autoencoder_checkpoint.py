"""A training of an autoencoder that is killed goes on from its checkpoint to the same weights."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from repalign.autoencoders.checkpoints import CheckpointError
from repalign.autoencoders.data import Source, shuffled_batches
from repalign.autoencoders.files import load_autoencoder
from repalign.autoencoders.layout import Layout
from repalign.autoencoders.results import TrainedAutoencoder
from repalign.autoencoders.tensor_files import read_tensors
from repalign.autoencoders.training import train_autoencoder
from repalign.recording import make_activations

Array = np.ndarray[Any, Any]
OPTIONS: dict[str, Any] = {"features": 12, "k": 3, "steps": 40, "device": "cpu", "dead_after": 4}
pytestmark = pytest.mark.filterwarnings("ignore:.*explained variance is:UserWarning")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each step."""
    monkeypatch.setattr("repalign.autoencoders.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("repalign.autoencoders.loop.CHECKPOINT_SHARE", 1e9)


def same(a: TrainedAutoencoder, b: TrainedAutoencoder) -> bool:
    first, second = a.network.state_dict(), b.network.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first) and a.history == b.history


class Killed(BaseException):
    """Stands for the end of the process."""


def train_and_die(x: Any, path: Path, calls: int, **options: Any) -> None:
    """Train until so many checkpoints are written, and stop in the middle of the next step."""
    from repalign.autoencoders import networks, training

    written = itertools.count(1)
    whole, loss = training.write_checkpoint, networks.SparseAutoencoder.normalise

    def write(*inputs: Any) -> None:
        whole(*inputs)
        if next(written) == calls:
            networks.SparseAutoencoder.normalise = die  # type: ignore[method-assign]

    def die(self: Any) -> None:
        raise Killed

    training.write_checkpoint = write  # type: ignore[attr-defined]
    try:
        with pytest.raises(Killed):
            train_autoencoder(x, checkpoint=path, **options)
    finally:
        training.write_checkpoint = whole  # type: ignore[attr-defined]
        networks.SparseAutoencoder.normalise = loss  # type: ignore[method-assign]


# what is killed goes on


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "kind", [{}, {"kind": "l1", "k": None, "sparsity": 4.0}, {"buffer_samples": 20}]
)
def test_training_goes_on_to_the_same_weights_and_history(
    tmp_path: Path, random: np.random.Generator, kind: dict[str, Any]
) -> None:
    x = xr_layer(random.normal(size=(90, 6)))
    options = {**OPTIONS, "batch_size": 8, **kind}
    whole = train_autoencoder(x, **options)
    path = tmp_path / "deep" / "training.safetensors"
    for calls in (1, 7, 13):
        train_and_die(x, path, calls, **options)
    _, tensors = read_tensors(path, form="repalign-autoencoder-training-1", writer="")
    assert tensors["adam.directions.step"] == 21  # 1 + 7 + 13
    assert same(train_autoencoder(x, checkpoint=path, **options), whole)
    assert same(train_autoencoder(x, checkpoint=path, **options), whole)  # done: nothing to do


def xr_layer(values: Array) -> xr.Dataset:
    """A layer in shards of 16 presentations."""
    ids = [f"s{i}" for i in range(len(values))]
    ds = make_activations(values, ids, "net", "layer4", values.shape[1:])
    return ds.chunk({"presentation": 16})


RUN = """
import os, random, signal, sys, threading, warnings
from repalign.autoencoders import loop, training
from repalign.autoencoders.files import save_autoencoder
from repalign.autoencoders.training import train_autoencoder
from repalign.store import open_store

store, checkpoint, to, seconds = sys.argv[1:]
loop.CHECKPOINT_SECONDS, loop.CHECKPOINT_SHARE = 0.0, 1e9
warnings.simplefilter("ignore")
timer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
write = training.write_checkpoint
def write_and_start(*inputs):
    write(*inputs)
    if float(seconds) and not timer.ident:
        timer.start()
training.write_checkpoint = write_and_start
found = train_autoencoder(
    open_store(store), features=64, k=4, steps=1500, batch_size=16, buffer_samples=100,
    checkpoint=checkpoint, device="cpu",
)
save_autoencoder(to, found)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    from repalign.store import write_store

    random = np.random.default_rng()  # other moments each time
    store, checkpoint = tmp_path / "a.zarr", tmp_path / "checkpoint.safetensors"
    write_store(store, {"": xr_layer(random.normal(size=(400, 24)))}, provenance={})

    def run(to: str, checkpoint: Path, seconds: float) -> int:
        words = [str(store), str(checkpoint), str(tmp_path / to), str(seconds)]
        return subprocess.run([sys.executable, "-c", RUN, *words], check=False).returncode

    steps = [0]
    for _ in range(3):
        if run("killed.safetensors", checkpoint, random.uniform(0.05, 0.5)) == 0:
            break
        form = "repalign-autoencoder-training-1"
        steps.append(read_tensors(checkpoint, form=form, writer="")[0]["step"])
    assert steps == sorted(set(steps))
    assert any(0 < step < 1500 for step in steps), "no kill fell into the training"
    assert run("killed.safetensors", checkpoint, 0) == 0
    assert run("whole.safetensors", tmp_path / "other.safetensors", 0) == 0
    killed, whole = (load_autoencoder(tmp_path / f"{n}.safetensors") for n in ("killed", "whole"))
    assert same(killed, whole)
    assert not list(tmp_path.glob("*.tmp*"))


@pytest.mark.parametrize("buffer", [24, 1000])
def test_batches_from_any_start_are_those_of_the_stream(buffer: int) -> None:
    ds = xr_layer(np.arange(101, dtype=np.float32)[:, None])
    source = Source(ds, np.arange(101) != 50, Layout("flat", (1,)))

    def stream(start: int) -> Any:
        return shuffled_batches(source, batch_size=7, buffer_samples=buffer, seed=2, start=start)

    whole = list(itertools.islice(stream(0), 45))  # three epochs of 14
    for start in range(30):
        for a, b in zip(stream(start), whole[start : start + 16], strict=False):
            assert torch.equal(a, b)
    epochs = [torch.cat(whole[14 * i : 14 * (i + 1)])[:, 0].tolist() for i in range(3)]
    assert all(len(set(epoch)) == 98 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


# what does not fit


@pytest.mark.usefixtures("often")
def test_checkpoints_of_another_training_are_refused_by_name(
    tmp_path: Path, random: np.random.Generator
) -> None:
    x = random.normal(size=(60, 6)).astype(np.float32)
    path = tmp_path / "training.safetensors"
    train_and_die(x, path, 5, **OPTIONS)
    kept = path.read_bytes()
    for options, message in (
        ({"k": 2}, r"k: 3 there, 2 here.*remove .*training\.safetensors to begin anew"),
        ({"learning_rate": 1e-2}, r"learning_rate: 0\.001 there, 0\.01 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train_autoencoder(x, checkpoint=path, **{**OPTIONS, **options})
    with pytest.raises(CheckpointError, match="layer values: sha256:.* there, sha256:.* here"):
        train_autoencoder(x + 1, checkpoint=path, **OPTIONS)
    with pytest.raises(CheckpointError, match="layer inputs: 6 there, 5 here"):
        train_autoencoder(x[:, :5], checkpoint=path, **OPTIONS)
    assert path.read_bytes() == kept


@pytest.mark.usefixtures("often")
def test_damaged_checkpoints_are_refused(tmp_path: Path, random: np.random.Generator) -> None:
    x = random.normal(size=(60, 6)).astype(np.float32)
    path = tmp_path / "training.safetensors"
    train_and_die(x, path, 5, **OPTIONS)
    kept = bytearray(path.read_bytes())
    flipped = kept.copy()
    flipped[-9] ^= 1
    for content in (kept[:-100], b"", b"nonsense" * 20, flipped):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is damaged.*to begin anew"):
            train_autoencoder(x, checkpoint=path, **OPTIONS)
    from repalign.autoencoders.files import save_autoencoder

    save_autoencoder(path, train_autoencoder(x, **OPTIONS))
    with pytest.raises(CheckpointError, match="is no repalign-autoencoder-training-1"):
        train_autoencoder(x, checkpoint=path, **OPTIONS)


def test_a_loss_that_is_not_finite_stops_the_training(random: np.random.Generator) -> None:
    options = {**OPTIONS, "learning_rate": 1e30, "steps": 60}
    with pytest.raises(ValueError, match=r"the loss is .* at step \d+.*lower learning_rate"):
        train_autoencoder(random.normal(size=(60, 6)), **options)
