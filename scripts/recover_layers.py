"""Is the layer that a simulated population was read from found again?

For each seed: new scenes, new readout, new noise. A population is read out of each of four
layers at three noise levels, and every metric picks the best of all layers. Prints one
confusion matrix a metric and noise level: rows are planted, columns are found.

    python scripts/recover_layers.py
"""

import numpy as np
import torch

import repalign as ra
from repalign.networks import preprocess
from repalign.scenes import make_scenes

NETWORK = "efficientnet_lite0"
PLANTED = ["blocks.1", "blocks.3", "blocks.5", "blocks.6"]
MEAN_COUNTS = {"low noise": 20.0, "medium noise": 5.0, "high noise": 1.0}  # spikes a presentation
SEEDS = 20
STIMULI = 64
NEUROIDS = 168
REPETITIONS = 6
METRICS = [ra.RSA(), ra.CKA(), ra.Ridge()]

network = ra.load_network(NETWORK)
candidates = list(network.layers)
confusion = {
    (metric.name, noise): np.zeros((len(PLANTED), len(candidates)), dtype=int)
    for metric in METRICS
    for noise in MEAN_COUNTS
}
reliability: dict[str, list[float]] = {noise: [] for noise in MEAN_COUNTS}

for seed in range(SEEDS):
    images = make_scenes(STIMULI, seed=seed).images
    batch = torch.stack([preprocess(image, network.preprocessing) for image in images])
    with torch.inference_mode(), ra.capture(network.module, candidates) as seen:
        network.module(batch)
    features = {name: seen[name].flatten(1) for name in candidates}
    prepared = {m.name: {name: m.prepare(f) for name, f in features.items()} for m in METRICS}
    for row, planted in enumerate(PLANTED):
        for noise, mean_count in MEAN_COUNTS.items():
            population = ra.simulate(
                features[planted].numpy(),
                n_neuroids=NEUROIDS,
                repetitions=REPETITIONS,
                mean_count=mean_count,
                seed=seed,
            )
            reliability[noise].append(float(np.median(population.reliability)))
            brain = torch.from_numpy(population.responses.mean(axis=0))
            for metric in METRICS:
                ours = metric.prepare(brain) if metric.symmetric else brain
                scores = [
                    float(metric.compare_prepared(prepared[metric.name][name], ours))
                    for name in candidates
                ]
                confusion[metric.name, noise][row, int(np.argmax(scores))] += 1
    print(f"seed {seed + 1} of {SEEDS}", flush=True)

print(f"\n{SEEDS} seeds, {STIMULI} scenes, {NEUROIDS} neuroids, {REPETITIONS} repetitions")
for (metric_name, noise), matrix in confusion.items():
    right = sum(matrix[row, candidates.index(name)] for row, name in enumerate(PLANTED))
    print(
        f"\n{metric_name}, {noise} (median reliability {np.median(reliability[noise]):.2f}):"
        f" {right} of {matrix.sum()} recovered"
    )
    print(" " * 10 + "".join(f"{name:>10}" for name in candidates))
    for name, counts in zip(PLANTED, matrix, strict=True):
        print(f"{name:10}" + "".join(f"{count:>10}" for count in counts))
