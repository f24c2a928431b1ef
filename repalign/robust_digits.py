"""A simulated recording whose code is robust: neuroids that read out an adversarially trained net.

Region "IT" reads out the last hidden layer, and region "V1" the first convolution, of a small
network that was trained on adversarial digits.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from repalign.hooks import capture
from repalign.networks import load_network
from repalign.simulation import simulate, write_raw_files, write_table
from repalign.store import building, write_file
from repalign.training.runs import train_network
from repalign.training.task_data import load_task
from repalign.training.task_images import TensorImages

NAME = "robust_digits"
NETWORK = "digits_cnn"
OPTIMIZER = {"name": "Adam", "lr": 1e-3}
EPS = 0.15
EPOCHS = 15
SEED = 100
REGIONS = {"IT": ("hidden", 120), "V1": ("conv1", 60)}  # layer, and number of neuroids
UNLABELLED = 0.5  # share of the images that the task has no labels of; the population saw them
HELD_OUT_EVERY = 3  # of the unlabelled images: neither the task nor the alignment sees them


def robust_digits_key() -> str:
    """What the recording depends on, so that another version makes its own."""
    parts = (OPTIMIZER, EPS, EPOCHS, SEED, REGIONS, UNLABELLED, HELD_OUT_EVERY, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def write_robust_digits(folder: str | Path, *, device: str = "auto") -> Path:
    """Write the recording as a lab would have it: npy, zip, csv and a card.

    Stimuli are the digits that the task trains on, and as many that it has no labels of; a third
    of the latter are held out, and named in ``truth.json``.

    Args:
        folder: where to write; it appears whole or not at all, and is kept where it exists.
        device: where the robust network is trained.

    Returns:
        The path of the card, ready for `repalign.ingest`.

    Example:
        >>> write_robust_digits("digits/").name   # doctest: +SKIP
        'robust_digits.toml'
    """
    path = Path(folder) / f"{NAME}.toml"
    if path.is_file():
        return path
    network = load_network(f"{NETWORK}@random:{SEED}")
    task = load_task("digits", preprocessing=network.preprocessing, validation=UNLABELLED)
    assert isinstance(task.train, TensorImages)
    assert isinstance(task.validation, TensorImages)
    images = torch.cat([task.train.images, task.validation.images])
    digits = torch.cat([task.train.labels, task.validation.labels])
    ids = [f"digit-{i:04d}" for i in range(len(images))]
    with building(Path(folder)) as raw:
        teacher = train_network(
            {
                "name": "robust_teacher",
                "model": network.name,
                "out": str(raw / "teacher"),
                "task": {"data": "digits", "batch_size": 64},
                "optimizer": OPTIMIZER,
                "training": {"epochs": EPOCHS, "device": device},
                "control": {"name": "adversarial-training", "eps": EPS},
            },
            progress=False,
        ).network
        layers = [layer for layer, _ in REGIONS.values()]
        with torch.inference_mode(), capture(teacher.module.cpu().eval(), layers) as seen:
            teacher.module(images)
        populations = [
            simulate(seen[layer].flatten(1).numpy(), n_neuroids=number, seed=SEED).responses
            for layer, number in REGIONS.values()
        ]
        write_raw_files(
            raw,
            responses=np.concatenate(populations, axis=2),
            images=(images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(),
            stimuli={"stimulus_id": ids, "digit": digits.tolist()},
            truth={"held_out_stimuli": ids[len(task.train) :: HELD_OUT_EVERY]},
        )
        regions = [region for region, (_, number) in REGIONS.items() for _ in range(number)]
        names = [f"{region}-{i:03d}" for i, region in enumerate(regions)]
        write_table(raw / "neuroids.csv", {"neuroid_id": names, "region": regions})
        write_file(raw / f"{NAME}.toml", _CARD)
    return path


_CARD = f"""\
name = "{NAME}"
title = "Simulated robust population over digits"
description = "Spike counts read out of a network that was trained on adversarial digits: no brain."
citation = "Simulated by repalign."
licence = "CC0-1.0"
species = "simulated"
regions = ["IT", "V1"]
modality = "simulation"
units = "spikes per presentation"
loader = "arrays"

[files]
responses = "responses.npy"
images = "images.zip"
stimuli = "stimuli.csv"
neuroids = "neuroids.csv"

[options]
dims = ["repetition", "stimulus", "neuroid"]
subject = "simulated"
"""
