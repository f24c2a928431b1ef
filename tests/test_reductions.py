"""Reductions of layers: equal to torch and scikit-learn, and written down."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim

import repalign as ra
from repalign.recording import make_activations
from repalign.reductions import (
    PrincipalComponents,
    Reduction,
    SparseProjection,
    SpatialPooling,
    reduced_layer,
)

SHAPE = (4, 6, 9)
N_STIMULI = 50


@pytest.fixture
def layer() -> xr.Dataset:
    """A lazy layer in blocks of 16 stimuli; its patterns span 10 dimensions."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N_STIMULI, 10)) @ draw.normal(size=(10, 216)) + 3
    blocks = dask.array.from_array(x.astype(np.float32), chunks=(16, -1))
    ids = [f"image-{i}" for i in range(N_STIMULI)]
    return make_activations(blocks, ids, "net", "conv", SHAPE)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    ("kind", "oracle"), [("mean", torch.nn.AdaptiveAvgPool2d), ("max", torch.nn.AdaptiveMaxPool2d)]
)
def test_pooling_is_torchs(layer: xr.Dataset, kind: str, oracle: type, size: int) -> None:
    found = reduced_layer(layer, SpatialPooling(kind, size))
    maps = torch.from_numpy(layer["response"].values).reshape(-1, *SHAPE)
    expected = oracle(size)(maps).flatten(1).numpy()
    np.testing.assert_allclose(found["response"].values, expected, rtol=1e-6)
    assert found.attrs["shape"] == [4, size, size]
    if size == 1:
        by_hand = layer["response"].values.reshape(-1, 4, 54)
        by_hand = by_hand.mean(2) if kind == "mean" else by_hand.max(2)
        np.testing.assert_allclose(found["response"].values, by_hand, rtol=1e-5)


def test_projection_is_scikit_learns_with_the_same_seed(layer: xr.Dataset) -> None:
    x = layer["response"].values
    oracle = SparseRandomProjection(n_components=30, random_state=7, dense_output=True)
    found = reduced_layer(layer, SparseProjection(30, seed=7))
    np.testing.assert_allclose(found["response"].values, oracle.fit_transform(x), atol=1e-5)
    other = reduced_layer(layer, SparseProjection(30, seed=8))
    assert np.abs(other["response"].values - found["response"].values).max() > 0.1


def test_projection_keeps_distances_within_the_error_of_johnson_and_lindenstrauss() -> None:
    error, stimuli = 0.5, 20
    components = int(johnson_lindenstrauss_min_dim(stimuli, eps=error))
    x = np.random.default_rng(0).normal(size=(stimuli, 4000))
    y = SparseProjection(components, seed=0).fit([], (4000,))(x)
    ratio = np.array(
        [
            np.sum((y[i] - y[j]) ** 2) / np.sum((x[i] - x[j]) ** 2)
            for i in range(stimuli)
            for j in range(i)
        ]
    )
    assert np.abs(ratio - 1).max() < error
    assert abs(ratio.mean() - 1) < 0.05  # unbiased
    assert int(johnson_lindenstrauss_min_dim(2000, eps=0.1)) == 6515  # the docstring's example


@pytest.mark.parametrize("batch_size", [10, 17, 50, 256])
def test_components_of_batches_are_those_of_all_stimuli(layer: xr.Dataset, batch_size: int) -> None:
    """Exactly, for as many components as the patterns span, up to each one's sign."""
    found = reduced_layer(layer, PrincipalComponents(10, batch_size))["response"].values
    expected = PCA(10, svd_solver="full").fit_transform(layer["response"].values.astype(np.float64))
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)
    rsa = ra.RSA(rdm="euclidean")
    kept = rsa(torch.from_numpy(found), torch.from_numpy(layer["response"].values))
    assert kept.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "reduction", [SpatialPooling("max", 2), SparseProjection(5, seed=3), PrincipalComponents(3)]
)
def test_what_was_done_is_written_down(layer: xr.Dataset, reduction: Reduction) -> None:
    found = reduced_layer(layer, reduction)
    assert found.attrs["reduction"] == reduction.name
    parameters = found.attrs["reduction_parameters"]
    assert type(reduction)(**parameters) == reduction
    assert found.attrs["units"] == 216
    assert found.attrs["shape_before"] == list(SHAPE)
    assert found.sizes["neuroid"] == np.prod(found.attrs["shape"])
    assert list(found["stimulus_id"].values) == list(layer["stimulus_id"].values)
    assert ra.compare(layer, found, ra.CKA(), n_resamples=0)[0].n_stimuli == N_STIMULI
    with pytest.raises(ValueError, match="was reduced before"):
        reduced_layer(found, reduction)


def test_what_does_not_fit_is_one_clear_line(layer: xr.Dataset) -> None:
    flat = layer.assign_attrs(shape=[216])
    with pytest.raises(ValueError, match=r"channels × height × width; the layer's shape is \(216"):
        reduced_layer(flat, SpatialPooling())
    with pytest.raises(ValueError, match="size is 7, and the layer has 6 × 9"):
        reduced_layer(layer, SpatialPooling(size=7))
    with pytest.raises(ValueError, match="kind of pooling"):
        SpatialPooling("median")
    with pytest.raises(ValueError, match="300 components of a layer of 216 units"):
        reduced_layer(layer, PrincipalComponents(300, 300))
    with pytest.raises(ValueError, match="60 components of 50 stimuli"):
        reduced_layer(layer, PrincipalComponents(60))
    with pytest.raises(ValueError, match="batch_size is 2, and a batch needs"):
        PrincipalComponents(3, batch_size=2)
    for kind in (SparseProjection, PrincipalComponents):
        with pytest.raises(ValueError, match="components is 0"):
            kind(0)
