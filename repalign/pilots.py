"""A pilot recording and two layers as RDMs of the same stimuli, for the power of designs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.metrics import rdm
from repalign.metrics.pairs import condensed
from repalign.populations import parts_of, shared_stimuli
from repalign.recording import STIMULUS, is_rdm_only, response_array
from repalign.recording_ceilings import GROUP_SUBJECT


def pilot_rdms(
    recording: xr.Dataset, layers: Mapping[str, xr.Dataset], *, method: str = "correlation"
) -> tuple[Tensor, Tensor]:
    """Return RDMs of a recording's subjects and sessions, and of the layers, for the same stimuli.

    Each repetition is a session. Of subjects with more of them than others, the first ones count;
    where one subject has a single one, repetitions are averaged.

    Args:
        recording: one region's responses, or published RDMs, of 2 or more subjects.
        layers: activations of two layers to the same stimuli.
        method: dissimilarity of responses: ``correlation`` or ``euclidean``.

    Returns:
        The pilot, subject × session × pair, and the layers, layer × pair, as `repalign.power`
        takes them.

    Raises:
        ValueError: several regions, other than two layers, or fewer than 2 subjects.

    Example:
        >>> from repalign.recording import make_activations, make_recording
        >>> draw, ids = np.random.default_rng(0), list("abcdef")
        >>> y = draw.normal(size=(12, 8))
        >>> brain = make_recording(
        ...     y, stimulus_id=ids * 2, region="IT", subject=["p1"] * 4 + ["p2"] * 4
        ... )
        >>> layers = {n: make_activations(y[:6], ids, "net", n, (6, 8)) for n in ("one", "two")}
        >>> pilot, rdms = pilot_rdms(brain, layers)
        >>> pilot.shape, rdms.shape
        (torch.Size([2, 2, 15]), torch.Size([2, 15]))
    """
    if len(layers) != 2:
        raise ValueError(f"there are {len(layers)} layers; a design tells two apart")
    if method not in ("correlation", "euclidean"):
        raise ValueError(f"method is {method!r}; expected 'correlation' or 'euclidean'")
    parts = [pair for pair in parts_of(recording) if pair[0].subject != GROUP_SUBJECT]
    places = {(target.species, target.region) for target, _ in parts}
    subjects = {target.subject for target, _ in parts}
    if len(places) != 1 or len(subjects) < 2:
        found = ", ".join(" ".join(filter(None, place)) for place in sorted(places))
        raise ValueError(
            f"the pilot has {len(subjects)} subjects in {found or 'no region'}; expected 2 or more"
            " in one region: repalign.select(recording, region=...)"
        )
    matches = [shared_stimuli(recording, layer) for layer in layers.values()]
    ids = matches[0][0]
    if isinstance(ids, int) or any(other != ids for other, _ in matches):
        raise ValueError(f"the layers need the same stimuli, with ids: {matches[0][1]}")
    pilots = [_sessions(part, ids, method) for _, part in parts]
    n_sessions = min(map(len, pilots))
    if n_sessions == 1:
        pilots = [pilot.mean(0, keepdim=True) for pilot in pilots]
    of_layers = [
        rdm(response_array(layer, ids)[0].astype(np.float64), method=method)
        for layer in layers.values()
    ]
    return torch.stack([pilot[:n_sessions] for pilot in pilots]), torch.stack(of_layers)


def _sessions(part: xr.Dataset, ids: list[str], method: str) -> Tensor:
    if is_rdm_only(part):
        rows = {str(name): row for row, name in enumerate(part[STIMULUS].values)}
        order = [rows[name] for name in ids]
        squares = part["rdm"].values[:, order][:, :, order]
        return condensed(torch.from_numpy(squares.astype(np.float64)))
    responses = response_array(part, ids).astype(np.float64)
    whole = ~np.isnan(responses).any(axis=(1, 2))
    if not whole.any():
        raise ValueError("no repetition of the pilot holds all stimuli; select those that it does")
    return torch.stack([rdm(one, method=method) for one in responses[whole]])
