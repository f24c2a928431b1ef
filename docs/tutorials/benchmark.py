# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A benchmark from a script
#
# Which layer of a network is most like a population of neurons? We take a population whose
# answer is known: it is simulated, and reads out layer `blocks.5` of a trained EfficientNet-Lite0.
# The raw files lie in a folder as a lab would have them, so every step is that of real data. The
# weights come with repalign; nothing is downloaded.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import repalign as ra
from repalign.simulation import write_simulated_dataset

card = write_simulated_dataset("raw", n_stimuli=48, n_neuroids=80, seed=1)
print(*sorted(path.name for path in Path("raw").iterdir()))

# %% [markdown]
# ## The recording
#
# `simulated_it.toml` is the dataset card: one file that says which files there are and what they
# hold. `ingest` reads them into a Zarr store, and gives back a plain xarray dataset.

# %%
recording = ra.ingest(card, to="data")
print(dict(recording["response"].sizes))
print("repetitions:", len(set(recording["repetition"].values)))
print(recording.attrs["units"])

# %% [markdown]
# Before a network is looked at: how good is the recording? A neuroid that does not repeat itself
# cannot be predicted by anything.

# %%
quality = ra.inspect_recording(recording)
print(quality)

# %% [markdown]
# ## The networks
#
# `record` shows the stimuli of the recording to a network and keeps the activations of its layers
# in a store of the same kind. Beside the trained network stand two that ought to be worse: its
# untrained twin (the same architecture with random weights) and the pixels themselves.

# %%
models = ["efficientnet_lite0", "efficientnet_lite0@random", "pixels"]
layers = {
    model: ra.record(model, stimuli=recording, to="data", progress=False)
    for model in models
}
for name, layer in layers["efficientnet_lite0"].items():
    print(f"{name:12} {layer.sizes['neuroid']:7} units")

# %% [markdown]
# Run this cell again, and it opens the stores: what was recorded once is not recorded again, and a
# run that was killed goes on where it stopped.
#
# ## The comparison
#
# One call compares all layers. A score never stands alone: the interval is over stimuli, the null
# is what the same responses score with their stimuli shuffled, and the ceiling is what the
# noise-free population would score.

# %%
metrics = [ra.RSA(), ra.CKA(), ra.Ridge()]
results = {}
for metric in metrics:
    for model in models:
        results[metric.name, model] = ra.compare(
            recording, layers[model], metric, n_resamples=200, null_draws=10
        )
for metric in metrics:
    ceiling = results[metric.name, models[0]][0].ceiling_low
    print(f"{metric.name}, ceiling {ceiling:.3f}")
    for model in models:
        best = max(results[metric.name, model], key=lambda one: one.value)
        interval = f"[{best.ci_low:6.3f}, {best.ci_high:.3f}]"
        null = f"null {best.null_mean:6.3f}"
        print(f"  {model:26} {best.layer:8} {best.value:.3f} {interval} {null}")
assert all(
    max(results[metric.name, models[0]], key=lambda one: one.value).layer
    == "blocks.5"
    for metric in metrics
)

# %% [markdown]
# The best layer was chosen on the data that it is scored on: its value is a little too good, and
# `repalign.map_layers` scores the choice on stimuli that it never saw.
# Each metric finds the planted layer, and the trained network is far above its twin and the pixels.
# The best layer was chosen on the stimuli that its value is reported for, so that value is a little
# optimistic.
#
# ## The profile

# %% alt="Similarity of each layer by three metrics, trained network and untrained twin"
figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), constrained_layout=True)
for axis, metric in zip(axes, metrics, strict=True):
    for model in models[:2]:
        found = results[metric.name, model]
        axis.plot(
            [one.layer for one in found],
            [one.value for one in found],
            "o-",
            label=model,
        )
    axis.axhline(
        results[metric.name, models[0]][0].ceiling_low,
        color="0.6",
        linestyle=":",
    )
    axis.tick_params(axis="x", rotation=90)
    axis.set_title(metric.name)
axes[0].set_ylabel("similarity (dotted: ceiling)")
axes[0].legend(fontsize=7)
plt.show()

# %% [markdown]
# ## The report
#
# One page of HTML with the table, the figure and what to cite. It holds all that it shows and needs
# no network.

# %%
from repalign.reporting.sources import citations

rows = [row for found in results.values() for row in found.rows()]
page = ra.write_report(
    rows,
    "report",
    title="A simulated population",
    summary=None,
    provenance={"recording": recording.attrs["fingerprint"]},
    citations=citations(recording, models),
)
print(*sorted(path.name for path in page.parent.iterdir()))

# %% [markdown]
# The same from the command line, in one go:
#
# ```sh
# repalign compare raw/simulated_it.toml efficientnet_lite0 efficientnet_lite0@random pixels \
#   --metric rsa --metric cka --metric ridge --to data --out report
# ```
#
# With data of your own, the card is the only thing that changes:
# [add a dataset](../howto/dataset.md).
