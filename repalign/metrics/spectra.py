"""Eigendecompositions of training kernels, which penalties and targets share."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.folds import fold_masks
from repalign.metrics.gram import centre, product, symmetric_product


class Spectrum(NamedTuple):
    """A fold's centred training kernel K = QΛQᵀ, and its test rows' kernel times Q."""

    eigenvalues: Float[Tensor, "rank"]
    train: Float[Tensor, "train rank"]
    test: Float[Tensor, "test rank"]


def eigh(
    matrix: Float[Tensor, "n n"], *, n_train: int
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "n rank"]]:
    """Return the eigenvalues that are no rounding, ascending, and their vectors."""
    if matrix.device.type == "cpu":  # numpy's LAPACK is several times faster than torch's
        values, vectors = map(torch.from_numpy, np.linalg.eigh(matrix.numpy()))
    else:
        values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1].clamp(min=0) * n_train * torch.finfo(values.dtype).eps
    return values[kept], vectors[:, kept]


def dual_eigh(
    gram: Float[Tensor, "stimulus stimulus"], test: Bool[Tensor, "stimulus"]
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "train rank"], Float[Tensor, "test rank"]]:
    """Decompose the training rows' centred kernel; also return the test rows' kernel times Q."""
    kernel, test_kernel = gram[~test][:, ~test], gram[test][:, ~test]
    means = kernel.mean(0)
    values, vectors = eigh(kernel - means - means[:, None] + means.mean(), n_train=len(kernel))
    return values, vectors, product(centre(test_kernel - means, 1), vectors)


def primal_eigh(
    x: Float[Tensor, "stimulus feature"],
    scatter: Float[Tensor, "feature feature"],
    test: Bool[Tensor, "stimulus"],
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "feature rank"], Float[Tensor, "feature"]]:
    """Decompose XᵀX of the training rows, and return their mean.

    ``scatter`` is XᵀX of all rows, which sum to zero: the test rows are subtracted from it.
    """
    held_out, n_train = x[test], len(x) - int(test.sum())
    mean = -held_out.sum(0) / n_train
    downdated = scatter - symmetric_product(held_out.mT) - n_train * mean[:, None] * mean
    values, vectors = eigh(downdated, n_train=n_train)
    return values, vectors, mean


def is_gram(prepared: Float[Tensor, "stimulus column"]) -> bool:
    """Tell the Gram matrix of many features from centred features, which are fewer than rows."""
    return prepared.shape[0] == prepared.shape[1]


def fold_spectra(
    prepared: Float[Tensor, "stimulus column"], fold: Int[Tensor, "stimulus"]
) -> Iterator[tuple[Bool[Tensor, "stimulus"], Spectrum]]:
    """Yield each fold's test rows and spectrum, without another pass over all features.

    Args:
        prepared: a Gram matrix, or column-centred features, fewer than stimuli.
        fold: fold of each stimulus.
    """
    scatter = None if is_gram(prepared) else symmetric_product(prepared.mT)
    for test in fold_masks(fold):
        if scatter is None:
            yield test, Spectrum(*dual_eigh(prepared, test))
        else:
            values, vectors, mean = primal_eigh(prepared, scatter, test)
            train, lengths = prepared[~test] - mean, values.sqrt()
            rows = product(prepared[test] - mean, vectors) * lengths
            yield test, Spectrum(values, product(train, vectors).div_(lengths), rows)


def full_spectrum(
    prepared: Float[Tensor, "stimulus column"],
) -> tuple[Float[Tensor, "rank"], Float[Tensor, "stimulus rank"], Float[Tensor, "column rank"]]:
    """Return Λ and Q of all rows' centred kernel, and the map from Q's coordinates to columns.

    The ridge solution for penalty α is ``back @ (Qᵀy / (Λ + α))``: weights of the features, or of
    the rows of a Gram matrix.
    """
    if is_gram(prepared):
        means = prepared.mean(0)
        centred = prepared - means - means[:, None] + means.mean()
        values, vectors = eigh(centred, n_train=len(prepared))
        return values, vectors, vectors
    values, vectors = eigh(symmetric_product(prepared.mT), n_train=len(prepared))
    lengths = values.sqrt()
    return values, product(prepared, vectors / lengths), vectors * lengths


def restricted(
    prepared: Float[Tensor, "stimulus column"],
    rows: Bool[Tensor, "stimulus"] | Int[Tensor, "row"],
) -> Float[Tensor, "row column"]:
    """Return what ``prepared`` is for some of the stimuli only."""
    if is_gram(prepared):
        return prepared[rows][:, rows]
    x = centre(prepared[rows], 0)
    return x if x.shape[1] < x.shape[0] else symmetric_product(x)


def spanning_columns(
    curves: Float[Tensor, "rank penalty"], *, digits: torch.dtype
) -> tuple[Float[Tensor, "rank chosen"], Float[Tensor, "chosen penalty"]]:
    """Return some of the columns, and the combinations of them that give all.

    Neighbouring penalties shrink so much alike that the predictions of all are combinations of
    those of some: of 20 in six decades about 13, to the digits of float32, and 17, of float64.
    """
    if 0 in curves.shape:
        return curves, curves.new_ones(curves.shape[1], curves.shape[1])
    from scipy.linalg import qr, solve_triangular

    array = curves.cpu().numpy()
    lengths = np.linalg.norm(array, axis=0)
    _, r, order = qr(array / lengths, mode="economic", pivoting=True)
    sizes = np.abs(np.diagonal(r))
    least = max(torch.finfo(digits).eps, 50 * np.finfo(array.dtype).eps)  # below is its rounding
    n = int((sizes > least * sizes[0]).sum())
    shares = np.empty((n, len(order)))
    shares[:, order] = (
        solve_triangular(r[:n, :n], r[:n]) * lengths[order] / lengths[order[:n], None]
    )
    return curves[:, order[:n].tolist()], torch.from_numpy(shares).to(curves.device, curves.dtype)
