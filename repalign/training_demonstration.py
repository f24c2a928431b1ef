"""Brain-regularized training on digits, in minutes: what `repalign demo --train` runs.

The "brain" is simulated: it reads out a network that was trained on adversarial images, and so
holds a code that is robust. Whether aligning to it makes another network robust, more so than
aligning to something else does, is what the demonstration measures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.experiments.laboratory import Experiment, run_experiment
from repalign.experiments.run_statistics import effect_sizes
from repalign.experiments.verdicts import conclusion, verdict
from repalign.hooks import capture
from repalign.networks import load_network
from repalign.reporting.training_page import write_training_report
from repalign.simulation import simulate
from repalign.stimuli import encode_png
from repalign.store import building, default_folder, write_file
from repalign.training.runs import train_network
from repalign.training.task_data import load_task
from repalign.training.task_images import TensorImages

NETWORK = "digits_cnn"
LAYER = "hidden"
TEACHER_EPS = 0.15
TEACHER_SEED = 100
N_NEUROIDS = 120
HELD_OUT_EVERY = 3  # of the unlabelled images: neither the task nor the alignment sees them
ATTACKS = ("pgd:steps=20", "pgd:steps=20,loss=margin")
EPS = (0.0, 0.1, 0.15, 0.2)
CONTROLS = ("row-shuffle", "within-class-shuffle", "gaussian", "one-hot", "non-robust-teacher")
EPOCHS = 20
TEACHER_EPOCHS = 15
UNLABELLED = 0.5  # share of the images that the task has no labels of; the population saw them
OPTIMIZER = {"name": "Adam", "lr": 1e-3}


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
    """The configuration of the demonstration, as a mapping: digits, 20 epochs, λ = 1.

    Args:
        dataset: card of the simulated recording (see `write_robust_digits`).
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
            "held_out_neuroids": 0.25,
            "audit_stimuli": 200,
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
    home = (Path(to) if to is not None else default_folder()) / "demo" / f"robust-digits-{_key()}"
    with _one_thread():
        say(
            f"training a robust network on adversarial digits (PGD, eps {TEACHER_EPS}): the 'brain'"
        )
        card = write_robust_digits(home / "raw", device=device)
        config = training_config(card, out, seeds=seeds, controls=controls)
        config["training"]["device"] = device
        experiment = run_experiment(config, to=home, say=say, progress=False)
    report = write_training_report(experiment.record, experiment.folder)
    verdict_text = conclusion(verdict(experiment.record))
    seconds = time.perf_counter() - begin
    return TrainingDemonstration(_table(experiment), verdict_text, report, experiment, seconds)


def _key() -> str:
    """What the simulated recording depends on, so that another version makes its own."""
    parts = (TEACHER_EPS, TEACHER_EPOCHS, TEACHER_SEED, N_NEUROIDS, UNLABELLED, HELD_OUT_EVERY)
    return hashlib.sha256(repr((*parts, torch.__version__)).encode()).hexdigest()[:8]


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


def write_robust_digits(
    folder: str | Path, *, n_neuroids: int = N_NEUROIDS, device: str = "auto"
) -> Path:
    """Write a simulated recording over digits as a lab would have it: npy, zip, csv and a card.

    Its neuroids read out the layer `hidden` of a network that was trained on adversarial digits.
    Stimuli are the digits that the task trains on, and as many that it has no labels of; a third
    of the latter are held out, and named in ``truth.json``.

    Args:
        folder: where to write; it appears whole or not at all, and is kept where it exists.
        n_neuroids: size of the population.
        device: where the robust network is trained.

    Returns:
        The path of the card, ready for `repalign.ingest`.
    """
    name = "robust_digits"
    path = Path(folder) / f"{name}.toml"
    if path.is_file():
        return path
    network = load_network(f"{NETWORK}@random:{TEACHER_SEED}")
    task = load_task("digits", preprocessing=network.preprocessing, validation=UNLABELLED)
    with building(Path(folder)) as raw:
        teacher = train_network(
            {
                "name": "robust_teacher",
                "model": network.name,
                "out": str(raw / "teacher"),
                "task": {"data": "digits", "batch_size": 64},
                "optimizer": OPTIMIZER,
                "training": {"epochs": TEACHER_EPOCHS, "device": device},
                "control": {"name": "adversarial-training", "eps": TEACHER_EPS},
            },
            progress=False,
        ).network
        parts = [task.train, task.validation]
        assert all(isinstance(part, TensorImages) for part in parts)
        images = torch.cat([part.images for part in parts])  # type: ignore[attr-defined]
        digits = torch.cat([part.labels for part in parts])  # type: ignore[attr-defined]
        population = simulate(
            _features(teacher.module, images), n_neuroids=n_neuroids, seed=TEACHER_SEED
        )
        ids = [f"digit-{i:04d}" for i in range(len(images))]
        np.save(raw / "responses.npy", population.responses.astype(np.float32))
        with zipfile.ZipFile(raw / "images.zip", "w") as archive:
            for stimulus, image in zip(ids, images, strict=True):
                pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
                archive.writestr(zipfile.ZipInfo(f"{stimulus}.png"), encode_png(pixels))
        rows = [f"{stimulus},{digit}" for stimulus, digit in zip(ids, digits.tolist(), strict=True)]
        write_file(raw / "stimuli.csv", "\n".join(["stimulus_id,digit", *rows]) + "\n")
        truth = {"layer": LAYER, "held_out_stimuli": ids[len(task.train) :: HELD_OUT_EVERY]}
        write_file(raw / "truth.json", json.dumps(truth, indent=1))
        write_file(raw / f"{name}.toml", _CARD)
    return path


def _features(module: torch.nn.Module, images: Tensor) -> Float[np.ndarray, "stimulus unit"]:
    with torch.inference_mode(), capture(module.cpu().eval(), [LAYER]) as seen:
        module(images)
    features: np.ndarray[Any, Any] = seen[LAYER].flatten(1).numpy()
    return features


_CARD = f"""\
name = "robust_digits"
title = "Simulated robust population over digits"
description = "Spike counts read out of layer {LAYER} of a network trained on adversarial digits."
citation = "Simulated by repalign."
licence = "CC0-1.0"
species = "simulated"
regions = "IT"
modality = "simulation"
units = "spikes per presentation"
loader = "arrays"

[files]
responses = "responses.npy"
images = "images.zip"
stimuli = "stimuli.csv"

[options]
dims = ["repetition", "stimulus", "neuroid"]
subject = "simulated"
"""
