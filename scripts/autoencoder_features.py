"""Which features of a network does a simulated brain area share? Seeds, twin, PCA and units.

A small network learns digits. The simulated recording reads out *another* network that learned the
same task from other first weights: neuroids of the area "sparse" each follow one feature of that
network's autoencoder, neuroids of the area "dense" each follow a random mixture of all its units.
So the truth is known: only in "sparse" is there one feature a neuroid to be found, and only by
learned directions that both networks share. Prints two tables, and writes a figure and a page that
judges the features.

    python scripts/autoencoder_features.py [FOLDER]
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import repalign as ra
from repalign.autoencoders.files import autoencoder_features
from repalign.autoencoders.matching import match_features
from repalign.autoencoders.study import feature_study
from repalign.autoencoders.training import train_autoencoder
from repalign.reporting.feature_study_page import write_feature_study_report
from repalign.stimuli import encode_png
from repalign.tables import print_table
from repalign.training.task_data import load_task

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "autoencoder-features")
LAYER = "hidden"  # 128 units
FEATURES, K, STEPS = 192, 8, 2000
SEEDS = (0, 1, 2)
TEACHER_FEATURES = 192
EPOCHS = 12
NEUROIDS = 60  # an area
REPETITIONS, MEAN_COUNT = 4, 2.0  # spikes a presentation
PERMUTATIONS = 200

begin = time.perf_counter()
networks = {seed: ra.load_network(f"digits_cnn@random:{seed}") for seed in (0, 1)}
task = load_task("digits", preprocessing=networks[0].preprocessing)
images = torch.cat([task.train.images, task.validation.images, task.test.images])
labels = torch.cat([task.train.labels, task.validation.labels, task.test.labels])
ids = [f"digit-{i:04d}" for i in range(len(images))]
pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
stimuli = ra.Stimuli(tuple(ids), [encode_png(image) for image in pixels])
n_task = len(task.train)  # the first stimuli, which both networks learn from

layers = {}
with tempfile.TemporaryDirectory() as stores:
    layers["untrained"] = ra.record(networks[0], stimuli=stimuli, layers=LAYER, to=stores)
    for seed, network in networks.items():
        torch.manual_seed(seed)
        module = network.module.train()
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(n_task).split(64):
                loss = F.cross_entropy(module(images[batch]), labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        module.eval()
        with torch.inference_mode():
            right = (module(images[n_task:]).argmax(1) == labels[n_task:]).float().mean()
        print(f"network {seed}: {right:.1%} of unseen digits right", file=sys.stderr)
        learned = ra.Network(f"digits{seed}", module, network.preprocessing)
        name = ("trained", "teacher")[seed]
        layers[name] = ra.record(learned, stimuli=stimuli, layers=LAYER, to=stores, batch_size=128)
    acts = {name: found[LAYER].load() for name, found in layers.items()}

# the recording, from the teacher
teacher = train_autoencoder(
    acts["teacher"], features=TEACHER_FEATURES, k=K, steps=STEPS, seed=100, device="cpu"
)
planted = autoencoder_features(teacher, acts["teacher"])["response"].values
density = (planted > 0).mean(axis=0)
random = np.random.default_rng(0)
chosen = random.choice(np.flatnonzero(density > 0.01), NEUROIDS, replace=False)
rates = planted[:, chosen] * (MEAN_COUNT / planted[:, chosen].mean(axis=0))
sparse = random.poisson(rates, size=(REPETITIONS, *rates.shape))
dense = ra.simulate(
    acts["teacher"]["response"].values,
    n_neuroids=NEUROIDS,
    repetitions=REPETITIONS,
    mean_count=MEAN_COUNT,
).responses
recording = ra.make_recording(
    np.concatenate([sparse, dense], axis=2).reshape(-1, 2 * NEUROIDS),
    stimulus_id=ids * REPETITIONS,
    region=["sparse"] * NEUROIDS + ["dense"] * NEUROIDS,
    species="simulated",
    subject="digits",
    attrs={"dataset": "digits_brain"},
)

# the study
study = feature_study(
    acts["trained"],
    acts["untrained"],
    recording,
    features=FEATURES,
    k=K,
    steps=STEPS,
    seeds=SEEDS,
    permutations=PERMUTATIONS,
    device="cpu",
)
area = ra.select(recording, region="sparse")
own = match_features(
    autoencoder_features(teacher, acts["teacher"]), area, permutations=99, device="cpu"
)
found = float(np.mean(own.neuroids.partner == chosen))
print(f"check: {found:.0%} of sparse neuroids match the very feature they were read from")


def shown(row: dict) -> dict:
    return {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}


print(f"\n{len(ids)} stimuli, {NEUROIDS} neuroids an area, {PERMUTATIONS} permutations")
table = [shown(row) for row in sorted(study.rows, key=lambda row: row["area"], reverse=True)]
print_table(table, [key for key in table[0] if not key.endswith("_matched")])
print("\ncosines of directions within a network")
overlaps = [shown(row) for row in study.overlaps]
print_table(overlaps, list(overlaps[0]))

# the figure
COLOURS = {"topk": "#0072B2", "pca": "#D55E00", "units": "#555555"}
STYLES = {"trained": "-", "untrained": ":"}
WORDS = {"topk": "sparse features", "pca": "principal components", "units": "units"}
figure = Figure(figsize=(7.2, 3.1), layout="constrained")
FigureCanvasAgg(figure)
left, *panels = figure.subplots(1, 3, width_ratios=(0.8, 1, 1))
kinds = [(n, w) for n in STYLES for w in ("seeds", "PCA")]
for place, (network, against) in enumerate(kinds):
    pairs = [
        row
        for row in overlaps
        if row["first"].startswith(f"{network} topk")
        and ("pca" in row["second"]) == (against == "PCA")
    ]
    for row in pairs:
        left.plot(place, row["max_cosine"], "o", color=COLOURS["topk"], ms=5, alpha=0.7)
        left.plot(place, row["chance"], "_", color="black", ms=12)
left.set_xticks(
    range(len(kinds)), [f"{n},\n{w}" for n, w in kinds], fontsize=6.5, rotation=40, ha="right"
)
left.set_ylim(0, 1.02)
left.set_ylabel("mean max cosine", fontsize=8)
left.set_title("Directions shared (bars: chance)", fontsize=8)
for panel, name in zip(panels, ("sparse", "dense"), strict=True):
    for (where, label), matches in study.matches.items():
        if name not in where.split():
            continue
        network, kind = label.split()[0], label.split()[1].partition("-")[0]
        values = np.sort(np.nan_to_num(matches.neuroids.held_out))[::-1]
        first_seed = "seed" not in label or label.endswith(f"seed {SEEDS[0]}")
        panel.plot(
            values,
            STYLES[network],
            color=COLOURS[kind],
            lw=1.3,
            label=f"{network}: {WORDS[kind]}" if first_seed else None,
        )
    panel.axhline(0, color="black", lw=0.6)
    panel.set_ylim(-0.1, 1)
    panel.set_xlabel("neuroids, best first", fontsize=8)
    panel.set_title(f"Area “{name}”", fontsize=8)
panels[0].set_ylabel("held-out r with best match", fontsize=8)
figure.legend(
    *panels[1].get_legend_handles_labels(), fontsize=7, ncols=3, loc="outside lower center"
)
for axes in (left, *panels):
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
FOLDER.mkdir(parents=True, exist_ok=True)
figure.savefig(FOLDER / "autoencoder_features.png", dpi=200)
page = write_feature_study_report(study, FOLDER, command=f"python {' '.join(sys.argv)}")
print(f"\npage: {page}")
print(f"figure: {FOLDER / 'autoencoder_features.png'} ({time.perf_counter() - begin:.0f} s)")
