"""A recording in memory, with what was prepared of it for the layers that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import xarray as xr

from repalign.metrics import Metric
from repalign.populations import MatchedPopulation, match_population
from repalign.recording import Target, targets

KEPT_BYTES = 512 << 20  # of what is prepared; more is prepared again for each layer


@dataclass
class ReadRecording:
    """A recording, and its targets as metrics want them on the stimuli of the layers so far.

    A layer is compared with all targets, and the next one with the same: an RDM or a Gram matrix of
    the recording is computed once a worker, not once a layer.

    Args:
        ds: the recording, in memory.
    """

    ds: xr.Dataset
    _ids: list[str] | int = 0
    _kept: dict[tuple[Metric, Target], MatchedPopulation] = field(default_factory=dict)
    _bytes: int = 0

    @cached_property
    def parts(self) -> dict[Target, xr.Dataset]:
        """The recording of each target."""
        return dict(targets(self.ds))

    def preparing(
        self, wanted: Sequence[Target]
    ) -> Callable[[xr.Dataset, list[str] | int, Metric, torch.device], Sequence[MatchedPopulation]]:
        """A function that prepares these targets, as `repalign.comparison.prepare_first` all."""

        def prepare(
            _: xr.Dataset, ids: list[str] | int, metric: Metric, device: torch.device
        ) -> list[MatchedPopulation]:
            return [self._prepared(target, ids, metric, device) for target in wanted]

        return prepare

    def _prepared(
        self, target: Target, ids: list[str] | int, metric: Metric, device: torch.device
    ) -> MatchedPopulation:
        if ids != self._ids:  # of a store with other stimuli
            self._ids, self._kept, self._bytes = ids, {}, 0
        place = (metric, target)
        if place in self._kept:
            return self._kept[place]
        found = match_population(target, self.parts[target], ids, metric, device)
        found = replace(found, repeats=None)  # for ceilings, which have results of their own
        size = found.prepared.numel() * found.prepared.element_size()
        if self._bytes + size <= KEPT_BYTES:
            self._kept[place] = found
            self._bytes += size
        return found
