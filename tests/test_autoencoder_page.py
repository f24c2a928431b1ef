"""The pages on autoencoders: what they say is what was found, and they load nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repalign.autoencoders.components import principal_components
from repalign.autoencoders.files import autoencoder_features
from repalign.autoencoders.matching import match_features
from repalign.autoencoders.study import FeatureStudy, checkpoint_of, feature_study
from repalign.autoencoders.training import train_autoencoder
from repalign.recording import make_activations, make_recording
from repalign.reporting.autoencoder_page import write_autoencoder_report
from repalign.reporting.feature_study_page import study_summary, write_feature_study_report

OPTIONS: dict[str, Any] = {"features": 30, "k": 3, "device": "cpu"}
STUDY: dict[str, Any] = {**OPTIONS, "steps": 400, "seeds": (0, 1), "permutations": 39}
STUDY |= {"learning_rate": 3e-3}
N = 600
pytestmark = pytest.mark.filterwarnings("ignore:.*explained variance is:UserWarning")


def planted(name: str = "<net>", *, seed: int = 0) -> tuple[Any, Any]:
    """A layer of 20 sparse codes in 12 dimensions, and neuroids that follow 8 of the codes."""
    random = np.random.default_rng(seed)
    ids = [f"s{i}" for i in range(N)]
    codes = (random.random((N, 20)) < 0.08) * random.uniform(0.5, 1.5, (N, 20))
    mixed = (codes @ random.normal(size=(20, 12))).astype(np.float32)
    neuroids = codes[:, :8] + 0.2 * random.normal(size=(N, 8))
    brain = make_recording(neuroids, stimulus_id=ids, region="I<T")
    return make_activations(mixed, ids, name, "layer", (12,)), brain


def headings(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>([^<]+)</h2>", html)


def loads_nothing(html: str) -> bool:
    return not re.search(r'(src|href)="(?!data:|#)', html)


def test_page_shows_reconstruction_training_frequency_and_matches(tmp_path: Path) -> None:
    layer, brain = planted()
    found = train_autoencoder(layer, steps=60, **OPTIONS)
    features = autoencoder_features(found, layer)
    matches = match_features(features, brain, permutations=39, device="cpu")
    path = write_autoencoder_report(
        found, tmp_path, matches=matches, recording="a <brain>", command="repalign <x>"
    )
    html = path.read_text("utf-8")
    assert headings(html) == [
        "What was found", "Reconstruction and sparsity", "Training", "Feature frequency",
        "Matches with a &lt;brain&gt;", "What was trained",
    ]  # fmt: skip
    assert html.count("<img ") == 3
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "training.png", "feature-frequency.png", "matches.png",
    }  # fmt: skip
    assert loads_nothing(html)
    assert "<net>" not in html
    assert "<brain>" not in html
    assert found.report.held_out is not None
    assert f"{found.report.held_out.explained_variance:.1%} of the variance" in html
    best = np.nanargmax(matches.neuroids.held_out)
    row = html[html.index("<td>neuroid-0000</td>") :] if best == 0 else html
    assert f"{np.nanmax(matches.neuroids.held_out):.3f}" in row
    assert "Family-wise p is the chance that permuted stimuli bring any neuroid at all" in html


def test_page_without_a_recording_or_of_components_says_less(tmp_path: Path) -> None:
    layer, _ = planted()
    pca = principal_components(layer, features=5, device="cpu")
    html = write_autoencoder_report(pca, tmp_path / "pca").read_text("utf-8")
    assert headings(html) == ["What was found", "Reconstruction and sparsity", "What was trained"]
    found = train_autoencoder(layer, steps=20, holdout=0, **OPTIONS)
    html = write_autoencoder_report(found, tmp_path / "sae").read_text("utf-8")
    assert "held-out stimuli</td>" not in html
    assert "of the variance of trained stimuli" in html


def test_page_of_an_overfitted_autoencoder_warns(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(60, 40))
    found = train_autoencoder(noise, steps=300, **OPTIONS)
    assert "Take care: explained variance is" in write_autoencoder_report(
        found, tmp_path
    ).read_text("utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> FeatureStudy:
    folder = tmp_path_factory.mktemp("checkpoints")
    layer, brain = planted()
    twin, _ = planted("twin", seed=1)
    found = feature_study(layer, twin, brain, checkpoints=folder, **STUDY)
    names = {checkpoint_of(folder, name, s) for name in ("trained", "untrained") for s in (0, 1)}
    assert set(folder.iterdir()) == names
    before = {file: file.stat().st_mtime_ns for file in names}
    again = feature_study(layer, twin, brain, checkpoints=folder, **STUDY)
    assert {file: file.stat().st_mtime_ns for file in names} == before  # nothing is trained twice
    assert again.rows == found.rows
    return found


def test_study_page_puts_seeds_and_controls_side_by_side(
    tmp_path: Path, study: FeatureStudy
) -> None:
    html = write_feature_study_report(study, tmp_path, command="python <x>").read_text("utf-8")
    assert headings(html) == [
        "What was found", "Overlap of features", "Matches with unknown I&lt;T subject-1",
        "How to reproduce",
    ]  # fmt: skip
    assert loads_nothing(html)
    for words in ("sparse features", "principal components", "raw units"):
        for network in ("trained", "untrained"):
            assert f"<td>{words}, {network}</td>" in html
    kept = json.loads((tmp_path / "study.json").read_text("utf-8"))
    assert len(kept["rows"]) == len(study.rows) == 8
    seeds = kept["overlaps"][0]
    assert f"{seeds['max_cosine']:.3f}" in html
    assert {file.name for file in tmp_path.glob("*.png")} == {"overlap.png", "area-0.png"}


def test_study_speaks_for_planted_features_and_not_for_noise(study: FeatureStudy) -> None:
    said = study_summary(study)
    seeds = study.overlaps[0]
    assert f"{seeds['max_cosine']:.2f} in the trained network" in said
    assert "Every seed is ahead of every control: the matches speak for these" in said
    rows = tuple(
        row | {"neuroids_held_out": 0.9} if row["kind"] == "pca" else row for row in study.rows
    )
    beaten = study_summary(FeatureStudy(rows, study.overlaps, study.autoencoders, study.matches))
    assert "Not every seed is ahead of the trained network's principal components and the" in beaten
    rows = tuple(row | {"neuroids_held_out_p": 0.4} for row in study.rows)
    none = study_summary(FeatureStudy(rows, study.overlaps, study.autoencoders, study.matches))
    assert "Permuted stimuli give as much (p up to 0.40): there is no match." in none
