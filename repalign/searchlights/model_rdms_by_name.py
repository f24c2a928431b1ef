"""Model RDMs for a searchlight: from networks, recordings and matrices, matched by stimulus id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from repalign.metrics import RSA
from repalign.metrics.gram import in_working_precision
from repalign.metrics.pairs import MINIMUM_STIMULI, as_condensed, condensed, square_form
from repalign.metrics.rdms import RDM_METHODS, rdm
from repalign.recording import (
    STIMULUS,
    is_rdm_only,
    refuse_continuous,
    response_array,
)
from repalign.store import load_values

Model = xr.Dataset | xr.DataArray | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class NamedRDMs:
    """Model RDMs of the same stimuli.

    Args:
        names: of the models.
        rdms: condensed, (model, pair), in float64 on the CPU.
        ids: the stimuli, in order; None where rows match by order.
        note: how they were matched.
    """

    names: tuple[str, ...]
    rdms: Float[Tensor, "model pair"]
    ids: list[str] | None
    note: str


def _method_for(metric: RSA) -> str:
    """The dissimilarity of a model's patterns, which have no repetitions."""
    if metric.model_rdm is not None:
        return metric.model_rdm
    if RDM_METHODS[metric.rdm].cross_validated or metric.noise is not None:
        raise ValueError(
            f"rdm={metric.rdm!r}{'' if metric.noise is None else ' with noise'} needs repetitions,"
            " which a network has not; say how its RDM is made, such as"
            f" RSA(rdm={metric.rdm!r}, model_rdm='euclidean')"
        )
    return metric.rdm


def _matrix(model: Any, name: str) -> Float[Tensor, "stimulus stimulus"]:
    values = model.values if isinstance(model, xr.DataArray) else model
    try:
        found = in_working_precision(as_condensed(values, name=f"model {name!r}")).detach().cpu()
    except ValueError as error:
        raise ValueError(
            f"{error} An array beside a recording is an RDM; of features make one by"
            " repalign.metrics.rdm first."
        ) from error
    if bool(found.isnan().any()):
        raise ValueError(
            f"the RDM of model {name!r} lacks {int(found.isnan().sum())} pairs (NaN); leave out the"
            " stimuli concerned"
        )
    return square_form(found)


def _ids_of(model: Model, given: Sequence[str] | None) -> list[str] | None:
    if isinstance(model, xr.Dataset | xr.DataArray):
        names = model.coords
        if STIMULUS not in names:
            return None
        return list(dict.fromkeys(str(value) for value in names[STIMULUS].values))
    return None if given is None else [str(value) for value in given]


def _of_dataset(ds: xr.Dataset, ids: Sequence[str], metric: RSA, name: str) -> Tensor:
    refuse_continuous(ds, "searchlight")
    if is_rdm_only(ds):
        rows = {str(value): row for row, value in enumerate(ds[STIMULUS].values)}
        order = [rows[one] for one in ids]
        square = ds["rdm"].values.mean(axis=0)[np.ix_(order, order)]
        return in_working_precision(condensed(torch.from_numpy(square)))
    loaded = load_values(ds["response"], str(ds.attrs.get("store", name)))
    array = response_array(ds.assign({"response": (ds["response"].dims, loaded)}), ids)
    if array.ndim != 3:
        raise ValueError(f"model {name!r} has time bins; average or select one before comparing")
    return rdm(array.astype(np.float64), method=_method_for(metric)).cpu()


def matched_model_rdms(
    models: Mapping[str, Model],
    metric: RSA,
    *,
    ids: Sequence[str] | int,
    stimulus_id: Sequence[str] | None = None,
) -> NamedRDMs:
    """Return the RDMs of models for the stimuli that they all share with a recording.

    Args:
        models: by name: activations or recordings (their RDM is made), published RDMs, RDMs as
            arrays of the dimension ``stimulus_id``, or plain arrays.
        metric: how RDMs are made: ``model_rdm``, else ``rdm``.
        ids: the stimuli of the recording, or the number of its rows where they have no names.
        stimulus_id: of the rows of RDMs that are plain arrays.

    Raises:
        ValueError: no models, no shared stimuli or fewer than 3, an RDM that does not say which
            stimuli its rows are where the recording does, or one that is constant.
    """
    if isinstance(models, xr.Dataset | xr.DataArray) or not isinstance(models, Mapping):
        raise ValueError("models is no dict; give {name: RDM or activations}")
    if not models:
        raise ValueError("there are no models; give {name: RDM or activations}")
    own = {name: _ids_of(model, stimulus_id) for name, model in models.items()}
    nameless = [name for name, one in models.items() if isinstance(one, np.ndarray | Tensor)]
    if stimulus_id is not None and not nameless:
        raise ValueError(
            "stimulus_id= names the rows of models that are plain arrays; all of these say which"
            " stimuli their rows are. Leave it out"
        )
    for name, model in models.items():
        known = own[name]
        if isinstance(model, xr.DataArray) and known and len(known) < _rows(model, name):
            raise ValueError(
                f"model {name!r} has {_rows(model, name)} rows of {len(known)} different stimuli;"
                " in an RDM each stands once"
            )
    named = not isinstance(ids, int)
    for name, found in own.items():
        size = _rows(models[name], name) if found is None or not named else len(found)
        if named and found is None:
            raise ValueError(
                f"model {name!r} does not say which stimuli its {size} rows are, and rows are never"
                " matched by order with a recording that has ids; give stimulus_id="
            )
        if not named and size != ids:
            raise ValueError(
                f"model {name!r} has {size} stimuli and x has {ids}; without ids their numbers"
                " must be equal"
            )
        if found is not None and isinstance(models[name], np.ndarray | Tensor):
            rows = _rows(models[name], name)
            if rows != len(found) or len(set(found)) != len(found):
                raise ValueError(
                    f"stimulus_id has {len(set(found))} different ids; model {name!r} has {rows}"
                    " rows"
                )
    if isinstance(ids, int):
        rdms = [condensed(_matrix(model, name)) for name, model in models.items()]
        note = f"{ids} rows matched by order, since x has no stimulus ids"
        return _checked(models, rdms, None, note)
    shared = [one for one in ids if all(one in set(found or ()) for found in own.values())]
    if len(shared) < MINIMUM_STIMULI:
        others = {name: (found or [""]) for name, found in own.items()}
        name = min(others, key=lambda key: len(set(others[key]) & set(ids)))
        raise ValueError(
            f"{len(shared)} stimuli are shared by the recording ({len(ids)}, such as {ids[0]!r})"
            f" and all models; expected {MINIMUM_STIMULI} or more. Model {name!r} has"
            f" {len(others[name])}, such as {others[name][0]!r}: ids must be equal to match"
        )
    rdms = []
    for name, model in models.items():
        if isinstance(model, xr.Dataset):
            rdms.append(_of_dataset(model, shared, metric, name))
        else:
            place = {one: row for row, one in enumerate(own[name] or ())}
            order = torch.tensor([place[one] for one in shared])
            rdms.append(condensed(_matrix(model, name)[order[:, None], order]))
    most = max(len(found or ()) for found in own.values())
    note = f"{len(shared)} stimuli matched by id, of {len(ids)} in the recording and {most}"
    return _checked(models, rdms, shared, note)


def _rows(model: Model, name: str) -> int:
    if isinstance(model, xr.Dataset):
        raise ValueError(f"model {name!r} has no stimulus_id; a searchlight matches by id")
    return len(_matrix(model, name))


def _checked(
    models: Mapping[str, Model], rdms: Sequence[Tensor], ids: list[str] | None, note: str
) -> NamedRDMs:
    for name, one in zip(models, rdms, strict=True):
        if bool(one.isnan().any()) or not bool((one != one[0]).any()):
            raise ValueError(
                f"the RDM of model {name!r} is constant or undefined for these stimuli; nothing can"
                " be compared with it"
            )
    return NamedRDMs(tuple(map(str, models)), torch.stack(list(rdms)), ids, note)
