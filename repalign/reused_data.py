"""Layers that were chosen on the data that they are scored on: how many stimuli, and a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


class ReusedDataWarning(UserWarning):
    """A score is reported for the data that its layer was chosen on, and is too good."""


def reuse_of(
    chosen_on: dict[str, Any], dataset: str, subjects: Iterable[str], ids: Sequence[str]
) -> str:
    """Say in a sentence what was chosen on these data; empty if nothing was.

    A layer chosen on other subjects' responses to the same stimuli was chosen on other data.

    Args:
        chosen_on: ``dataset``, ``subjects``, ``stimulus_ids`` and ``n_layers`` of the choice.
        dataset, subjects, ids: of the score.

    Example:
        >>> chosen_on = {
        ...     "dataset": "hvm", "subjects": ["Chabo"], "stimulus_ids": ["a", "b"], "n_layers": 20
        ... }
        >>> reuse_of(chosen_on, "hvm", ["Tito"], ["a", "b"])
        ''
        >>> reuse_of(chosen_on, "hvm", ["Chabo"], ["b", "c", "d"])[:72]
        'the layer was chosen from 20 on 1 of these 3 stimuli, by responses of Ch'
    """
    if chosen_on["dataset"] != dataset:
        return ""
    shared = [name for name in dict.fromkeys(subjects) if name in set(chosen_on["subjects"])]
    seen = len(set(chosen_on["stimulus_ids"]) & set(ids))
    if not shared or not seen:
        return ""
    who = f", by responses of {', '.join(filter(None, shared))}" if any(shared) else ""
    return (
        f"the layer was chosen from {chosen_on['n_layers']} on {seen} of these {len(ids)}"
        f" stimuli{who}: its score there is too good. Report a held-out one"
        " (repalign.map_layers), or score other stimuli or subjects"
    )


def warn_of_reuse(
    layer: xr.Dataset, dataset: str, subjects: Iterable[str], ids: Sequence[str]
) -> str:
    """Warn where a layer's attribute says that it was chosen on these data; return the sentence."""
    from repalign.recording import CHOSEN_ON  # reports of results import neither numpy nor xarray

    chosen_on = layer.attrs.get(CHOSEN_ON)
    said = "" if chosen_on is None else reuse_of(chosen_on, dataset, subjects, ids)
    if said:
        warnings.warn(said, ReusedDataWarning, stacklevel=5)  # who called repalign.compare
    return said
