"""Brain-regularized training on digits, in minutes: what `repalign demo --train` runs.

The "brain" is simulated: it reads out a network that was trained on adversarial images, and so
holds a code that is robust. Whether aligning to it makes another network robust, more so than
aligning to something else does, is what the demonstration measures.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repalign.experiments.laboratory import Experiment, run_experiment
from repalign.experiments.run_statistics import effect_sizes
from repalign.experiments.verdicts import conclusion, verdict
from repalign.reporting.training_page import write_training_report
from repalign.robust_digits import (
    NAME,
    NETWORK,
    OPTIMIZER,
    UNLABELLED,
    robust_digits_key,
    write_robust_digits,
)
from repalign.store import local_folder

LAYER = "hidden"
ATTACKS = ("pgd:steps=20", "pgd:steps=20,loss=margin")
EPS = (0.0, 0.1, 0.15, 0.2)
CONTROLS = ("row-shuffle", "within-class-shuffle", "gaussian", "one-hot", "non-robust-teacher")
EPOCHS = 16


@dataclass(frozen=True)
class TrainingDemonstration:
    """What a demonstration found and where its report is.

    Args:
        table: one row a condition: means over seeds.
        verdict: in plain language, by rules stated beforehand.
        report: the page.
        experiment: all of it.
        seconds: how long it took.
    """

    table: list[dict[str, Any]]
    verdict: str
    report: Path
    experiment: Experiment
    seconds: float


def training_config(
    dataset: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    controls: Sequence[str] = CONTROLS,
) -> dict[str, Any]:
    """The configuration of the demonstration, as a mapping: digits, 16 epochs, λ = 1.

    Args:
        dataset: card of the simulated recording (see `repalign.robust_digits`).
        out: folder of the runs and their report.
        seeds: one paired run of every condition a seed.
        controls: names in `repalign.regularize.controls.CONTROLS`.
    """
    held_out = json.loads((Path(dataset).parent / "truth.json").read_text(encoding="utf-8"))
    return {
        "name": "digits_aligned",
        "model": f"{NETWORK}@random",
        "out": str(out),
        "task": {"data": "digits", "batch_size": 64, "validation": UNLABELLED},
        "neural": {
            "dataset": str(dataset),
            "select": {"region": "IT"},
            "layers": [LAYER],
            "loss": "log-cka",
            "weight": 1.0,
            "batch_size": 128,
            "held_out_stimuli": held_out["held_out_stimuli"],
        },
        "optimizer": OPTIMIZER,
        "training": {"epochs": EPOCHS, "log_every": 48},
        "experiment": {
            "controls": list(controls),
            "seeds": list(seeds),
            "labels": "digit",
            "other_region": {"region": "V1"},
            "held_out_neuroids": 0.25,
            "audit_stimuli": 120,
            "workers": min(2, os.cpu_count() or 1),
        },
        "robustness": {"attacks": list(ATTACKS), "eps": list(EPS), "masking_images": 40},
    }


def demonstrate_training(
    *,
    out: str | Path = "repalign-demo-train",
    to: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    controls: Sequence[str] = CONTROLS,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> TrainingDemonstration:
    """Simulate a robust population, align networks to it and to controls, attack them, report.

    Args:
        out: folder of the runs and their report.
        to: folder of the simulated recording.
        seeds, controls: as in `training_config`.
        device: where to train: ``auto``, ``cuda``, ``mps``, ``cpu``.
        say: told what happens, one line at a time.
    """
    begin = time.perf_counter()
    folder = local_folder(to)
    home = folder / "demo" / f"{NAME}-{robust_digits_key()}"
    with _one_thread():
        say("training a network on adversarial digits, which the simulated brain reads out")
        card = write_robust_digits(home / "raw", device=device)
        config = training_config(card, out, seeds=seeds, controls=controls)
        config["training"]["device"] = device
        experiment = run_experiment(config, to=home, say=say, progress=False)
    report = write_training_report(experiment.record, experiment.folder)
    verdict_text = conclusion(verdict(experiment.record))
    seconds = time.perf_counter() - begin
    return TrainingDemonstration(_table(experiment), verdict_text, report, experiment, seconds)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """On images of 8×8 two threads gain nothing, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _table(experiment: Experiment) -> list[dict[str, Any]]:
    rows = []
    for effect in effect_sizes(experiment.record):
        row = {"condition": effect["title"], "attack": effect["attack"], "seeds": effect["n_seeds"]}
        row |= {f"eps {one['eps']:g}": round(one["mean"], 3) for one in effect["accuracy"]}
        rows.append(row)
    return rows
