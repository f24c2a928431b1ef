"""Bootstrapped RSA beside rsatoolbox: same run, interleaved, same dtype and threads.

python scripts/bench/inference.py
"""

import warnings

import numpy as np
import torch
from timing import side_by_side

from repalign.inference import bootstrap_rsa

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox

SAMPLES = 200
MODELS = 20
random = np.random.default_rng(0)

print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float64")
pairs = 92 * 91 // 2
brain, models = random.random(pairs), random.random((MODELS, pairs))
fixed = [
    rsatoolbox.model.ModelFixed(f"m{i}", rsatoolbox.rdm.RDMs(model[None]))
    for i, model in enumerate(models)
]
for ours, theirs in (("cosine", "cosine"), ("pearson", "corr"), ("spearman", "spearman")):
    side_by_side(
        f"bootstrap over stimuli, {ours}, 92 stimuli, {MODELS} models, {SAMPLES} samples",
        {
            "rsatoolbox": lambda t=theirs: rsatoolbox.inference.eval_bootstrap_pattern(
                fixed, rsatoolbox.rdm.RDMs(brain[None]), method=t, N=SAMPLES
            ),
            "repalign": lambda o=ours: bootstrap_rsa(
                torch.from_numpy(brain), torch.from_numpy(models), comparator=o, n_resamples=SAMPLES
            ),
        },
        repeats=3,
    )
