"""Keys of results: a hash of all that can change a value, and of nothing else.

In a cell's key are

- the fingerprints of the recording (its selection is part of it) and of the layer, which hash
  their content: a card changed in its title alone changes nothing, other weights change a layer;
- the names that a row bears: dataset, species, region, subject, model, layer;
- the metric's name and all its parameters, also those left at their defaults, since a default may
  change;
- those of the inference settings that count for this metric and this number of stimuli: the
  seed is no part of a cell that draws nothing;
- the schema of results, the sha256 of the modules that compute, and the versions of torch and
  numpy: a value of other code is not served as one of this.

Noise ceilings are results of their own, one a (recording, target, metric, stimuli), since they do
not depend on the model. In no key are the order of the configuration, paths, workers, memory, or
the version of repalign, where its computing modules are the same.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from repalign.metrics import Metric
from repalign.recording import Target
from repalign.scoring import settings_that_count
from repalign.studies.metric_entries import InferenceSection

SCHEMA = 1  # of results
DIGITS = 32  # of a key: 128 bits
COMPUTING = (  # what a value depends on, beside the content of stores
    "metrics",
    "ceiling.py",
    "comparison.py",
    "inference",
    "populations.py",
    "recording.py",
    "recording_ceilings.py",
    "missing_pairs.py",
    "scoring.py",
)


@functools.cache
def code_digest() -> str:
    """sha256 of the modules that compute, and of the versions of torch and numpy."""
    import numpy as np
    import torch

    package = Path(__file__).parents[1]
    digest = sha256(f"{SCHEMA} torch {torch.__version__} numpy {np.__version__}".encode())
    for name in COMPUTING:
        path = package / name
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def digest_of(parts: Any) -> str:
    """sha256 of what JSON can hold; the order of a mapping does not count."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def describe_metric(metric: Metric) -> dict[str, Any]:
    """Name and parameters of a metric, as JSON has them."""
    parameters: Any = dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {}
    parameters = json.loads(json.dumps(parameters, default=repr))
    return {"name": metric.name, "parameters": parameters}


def metric_digest(metric: Metric, n_stimuli: int, inference: InferenceSection) -> str:
    """Of a metric with the settings that count for it."""
    settings = settings_that_count(
        metric,
        n_stimuli,
        n_resamples=inference.n_resamples,
        confidence=inference.confidence,
        null_draws=inference.null_draws,
        seed=inference.seed,
    )
    return digest_of([describe_metric(metric), settings, code_digest()])


def cell_keys(
    recording: str, targets: Sequence[Target], layer: str, metric: str
) -> dict[Target, str]:
    """Keys of the cells of one layer and metric, from the digests of what they are made of.

    Args:
        recording: digest of its name and fingerprint.
        targets: species, region and subject of each cell.
        layer: digest of its model, name and fingerprint.
        metric: from `metric_digest`.
    """
    shared = sha256(f"{recording}\n{layer}\n{metric}\n".encode())
    keys = {}
    for target in targets:
        digest = shared.copy()
        digest.update("\0".join(target).encode())
        keys[target] = digest.hexdigest()[:DIGITS]
    return keys


def ceiling_key(
    recording: str,
    target: Target,
    metric: Metric,
    stimuli: str,
    inference: InferenceSection,
    *,
    splits: bool,
) -> str:
    """Key of one noise ceiling.

    Args:
        recording: digest of its name and fingerprint.
        target: species, region and subject.
        metric: whose ceiling it is.
        stimuli: digest of the ids that count.
        inference: with the choice of a ceiling.
        splits: whether repetitions may be split, for which the seed counts.
    """
    seed = {"seed": inference.seed} if splits and inference.ceiling != "nili" else {}
    settings: Mapping[str, Any] = {"ceiling": inference.ceiling, **seed}
    parts = [recording, list(target), stimuli, describe_metric(metric), settings, code_digest()]
    return digest_of(["ceiling", *parts])[:DIGITS]
