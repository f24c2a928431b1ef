"""Scores of layers that were committed to, on other data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
import xarray as xr

from repalign.comparison import compare
from repalign.layer_regions.commitments import Commitment
from repalign.recording import select, stimulus_ids
from repalign.recording_ceilings import CeilingChoice
from repalign.results import Comparison, Comparisons
from repalign.reused_data import ReusedDataWarning, reuse_of


def score_commitment(
    commitment: Commitment,
    recording: xr.Dataset,
    layers: Mapping[str, xr.Dataset],
    *,
    ceiling: CeilingChoice | bool = "auto",
    n_resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> Comparisons:
    """Score the layers that were committed to, on these data.

    Args:
        commitment: from `read_commitment`.
        recording: with the commitment's regions, or some of them.
        layers: activations of the same network to these stimuli; all, or those committed to.
        ceiling, n_resamples, confidence, seed, device: as in `repalign.compare`.

    Returns:
        The comparisons of each region with its layer; the note says which regions are missing.

    Raises:
        ValueError: none of the regions, a layer that is missing, or activations of another network.

    Warns:
        ReusedDataWarning: the layers were chosen on these subjects' responses to these stimuli.
    """
    metric = commitment.built_metric()
    shared = committed_regions(commitment, recording)
    results: list[Comparison] = []
    notes: dict[str, None] = {}
    for region in shared:
        name = commitment.layers[region]
        if name not in layers:
            raise ValueError(f"layer {name!r} of region {region!r} is missing; record it")
        model = str(layers[name].attrs.get("model", commitment.model))
        if model != commitment.model:
            raise ValueError(
                f"the commitment is about {commitment.model!r}, these are of {model!r}"
            )
        part = select(recording, region=region)
        found = compare(
            part,
            {name: layers[name]},
            metric,
            ceiling=ceiling,
            n_resamples=n_resamples,
            confidence=confidence,
            seed=seed,
            device=device,
        )
        results += found
        notes[found.note] = None
        said = _reused(commitment, region, part, layers[name])
        if said:
            warnings.warn(f"{region}: {said}", ReusedDataWarning, stacklevel=2)
            notes[f"{region}: {said}"] = None
        else:
            notes |= dict.fromkeys(_same_stimuli(commitment, region, part, layers[name]))
    missing = [region for region in commitment.layers if region not in shared]
    if missing:
        notes[f"not recorded here: {', '.join(missing)}"] = None
    return Comparisons(tuple(results), "; ".join(notes))


def committed_regions(commitment: Commitment, recording: xr.Dataset) -> list[str]:
    """Regions of a recording for which a layer was chosen.

    Raises:
        ValueError: none.
    """
    known = set(map(str, recording["region"].values)) if "region" in recording.coords else set()
    shared = [region for region in commitment.layers if region in known]
    if not shared:
        raise ValueError(
            f"the commitment is about {', '.join(commitment.layers)}; the recording has"
            f" {', '.join(sorted(known)) or 'no regions'}"
        )
    return shared


def _same_stimuli(
    commitment: Commitment, region: str, part: xr.Dataset, layer: xr.Dataset
) -> list[str]:
    """What is to be known of stimuli that chose the layer in other subjects."""
    ids = set(stimulus_ids(part)) & set(stimulus_ids(layer))
    again = ids & set(commitment.chosen_on.stimuli)
    if not again or str(part.attrs.get("dataset", "recording")) != commitment.chosen_on.dataset:
        return []
    return [
        f"{region}: {len(again)} of these {len(ids)} stimuli chose the layer in other subjects:"
        " what the subjects share by these stimuli is no new evidence"
    ]


def _reused(commitment: Commitment, region: str, part: xr.Dataset, layer: xr.Dataset) -> str:
    of_layer = set(stimulus_ids(layer))
    ids = [name for name in stimulus_ids(part) if name in of_layer]
    chosen_on = {
        "dataset": commitment.chosen_on.dataset,
        "subjects": commitment.chosen_on.subjects.get(region, []),
        "stimulus_ids": commitment.chosen_on.stimuli,
        "n_layers": len(commitment.candidates),
    }
    subjects = [str(name) for name in part["subject"].values]
    dataset = str(part.attrs.get("dataset", "recording"))
    return reuse_of(chosen_on, dataset, subjects, ids)
