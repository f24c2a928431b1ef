"""The demonstration of training: its simulated recording, its configuration, its result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign import robust_digits, training_demonstration
from repalign.cli import main
from repalign.experiments.configuration import experiment_config
from repalign.recording import stimulus_ids
from repalign.regularize import CONTROLS


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording, read out of a network that was hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust_digits, "EPOCHS", 1)
        folder = tmp_path_factory.mktemp("robust")
        return robust_digits.write_robust_digits(folder / "raw", device="cpu")


def test_recording_has_two_regions_and_images_that_no_task_has_labels_of(
    card: Path, tmp_path: Path
) -> None:
    recording = ra.ingest(card, to=tmp_path)
    assert set(recording["region"].values) == {"IT", "V1"}
    truth = json.loads((card.parent / "truth.json").read_text(encoding="utf-8"))
    held_out = set(truth["held_out_stimuli"])
    ids = stimulus_ids(recording)
    assert held_out < set(ids)
    assert not held_out & set(ids[: len(ids) // 2])  # the task's own images


def test_every_control_applies_to_it(card: Path, tmp_path: Path) -> None:
    config = training_demonstration.training_config(card, tmp_path, controls=list(CONTROLS))
    made = experiment_config(config)
    assert made.experiment.controls == tuple(CONTROLS)
    assert made.experiment.other_region == {"region": "V1"}


def test_a_short_demonstration_ends_in_a_table_a_verdict_and_a_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(robust_digits, "EPOCHS", 1)
    monkeypatch.setattr(training_demonstration, "EPOCHS", 1)
    monkeypatch.setattr(training_demonstration.os, "cpu_count", lambda: 1)
    lines: list[str] = []
    done = training_demonstration.demonstrate_training(
        out=tmp_path / "out",
        to=tmp_path,
        seeds=(0,),
        controls=("one-hot",),
        device="cpu",
        say=lines.append,
    )
    assert [row["condition"] for row in done.table][::2] == [
        "Baseline",
        "Aligned",
        "Label geometry",
    ]
    assert all(0 <= row["eps 0.15"] <= row["eps 0"] for row in done.table)
    assert done.report.is_file()
    assert "one seed" in done.verdict.lower()
    assert np.isfinite(done.seconds)


def test_train_refuses_what_it_does_not_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["repalign", "demo", "--train", "--data", "kriegeskorte2008"])
    with pytest.raises(SystemExit):
        main()
    assert "--train simulates its recording" in capsys.readouterr().err
