"""The page on a recording's quality: it says what was found, and loads nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import repalign as ra
from repalign.quality import inspect_recording
from repalign.recording import make_rdm_recording
from repalign.reporting.recording_page import write_recording_report
from repalign.stimuli import GROUP, Stimuli, encode_png, stimuli_to_dataset
from repalign.store import open_store, write_store


def recording(n_subjects: int = 2, **more: Any) -> xr.Dataset:
    random = np.random.default_rng(0)
    signal = random.normal(size=(40, 10 * n_subjects))
    values = np.concatenate([signal + random.normal(size=signal.shape) for _ in range(4)])
    return ra.make_recording(
        values,
        stimulus_id=[f"image-{row % 40}" for row in range(160)],
        region="IT",
        subject=[f"<{number // 10}>" for number in range(10 * n_subjects)],
        presentation={"session": ["mon & tue"] * 80 + ["$wed$"] * 80},
        **more,
    )


def written(ds: xr.Dataset, out: Path) -> str:
    found = inspect_recording(ds, splits=10, progress=False)
    path = write_recording_report(found, ds, out)
    assert path == out / "report.html"
    return path.read_text("utf-8")


def headings(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]+)</h2>", html)


def test_page_has_a_section_a_figure_and_escapes_names(tmp_path: Path) -> None:
    html = written(recording(attrs={"units": "spikes & more", "dataset": "mine"}), tmp_path)
    assert headings(html) == [
        "What looks wrong", "Numbers", "Reliability", "Responses", "Repetitions", "Drift",
        "What was inspected",
    ]  # fmt: skip
    assert "Nothing: no warnings." in html
    assert html.count("<img ") == 4
    assert "&lt;0&gt;" in html
    assert "<0>" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_numbers_and_figures_lie_beside_the_page(tmp_path: Path) -> None:
    ds = recording()
    ds["response"].values[:, 3] = 1.0
    html = written(ds, tmp_path)
    assert "1 of 10 neuroids constant over all presentations (dead)" in html
    kept = json.loads((tmp_path / "quality.json").read_text("utf-8"))
    assert kept["targets"][0]["is_dead"][3] is True
    assert kept["warnings"][0] in html.replace("&lt;", "<").replace("&gt;", ">").replace(
        "&#x27;", "'"
    )
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "reliability.png", "responses.png", "repetitions.png", "drift.png",
    }  # fmt: skip


def test_page_of_averaged_repetitions_says_why_numbers_are_unknown(tmp_path: Path) -> None:
    html = written(ra.average_repeats(recording()), tmp_path)
    assert "Reliability" not in headings(html)
    assert "Drift" not in headings(html)
    assert "ceiling: every stimulus has a single presentation" in html


def test_page_of_rdms_has_their_agreement(tmp_path: Path) -> None:
    squares = np.random.default_rng(0).uniform(size=(3, 8, 8))
    squares += squares.swapaxes(1, 2)
    squares[:, range(8), range(8)] = 0
    ds = make_rdm_recording(
        squares, stimulus_id=list("abcdefgh"), subject=["x", "x", "y"], species="human",
        region="IT", session=["1", "2", "1"],
    )  # fmt: skip
    html = written(ds, tmp_path)
    assert headings(html) == [
        "What looks wrong", "Numbers", "Agreement of RDMs", "What was inspected",
    ]  # fmt: skip
    assert "there are no responses" in html


def test_images_of_the_store_are_shown(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [encode_png(random.integers(0, 255, (9, 9, 3), dtype=np.uint8)) for _ in range(40)]
    stimuli = Stimuli(tuple(f"image-{number}" for number in range(40)), images)
    store = tmp_path / "mine.zarr"
    write_store(store, {"": recording(), GROUP: stimuli_to_dataset(stimuli)}, provenance={})
    html = written(open_store(store), tmp_path / "page")
    assert "Stimuli" in headings(html)
    assert "12 of 40 images" in html


def test_many_targets_and_sessions_are_cut_and_it_says_so(tmp_path: Path) -> None:
    ds = recording(14)
    ds = ds.assign_coords(session=("presentation", [f"session-{n % 40}" for n in range(160)][::-1]))
    html = written(ds, tmp_path)
    assert "The first 12 of 14." in html


def test_a_subject_without_any_presentation_has_no_figure(tmp_path: Path) -> None:
    ds = recording()
    ds["response"].values[:, :10] = np.nan
    html = written(ds, tmp_path)
    assert "160 of 160 presentations missing" in html


def test_page_is_the_same_each_time(tmp_path: Path) -> None:
    ds = recording()
    assert written(ds, tmp_path / "a") == written(ds, tmp_path / "b")


def test_numbers_of_another_recording_are_refused(tmp_path: Path) -> None:
    ds = recording(attrs={"fingerprint": "sha256:1"})
    found = inspect_recording(ds, splits=2, progress=False)
    with pytest.raises(ValueError, match="another fingerprint"):
        write_recording_report(found, ds.assign_attrs(fingerprint="sha256:2"), tmp_path)


def test_v4_session_shows_its_images(tmp_path: Path, data_folder: Path) -> None:
    html = written(ra.ingest("cowley2023_v4_190923", mirror=data_folder), tmp_path)
    assert "12 of 1200 images" in html
    assert "spikes per 100 ms" in html
