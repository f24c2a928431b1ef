"""The verb `autoencoder`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from repalign.autoencoders.files import load_autoencoder
from repalign.cli.autoencoder import autoencoder
from repalign.recording import make_activations, make_recording
from repalign.store import open_store, write_store

app = typer.Typer()
app.command()(autoencoder)


@pytest.fixture
def stores(tmp_path: Path, random: np.random.Generator) -> Path:
    """A layer and a recording of 80 stimuli."""
    ids = [f"s{i}" for i in range(80)]
    x = random.normal(size=(80, 6)).astype(np.float32)
    layer = make_activations(x, ids, "net", "layer4", (6,))
    write_store(tmp_path / "net.zarr" / "layer4", {"": layer}, provenance={})
    brain = make_recording(x[:, :3] ** 2, stimulus_id=ids, region=["V4", "IT", "IT"])
    write_store(tmp_path / "brain.zarr", {"": brain}, provenance={})
    return tmp_path


def test_autoencoder_writes_weights_report_features_and_matches(stores: Path) -> None:
    layer, to = str(stores / "net.zarr" / "layer4"), stores / "out"
    words = [layer, "--features", "8", "--k", "2", "--steps", "20", "--to", str(to), "--json"]
    words += ["--recording", str(stores / "brain.zarr"), "--select", "region=IT"]
    words += ["--permutations", "20", "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["name"] == "topk-8"
    assert row["neuroids_matched"] == 2
    assert load_autoencoder(to / "autoencoder.safetensors").settings.k == 2
    assert open_store(row["features_store"]).attrs["layer"] == "layer4#topk-8"
    report = json.loads((to / "report.json").read_text())
    assert report["explained_variance_held_out"] == row["explained_variance_held_out"]
    assert len(json.loads((to / "matches.json").read_text())["features"]) == 8
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, FileExistsError)
    assert "--overwrite" in str(again.exception)
    words.remove("--json")
    done = CliRunner().invoke(app, [*words, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "explained variance held out" in done.stdout


def test_options_that_do_not_apply_are_refused(stores: Path) -> None:
    layer = str(stores / "net.zarr" / "layer4")
    words = [layer, "--features", "2", "--to", str(stores / "out")]
    for more, message in (
        (["--kind", "pca", "--k", "2"], "--k does not apply to principal components"),
        (["--k", "2", "--select", "region=IT"], "give --recording"),
        (["--kind", "topk"], "needs k"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert isinstance(done.exception, ValueError)
        assert message in str(done.exception)
    done = CliRunner().invoke(app, [*words, "--kind", "pca"])
    assert done.exit_code == 0, done.output
