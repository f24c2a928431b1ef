"""The public call: a recording and models in, maps out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from repalign import __version__
from repalign.choices import as_metric, as_whole_number
from repalign.memory import parse_size, say_size
from repalign.metrics import RSA
from repalign.metrics.calls import Array, pick_device
from repalign.metrics.comparators import comparator_named
from repalign.metrics.crossvalidated import check_folds
from repalign.progress import track
from repalign.searchlights.around_neuroids import neighbourhoods_of
from repalign.searchlights.assembled_maps import assemble_maps
from repalign.searchlights.kept_chunks import KeptChunks, check_settings, digest_of
from repalign.searchlights.local_rdms import LOCAL_METHODS
from repalign.searchlights.model_rdms_by_name import Model
from repalign.searchlights.neighbourhoods import Neighbourhoods
from repalign.searchlights.passes import (
    EmbeddedModels,
    SearchlightPass,
    most_block_bytes,
    one_thread_each,
    permuted_rdms,
)
from repalign.searchlights.patterns import check_neuroids, lay_out
from repalign.searchlights.responses import noise_residuals, pattern_bytes, responses_and_models
from repalign.store import open_store, write_store

CHUNK = 2048  # centres between two looks at the progress bar, and two writes
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def searchlight(
    recording: xr.Dataset | Array,
    models: Mapping[str, Model],
    metric: RSA | str | None = None,
    *,
    radius: float | None = None,
    neighbourhoods: Neighbourhoods | None = None,
    fold: str | None = None,
    residuals: Array | None = None,
    degrees_of_freedom: float | None = None,
    stimulus_id: Sequence[str] | None = None,
    n_permutations: int = 0,
    seed: int = 0,
    dtype: str = "float64",
    memory: str | float = "4GB",
    device: str | torch.device = "auto",
    to: str | Path | None = None,
    keep_rdms: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Compare models with the RDM of the neuroids around each voxel or vertex, all in one pass.

    The value at a centre is that of ``metric`` for the neuroids of its neighbourhood alone, with a
    covariance of noise estimated from these neuroids.

    Args:
        recording: of one subject, with coordinates of its neuroids (see ``neighbourhoods_of``); or
            an array, (stimulus, neuroid) or (repeat, stimulus, neuroid), with ``neighbourhoods``.
        models: by name: activations, recordings, published RDMs, RDMs as ``xr.DataArray`` with the
            dimension ``stimulus_id``, or plain arrays with ``stimulus_id``. Stimuli are matched by
            id; those that some model lacks are left out.
        metric: ``RSA()`` by default, or its name. ``rdm`` is correlation, cosine, euclidean,
            mahalanobis or crossnobis; ``noise`` a name in ``COVARIANCES``; any comparator.
        radius: of spheres, in mm; short for ``neighbourhoods=neighbourhoods_of(recording,
            radius=...)``.
        neighbourhoods: of the recording's neuroids.
        fold: coordinate of the presentations that says which were recorded together, such as
            ``run``; None: the first presentation of each stimulus is one fold, and so on.
        residuals: of a regression, say, (time, neuroid), from which the noise is estimated; None:
            what varies between presentations of a stimulus.
        degrees_of_freedom: of these residuals; their number less 1 if None.
        stimulus_id: of the rows of models that are plain arrays of an RDM.
        n_permutations: how many times the models' stimuli are put in random order, for
            ``test_permutations``; the maps of these are ``null``.
        seed: of the orders.
        dtype: ``float64``, or ``float32``: half the memory and about twice as fast.
        memory: most memory for patterns, blocks and maps, beside the recording.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        to: store (``NAME.zarr``) of the maps. A run that was killed goes on from
            ``NAME.zarr.part``; one that is finished is read.
        keep_rdms: also store the RDM of each centre, as ``local_rdm`` of (centre, pair).
        progress: show a progress bar on stderr.

    Returns:
        A dataset with ``similarity`` of (model, neuroid), NaN where a neuroid is no centre or its
        RDM is undefined (``left_out`` says why), ``neighbourhood_size`` of (neuroid), and ``null``
        of (permutation, model, neuroid) in float32 where it was asked for.

    Raises:
        ValueError: no neighbourhoods, an RDM method that it has not, NaN or unchanging neuroids
            (named), stimuli that do not match, too few of them, or too little memory.

    Note:
        Values equal ``RSA`` of each neighbourhood within 1e-10 in float64. In float32 RDMs are
        exact to about 1e-6 of the patterns' spread, whatever their baseline.

    Example:
        >>> from repalign.searchlights import mask_coordinates, sphere_neighbourhoods
        >>> x = np.random.default_rng(0).normal(size=(6, 64))
        >>> hoods = sphere_neighbourhoods(mask_coordinates(np.ones((4, 4, 4))), radius=1.0,
        ...                               unit="voxels", minimum=4)
        >>> maps = searchlight(x, {"same": np.corrcoef(x) * -1 + 1}, neighbourhoods=hoods)
        >>> dict(maps["similarity"].sizes)
        {'model': 1, 'neuroid': 64}

    Reference:
        Kriegeskorte, Goebel & Bandettini 2006, https://doi.org/10.1073/pnas.0600244103; on
        surfaces Oosterhof et al. 2011, https://doi.org/10.1016/j.neuroimage.2010.04.270; crossnobis
        Walther et al. 2016, https://doi.org/10.1016/j.neuroimage.2015.12.012
    """
    metric, seed = _as_rsa(metric), as_whole_number(seed, "seed")
    n_permutations = as_whole_number(n_permutations, "n_permutations")
    kind = _check_choices(metric, dtype, residuals, fold, keep_rdms, to)
    found, wanted = responses_and_models(recording, models, metric, fold, stimulus_id)
    hoods = _neighbourhoods(recording, neighbourhoods, radius, found.rows.shape[1])
    check_neuroids(found.rows, found.names)
    if kind.cross_validated:
        check_folds(found.design.presentations, method=metric.rdm)
    allowed, where = parse_size(memory), pick_device(device)
    if where.type == "mps" and dtype != "float32":
        raise ValueError("mps has no float64; use dtype='float32', or device='cpu'")
    noise = noise_residuals(metric, found, residuals)
    copies = 1 + n_permutations
    width = len(wanted.names) * copies
    settings = {
        "rsa": {key: str(value) for key, value in dataclasses.asdict(metric).items()},
        "neighbourhoods": hoods.kind,
        "members": digest_of(hoods.centre, hoods.offset, hoods.member),
        "responses": digest_of(found.rows.cpu().numpy()),
        "design": digest_of(*(one.numpy() for one in found.design.presentations[1:3])),
        "residuals": None if noise is None else digest_of(noise.cpu().numpy()),
        "degrees_of_freedom": degrees_of_freedom,
        "models": list(wanted.names),
        "model_rdms": digest_of(wanted.rdms.numpy()),
        "n_permutations": n_permutations,
        "seed": seed if n_permutations else None,
        "dtype": dtype,
        "keep_rdms": keep_rdms,
        "repalign": __version__,
    }
    if to is not None and Path(to).exists():
        done = open_store(to)
        check_settings(done.attrs["settings"], settings, Path(to))
        return done if keep_rdms else done.load()
    map_bytes = 8 * width * len(hoods) + 4 * width * hoods.n_neuroids
    expected = pattern_bytes(found, kind.cross_validated, metric, noise, DTYPES[dtype])
    taken = expected + map_bytes + hoods.member.nbytes + 8 * width * wanted.rdms.shape[1]
    if taken > allowed:
        raise ValueError(
            f"memory is {say_size(allowed)}; patterns, neighbourhoods and maps of"
            f" {hoods.n_neuroids} neuroids take {say_size(taken)}. Allow more, use"
            " dtype='float32' or fewer permutations"
        )
    patterns = lay_out(
        found.rows,
        found.design,
        cross_validated=kind.cross_validated,
        own_residuals=metric.noise is not None and noise is None,
        residuals=noise,
        freedom=degrees_of_freedom,
        shift=kind.shift,
        dtype=DTYPES[dtype],
        device=where,
    )
    every = wanted.rdms
    if n_permutations:
        shuffled = permuted_rdms(every, n_permutations=n_permutations, seed=seed)
        every = torch.cat([every, shuffled])
    embedded = EmbeddedModels.of(
        every.to(where, torch.float32 if where.type == "mps" else torch.float64),
        comparator_named(metric.comparator),
    )
    workers = torch.get_num_threads() if where.type == "cpu" else 1
    whole = SearchlightPass(patterns, hoods, embedded, metric.rdm, metric.noise, 1, workers)
    blocks = most_block_bytes(whole, memory=allowed, taken=taken)
    whole = dataclasses.replace(whole, block_bytes=blocks)
    part = None if to is None else Path(f"{to}.part")
    kept = None
    if part is not None:
        shape = (len(hoods), width, whole.n_pairs if keep_rdms else 0)
        kept = KeptChunks(part, settings, shape, chunk=CHUNK)
    values = _all_chunks(whole, kept, keep_rdms=keep_rdms, progress=progress)
    maps = assemble_maps(values, hoods, wanted, found, metric, settings, n_permutations)
    if to is None or kept is None:
        return maps
    if keep_rdms:
        maps["local_rdm"] = (("centre", "pair"), kept.rdms())
        maps = maps.assign_coords(centre_position=("centre", hoods.centre.astype(np.int64)))
    write_store(
        Path(to), {"": maps}, provenance={"made_by": "searchlight", "repalign": __version__}
    )
    kept.remove()
    done = open_store(to)
    return done if keep_rdms else done.load()


def _all_chunks(
    whole: SearchlightPass, kept: KeptChunks | None, *, keep_rdms: bool, progress: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    n = len(whole.neighbourhoods)
    values = np.empty((n, len(whole.models.embedded)) if kept is None else (0, 0))
    spans = [
        (number, start, min(start + CHUNK, n)) for number, start in enumerate(range(0, n, CHUNK))
    ]
    left = [span for span in spans if kept is None or not kept.done[span[0]]]
    done = len(spans) - len(left)
    label = f"searchlight: {n} centres" + (f", {done} of {len(spans)} chunks done" if done else "")
    with one_thread_each(whole.workers):
        for number, start, stop in track(left, label, show=progress):
            found, rdms = whole.run(start, stop, rdms=keep_rdms)
            if kept is None:
                values[start:stop] = found
            else:
                kept.write(number, found, rdms)
    return values if kept is None else kept.similarities()


def _as_rsa(metric: RSA | str | None) -> RSA:
    found = as_metric(metric)
    if not isinstance(found, RSA):
        raise ValueError(f"a searchlight compares RDMs, which {found.name} does not; use rsa")
    return found


def _check_choices(
    metric: RSA,
    dtype: str,
    residuals: Array | None,
    fold: str | None,
    keep_rdms: bool,
    to: str | Path | None,
) -> Any:
    if metric.rdm not in LOCAL_METHODS:
        raise ValueError(
            f"a searchlight has no rdm={metric.rdm!r}; it has {', '.join(LOCAL_METHODS)}"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected float64 or float32")
    if residuals is not None and metric.noise is None:
        raise ValueError(
            "residuals= tell of noise, which this metric does not use; say how its covariance is"
            f" estimated, such as RSA(rdm={metric.rdm!r}, noise='shrinkage_eye')"
        )
    kind = LOCAL_METHODS[metric.rdm]
    if fold is not None and not kind.cross_validated:
        raise ValueError(f"fold= does not apply to rdm={metric.rdm!r}; leave it out")
    if keep_rdms and to is None:
        raise ValueError("keep_rdms needs to=, the store that they are written to")
    return kind


def _neighbourhoods(
    recording: Any, given: Neighbourhoods | None, radius: float | None, n_neuroids: int
) -> Neighbourhoods:
    if (given is None) == (radius is None):
        raise ValueError("give either radius (mm) or neighbourhoods")
    if given is None:
        if not isinstance(recording, xr.Dataset):
            raise ValueError(
                "radius= needs a recording whose neuroids have coordinates; with an array give"
                " neighbourhoods=sphere_neighbourhoods(mask_coordinates(mask, affine), radius=...)"
            )
        given = neighbourhoods_of(recording, radius=radius)
    if given.n_neuroids != n_neuroids:
        raise ValueError(
            f"the neighbourhoods are of {given.n_neuroids} neuroids, and the data have"
            f" {n_neuroids}; mask and data do not fit together"
        )
    return given
