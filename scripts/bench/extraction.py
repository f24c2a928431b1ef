"""Recording all layers of a network beside a forward pass that keeps nothing.

In one run, interleaved, each in a process of its own (so that its peak memory is its own):

    forward                 the network alone, in the usual memory format
    forward, channels last  the same in the other format
    clone in each hook      the layers cloned while the network runs and dropped after each batch
    record float32          repalign.record, to its sealed store
    record float16          the same with dtype="float16"
    np.memmap               as many bytes as float32 takes, written through np.memmap, not computed
    thingsvision            the same layers by thingsvision, to its files of one batch each; only
                            where --thingsvision names the Python of an environment that has it

Images are decoded beforehand but for `record`, which decodes them itself. Weights are random. Times
are per image and leave imports, building the network and one warm pass aside; `record` is timed
with its trial passes, templates and seals, and "passes" is the part of it that its manifest states.
Nothing is synced to the disk.

    python scripts/bench/extraction.py                     # ResNet-18 and -50, 128 images
    python scripts/bench/extraction.py --networks resnet18 --images 64 --rounds 2
    python scripts/bench/extraction.py --thingsvision ~/thingsvision/bin/python
"""

import argparse
import json
import subprocess
import sys
import tempfile
from statistics import median

parser = argparse.ArgumentParser()
parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"])
parser.add_argument("--images", type=int, default=128)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--thingsvision", help="Python of an environment that has it")
OPTIONS = parser.parse_args()
BATCH, THREADS = 32, 2
WAYS = [
    "forward",
    "forward, channels last",
    "clone in each hook",
    "record float32",
    "record float16",
    "np.memmap",
    *(["thingsvision"] if OPTIONS.thingsvision else []),
]

CHILD = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
import repalign.activations
torch.set_num_threads(int(sys.argv[6]))
import repalign as ra
from repalign.hooks import capture
from repalign.memory import PeakMemory
from repalign.networks import preprocess
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png
model, way, n, batch, folder = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
network = ra.load_network(f"{model}@random")
module = network.module
scenes = make_scenes(n, size=224)
stimuli = ra.Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
leaves = {name for name, part in module.named_modules() if not any(part.children())}
n_units = sum(row.units for row in ra.list_layers(network) if row.name in leaves)
if way.startswith(("forward", "clone")):
    images = torch.stack([preprocess(i, network.preprocessing) for i in scenes.images])
    if way.endswith("last"):
        module = module.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
extra = {}
with PeakMemory() as memory:
    begin = time.perf_counter()
    if way.startswith("record"):
        found = ra.record(network, stimuli=stimuli, layers="all", batch_size=batch,
                          dtype=way.split()[1], to=folder, progress=False)
        store = Path(next(iter(found.values())).attrs["store"])
        extra = json.loads((store / "manifest.json").read_text())["provenance"]["run"]
    elif way == "np.memmap":
        block = np.random.default_rng(0).normal(size=(batch, n_units)).astype(np.float32)
        begin = time.perf_counter()
        out = np.memmap(f"{folder}/raw.bin", np.float32, "w+", shape=(n, n_units))
        for start in range(0, n, batch):
            out[start : start + batch] = block[: n - start]
        out.flush()
    else:
        with torch.inference_mode():
            for start in range(0, n, batch):
                if way.startswith("clone"):
                    with capture(module, ["all"]) as seen:
                        module(images[start : start + batch])
                else:
                    module(images[start : start + batch])
    seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "peak": memory.peak, "bytes": 4 * n_units * n, **{
    "passes": extra.get("seconds"), "planned": extra.get("planned_memory_bytes")}}))
"""

THINGSVISION = """
import json, resource, sys, time
import torch, torchvision
from thingsvision import get_extractor_from_model
model, _, n, batch, folder, threads = sys.argv[1:]
n, batch = int(n), int(batch)
torch.set_num_threads(int(threads))
module = torchvision.models.get_model(model).eval()
leaves = [name for name, part in module.named_modules() if not any(part.children())]
images = torch.randn(n, 3, 224, 224)
extractor = get_extractor_from_model(model=module, device="cpu", backend="pt")
with torch.inference_mode():
    module(images[:1])
begin = time.perf_counter()
extractor.extract_features(batches=images.split(batch), module_names=leaves, flatten_acts=True,
                           output_dir=folder, step_size=1)
seconds = time.perf_counter() - begin
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak, "passes": None}))
"""


def run(model: str, way: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        words = [model, way, str(OPTIONS.images), str(BATCH), folder, str(THREADS)]
        command = [sys.executable, "-c", CHILD, *words]
        if way == "thingsvision":
            command = [OPTIONS.thingsvision, "-c", THINGSVISION, *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found


for model in OPTIONS.networks:
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(OPTIONS.rounds):
        for way in WAYS:
            rows[way].append(run(model, way))
    size = rows["forward"][0]["bytes"]
    print(
        f"{model}: {OPTIONS.images} images of 224 × 224, all layers: {size / 1e9:.2f} GB as float32"
    )
    print(f"  {'':24} {'ms/image':>9} {'ratio':>6} {'passes':>7} {'peak MB':>8} {'planned':>8}")
    alone = median(one["seconds"] for one in rows["forward"])
    for way, found in rows.items():
        seconds = median(one["seconds"] for one in found)
        peak = max(one["peak"] for one in found) / 1e6
        text = f"  {way:24} {1e3 * seconds / OPTIONS.images:9.1f} {seconds / alone:6.2f}"
        if found[0]["passes"]:
            passes = median(one["passes"] for one in found) / alone
            planned = max(one["planned"] for one in found) / 1e6
            print(f"{text} {passes:7.2f} {peak:8.0f} {planned:8.0f}")
        else:
            print(f"{text} {'':7} {peak:8.0f}")
