"""The layer of each region, and what its score can claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repalign.inference import Interval
from repalign.layer_regions.nested_choice import Disjoint
from repalign.recording import CHOSEN_ON

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

CLAIMS: dict[Disjoint, str] = {
    "stimuli": "chosen on other stimuli of the same subjects",
    "subjects": "chosen on other subjects by the same stimuli",
    "both": "chosen on other stimuli and other subjects",
}


@dataclass(frozen=True)
class RegionLayer:
    """The layer of one region.

    Args:
        region: its name.
        subjects: whose responses were averaged in scores.
        layer: the most similar one on all the data: the one to take to other data.
        value: mean held-out score of the layers that were chosen without what is held out.
        interval: of ``value``; None where none is known.
        p: of ``value`` under permuted labels of the stimuli, the choice repeated in each; None if
            not tested.
        p_family: the same, corrected by max-T for all regions.
        smallest_p: the least that the test can return.
        same_data_value: score of ``layer`` on the data that it was chosen on, which is optimistic.
        times_chosen: how often each layer was chosen, of all divisions; those never chosen are
            left out.
    """

    region: str
    subjects: tuple[str, ...]
    layer: str
    value: float
    interval: Interval | None
    p: float | None
    p_family: float | None
    smallest_p: float | None
    same_data_value: float
    times_chosen: Mapping[str, int]

    def row(self) -> dict[str, Any]:
        """Return the fields of a table."""
        low, high = (
            (None, None) if self.interval is None else (self.interval.low, self.interval.high)
        )
        return {
            "region": self.region,
            "layer": self.layer,
            "value": None if math.isnan(self.value) else self.value,
            "ci_low": low,
            "ci_high": high,
            "interval": None if self.interval is None else self.interval.kind,
            "p": self.p,
            "p_family": self.p_family,
            "smallest_p": self.smallest_p,
            "same_data_value": self.same_data_value,
            "times_chosen": dict(self.times_chosen),
            "n_subjects": len(self.subjects),
        }


@dataclass(frozen=True)
class LayerMapping:
    """The layers of all regions, as `repalign.map_layers` found them.

    Args:
        regions: one a region, in the order asked for.
        layers: names of all layers, in their order.
        model, dataset: names.
        metric, metric_parameters: what was compared.
        is_distance: whether a lower value is more similar.
        disjoint: what the choice never saw.
        folds: number of folds of the stimuli.
        n_permutations: of the test; 0: not tested.
        seed: of folds and permutations.
        stimuli: ids of the stimuli.
        fingerprints: of the recording, and of each layer.
        version: of repalign.
        note: how stimuli were matched, and what was left out.
        scores: see `to_xarray`.
    """

    regions: tuple[RegionLayer, ...]
    layers: tuple[str, ...]
    model: str
    dataset: str
    metric: str
    metric_parameters: Mapping[str, Any]
    is_distance: bool
    disjoint: Disjoint
    folds: int
    n_permutations: int
    seed: int
    stimuli: tuple[str, ...] = field(repr=False)
    fingerprints: tuple[str, Mapping[str, str]] = field(repr=False)
    version: str
    note: str = field(repr=False)
    scores: xr.Dataset = field(repr=False, compare=False)

    def __getitem__(self, region: str) -> RegionLayer:
        """Return what was found for a region."""
        for one in self.regions:
            if one.region == region:
                return one
        known = ", ".join(one.region for one in self.regions)
        raise KeyError(f"no region {region!r}; there are {known}")

    def chosen_layer(self, region: str, layers: Mapping[str, xr.Dataset]) -> xr.Dataset:
        """Return the layer of a region, marked by what it was chosen on.

        `repalign.compare` warns where such a layer is scored on the same data again.
        """
        one = self[region]
        chosen_on = {
            "dataset": self.dataset,
            "subjects": list(one.subjects),
            "stimulus_ids": list(self.stimuli),
            "n_layers": len(self.layers),
        }
        return layers[one.layer].assign_attrs({CHOSEN_ON: chosen_on})

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a region."""
        common = {
            "dataset": self.dataset,
            "model": self.model,
            "metric": self.metric,
            "metric_parameters": dict(self.metric_parameters),
            "disjoint": self.disjoint,
            "folds": self.folds,
            "n_layers": len(self.layers),
            "n_stimuli": len(self.stimuli),
            "seed": self.seed,
            "version": self.version,
        }
        return [one.row() | common for one in self.regions]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a region."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def to_xarray(self) -> xr.Dataset:
        """Return all scores by name.

        ``whole(region, layer)``: mean over subjects, on all stimuli; ``choosing`` and
        ``held_out(region, fold, layer)``: on the stimuli outside and inside each fold;
        ``times_chosen(region, layer)``; ``value``, ``p`` (region).
        """
        return self.scores

    def __str__(self) -> str:
        """Return a text table, what was held out, and the notes."""
        lines = [
            f"{'region':12} {'layer':18} {'held out':>9} {'95 % interval'[:16]:>18}"
            f" {'same data':>10} {'chosen':>9} {'p':>8}"
        ]
        for one in self.regions:
            low_high = (
                "" if one.interval is None else f"{one.interval.low:.3f} … {one.interval.high:.3f}"
            )
            total = sum(one.times_chosen.values())
            often = f"{one.times_chosen.get(one.layer, 0)} of {total}"
            p = "" if one.p is None else f"{one.p:.4f}"
            lines.append(
                f"{one.region:12} {one.layer:18} {one.value:9.3f} {low_high:>18}"
                f" {one.same_data_value:10.3f} {often:>9} {p:>8}"
            )
        return "\n".join([*lines, self.note])
