"""`repalign map-layers` and `repalign power`: what they print, write and refuse."""

from __future__ import annotations

import json
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.recording import make_activations
from repalign.store import write_store

IDS = [f"image-{i}" for i in range(24)]


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """A recording of 4 subjects, and a network whose layer ``b`` they hold."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(24, 6))
    brain = [truth + random.normal(size=truth.shape) for _ in range(4)]
    recording = ra.make_recording(
        np.concatenate(brain, 1),
        stimulus_id=IDS,
        region="IT",
        species="human",
        subject=[name for name in "wxyz" for _ in range(6)],
    )
    ra.save_recording(recording, tmp_path / "brain.zarr")
    for name, values in {"a": random.normal(size=truth.shape), "b": truth}.items():
        layer = make_activations(values, IDS, "net", name, truth.shape[1:])
        write_store(tmp_path / "net.zarr" / name, {"": layer}, provenance={})
    return tmp_path / "brain.zarr", tmp_path / "net.zarr"


def test_a_layer_is_chosen_committed_and_scored_elsewhere(cli, stores, tmp_path):
    file = tmp_path / "net.toml"
    common = ("map-layers", *stores)
    code, out, err = cli(*common, "--permutations", 99, "--out", file)
    assert code == 0, err
    [line] = [line for line in out.splitlines() if line.startswith("IT")]
    assert line.split()[1] == "b"
    assert "5 of 5" in line
    assert tomllib.loads(file.read_text("utf-8"))["layers"] == {"IT": "b"}
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the command line prints them
        code, out, err = cli(*common, "--commitment", file, "--json")
    assert code == 0, err
    assert "warning: IT: the layer was chosen from 2 on 24 of these 24 stimuli" in err
    assert {row["layer"] for row in json.loads(out)} == {"b"}
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(file.read_text("utf-8").replace("IT", "V9"), "utf-8")
    code, _, err = cli(*common[:2], "not opened", "--commitment", elsewhere)
    assert code == 1
    assert "the commitment is about V9; the recording has IT" in err
    code, _, err = cli(*common, "--commitment", file, "--out", file)
    assert code == 1
    assert "give one of them" in err


def test_mappings_as_json_hold_the_choice_and_its_p(cli, stores):
    code, out, err = cli("map-layers", *stores, "--permutations", 99, "--metric", "cka", "--json")
    assert code == 0, err
    [row] = json.loads(out)
    assert (row["region"], row["layer"]) == ("IT", "b")
    assert row["p"] == pytest.approx(0.01)


def test_power_prints_a_line_a_design_and_draws_curves(cli, stores, tmp_path):
    common = ("power", *stores, "--layers", "a,b", "--simulations", 20, "--resamples", 100)
    designs = ("--stimuli", "8,24", "--subjects", "6,12", "--test", "subjects")
    code, out, err = cli(*common, *designs, "--out", tmp_path / "power.png")
    assert code == 0, err
    assert sum(line.split()[:1] in (["8"], ["24"]) for line in out.splitlines()) == 4
    assert (tmp_path / "power.png").stat().st_size > 5000
    assert "in the pilot by corr, all its sessions averaged" in err
    assert "fewest presentations with a power of .8: 24 stimuli, " in err
    code, out, err = cli(*common, *designs, "--json")
    assert code == 0, err
    rows = json.loads(out)
    rows = rows["designs"] if isinstance(rows, dict) else rows
    powers = {(row["n_stimuli"], row["n_subjects"]): row["power"] for row in rows}
    assert powers[24, 12] > 0.8
    code, _, err = cli(*common[:4], "a", "--stimuli", 8, "--subjects", 6)
    assert code == 1
    assert "error: " in err
