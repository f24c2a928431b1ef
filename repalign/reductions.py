"""Fewer units of a layer: pooled over positions, projected at random, or its principal components.

Each changes what is compared, and says so in the attributes of the layer it gives. (A rotation,
`repalign.rotations`, changes nothing that most metrics see.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from repalign.metrics.comparators import check_choice
from repalign.recording import NEUROID, PRESENTATION
from repalign.shards import row_blocks

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Callable[[Array], Array]

POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": adaptive_avg_pool2d,
    "max": adaptive_max_pool2d,
}


class Reduction(Protocol):
    """Parameters of a reduction, and how it is fitted."""

    name: ClassVar[str]

    def fit(self, batches: Iterable[Array], shape: Sequence[int]) -> Rows:
        """Return what turns rows of units into rows of fewer units.

        Args:
            batches: all responses, (stimulus, unit) some rows at a time; read once at most.
            shape: of one stimulus' response.
        """

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of one stimulus' reduced response."""


@dataclass(frozen=True)
class SpatialPooling:
    """The mean or the maximum over positions of each channel: channels × height × width → channels.

    Args:
        kind: ``mean`` or ``max``.
        size: leave size × size positions, each over its part of the map.

    Raises:
        ValueError: another kind, a size below 1 or above the map's, or a layer without positions.

    Note:
        Parts are those of torch's adaptive pooling: they overlap where ``size`` does not divide the
        height or width. Where a feature lies is lost, all of it with size 1.

    Example:
        >>> pool = SpatialPooling("max").fit([], (2, 1, 3))
        >>> pool(np.float32([[1, 5, 2, 0, 0, 7]]))
        array([[5., 7.]], dtype=float32)
    """

    kind: str = "mean"
    size: int = 1

    name: ClassVar[str] = "spatial-pooling"

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_choice(self.kind, POOLS, "kind of pooling")
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected 1 or more positions a side")

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return channels, height and width after pooling."""
        if len(shape) != 3:
            raise ValueError(
                f"spatial pooling needs channels × height × width; the layer's shape is"
                f" {tuple(shape)}. Choose a convolutional layer, or another reduction"
            )
        if self.size > min(shape[1:]):
            raise ValueError(f"size is {self.size}, and the layer has {shape[1]} × {shape[2]}")
        return (shape[0], self.size, self.size)

    def fit(self, batches: Iterable[Array], shape: Sequence[int]) -> Rows:
        """Return the pooling of rows; no batch is read."""
        self.shape(shape)

        def pool(rows: Array) -> Array:
            maps = torch.from_numpy(np.ascontiguousarray(rows)).reshape(len(rows), *shape)
            pooled: Array = POOLS[self.kind](maps, self.size).flatten(1).numpy()
            return pooled

        return pool


@dataclass(frozen=True)
class SparseProjection:
    """A sparse random projection, which keeps distances of patterns within a known error.

    ``x ↦ Rx`` with R of entries ±√(s/k) with probability 1/(2s) each and 0 otherwise, s = √p.
    Johnson and Lindenstrauss: with k ≥ 4 ln n / (ε²/2 − ε³/3) components the squared distances of
    all n patterns are within 1 ± ε of what they were, with high probability; for 2000 stimuli
    and ε = .1, k = 6515.

    Args:
        components: their number k.
        seed: of R.

    Raises:
        ValueError: fewer than 1 component.

    Note:
        Distances to the origin and inner products are kept to an error of the same kind, relative
        to the lengths; correlations over units are not those of the layer.

    Example:
        >>> project = SparseProjection(200, seed=1).fit([], (5000,))
        >>> x = np.random.default_rng(0).normal(size=(2, 5000))
        >>> y = project(x)
        >>> y.shape, bool(0.7 < np.sum((y[0] - y[1]) ** 2) / np.sum((x[0] - x[1]) ** 2) < 1.3)
        ((2, 200), True)

    Reference:
        Li, Hastie & Church 2006, https://doi.org/10.1145/1150402.1150436
    """

    components: int
    seed: int = 0

    name: ClassVar[str] = "sparse-projection"

    def __post_init__(self) -> None:
        """Check the number of components."""
        _check_components(self.components)

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the number of components."""
        return (self.components,)

    def fit(self, batches: Iterable[Array], shape: Sequence[int]) -> Rows:
        """Return the projection of rows, which depends on their length and the seed alone."""
        from sklearn.random_projection import SparseRandomProjection

        units = int(np.prod(shape, dtype=np.int64))
        projection = SparseRandomProjection(
            n_components=self.components, random_state=self.seed, dense_output=True
        )
        projection.fit(np.broadcast_to(np.zeros(1), (1, units)))
        return lambda rows: np.asarray(projection.transform(rows))


@dataclass(frozen=True)
class PrincipalComponents:
    """The leading principal components over stimuli, from batches (incremental PCA).

    Args:
        components: their number; at most the number of stimuli, and of units.
        batch_size: stimuli at a time, at least as many as components.

    Raises:
        ValueError: fewer than 1 component, or more than stimuli or units.

    Note:
        Where the patterns span more than ``components`` dimensions, what a batch adds beyond them
        is dropped, so that the components are close to those of all stimuli, not the same. Memory
        is about 3 · (batch_size + components) · units numbers.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(40, 3)) @ np.ones((3, 50))
        >>> scores = PrincipalComponents(1, batch_size=10).fit([x], (50,))(x)
        >>> bool(np.isclose(scores.var(), x.var(0).sum()))
        True

    Reference:
        Ross, Lim, Lin & Yang 2008, https://doi.org/10.1007/s11263-007-0075-7
    """

    components: int
    batch_size: int = 256

    name: ClassVar[str] = "principal-components"

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_components(self.components)
        if self.batch_size < self.components:
            raise ValueError(
                f"batch_size is {self.batch_size}, and a batch needs at least as many stimuli as"
                f" there are components ({self.components})"
            )

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the number of components."""
        units = int(np.prod(shape, dtype=np.int64))
        if self.components > units:
            raise ValueError(f"{self.components} components of a layer of {units} units")
        return (self.components,)

    def fit(self, batches: Iterable[Array], shape: Sequence[int]) -> Rows:
        """Return the projection of rows on the components of all batches."""
        from sklearn.decomposition import IncrementalPCA

        self.shape(shape)
        components = IncrementalPCA(n_components=self.components)
        for batch in regrouped(batches, self.batch_size, at_least=self.components):
            if len(batch) < self.components:
                raise ValueError(
                    f"{self.components} components of {len(batch)} stimuli; ask for fewer"
                )
            components.partial_fit(batch)
        return lambda rows: np.asarray(components.transform(rows))


def regrouped(batches: Iterable[Array], size: int, *, at_least: int) -> Iterator[Array]:
    """Yield the same rows ``size`` at a time, the last ones with those before if they are few.

    Example:
        >>> rows = np.arange(7)[:, None]
        >>> [len(one) for one in regrouped([rows[:3], rows[3:]], 3, at_least=2)]
        [3, 4]
    """
    held = np.empty((0, 0))
    for batch in batches:
        held = np.concatenate([held, batch]) if len(held) else batch
        while len(held) >= size + at_least:
            yield held[:size]
            held = held[size:]
    if len(held):
        yield held


def reduced_layer(layer: xr.Dataset, reduction: Reduction) -> xr.Dataset:
    """Reduce recorded activations some rows at a time.

    Args:
        layer: activations of one layer, as `repalign.record` gives them.
        reduction: ``SpatialPooling``, ``SparseProjection``, ``PrincipalComponents``, or an object
            like them.

    Returns:
        The activations of fewer units, in memory, with the same coordinates of stimuli;
        ``attrs`` say which reduction with what parameters, and the shape and number of units
        before it.

    Raises:
        ValueError: the layer was reduced before, or does not fit the reduction.

    Example:
        >>> from repalign.recording import make_activations
        >>> maps = np.arange(24, dtype=np.float32).reshape(2, 12)
        >>> layer = make_activations(maps, ["a", "b"], "net", "conv", (3, 2, 2))
        >>> reduced_layer(layer, SpatialPooling())["response"].values
        array([[ 1.5,  5.5,  9.5],
               [13.5, 17.5, 21.5]], dtype=float32)
    """
    if "reduction" in layer.attrs:
        raise ValueError(
            f"layer {layer.attrs.get('layer')} was reduced before ({layer.attrs['reduction']});"
            " reduce the layer as it was recorded"
        )
    shape = layer.attrs["shape"]
    after = reduction.shape(shape)
    rows = reduction.fit(row_blocks(layer["response"]), shape)
    values = np.concatenate([rows(block) for block in row_blocks(layer["response"])])
    parameters = asdict(reduction)  # type: ignore[call-overload]
    attrs = {key: value for key, value in layer.attrs.items() if key not in _OF_THE_STORE}
    attrs |= {
        "shape": list(after),
        "reduction": reduction.name,
        "reduction_parameters": parameters,
        "units": int(np.prod(shape, dtype=np.int64)),
        "shape_before": list(shape),
    }
    kept = layer.drop_vars("response").drop_dims(NEUROID, errors="ignore")
    return kept.assign(response=((PRESENTATION, NEUROID), values)).assign_attrs(attrs)


_OF_THE_STORE = ("store", "fingerprint")


def _check_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"components is {components}, expected 1 or more")
