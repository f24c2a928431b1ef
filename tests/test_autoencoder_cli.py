"""The verb `autoencoder`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from repalign.autoencoders.files import load_autoencoder
from repalign.cli.autoencoder import autoencoder
from repalign.recording import make_activations, make_recording
from repalign.store import open_store, write_store

pytestmark = pytest.mark.filterwarnings("ignore:.*explained variance is:UserWarning")
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
    for words in ("Family-wise p", "Held-out r", "8 features explain", "of held-out stimuli with"):
        assert words in done.stdout
    assert "20 permutations" not in done.stdout
    assert "80 shared stimuli." in done.stdout
    assert not re.search(r"\b(p_family|l0|dead_fraction|held_out)\b", done.stdout)
    html = (to / "report.html").read_text("utf-8")
    assert "Matches with" in html
    assert not (to / "checkpoints").exists()


class Killed(Exception):
    """Stands for the end of the process."""


def test_the_same_command_goes_on_after_a_stop(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repalign.autoencoders import files, loop, training

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    layer, to = str(stores / "net.zarr" / "layer4"), stores / "out"
    words = [layer, "--features", "8", "--k", "2", "--steps", "20", "--device", "cpu", "--to"]
    whole, written = training.write_checkpoint, []

    def write_and_stop(*inputs: Any) -> None:
        whole(*inputs)
        written.append(inputs)
        if len(written) == 7:
            raise Killed

    def stop(*inputs: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_checkpoint", write_and_stop)
        assert isinstance(CliRunner().invoke(app, [*words, str(to)]).exception, Killed)
    checkpoint = to / "checkpoints" / "trained-seed-0.safetensors"
    assert checkpoint.exists()
    other = CliRunner().invoke(app, [*words, str(to), "--learning-rate", "0.1"])
    assert isinstance(other.exception, ValueError)
    message = r"learning_rate: 0\.001 there, 0\.1 here.*--overwrite"
    assert re.search(message, str(other.exception))
    with monkeypatch.context() as patch:  # a stop between two of the results
        patch.setattr(files, "autoencoder_features", stop)
        assert isinstance(CliRunner().invoke(app, [*words, str(to)]).exception, Killed)
    assert (to / "autoencoder.safetensors").exists()
    done = CliRunner().invoke(app, [*words, str(to)])
    assert done.exit_code == 0, done.output
    assert "going on after step 20 of 20" in done.stderr
    assert not checkpoint.parent.exists()
    assert CliRunner().invoke(app, [*words, str(stores / "whole")]).exit_code == 0
    one, two = (
        load_autoencoder(folder / "autoencoder.safetensors") for folder in (to, stores / "whole")
    )
    assert torch.equal(one.network.directions, two.network.directions)
    assert one.history == two.history


def test_overwrite_replaces_a_checkpoint_of_other_settings_and_says_so(stores: Path) -> None:
    layer, to = str(stores / "net.zarr" / "layer4"), stores / "out"
    words = [layer, "--features", "8", "--k", "2", "--steps", "5", "--device", "cpu"]
    words += ["--to", str(to)]
    checkpoint = to / "checkpoints" / "trained-seed-0.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"damaged")
    assert isinstance(CliRunner().invoke(app, words).exception, ValueError)
    assert checkpoint.read_bytes() == b"damaged"
    done = CliRunner().invoke(app, [*words, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "training begins anew" in done.stderr
    assert not checkpoint.parent.exists()


def test_untrained_twin_and_seeds_make_a_page_that_judges(stores: Path) -> None:
    layer, to = str(stores / "net.zarr" / "layer4"), stores / "out"
    words = [layer, "--features", "8", "--k", "2", "--steps", "10", "--to", str(to), "--json"]
    words += ["--untrained", layer, "--seeds", "2", "--permutations", "19", "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert "--untrained goes with a recording" in str(refused.exception)
    done = CliRunner().invoke(app, [*words, "--recording", str(stores / "brain.zarr")])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    html = Path(row["study"]).read_text("utf-8")
    for words_ in ("Overlap of features", "Matches with unknown V4", "Matches with unknown IT"):
        assert words_ in html
    assert not (to / "checkpoints").exists()


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
