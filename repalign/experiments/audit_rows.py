"""The rows of the Goodhart audit: one network, many metrics, trained and held-out everything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from repalign.experiments.audit_measures import (
    Instrument,
    fewest_stimuli,
    make_instrument,
    metric_label,
)
from repalign.metrics import CKA, RSA, Metric, Procrustes, Ridge
from repalign.metrics.calls import as_tensor, check_finite, pick_device
from repalign.recording import (
    NEUROID,
    STIMULUS,
    response_array,
    stimulus_ids,
    targets,
)
from repalign.regularize.target_responses import check_target
from repalign.split_half import MINIMUM_REPEATED, has_split_half, split_half_ceiling

TRAINED, HELD_OUT = "trained", "held out"
OTHER_METRICS: tuple[Metric, ...] = (
    CKA(),
    RSA(),
    RSA(rdm="cosine", comparator="cosine"),
    Ridge(),
    Procrustes(kind="similarity"),
)
AUDITED_AS: Mapping[str, Metric] = {
    "cka": CKA(debiased=False),
    "log-cka": CKA(debiased=False),
    "debiased-cka": CKA(),
    "rsa": RSA(comparator="corr"),
    "pairwise-similarity": RSA(rdm="cosine", comparator="corr"),
    "ridge-mse": Ridge(),
    "ridge-poisson": Ridge(),
    "procrustes": Procrustes(kind="similarity"),
}
"""The metric that says how far each alignment loss was brought down."""


Activations = xr.Dataset | Float[Tensor, "stimulus *unit"] | np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Gauge:
    """One row to be: a metric on some neuroids and some stimuli, ready to meet a network."""

    fixed: Mapping[str, Any]
    ids: tuple[str, ...]
    instrument: Instrument | None


@dataclass(frozen=True)
class AlignmentPanel:
    """All that a network is compared with in a Goodhart audit, prepared once.

    Make one with `alignment_panel`.
    """

    gauges: tuple[_Gauge, ...]
    stimulus_ids: tuple[str, ...]

    def rows(
        self,
        activations: Activations,
        *,
        layer: str,
    ) -> list[dict[str, Any]]:
        """Measure one layer of one network.

        Args:
            activations: of all stimuli of the audit: a dataset with stimulus ids, as `record` and
                `layer_responses` give it, or an array in the order of ``stimulus_ids``.
            layer: how the rows call it.

        Returns:
            One row a metric, (region, subject), set of stimuli and group of neuroids. ``value`` is
            the metric's, ``null`` what it is with the stimuli shuffled, and ``above_null`` their
            difference, which the audit judges. ``without`` holds it without each tenth of the
            stimuli, which are the same in all networks, so that differences can be jackknifed.
            What is undefined is None, and ``note`` says why.

        Raises:
            ValueError: stimuli without activations, or activations that are not finite.
        """
        array = _by_stimulus(activations, self.stimulus_ids)
        place = {name: row for row, name in enumerate(self.stimulus_ids)}
        rows = []
        prepared: dict[tuple[Any, ...], Tensor] = {}  # which populations of the same stimuli share
        for gauge in self.gauges:
            row = {"layer": layer, **gauge.fixed}
            if gauge.instrument is not None:
                key = (row["metric"], gauge.ids)
                if key not in prepared:
                    chosen = array[[place[name] for name in gauge.ids]]
                    prepared[key] = gauge.instrument.prepare(chosen)
                found = gauge.instrument.measure(prepared[key])
                above = [value - found.null for value in (found.value, *found.without)]
                whole = all(map(math.isfinite, above))
                row |= {
                    "value": _defined(found.value),
                    "null": _defined(found.null),
                    "above_null": _defined(above[0]),
                    "without": above[1:] if whole else [],
                }
                if not math.isfinite(found.value):
                    row["note"] = "undefined: some responses do not vary"
            rows.append(row)
        return rows


def alignment_panel(
    recording: xr.Dataset,
    *,
    trained_metric: Metric | None,
    metrics: Sequence[Metric] | None = None,
    trained_stimuli: Sequence[str] | None = None,
    held_out_stimuli: Sequence[str] | None = None,
    trained_neuroids: Mapping[str, Any] | None = None,
    ceiling: bool = True,
    device: str | torch.device = "cpu",
) -> AlignmentPanel:
    """Prepare what networks are compared with before and after training.

    Args:
        recording: all regions and subjects to report, those trained on and others. Time bins are
            averaged.
        trained_metric: the metric that was optimised (`AUDITED_AS` names it for each alignment
            loss); None where nothing was, so that no row counts as trained.
        metrics: others to report; by default those in ``OTHER_METRICS``.
        trained_stimuli: ids of the stimuli that training saw; by default all but the held-out.
            Empty for a recording that nothing was trained on.
        held_out_stimuli: ids that it did not see; by default all but the trained.
        trained_neuroids: coordinates of the neuroids that were trained on, as in
            `repalign.select`: ``{"region": "IT", "subject": ["a", "b"]}``; None is all. They may
            match no neuroid where there are no trained stimuli.
        ceiling: add the split-half noise ceiling, where one is known.
        device: where it computes.

    Raises:
        ValueError: ids that the recording does not have or that are trained and held out, unknown
            coordinates, or no trained neuroid.

    Note:
        Ridge is cross-validated within the trained and, apart from them, within the held-out
        stimuli: a read-out that was fitted to the trained stimuli is not what is tested.
        Predictivity needs 20 stimuli here, other metrics their own minimum.
    """
    check_target(recording)
    where = pick_device(device)
    sets = _stimulus_sets(stimulus_ids(recording), trained_stimuli, held_out_stimuli)
    panel = list(OTHER_METRICS if metrics is None else metrics)
    if trained_metric is not None and trained_metric not in panel:
        panel.insert(0, trained_metric)
    gauges = []
    chosen = _trained_neuroids(recording, trained_neuroids)
    if TRAINED in sets and not chosen.any():
        raise ValueError(
            f"no neuroid of the recording has {trained_neuroids}; for a recording that nothing was"
            " trained on give trained_stimuli=[]"
        )
    for fixed, part in _groups_of_neuroids(recording, chosen):
        array = response_array(part, [name for ids in sets.values() for name in ids])
        trials = array.mean(-1) if array.ndim == 4 else array
        start = 0
        for name, ids in sets.items():
            repeats = torch.as_tensor(trials[:, start : start + len(ids)]).double().to(where)
            start += len(ids)
            complete = (~repeats.isnan().all(-1)).any(0) & ~repeats.nanmean(0).isnan().any(-1)
            known = tuple(one for one, ok in zip(ids, complete.tolist(), strict=True) if ok)
            for metric in panel:
                is_trained = metric == trained_metric
                row = fixed | {"metric": metric_label(metric), "stimuli": name}
                row |= {"trained_metric": is_trained}
                gauges.append(_gauge(row, metric, repeats[:, complete], known, ceiling=ceiling))
    return AlignmentPanel(tuple(gauges), tuple(name for ids in sets.values() for name in ids))


def rows_of_network(
    activations: Activations,
    recording: xr.Dataset,
    *,
    layer: str,
    trained_metric: Metric | None,
    **panel: Any,
) -> list[dict[str, Any]]:
    """Return the audit's rows for one network: `alignment_panel`, used once.

    Args:
        activations, layer: as in `AlignmentPanel.rows`.
        recording, trained_metric, **panel: as in `alignment_panel`.

    Example:
        >>> from repalign.recording import make_recording
        >>> x = np.random.default_rng(0).normal(size=(12, 5))
        >>> brain = make_recording(x, stimulus_id=[f"s{i}" for i in range(12)], region="IT")
        >>> rows = rows_of_network(x, brain, layer="top", trained_metric=CKA(), metrics=[])
        >>> rows[0]["metric"], round(rows[0]["value"], 6), rows[0]["stimuli"]
        ('cka', 1.0, 'trained')
    """
    made = alignment_panel(recording, trained_metric=trained_metric, **panel)
    return made.rows(activations, layer=layer)


def _gauge(
    row: dict[str, Any], metric: Metric, repeats: Tensor, ids: tuple[str, ...], *, ceiling: bool
) -> _Gauge:
    row |= {"n_stimuli": len(ids), "n_neuroids": repeats.shape[-1]}
    row |= {"is_distance": not metric.higher_is_more_similar, "ceiling": None}
    row |= {"value": None, "null": None, "above_null": None, "without": [], "note": ""}
    if len(ids) < fewest_stimuli(metric):
        row["note"] = f"{len(ids)} stimuli; {metric.name} needs {fewest_stimuli(metric)} here"
        return _Gauge(row, ids, None)
    repeated = int(((~repeats.isnan().all(-1)).sum(0) >= 2).sum())
    if ceiling and repeated >= MINIMUM_REPEATED and has_split_half(metric):
        found = split_half_ceiling(repeats, metric).value
        row["ceiling"] = None if found is None else _defined(found)
    return _Gauge(row, ids, make_instrument(metric, repeats.nanmean(0)))


def _trained_neuroids(
    recording: xr.Dataset, trained: Mapping[str, Any] | None
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    chosen = np.ones(recording.sizes[NEUROID], dtype=bool)
    for name, wanted in (trained or {}).items():
        if name not in recording.coords or recording[name].dims != (NEUROID,):
            known = [str(n) for n in recording.coords if recording[n].dims == (NEUROID,)]
            raise ValueError(f"trained_neuroids names {name!r}; the neuroids have {known}")
        values = [wanted] if isinstance(wanted, str | int | float) else list(wanted)
        texts = {str(value) for value in values}
        chosen &= np.array([str(value) in texts for value in recording[name].values])
    return chosen


def _groups_of_neuroids(
    recording: xr.Dataset, chosen: np.ndarray[Any, np.dtype[np.bool_]]
) -> Iterator[tuple[dict[str, Any], xr.Dataset]]:
    """Each (region, subject), divided into neuroids trained on and held out."""
    for target, part in targets(recording.assign_coords(_trained=(NEUROID, chosen))):
        for name, wanted in ((TRAINED, True), (HELD_OUT, False)):
            keep = part["_trained"].values == wanted
            if keep.any():
                fixed = {"region": target.region, "subject": target.subject, "neuroids": name}
                yield fixed, part.isel({NEUROID: keep})


def _stimulus_sets(
    every: list[str], trained: Sequence[str] | None, held_out: Sequence[str] | None
) -> dict[str, list[str]]:
    """Trained and held-out ids in the recording's order; each by default what the other is not."""
    given = {TRAINED: trained, HELD_OUT: held_out}
    for name, ids in given.items():
        unknown = sorted(set(ids or ()) - set(every))
        if unknown:
            raise ValueError(
                f"{len(unknown)} {name} stimuli are not in the recording, such as {unknown[0]!r}"
            )
    both = set(trained or ()) & set(held_out or ())
    if both:
        raise ValueError(
            f"{len(both)} stimuli are trained and held out, such as {sorted(both)[0]!r}; a stimulus"
            " that training saw is not held out"
        )
    if trained is None:
        given[TRAINED] = [name for name in every if name not in set(held_out or ())]
    elif held_out is None:
        given[HELD_OUT] = [name for name in every if name not in set(trained)]
    return {name: [one for one in every if one in set(ids)] for name, ids in given.items() if ids}


def _by_stimulus(activations: Any, ids: Sequence[str]) -> Float[Tensor, "stimulus unit"]:
    if isinstance(activations, xr.Dataset):
        if STIMULUS not in activations.coords:
            raise ValueError("these activations have no stimulus ids; give them, or an array")
        missing = sorted(set(ids) - set(stimulus_ids(activations)))
        if missing:
            raise ValueError(f"{len(missing)} stimuli have no activations, such as {missing[0]!r}")
        activations = response_array(activations, ids)[0]
    array = as_tensor(activations, name="activations").detach()
    if array.ndim < 2 or len(array) != len(ids):
        raise ValueError(
            f"activations has shape {tuple(array.shape)}; expected ({len(ids)}, unit): one row a"
            " stimulus of the audit"
        )
    flat = array.flatten(1).double()
    check_finite(flat, name="activations")
    return flat


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
