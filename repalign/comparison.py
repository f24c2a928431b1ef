"""Compare two recordings, a recording and a network, two networks, or two arrays.

Stimuli are matched by id, never by row order; only plain arrays (and features without ids)
match by row, and the result says so.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign import __version__
from repalign.ceiling import Ceiling, nili_ceiling, split_half_ceiling
from repalign.inference import (
    Interval,
    bootstrap_predictions,
    bootstrap_rsa,
    jackknife_cka,
)
from repalign.metrics import CKA, RSA, Metric, Ridge
from repalign.metrics.predictivity import fold_scores, median_of_defined
from repalign.metrics.rdms import condensed
from repalign.networks import pick_device
from repalign.progress import track
from repalign.recording import (
    IMAGE_HASH,
    STIMULUS,
    Target,
    is_rdm_only,
    response_array,
    stimulus_ids,
    targets,
)
from repalign.store import load_values

if TYPE_CHECKING:
    import pandas as pd

Population = xr.Dataset | np.ndarray[Any, Any] | Tensor
CeilingChoice = Literal["auto", "split-half", "nili", "none"]
GROUP_SUBJECT = "group"


@dataclass(frozen=True)
class Comparison:
    """One score: a (species, region, subject) against one layer of one model.

    ``ceiling_low`` and ``ceiling_high`` bound what a perfect model would score (see
    `repalign.ceiling`), ``ci_low`` and ``ci_high`` the value over other stimuli (see
    `repalign.inference`). ``p`` is None until tested.
    """

    dataset: str
    species: str | None
    region: str | None
    subject: str | None
    model: str
    layer: str | None
    metric: str
    metric_parameters: Mapping[str, Any]
    value: float
    ceiling_kind: str | None
    ceiling_low: float | None
    ceiling_high: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n_stimuli: int
    n_neuroids: int | None
    seed: int
    version: str
    fingerprints: tuple[str, str] = field(default=("", ""), repr=False)

    def row(self) -> dict[str, Any]:
        """Return the fields of a result table, without the fingerprints; JSON can hold it."""
        row = dataclasses.asdict(self)
        del row["fingerprints"]
        row["metric_parameters"] = json.loads(json.dumps(row["metric_parameters"]))
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }


@dataclass(frozen=True)
class Comparisons(Sequence[Comparison]):
    """The results of one call: a sequence of comparisons, and how their stimuli were matched."""

    results: tuple[Comparison, ...]
    note: str = ""

    def __getitem__(self, index: Any) -> Any:
        """Return one comparison, or several as a tuple."""
        return self.results[index]

    def __len__(self) -> int:
        """Return the number of comparisons."""
        return len(self.results)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a comparison."""
        return [comparison.row() for comparison in self.results]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a comparison."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def best(self) -> Comparison:
        """Return the comparison with the highest value.

        It was chosen on the data that it is reported for, so its value is optimistic.
        """
        return max(self.results, key=lambda c: -math.inf if math.isnan(c.value) else c.value)

    def __str__(self) -> str:
        """Return a text table and the note."""
        lines = [
            f"{'target':32} {'model':28} {'layer':14} {'metric':6} {'value':>7}"
            f" {'95 % interval':>16} {'ceiling':>16}"
        ]
        for c in self.results:
            target = " ".join(filter(None, (c.dataset, c.species, c.region, c.subject)))
            lines.append(
                f"{target:32} {c.model:28} {c.layer or '':14} {c.metric:6} {c.value:7.3f}"
                f" {_pair(c.ci_low, c.ci_high):>16} {_pair(c.ceiling_low, c.ceiling_high):>16}"
            )
        return "\n".join([*lines, self.note])


def _pair(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} … {high:.3f}"


def compare(
    first: Population,
    second: Population | Mapping[str, xr.Dataset],
    metric: Metric | None = None,
    *,
    ceiling: CeilingChoice | bool = "auto",
    n_resamples: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Comparisons:
    """Compare a recording with a network, another recording, or an array with an array.

    Args:
        first: what is to be explained: a recording, activations, or an array of shape
            (stimulus, neuroid) or (repetition, stimulus, neuroid).
        second: what explains it: activations of one layer, a dict of layers as
            `repalign.record` gives it, another recording, or an array. Ridge predicts
            ``first`` from ``second``; RSA and CKA are symmetric.
        metric: ``RSA()`` by default; any object like those in `repalign.metrics`.
        ceiling: ``auto`` takes split-half where there are repetitions, else, for RSA, the
            bounds over subjects (``nili``) where there are two or more; True is ``auto`` and
            False is ``none``.
        n_resamples: bootstrap samples of stimuli for the interval; None chooses as many of 1000
            as stay quick and 0 leaves the interval out. CKA has a jackknife interval instead.
        confidence: of the interval.
        seed: of the resamples and of the split halves.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over layers on stderr.

    Returns:
        One comparison a (species, region, subject) of ``first`` and layer of ``second``.

    Raises:
        ValueError: no shared stimuli, too few of them, a metric that needs responses where only
            RDMs were published, or patterns for which the metric is undefined.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(20, 5))
        >>> compare(x, x @ np.ones((5, 3)) + x[:, :3], RSA(), n_resamples=0)[0].n_stimuli
        20
    """
    metric = RSA() if metric is None else metric
    choice: CeilingChoice = (
        ("auto" if ceiling else "none") if isinstance(ceiling, bool) else ceiling
    )
    if choice not in ("auto", "split-half", "nili", "none"):
        raise ValueError(f"ceiling {choice!r}; expected auto, split-half, nili or none")
    if n_resamples is not None and n_resamples < 0:
        raise ValueError(f"n_resamples is {n_resamples}, expected 0 or more")
    first = as_population(first, "first")
    seconds = _layers(second)
    if not seconds:
        raise ValueError("second has no layers to compare with")
    ids, note = _shared_stimuli(first, seconds[0])
    where = pick_device(device)
    brains = [_population(t, ds, ids, metric, where) for t, ds in targets(_labelled(first))]
    models: list[_Population] = []
    for ds in track(seconds, f"{metric.name}: preparing {len(seconds)} layers", show=progress):
        other, other_note = _shared_stimuli(first, ds)
        if other != ids:
            raise ValueError(f"the layers were recorded on different stimuli: {note}; {other_note}")
        models += [
            _population(t, part, ids, metric, where, predicts=True)
            for t, part in targets(_labelled(ds))
        ]
    results = []
    for brain in track(brains, f"{metric.name}: comparing", show=progress):
        bounds = _ceiling(brain, brains, metric, choice, seed)
        scores = _scores(brain, models, metric, n_resamples, confidence, seed)
        for model, (value, interval) in zip(models, scores, strict=True):
            results.append(_comparison(brain, model, metric, value, interval, bounds, seed))
    return Comparisons(tuple(results), note)


# ---- the two sides ----


@dataclass(frozen=True)
class _Population:
    """One population on the shared stimuli, in the form the metric needs."""

    target: Target
    dataset: str
    is_network: bool
    fingerprint: str
    prepared: Tensor
    repeats: Tensor | None
    n_neuroids: int | None
    ids: Sequence[str]


def as_population(
    population: Population, name: str = "array", stimulus_id: Sequence[str] | None = None
) -> xr.Dataset:
    """A plain array as a dataset, whose rows have no names unless they are given.

    Args:
        population: shape (stimulus, neuroid) or (repetition, stimulus, neuroid); a repetition
            that is NaN in every neuroid is missing. A Dataset is given back as it is.
        name: how results and errors call it.
        stimulus_id: ids of the rows.

    Raises:
        TypeError, ValueError: no numbers, another shape, or values that are not finite.
    """
    if isinstance(population, xr.Dataset):
        return population
    array = population.detach().cpu().numpy() if isinstance(population, Tensor) else population
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}; expected a Dataset or an array")
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} is an array of {array.dtype} with shape {array.shape}; expected numbers of"
            " shape (stimulus, neuroid) or (repetition, stimulus, neuroid)"
        )
    stacked = array if array.ndim == 3 else array[None]
    repeats, rows, units = stacked.shape
    finite = np.isfinite(stacked)
    missing = np.isnan(stacked).all(axis=2) if repeats > 1 else np.zeros((repeats, rows), bool)
    bad = np.flatnonzero((~finite.all(axis=2) & ~missing).any(axis=0) | missing.all(axis=0))
    if bad.size:
        raise ValueError(f"{name} has NaN or infinite values in {bad.size} rows (first {bad[0]})")
    ds = xr.Dataset(
        {"response": (("presentation", "neuroid"), stacked.reshape(repeats * rows, units))},
        attrs={"kind": "array", "dataset": name, "repeats": repeats},
    )
    if stimulus_id is None:
        return ds
    ids = np.array(list(stimulus_id) * repeats, dtype=object)
    return ds.assign_coords({STIMULUS: ("presentation", ids)})


def _layers(second: Population | Mapping[str, xr.Dataset]) -> list[xr.Dataset]:
    """The layers of a dict, or the one population that was given; a Dataset is a mapping too."""
    if isinstance(second, Mapping) and not isinstance(second, xr.Dataset):
        layers: Mapping[str, xr.Dataset] = second
        return list(layers.values())
    return [as_population(second, "second")]


def _labelled(ds: xr.Dataset) -> xr.Dataset:
    """Give activations and arrays the neuroid coordinates that recordings have."""
    if is_rdm_only(ds) or "region" in ds.coords:
        return ds
    empty = np.full(ds.sizes["neuroid"], "", dtype=object)
    return ds.assign_coords(dict.fromkeys(("species", "region", "subject"), ("neuroid", empty)))


def _shared_stimuli(first: xr.Dataset, second: xr.Dataset) -> tuple[list[str] | int, str]:
    """The stimuli of both sides, or the number of rows where names are missing; and a note."""
    named = STIMULUS in first.coords, STIMULUS in second.coords
    if all(named):
        ours, theirs = stimulus_ids(first), stimulus_ids(second)
        shared = set(theirs)
        ids = [name for name in ours if name in shared]
        if not ids:
            raise ValueError(
                f"no shared stimuli: one side has {len(ours)} such as {ours[0]!r}, the other"
                f" {len(theirs)} such as {theirs[0]!r}; ids must be equal to match"
            )
        _check_images(first, second, ids)
        return ids, f"{len(ids)} stimuli matched by id, of {len(ours)} and {len(theirs)}"
    counts = [
        len(stimulus_ids(ds))
        if has
        else ds.sizes["presentation"] // int(ds.attrs.get("repeats", 1))
        for ds, has in zip((first, second), named, strict=True)
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{counts[0]} rows against {counts[1]}: without stimulus ids rows match by order, so"
            " their numbers must be equal"
        )
    return counts[0], f"{counts[0]} rows matched by order, since one side has no stimulus ids"


def _check_images(first: xr.Dataset, second: xr.Dataset, ids: Sequence[str]) -> None:
    """Equal ids must stand for equal images, where both sides have them."""
    if IMAGE_HASH not in first.coords or IMAGE_HASH not in second.coords:
        return
    ours, theirs = (
        dict(zip(ds[STIMULUS].values, ds[IMAGE_HASH].values, strict=True)) for ds in (first, second)
    )
    differ = [name for name in ids if ours[name] != theirs[name]]
    if differ:
        raise ValueError(
            f"{len(differ)} of {len(ids)} shared stimulus ids (first {differ[0]!r}) stand for"
            " different images; give each image an id of its own in a stimuli table"
        )


def _population(
    target: Target,
    ds: xr.Dataset,
    ids: list[str] | int,
    metric: Metric,
    device: torch.device,
    *,
    predicts: bool = False,
) -> _Population:
    attrs = ds.attrs
    is_network = attrs.get("kind") == "activations"
    name = str(attrs.get("model", "")) if is_network else str(attrs.get("dataset", "recording"))
    if is_network:
        target = Target("", str(attrs.get("layer", "")), "")
    common: dict[str, Any] = {
        "target": target,
        "dataset": name,
        "is_network": is_network,
        "fingerprint": str(attrs.get("fingerprint", "")),
    }
    store = str(attrs.get("store", name))
    variable = "rdm" if is_rdm_only(ds) else "response"
    ds = ds.assign({variable: (ds[variable].dims, load_values(ds[variable], store))})
    if is_rdm_only(ds):
        if metric.needs_responses or not isinstance(metric, RSA):
            raise ValueError(
                f"{name} holds published RDMs only; {metric.name} needs responses of single"
                " neuroids: use metric rsa"
            )
        wanted = ids if isinstance(ids, list) else stimulus_ids(ds)
        rows = {str(name): row for row, name in enumerate(ds[STIMULUS].values)}
        order = [rows[name] for name in wanted]
        square = ds["rdm"].values.mean(axis=0)[np.ix_(order, order)]  # sessions are averaged
        rdm = condensed(_tensor(square, device))
        return _Population(**common, prepared=rdm, repeats=None, n_neuroids=None, ids=wanted)
    if isinstance(ids, list):
        names: Sequence[str] = ids
        array = response_array(ds, ids)
    else:
        names = stimulus_ids(ds) if STIMULUS in ds.coords else [f"row {i}" for i in range(ids)]
        array = (
            response_array(ds, names)
            if STIMULUS in ds.coords
            else ds["response"].values.reshape(-1, ids, ds.sizes["neuroid"])
        )
    if array.ndim != 3:
        raise ValueError(f"{name} has time bins; average or select one before comparing")
    average = array[0] if len(array) == 1 else np.nanmean(array, axis=0)
    _check_patterns(average, names, metric, f"{name} {' '.join(filter(None, target))}".strip())
    responses = _tensor(average, device)
    prepared = responses
    if isinstance(metric, RSA | CKA) or (isinstance(metric, Ridge) and predicts):
        prepared = metric.prepare(responses)
    repeats = None if len(array) == 1 or predicts else _tensor(array, device)
    return _Population(
        **common, prepared=prepared, repeats=repeats, n_neuroids=array.shape[2], ids=names
    )


def _tensor(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    if array.dtype not in (np.float32, np.float64) or device.type == "mps":
        array = array.astype(np.float32 if device.type == "mps" else np.float64)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _check_patterns(
    responses: np.ndarray[Any, Any], ids: Sequence[str], metric: Metric, name: str
) -> None:
    """Say which stimuli have no correlation distance, instead of answering NaN."""
    if not (isinstance(metric, RSA) and metric.rdm == "correlation"):
        return
    constant = np.flatnonzero(responses.max(axis=1) == responses.min(axis=1))
    if constant.size:
        named = ", ".join(repr(ids[i]) for i in constant[:3])
        raise ValueError(
            f"{name}: the responses to {len(constant)} stimuli ({named}) are the same in all"
            f" {responses.shape[1]} neuroids, so their correlation distance is undefined; use"
            " the Euclidean distance (rsa:rdm=euclidean)"
        )


# ---- values, intervals, ceilings ----

Scores = Iterator[tuple[float, Interval | None]]


def _scores(
    brain: _Population,
    models: Sequence[_Population],
    metric: Metric,
    n_resamples: int | None,
    confidence: float,
    seed: int,
) -> Scores:
    for kind, scores in SCORES.items():
        if isinstance(metric, kind):
            return scores(metric, brain, models, n_resamples, confidence, seed)
    return ((float(metric(model.prepared, brain.prepared)), None) for model in models)


def _rsa_scores(
    metric: RSA,
    brain: _Population,
    models: Sequence[_Population],
    n_resamples: int | None,
    confidence: float,
    seed: int,
) -> Scores:
    values = [float(metric.compare_rdms(brain.prepared, model.prepared)) for model in models]
    intervals: Sequence[Interval | None] = [None] * len(models)
    if n_resamples != 0:
        intervals = bootstrap_rsa(
            brain.prepared,
            torch.stack([model.prepared for model in models]),
            comparator=metric.comparator,
            n_resamples=n_resamples,
            seed=seed,
            confidence=confidence,
        )
    return iter(list(zip(values, intervals, strict=True)))


def _cka_scores(
    metric: CKA,
    brain: _Population,
    models: Sequence[_Population],
    n_resamples: int | None,
    confidence: float,
    seed: int,
) -> Scores:
    del seed  # the jackknife draws nothing
    for model in models:
        value = float(metric.compare_prepared(brain.prepared, model.prepared))
        interval = None
        if n_resamples != 0 and len(brain.prepared) >= (5 if metric.debiased else 3):
            interval = jackknife_cka(
                brain.prepared, model.prepared, debiased=metric.debiased, confidence=confidence
            )
        yield value, interval


def _ridge_scores(
    metric: Ridge,
    brain: _Population,
    models: Sequence[_Population],
    n_resamples: int | None,
    confidence: float,
    seed: int,
) -> Scores:
    for model in models:
        predictions, fold = metric.predict_prepared(model.prepared, brain.prepared)
        value = float(median_of_defined(fold_scores(predictions, brain.prepared, fold)))
        interval = None
        if n_resamples != 0:
            interval = bootstrap_predictions(
                predictions,
                brain.prepared,
                fold,
                n_resamples=1000 if n_resamples is None else n_resamples,
                seed=seed,
                confidence=confidence,
            )
        yield value, interval


SCORES: dict[type, Callable[..., Scores]] = {
    RSA: _rsa_scores,
    CKA: _cka_scores,
    Ridge: _ridge_scores,
}


def _individuals(brain: _Population, brains: Sequence[_Population]) -> list[_Population]:
    """All individual subjects of a brain's species and region."""
    return [
        other
        for other in brains
        if other.target[:2] == brain.target[:2] and other.target.subject != GROUP_SUBJECT
    ]


def _repeated(repeats: Tensor) -> int:
    """Number of stimuli with two or more repetitions."""
    shown = ~torch.isnan(repeats).all(dim=2)
    return int((shown.sum(dim=0) >= 2).sum())


def _ceiling(
    brain: _Population,
    brains: Sequence[_Population],
    metric: Metric,
    choice: CeilingChoice,
    seed: int,
) -> Ceiling | None:
    peers = _individuals(brain, brains)
    among_subjects = (
        isinstance(metric, RSA) and len(peers) > 1 and brain.target.subject != GROUP_SUBJECT
    )
    if choice == "none":
        return None
    if choice == "split-half" and brain.repeats is None:
        raise ValueError(
            f"{brain.dataset}: a split-half ceiling needs 2 or more repetitions; use nili or none"
        )
    if choice == "nili" and not isinstance(metric, RSA):
        raise ValueError(f"the ceiling over subjects compares RDMs; {metric.name} has none")
    if choice == "nili" and not any(_individuals(other, brains)[1:] for other in brains):
        raise ValueError(
            f"{brain.dataset}: a ceiling over subjects needs 2 or more individual subjects of one"
            " species and region; use split-half or none"
        )
    if brain.repeats is not None and choice == "split-half":
        return split_half_ceiling(brain.repeats, metric, seed=seed)
    if brain.repeats is not None and choice == "auto" and _repeated(brain.repeats) >= 4:
        return split_half_ceiling(brain.repeats, metric, seed=seed)
    if not among_subjects or not isinstance(metric, RSA):
        return None
    lower, upper = nili_ceiling(
        torch.stack([peer.prepared for peer in peers]), comparator=metric.comparator
    )
    place = next(i for i, peer in enumerate(peers) if peer is brain)
    return Ceiling("nili", float(lower[place]), float(upper[place]), n_subjects=len(peers))


def _comparison(
    brain: _Population,
    model: _Population,
    metric: Metric,
    value: float,
    interval: Interval | None,
    ceiling: Ceiling | None,
    seed: int,
) -> Comparison:
    parameters = dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {}
    if interval is not None:
        parameters["interval"] = f"{interval.kind} ({interval.n_resamples})"
    if brain.n_neuroids is None:
        parameters["first"] = "published RDM, as it is"
    layer = model.target.region if model.is_network else " ".join(filter(None, model.target))
    return Comparison(
        dataset=brain.dataset,
        species=("network" if brain.is_network else brain.target.species) or None,
        region=brain.target.region or None,
        subject=brain.target.subject or None,
        model=model.dataset,
        layer=layer or None,
        metric=metric.name,
        metric_parameters=parameters,
        value=value,
        ceiling_kind=None if ceiling is None else ceiling.kind,
        ceiling_low=None if ceiling is None else ceiling.low,
        ceiling_high=None if ceiling is None else ceiling.high,
        ci_low=None if interval is None else interval.low,
        ci_high=None if interval is None else interval.high,
        p=None,
        n_stimuli=len(brain.ids),
        n_neuroids=brain.n_neuroids,
        seed=seed,
        version=__version__,
        fingerprints=(brain.fingerprint, model.fingerprint),
    )
