"""All models against monkey and human IT on the 92 images, with what the comparison can claim.

Trained networks, their untrained twins, pixels and Gabor energies (Kriegeskorte et al. 2008; RSA).
The layer of each network is chosen on other stimuli than those it is scored on, within each
resample. Four pictures: models with noise ceilings, intervals and all pairs; every layer by
species; RDMs; the plane of monkey IT with the images. The raw files are looked for in the folder
that REPALIGN_MIRROR names, then downloaded; EfficientNet-Lite1 and 2 need `'.[timm]'`.

    python scripts/figure_all_models_92_images.py [FOLDER [STORES]]
"""

import sys
from pathlib import Path

import numpy as np

import repalign as ra
from repalign.metrics import rdm
from repalign.reporting.figures import save_figure
from repalign.stimuli import open_stimuli

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
STORES = sys.argv[2] if len(sys.argv) > 2 else None
NETWORKS = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
MODELS = [*NETWORKS, *(f"{name}@random" for name in NETWORKS), "pixels", "gabor_energy"]
N_RESAMPLES = 1000
METRIC = ra.RSA()  # Spearman correlation of correlation distances

it = ra.ingest("kriegeskorte2008", to=STORES)
layers = {model: ra.record(model, stimuli=it, to=STORES) for model in MODELS}

chosen = ra.infer(
    it, layers, METRIC, over="stimuli", fit="select", n_resamples=N_RESAMPLES, seed=0, progress=True
)
print(chosen)
FOLDER.mkdir(exist_ok=True)
save_figure(ra.plot_models(chosen), FOLDER / "models_92_images.png")

rows = []
for model in NETWORKS:
    rows += ra.compare(it, layers[model], METRIC, ceiling=False, n_resamples=0, null_draws=0).rows()
whole = [row for row in rows if row["species"] == "macaque" or row["subject"] != "group"]
save_figure(ra.plot_layer_region(whole), FOLDER / "layers_92_images.png")

species = {name: ra.select(it, species=name, subject="group") for name in ("macaque", "human")}
monkey, human = (one["rdm"].values[0] for one in species.values())
best = max((row for row in rows if row["species"] == "macaque"), key=lambda row: row["value"])
layer = layers[best["model"]][best["layer"]]
pixels = next(iter(layers["pixels"].values()))
shown = {
    "monkey IT": monkey,
    "human IT": human,
    f"{best['model']} {best['layer']}": rdm(layer["response"].values),
    "pixels": rdm(pixels["response"].values),
}
animate, face, human_made = (
    it[f"is_{name}"].values == 1 for name in ("animate", "face", "artiObj")
)
names = np.select([animate & face, animate, human_made], ["face", "body", "artificial"], "natural")
figure = ra.plot_rdms(shown, categories=names.tolist(), order="category")
save_figure(figure, FOLDER / "rdms_92_images.png")

figure = ra.plot_mds(monkey, images=open_stimuli(it), categories=names.tolist(), title="Monkey IT")
save_figure(figure, FOLDER / "mds_92_images.png")
print(f"figures: {FOLDER}/*_92_images.png")
