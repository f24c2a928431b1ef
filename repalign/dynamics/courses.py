"""Similarity of a recording with networks in every time bin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xarray as xr
from torch import Tensor

from repalign.choices import as_metric, as_whole_number
from repalign.dynamics.ceilings_in_time import bin_ceilings
from repalign.dynamics.grids import layer_grids, stacked
from repalign.dynamics.similarities import check_metric
from repalign.dynamics.time_axes import recordings_of
from repalign.inference import Interval, bootstrap_rsa, jackknife_cka
from repalign.metrics import CKA, RSA, InnerProductMetric, Metric
from repalign.metrics.calls import pick_device
from repalign.populations import layers_of
from repalign.progress import track
from repalign.recording import STIMULUS, TIME_BIN, stimulus_ids
from repalign.recording_ceilings import CeilingChoice, ceiling_choice

NAME = "time_resolved"


def time_resolved(
    recordings: xr.Dataset | Sequence[xr.Dataset],
    models: xr.Dataset | Mapping[str, xr.Dataset],
    metric: Metric | str | None = None,
    *,
    ceiling: CeilingChoice | bool = "auto",
    n_resamples: int = 0,
    n_permutations: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> xr.Dataset:
    """Compare a recording with layers of networks in each of its time bins.

    Every value equals that of ``repalign.compare`` in the bin; RDMs or Gram matrices of all bins
    and layers are made once and compared in one product.

    Args:
        recordings: one with time bins, or several (of different subjects, say) with the same bins.
        models: activations of one layer, or a dict of layers as `repalign.record` gives it,
            of one network or of several. They have no time bins: see `repalign.cross_temporal`.
        metric: ``RSA()`` by default, or ``CKA()`` (or their names): those that compare RDMs or Gram
            matrices.
        ceiling: of each bin, as in `repalign.compare`.
        n_resamples: bootstrap samples of the stimuli for an interval of each value (CKA: more than
            0 asks for the jackknife); 0: none.
        n_permutations: permutations of the stimuli, the same in all bins, whose values are kept
            for ``time_clusters(..., over="stimuli")``; 0: none.
        confidence: of the interval.
        seed: of split halves, resamples and permutations.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over regions and subjects on stderr.

    Returns:
        A Dataset over ``target`` (a region of a subject), ``layer`` and ``time_bin``: ``value``;
        ``ceiling_low`` and ``ceiling_high`` over target and time_bin, NaN where none is known, and
        ``ceiling_undefined``, the share of split halves without signal (about half in a baseline),
        which they leave out; with resamples ``low`` and ``high``; with permutations ``null`` over
        ``draw`` too.
        ``to_dataframe()`` makes a tidy table of it.

    Raises:
        ValueError: no time bins, or one; recordings with different time axes; no shared stimuli;
            bins with NaN; patterns that are constant where the metric is then undefined; a metric
            of single units (ridge).

    Example:
        >>> from repalign.recording import make_activations, make_recording
        >>> draw = np.random.default_rng(0)
        >>> ids, layer = [f"s{i}" for i in range(12)], draw.normal(size=(12, 20))
        >>> response = draw.normal(size=(12, 20, 3))
        >>> response[..., 2] += 3 * layer
        >>> bins = ([0, 10, 20], [10, 20, 30])
        >>> meg = make_recording(response, stimulus_id=ids, region="IT", time_bins=bins)
        >>> net = make_activations(layer, ids, "net", "conv", (20,))
        >>> course = time_resolved(meg, net)
        >>> course["value"].dims, int(course["value"].argmax("time_bin").item())
        (('target', 'layer', 'time_bin'), 2)

    Reference:
        Cichy, Pantazis & Oliva 2014, https://doi.org/10.1038/nn.3635
    """
    compared, seed = check_metric(as_metric(metric), NAME), as_whole_number(seed, "seed")
    if n_resamples < 0 or n_permutations < 0:
        raise ValueError(
            f"n_resamples is {n_resamples} and n_permutations {n_permutations}; expected 0 or more"
        )
    choice = ceiling_choice(ceiling)
    every = recordings_of(recordings, NAME)
    layers = _named(layers_of(models), every[0])
    where = pick_device(device)
    grids, parts, first, second = layer_grids(
        every,
        layers,
        compared,
        NAME,
        n_permutations=n_permutations,
        seed=seed,
        device=where,
        progress=progress,
    )
    dims = ("target", "draw", "layer", TIME_BIN)
    found = grids.transpose(*dims, missing_dims="ignore")
    if n_resamples:
        ends = [
            _intervals(compared, prepared, second, n_resamples, seed, confidence)
            for prepared in track(first, f"{compared.name}: intervals", show=progress)
        ]
        for name, column in zip(("low", "high"), zip(*ends, strict=True), strict=True):
            found[name] = (("target", "layer", TIME_BIN), stacked(column))
    ceilings = bin_ceilings(parts, first, compared, choice, seed=seed, device=where)
    nothing = torch.full((len(first[0]),), torch.nan)
    for end in ("low", "high", "undefined"):
        bounds = [nothing if one is None else getattr(one, end) for one in ceilings]
        found[f"ceiling_{end}"] = (("target", TIME_BIN), stacked(bounds))
    kinds = dict.fromkeys(one.kind for one in ceilings if one is not None)
    interval = _interval_kind(compared, n_resamples, confidence) if n_resamples else ""
    return found.assign_attrs(ceiling_kind=", ".join(kinds), interval=interval)


def _named(layers: Sequence[xr.Dataset], recording: xr.Dataset) -> list[xr.Dataset]:
    """The layers, of which each must say which stimuli its rows are."""
    if not layers:
        raise ValueError(f"{NAME}: models has no layers to compare with")
    for ds in layers:
        if STIMULUS not in ds.coords:
            raise ValueError(
                f"{NAME}: {ds.attrs.get('model', 'a model')} has no stimulus ids, and the recording"
                f" has {len(stimulus_ids(recording))} stimuli; name its rows (make_activations)"
            )
        if "response" in ds and TIME_BIN in ds["response"].dims:
            raise ValueError(
                f"{NAME}: models have no time bins, but {ds.attrs.get('dataset', 'one')} has;"
                " compare two time axes with repalign.cross_temporal"
            )
    return list(layers)


def _intervals(
    metric: InnerProductMetric,
    first: Tensor,
    second: Tensor,
    n_resamples: int,
    seed: int,
    confidence: float,
) -> tuple[Tensor, Tensor]:
    """Ends of each value's interval over stimuli, layer × time: those of ``repalign.compare``."""

    def of_bin(prepared: Tensor) -> list[Interval]:
        if isinstance(metric, RSA):
            return bootstrap_rsa(
                prepared,
                second,
                comparator=metric.comparator,
                n_resamples=n_resamples,
                seed=seed,
                confidence=confidence,
            )
        if isinstance(metric, CKA):
            return [
                jackknife_cka(prepared, layer, debiased=metric.debiased, confidence=confidence)
                for layer in second
            ]
        raise ValueError(f"{NAME}: no interval is known for {metric.name}; use n_resamples=0")

    found = [of_bin(prepared) for prepared in first]
    low, high = (
        torch.tensor([[getattr(one, end) for one in row] for row in found], dtype=torch.float64)
        for end in ("low", "high")
    )
    return low.mT, high.mT


def _interval_kind(metric: Metric, n_resamples: int, confidence: float) -> str:
    drawn = "jackknife" if isinstance(metric, CKA) else f"bootstrap, {n_resamples} resamples,"
    return f"{100 * confidence:g} % {drawn} over stimuli"
