"""Responses of a recording or an array as rows, beside models of the same stimuli."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.metrics import RSA
from repalign.metrics.calls import Array, as_tensor
from repalign.recording import NEUROID, PRESENTATION, STIMULUS, refuse_continuous, stimulus_ids
from repalign.searchlights.around_neuroids import one_subject
from repalign.searchlights.local_rdms import LOCAL_METHODS
from repalign.searchlights.model_rdms_by_name import Model, NamedRDMs, matched_model_rdms
from repalign.searchlights.patterns import Design, design_of, flatten_repeats
from repalign.store import load_values

MINIMUM_CONDITIONS = 4


@dataclass(frozen=True)
class Responses:
    """Responses as rows, with what is known of rows and neuroids."""

    rows: Tensor
    design: Design
    names: list[str] | None
    about: xr.Dataset


def responses_and_models(
    recording: xr.Dataset | Array,
    models: Mapping[str, Model],
    metric: RSA,
    fold: str | None,
    stimulus_id: Sequence[str] | None,
) -> tuple[Responses, NamedRDMs]:
    """Rows and models of the same stimuli, in the same order."""
    crossed = LOCAL_METHODS[metric.rdm].cross_validated
    if not isinstance(recording, xr.Dataset):
        if fold is not None:
            raise ValueError(
                "fold= names a coordinate of a recording; repeats of an array are folds"
            )
        rows, repeats = flatten_repeats(recording)
        n = repeats[1] if repeats else len(rows)
        wanted = matched_model_rdms(models, metric, ids=n, stimulus_id=stimulus_id)
        _check_conditions(n)
        missing = rows.isnan().all(1)
        design = design_of(
            len(rows), missing, repeats=repeats, stimulus=None, fold=None, cross_validated=crossed
        )
        return Responses(rows, design, None, xr.Dataset()), wanted
    refuse_continuous(recording, "searchlight")
    if "response" not in recording or STIMULUS not in recording.coords:
        raise ValueError("the recording holds no responses to stimuli; a searchlight needs them")
    if recording["response"].ndim != 2:
        raise ValueError("the recording has time bins; average or select one before")
    one = one_subject(recording)
    wanted = matched_model_rdms(models, metric, ids=stimulus_ids(one), stimulus_id=stimulus_id)
    assert wanted.ids is not None
    _check_conditions(len(wanted.ids))
    place = {name: number for number, name in enumerate(wanted.ids)}
    shown = np.array([place.get(str(name), -1) for name in one[STIMULUS].values])
    if (shown < 0).any():
        one = one.isel({PRESENTATION: shown >= 0})
    values = load_values(one["response"], str(one.attrs.get("store", "recording")))
    rows = as_tensor(values).detach()
    missing = rows.isnan().all(1)
    lacking = np.setdiff1d(np.arange(len(wanted.ids)), shown[shown >= 0][~missing.cpu().numpy()])
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} stimuli (first: {wanted.ids[lacking[0]]!r}) have no presentation that"
            " is not NaN; leave them out"
        )
    folds = None
    if fold is not None:
        if fold not in one.coords or one[fold].dims != (PRESENTATION,):
            known = [str(c) for c in one.coords if one[c].dims == (PRESENTATION,)]
            raise ValueError(
                f"no coordinate {fold!r} of the presentations; there are {', '.join(known)}"
            )
        folds = one[fold].values
    elif crossed:
        folds = one["repetition"].values if "repetition" in one.coords else None
    design = design_of(
        len(rows),
        missing,
        repeats=None,
        stimulus=shown[shown >= 0],
        fold=folds,
        cross_validated=crossed,
    )
    named = design.presentations._replace(names=list(wanted.ids))
    design = replace(design, presentations=named)
    names = one["neuroid_id"].values.astype(str).tolist() if "neuroid_id" in one.coords else None
    about = one.drop_vars([str(v) for v in one.variables if NEUROID not in one[v].dims])
    return Responses(rows, design, names, about.drop_vars("response", errors="ignore")), wanted


def _check_conditions(n: int) -> None:
    if n < MINIMUM_CONDITIONS:
        raise ValueError(
            f"there are {n} conditions, {n * (n - 1) // 2} pairs; a searchlight needs"
            f" {MINIMUM_CONDITIONS} or more conditions that models and recording share"
        )


def noise_residuals(metric: RSA, found: Responses, residuals: Array | None) -> Tensor | None:
    """Return the residuals of which noise is estimated, checked; None: those of repetitions.

    Raises:
        ValueError: another shape, values that are not finite, or no repetitions either.
    """
    if residuals is None:
        if metric.noise is not None and found.design.residual_freedom < 1:
            raise ValueError(
                f"noise={metric.noise!r} is estimated from repetitions, and each stimulus was shown"
                " once; give residuals= of the regression, or leave out noise"
            )
        return None
    tensor = as_tensor(residuals, name="residuals").detach()
    n = found.rows.shape[1]
    if tensor.ndim != 2 or tensor.shape[1] != n or len(tensor) < 2:
        raise ValueError(
            f"residuals has shape {tuple(tensor.shape)}; expected (time, neuroid) with {n} neuroids"
        )
    if not bool(tensor.isfinite().all()):
        bad = int((~tensor.isfinite()).any(0).nonzero()[0, 0])
        name = found.names[bad] if found.names is not None else f"neuroid {bad}"
        raise ValueError(f"residuals has NaN or infinite values (first: {name})")
    return tensor


def pattern_bytes(
    found: Responses, crossed: bool, metric: RSA, noise: Tensor | None, dtype: torch.dtype
) -> int:
    """Return how many bytes ``lay_out`` will make of them."""
    shown = found.design.presentations
    columns = shown.n_stimuli * (shown.n_folds if crossed else 1)
    if metric.noise is not None:
        columns += len(found.design.rows) if noise is None else len(noise)
    return int(found.rows.shape[1] * columns * dtype.itemsize)
