# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Recording on Dask workers
#
# Showing thousands of images to a large network takes long, and can be shared out: over processes
# of one machine, or over the workers of a Dask cluster. All write whole shards into the same
# store, so its folder must be on a disk that all of them see. What a lost worker had goes to
# another one.
#
# Here everything runs on this machine, on pictures that are drawn for the purpose, with a network
# small enough that starting the workers is most of the time.

# %%
import numpy as np

import repalign as ra
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png

scenes = make_scenes(96, seed=0, size=32)
stimuli = ra.Stimuli(
    scenes.stimulus_id, [encode_png(image) for image in scenes.images]
)
model, layers = "digits_cnn@random", ["conv2", "hidden"]

# %% [markdown]
# ## Processes of this machine
#
# `workers=2` starts two processes, which share the cores (and take a GPU each where there are
# several) and end with the call. A shard is `batch_size` stimuli.

# %%
alone = ra.record(
    model,
    stimuli=stimuli,
    layers=layers,
    to="alone",
    batch_size=8,
    progress=False,
)
shared = ra.record(
    model,
    stimuli=stimuli,
    layers=layers,
    to="shared",
    batch_size=8,
    workers=2,
    progress=False,
)
for name in layers:
    one, two = alone[name]["response"].values, shared[name]["response"].values
    print(name, one.shape, "largest difference:", np.abs(one - two).max())

# %% [markdown]
# ## A scheduler that runs already
#
# On a cluster the scheduler and its workers are started by themselves, as jobs
# ([HPC guide](../hpc/index.md)), and `record` is given the address. A local cluster stands
# for it here.

# %%
from distributed import Client, LocalCluster

cluster = LocalCluster(
    n_workers=2, threads_per_worker=1, dashboard_address=None
)
client = Client(cluster)
over_address = ra.record(
    model,
    stimuli=stimuli,
    layers=layers,
    to="cluster",
    batch_size=8,
    scheduler=cluster.scheduler_address,  # tcp://HOST:PORT; a Client works too
    progress=False,
)
print({name: dict(layer.sizes) for name, layer in over_address.items()})

# %% [markdown]
# From the command line: `repalign record MODEL --stimuli DATASET --scheduler tcp://HOST:8786
# --to /shared/data`.
#
# ## Resuming
#
# Finished shards stay when a run is killed; the same call does the rest. What is finished is only
# opened, whichever way it was recorded.

# %%
import time

begin = time.perf_counter()
again = ra.record(
    model, stimuli=stimuli, layers=layers, to="cluster", scheduler=client
)
print("opened, not recorded:", time.perf_counter() - begin < 5)

# %% [markdown]
# ## Comparing on the workers
#
# A task needs to carry no more than the path of a store. Each comparison below is a task: a worker
# opens both stores itself, and sends back a row of the result table.

# %%
layer = alone["hidden"]["response"].values
population = ra.simulate(layer, n_neuroids=60, repetitions=4, seed=0)
n_repetitions, n_stimuli, n_neuroids = population.responses.shape
recording = ra.make_recording(
    population.responses.reshape(-1, n_neuroids),
    stimulus_id=list(stimuli.ids) * n_repetitions,
    region="IT",
    species="simulated",
)
saved = ra.save_recording(recording, "brain.zarr", stimuli=stimuli)
brain = saved.attrs["store"]


def compare_stores(brain, layer, metric):
    """One row, from two paths."""
    import repalign as ra

    return ra.compare(
        ra.open_store(brain), ra.open_store(layer), metric, device="cpu"
    ).rows()[0]


tasks = [
    client.submit(
        compare_stores, brain, over_address[name].attrs["store"], metric
    )
    for metric in (ra.RSA(), ra.CKA())
    for name in layers
]
for row in client.gather(tasks):
    value, ceiling = row["value"], row["ceiling_low"]
    print(
        f"{row['metric']:4} {row['layer']:7} {value:.3f}, ceiling {ceiling:.3f}"
    )

# %%
client.close()
cluster.close()

# %% [markdown]
# The tasks of a real cluster should take seconds, not milliseconds: put several metrics, or several
# layers of a network, into one.
