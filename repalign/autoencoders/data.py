"""The samples of an autoencoder, streamed from a layer's store in bounded memory.

Shards are read in random order into a buffer that is shuffled; what is in memory at a time is the
buffer and two shards, however many stimuli there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from repalign.autoencoders.layout import Layout, called
from repalign.populations import Population, as_population
from repalign.recording import PRESENTATION, STIMULUS, stimulus_ids
from repalign.store import load_values

BUFFER_BYTES = 64 << 20
READ_BYTES = 1 << 20  # small shards that lie side by side are read together up to this size
PROBE_SAMPLES, PROBE_BYTES = 8192, 16 << 20  # a random part of them is kept at hand

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """Some presentations of a layer, to be read as samples.

    Args:
        activations: of one layer.
        kept: which presentations, as a mask.
        layout: what of a presentation is one sample.
    """

    activations: xr.Dataset
    kept: Array
    layout: Layout

    @property
    def n_samples(self) -> int:
        """How many samples there are."""
        return int(self.kept.sum()) * self.layout.n_positions

    def spans(self) -> list[tuple[int, int]]:
        """First and last row of each read: a shard, or several small ones that lie side by side.

        Only those that hold presentations that are kept.
        """
        response = self.activations["response"]
        row_bytes = max(1, response.shape[1] * response.dtype.itemsize)
        most = max(1, READ_BYTES // row_bytes)
        if response.chunks is None:
            stops = [*range(most, len(response), most), len(response)]
        else:
            stops = np.cumsum(response.chunks[0]).tolist()
        spans, start = [], 0
        for stop, following in zip(stops, [*stops[1:], None], strict=True):
            if following is None or following - start > most:
                spans.append((start, stop))
                start = stop
        return [(start, stop) for start, stop in spans if self.kept[start:stop].any()]

    def read(self, span: tuple[int, int]) -> Float[Tensor, "sample input"]:
        """Read one shard's samples."""
        start, stop = span
        part = self.activations["response"][start:stop]
        store = self.activations.attrs.get("store")
        values = part.values if store is None else load_values(part, str(store))
        values = values[self.kept[start:stop]].astype(np.float32, copy=False)
        if not np.isfinite(values.sum(dtype=np.float64)):
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if bad.size:
                row = start + int(np.flatnonzero(self.kept[start:stop])[bad[0]])
                raise ValueError(
                    f"{called(self.activations)} has NaN or infinite values at"
                    f" {_row_name(self.activations, row)} ({bad.size} such rows in its shard);"
                    " record the layer again, or leave these stimuli out"
                )
        return self.layout.take(torch.from_numpy(np.ascontiguousarray(values)))

    def blocks(self, order: Sequence[int] | None = None) -> Iterator[Float[Tensor, "sample input"]]:
        """Read the shards in an order, each while the one before it is used."""
        spans = self.spans()
        wanted = [spans[i] for i in (range(len(spans)) if order is None else order)]
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self.read, wanted[0]) if wanted else None
            for number in range(len(wanted)):
                assert following is not None
                block = following.result()
                if number + 1 < len(wanted):
                    following = pool.submit(self.read, wanted[number + 1])
                yield block


def _row_name(activations: xr.Dataset, row: int) -> str:
    if STIMULUS in activations.coords:
        return f"stimulus {str(activations[STIMULUS].values[row])!r}"
    return f"row {row}"


def as_layer(activations: Population) -> xr.Dataset:
    """Activations of one layer, or an array of stimulus × unit, as a dataset that is not read yet.

    Raises:
        TypeError, ValueError: it is something else.
    """
    ds = as_population(activations, "the array of activations")
    if "response" not in ds or ds["response"].dims[0] != PRESENTATION or ds["response"].ndim != 2:
        raise ValueError(
            "an autoencoder needs response(presentation, neuroid), as `repalign.record` gives it;"
            f" there are {', '.join(map(str, ds.data_vars)) or 'no variables'}"
        )
    if int(ds.attrs.get("repeats", 1)) > 1:
        raise ValueError("the array has repetitions; give stimulus × unit")
    return ds


def hold_out(
    activations: xr.Dataset, *, holdout: float, seed: int
) -> tuple[Array, Array, tuple[str, ...]]:
    """Split whole stimuli into trained and held-out ones.

    Args:
        activations: of one layer.
        holdout: share of the stimuli below 1, or their number; 0 holds none out.
        seed: of the split.

    Returns:
        Masks of trained and of held-out presentations, and the names of held-out stimuli (numbers
        of rows where they have none).

    Raises:
        ValueError: fewer stimuli than are to be held out, or none left on a side.
    """
    n_rows = activations.sizes[PRESENTATION]
    named = STIMULUS in activations.coords
    rows = [str(i) for i in (activations[STIMULUS].values if named else range(n_rows))]
    names = stimulus_ids(activations) if named else rows
    if holdout < 0 or (holdout >= 1 and holdout != int(holdout)):
        raise ValueError(f"holdout is {holdout}, expected a share below 1 or a number of stimuli")
    n_out = int(holdout) if holdout >= 1 else round(holdout * len(names))
    if n_out >= len(names) or (holdout > 0 and n_out == 0):
        raise ValueError(
            f"holdout = {holdout} of {len(names)} stimuli holds out {n_out}; at least one must be"
            " held out and one trained on: give more stimuli or another holdout (0 holds out none)"
        )
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    out = {names[i] for i in order[:n_out]}
    mask = np.array([name in out for name in rows], dtype=bool)
    return ~mask, mask, tuple(name for name in names if name in out)


def seeded(*numbers: int) -> torch.Generator:
    """A generator on the CPU that is a function of these numbers alone."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


def shuffled_batches(
    source: Source, *, batch_size: int, buffer_samples: int, seed: int, start: int = 0
) -> Iterator[Float[Tensor, "sample input"]]:
    """Yield batches of samples without end, in an order that seed and epoch decide.

    Where all samples fit into the buffer they are read once and each epoch is a permutation of
    them. Otherwise shards are read in random order; when the buffer is full, batches are drawn
    from it at random until it is half empty, and at the end of an epoch until no whole batch is
    left. Each epoch shows each sample once, but for those that are left over.

    Args:
        source: the samples.
        batch_size: samples a batch; all of them where there are fewer.
        buffer_samples: how many are kept at a time; a shard that is larger is kept whole.
        seed: of the order.
        start: the first batch that is wanted, as if all before it had been drawn; at most one
            epoch is read to get there.
    """
    size = min(batch_size, source.n_samples)
    first, passed = divmod(start, source.n_samples // size)
    whole = torch.cat(list(source.blocks())) if source.n_samples <= buffer_samples else None
    for epoch in itertools.count(first):
        generator = seeded(seed, epoch)
        if whole is None:
            drawn = _streamed(source, size, buffer_samples, generator)
        else:
            drawn = _drawn(whole, torch.randperm(len(whole), generator=generator), size, size)
        for pool, rows in itertools.islice(drawn, passed, None):
            yield pool[rows]
        passed = 0


def _drawn(pool: Tensor, order: Tensor, size: int, least: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pool and the rows of each batch, until fewer than ``least`` are left."""
    start = 0
    while len(pool) - start >= least:
        yield pool, order[start : start + size]
        start += size


def _streamed(
    source: Source, size: int, room: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch from a buffer that shards fill in random order."""
    order = torch.randperm(len(source.spans()), generator=generator).tolist()
    parts: list[Tensor] = []
    for number, block in enumerate(source.blocks(order), 1):
        parts.append(block)
        is_last = number == len(order)
        if not is_last and sum(map(len, parts)) < max(room, size):
            continue
        pool = torch.cat(parts)
        parts.clear()
        rows = torch.randperm(len(pool), generator=generator)
        least = size if is_last else max(size, room // 2)
        yield from _drawn(pool, rows, size, least)
        taken = max(0, (len(pool) - least) // size + 1) * size
        parts.append(pool[rows[taken:]])


@dataclass(frozen=True)
class Summary:
    """What one pass over the samples tells.

    Args:
        mean: of each input.
        spread: the root of the mean variance of an input.
        probe: up to ``PROBE_SAMPLES`` samples, drawn at random.
        covariance: of the inputs, where it was asked for.
    """

    mean: Float[Tensor, " input"]
    spread: float
    probe: Float[Tensor, "sample input"]
    covariance: Float[Tensor, "input input"] | None


def summarise(source: Source, *, seed: int, covariance: bool = False) -> Summary:
    """Read all samples once, in order, for their mean, their spread and a random part of them.

    Raises:
        ValueError: NaN or infinite values, or samples that are all the same.
    """
    n, d = source.n_samples, source.layout.n_inputs
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    chosen = order[: min(PROBE_SAMPLES, max(1, PROBE_BYTES // (4 * d)))].sort().values
    shift: Tensor | None = None  # a value near the mean, so that no precision is lost
    total, squares = torch.zeros(d, dtype=torch.float64), 0.0
    products = torch.zeros(d, d, dtype=torch.float64) if covariance else None
    probe, start = [], 0
    for block in source.blocks():
        inside = (chosen >= start) & (chosen < start + len(block))
        probe.append(block[chosen[inside] - start])
        start += len(block)
        shift = block.double().mean(0) if shift is None else shift
        centred = block.double() - shift
        total += centred.sum(0)
        squares += float(centred.square().sum())
        if products is not None:
            products += centred.mT @ centred
    assert shift is not None
    offset = total / n
    variance = (squares / n - float(offset.square().sum())) / d
    if not variance > 0:
        raise ValueError(
            f"{called(source.activations)} is the same for all {n} training samples: there is"
            " nothing to learn"
        )
    if products is not None:
        products = products / n - torch.outer(offset, offset)
    mean = (shift + offset).float()
    return Summary(mean, float(np.sqrt(variance)), torch.cat(probe), products)
