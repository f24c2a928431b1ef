"""The README's figure: layers of a trained network, its untrained twin and pixels against IT.

Monkey and human inferior temporal cortex, 92 images (Kriegeskorte et al. 2008). The raw files
are looked for in the folder that REPALIGN_MIRROR names, then downloaded.

    python scripts/figure_92_images.py [FOLDER]
"""

import sys
from pathlib import Path

import repalign as ra
from repalign.reporting.figures import layer_profile, save_figure

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
MODELS = ["efficientnet_lite0", "efficientnet_lite0@random", "pixels"]

it = ra.ingest("kriegeskorte2008")
rows = []
for model in MODELS:
    layers = ra.record(model, stimuli=it)
    results = ra.compare(it, layers, ra.RSA(), ceiling=True)
    rows += results.rows()
    print(results)

FOLDER.mkdir(exist_ok=True)
save_figure(layer_profile(rows), FOLDER / "kriegeskorte2008.png")
print(f"figure: {FOLDER / 'kriegeskorte2008.png'}")
