"""`repalign compare --inference`: the table, what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.store import write_store


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, str, str]:
    """A recording of 3 subjects and two models, as stores and arrays."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(20, 5))
    recording = ra.make_recording(
        np.concatenate([truth + random.normal(size=truth.shape) for _ in range(3)], 1),
        stimulus_id=[f"image-{i}" for i in range(20)],
        region="IT",
        species="human",
        subject=[name for name in "abc" for _ in range(5)],
    )
    path = tmp_path / "brain.zarr"
    write_store(path, {"": recording}, provenance={})
    for name, values in {"good": truth, "other": random.normal(size=truth.shape)}.items():
        np.save(tmp_path / f"{name}.npy", values)
    return str(path), str(tmp_path / "good.npy"), str(tmp_path / "other.npy")


def test_inference_prints_ceilings_stars_p_values_and_the_claim(cli, stores, tmp_path):
    code, out, _ = cli(
        "compare",
        *stores,
        "--inference",
        "stimuli",
        "--resamples",
        200,
        "--correction",
        "max-t",
        "--out",
        tmp_path / "kept",
    )
    assert code == 0
    assert "3 subjects, 20 stimuli, rsa" in out
    assert "noise ceiling over subjects: " in out
    assert re.search(r"good\.npy.*\*\*\*.*above chance", out)
    assert re.search(r"other\.npy.*not told from chance", out)
    assert "1 of 1 pairs of models differ" in out
    assert "smallest p 0.0001" in out
    assert out.rstrip().splitlines()[-1].startswith("Over new stimuli of this kind, for these sub")
    assert re.search(r"good\.npy.* − .*other\.npy.*corrected p", out)
    assert (tmp_path / "kept" / "models.png").stat().st_size > 5000
    assert (tmp_path / "kept" / "summary.txt").read_text().rstrip() in out
    kept = ra.Inference.load(tmp_path / "kept")
    assert kept.settings["correction"] == "max-t"
    assert kept.summary() in out


def test_inference_as_json_is_one_object_a_metric(cli, stores):
    code, out, _ = cli(
        "compare",
        *stores,
        "--inference",
        "both",
        "--resamples",
        100,
        "--json",
        "--metric",
        "rsa",
        "--metric",
        "cka",
        "--seed",
        5,
    )
    assert code == 0
    found = json.loads(out)
    assert [one["settings"]["metric"] for one in found] == ["rsa", "cka"]
    assert {one["settings"]["seed"] for one in found} == {5}
    assert len(found[0]["table"]) == 2
    assert "new subjects" in found[0]["claim"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--correction", "holm"], "--correction applies with --inference only"),
        (["--inference", "both", "--interval", "bca"], "two-factor correction"),
        (["--inference", "stimuli", "--null-draws", "5"], "--null-draws does not apply"),
        (["--inference", "stimuli", "--ceiling", "nili"], "--ceiling does not apply"),
        (["--inference", "stimuli", "--fit", "weights"], "2 or more layers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, stores, words, message):
    code, _, err = cli("compare", *stores, *words)
    assert code != 0
    assert message in err


def test_choices_are_listed(cli):
    _, _, err = cli("compare", "x", "y", "--inference", "trials")
    assert all(name in err for name in ("stimuli", "subjects", "both"))
