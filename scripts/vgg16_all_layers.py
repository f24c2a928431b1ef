"""Which layer of VGG-16 is most like a recording: every layer, in a few gigabytes of memory.

All 39 layers of 2000 images take 229 GB. Here each is rotated into 2001 units with the same
RDMs and inner products, and compared with a population that was simulated from one of them.

    python scripts/vgg16_all_layers.py [STIMULI]
"""

import sys
import time

import numpy as np

import repalign as ra
from repalign.memory import PeakMemory
from repalign.rotations import rotated_layers
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png

STIMULI = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
NETWORK = "vgg16@random"  # its trained weights are downloaded: "vgg16"
LAYERS = "all"
PLANTED = "features.16"  # pool3
NEUROIDS = 100
REPETITIONS = 4
MEMORY = "4GB"
SCRATCH = None  # a folder on a fast disk; None: where the layers are kept
SCRATCH_SIZE = None  # such as "100GB"; None: half of what is free
TO = None  # where the layers are kept; None: the user's cache folder

scenes = make_scenes(STIMULI, size=224)
stimuli = ra.Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
network = ra.load_network(NETWORK)

begin = time.perf_counter()
with PeakMemory() as peak:
    layers = rotated_layers(
        network,
        stimuli=stimuli,
        layers=LAYERS,
        to=TO,
        memory=MEMORY,
        scratch=SCRATCH,
        scratch_size=SCRATCH_SIZE,
    )
print(
    f"{len(layers)} layers of {STIMULI} images in {time.perf_counter() - begin:.0f} s,"
    f" at most {peak.peak / 1e9:.2f} GB of memory (cap {MEMORY})\n"
)

features = layers[PLANTED]["response"].values
population = ra.simulate(
    features, n_neuroids=NEUROIDS, repetitions=REPETITIONS, mean_count=20.0, seed=0
)
recording = ra.make_recording(
    np.concatenate(list(population.responses)),
    stimulus_id=list(scenes.stimulus_id) * REPETITIONS,
    region="IT",
)
scores = {
    metric.name: ra.compare(recording, layers, metric, n_resamples=0, ceiling=False)
    for metric in (ra.RSA(), ra.CKA())
}
print(f"{'layer':16}{'units':>10}" + "".join(f"{name:>9}" for name in scores))
for row, (name, layer) in enumerate(layers.items()):
    units = layer.attrs.get("units", layer.sizes["neuroid"])
    values = "".join(f"{found[row].value:9.3f}" for found in scores.values())
    print(f"{name:16}{units:>10}{values}{'  <- planted' if name == PLANTED else ''}")
