"""Power curves from a simulated pilot: docs/power.png.

python scripts/figure_power.py
"""

from pathlib import Path

import numpy as np
import torch

import repalign as ra
from repalign.metrics import rdm
from repalign.reporting.figures import save_figure
from repalign.reporting.power_figure import power_curves

STIMULI, SUBJECTS, SESSIONS, VOXELS, NOISE = 60, 8, 2, 40, 2.0
random = np.random.default_rng(0)
features = random.normal(size=(STIMULI, 12))
near = features * np.linspace(1.5, 0.5, 12)  # what the brain weighs, and the first layer
far = features * np.linspace(0.5, 1.5, 12)
layers = torch.stack([rdm(layer, method="euclidean") for layer in (near, far)])
pilot = []
for _ in range(SUBJECTS):
    signal = near @ random.normal(size=(12, VOXELS)) / 12**0.5
    noisy = signal + NOISE * random.normal(size=(SESSIONS, STIMULI, VOXELS))
    pilot.append(torch.stack([rdm(session, method="euclidean") for session in noisy]))

found = ra.power(
    torch.stack(pilot),
    layers,
    n_stimuli=[12, 24, 48, 96],
    n_subjects=[5, 8, 16],
    repetitions=[1, 4],
    test="subjects",
    n_simulations=100,
    progress=True,
)
print(found.to_pandas()[["n_stimuli", "n_subjects", "repetitions", "power", "low", "high"]])
print("least for .8:", found.least(0.8))
save_figure(power_curves(found), Path(__file__).parents[1] / "docs" / "power.png")
