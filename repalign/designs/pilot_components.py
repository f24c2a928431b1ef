"""What a pilot says of new subjects: shared geometry, subjects' own deviations, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Array, as_tensor
from repalign.metrics.pairs import as_condensed, square_form, stimulus_count

MOST_DIMENSIONS = 2000  # more make no difference that a design could show


@dataclass(frozen=True)
class Components:
    """A Gaussian model of subjects' responses, estimated from RDMs.

    A subject's responses in each of ``dimensions`` directions are a draw from N(0, shared), a
    repetition adds N(0, noise · I); the kernel is their product over directions, and the RDM its
    squared distances.

    Args:
        root: of the kernel that all subjects share, ``shared = root rootᵀ``, of mean trace 1 with
            the noise of one repetition: what the layers explain, and what else is common.
        dimensions: effective number of directions; the fewer, the more subjects differ.
        noise: variance of one repetition; None where the pilot has one, so that its noise is part
            of how subjects differ.
        explained: share of the shared kernel's pattern, without its mean, that the two layers
            explain.
    """

    root: Float[Tensor, "stimulus feature"]
    dimensions: int
    noise: float | None
    explained: float


def kernels_of(rdms: Float[Tensor, "*batch pair"]) -> Float[Tensor, "*batch stimulus stimulus"]:
    """Return −½ J D J of squared distances D, with J = I − 11ᵀ/n: inner products of patterns."""
    square = square_form(rdms)
    means = square.mean(-1, keepdim=True)
    return -0.5 * (square - means - means.mT + means.mean(-2, keepdim=True))


def as_sessions(pilot: Array) -> Float[Tensor, "subject session pair"]:
    """Return RDMs of subjects, with or without sessions, condensed or square, as one tensor.

    Raises:
        ValueError: another shape, fewer than 2 subjects, missing pairs, an RDM that is constant.
    """
    rdms = as_tensor(pilot, name="pilot").detach().double().cpu()
    square = rdms.ndim >= 3 and rdms.shape[-1] == rdms.shape[-2]
    if rdms.ndim == 3 and square:  # subject × stimulus × stimulus, or as many sessions as pairs
        square = bool((rdms.diagonal(dim1=-2, dim2=-1).nan_to_num() == 0).all())
    rdms = as_condensed(rdms, name="pilot", batch_dims=rdms.ndim - (2 if square else 1))
    if rdms.ndim == 2:
        rdms = rdms[:, None]
    if rdms.ndim != 3 or len(rdms) < 2:
        raise ValueError(
            f"pilot has shape {tuple(as_tensor(pilot).shape)}; expected RDMs of 2 or more subjects:"
            " (subject, pair), or (subject, session, pair) where subjects were measured repeatedly"
        )
    missing = int(rdms.isnan().any(-1).sum())
    if missing:
        raise ValueError(f"{missing} RDMs of the pilot hold NaN; leave out the stimuli concerned")
    constant = _constant(rdms.mean(1))
    if constant:
        raise ValueError(f"the RDM of subject {constant[0]} (from 0) of the pilot is constant")
    return rdms


def as_layers(layers: Array) -> Float[Tensor, "layer pair"]:
    """Return the layers' RDMs, condensed.

    Raises:
        ValueError: another shape, missing pairs, or an RDM that is constant.
    """
    models = as_condensed(
        as_tensor(layers, name="layers").detach().double().cpu(), name="layers", batch_dims=1
    )
    if bool(models.isnan().any()):
        raise ValueError("an RDM of layers holds NaN; leave out the stimuli concerned")
    constant = _constant(models)
    if constant:
        raise ValueError(
            f"the RDM of layer {constant[0]} (from 0) is constant; nothing can be compared with it"
        )
    return models


def _constant(rdms: Float[Tensor, "row pair"]) -> list[int]:
    """Which rows do not vary, but for rounding."""
    low, high = rdms.aminmax(dim=-1)
    found: list[int] = (high - low <= 1e-12 * rdms.abs().amax(-1)).nonzero()[:, 0].tolist()
    return found


def _cross(k: Float[Tensor, "row n n"]) -> tuple[float, float]:
    """Return the mean product of different rows' kernels, and of each with itself."""
    rows = k.flatten(1)
    own = rows.square().sum()
    n = len(rows)
    return float((rows.sum(0).square().sum() - own) / (n * (n - 1))), float(own / n)


def _noise(t: float, c: float, within: float, m: int, nu: float) -> float:
    """Solve m(m + 1)σ⁴ − 2t(m + 1)σ² + c + t² − ν(within − c) = 0 for the smaller root."""
    a, half_b = m * (m + 1), t * (m + 1)
    root = math.sqrt(max(0.0, half_b**2 - a * (c + t**2 - nu * (within - c))))
    return min(max(0.0, (half_b - root) / a), t / m)


def estimate_components(pilot: Array, layers: Array) -> Components:
    """Estimate what a pilot's subjects share, how they differ and how noisy they are.

    Moments of Wishart kernels K of ν directions: with t the trace, c the mean product of different
    subjects' kernels, w that of one subject's sessions and q that of a kernel with itself,
    ``ν = (c + t²)/(q − c)``, and the noise σ² of a session solves
    ``m(m + 1)σ⁴ − 2t(m + 1)σ² + c + t² = ν(w − c)`` with m = n − 1. The shared kernel is the mean
    kernel less the noise; what the layers leave of it is shrunk to the length that different
    subjects' kernels have in common, since a mean of few subjects holds their own deviations.

    Args:
        pilot: squared Euclidean, crossnobis or correlation distances: (subject, pair), or
            (subject, session, pair), or square ones.
        layers: RDMs of the two layers.

    Raises:
        ValueError: fewer than 2 subjects, other numbers of stimuli, or NaN.

    Reference:
        Moments of the Wishart distribution: Muirhead 1982, https://doi.org/10.1002/9780470316559
    """
    rdms = as_sessions(pilot)
    models = as_layers(layers)
    if len(models) != 2 or models.shape[-1] != rdms.shape[-1]:
        raise ValueError(
            f"layers has {len(models)} RDMs of {stimulus_count(models.shape[-1])} stimuli; expected"
            f" 2 of the pilot's {stimulus_count(rdms.shape[-1])}"
        )
    kernels = kernels_of(rdms)
    traces = kernels.diagonal(dim1=-2, dim2=-1).sum(-1).mean(1)
    if bool((traces <= 0).any()):
        raise ValueError("a subject of the pilot has an RDM without any positive distances")
    kernels = kernels / traces[:, None, None, None]
    n_sessions, n = kernels.shape[1], kernels.shape[-1]
    of_subjects = kernels.mean(1)
    between, _ = _cross(of_subjects)
    own = float(kernels.flatten(2).square().sum(2).mean())
    nu = (max(between, 0.0) + 1) / max(own - between, 1 / MOST_DIMENSIONS)
    noise = None
    if n_sessions > 1:
        within = sum(_cross(one)[0] for one in kernels) / len(kernels)
        noise = _noise(1.0, between, within, n - 1, nu)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    basis = torch.stack([*kernels_of(models), centring]).flatten(1)
    basis = basis / basis.norm(dim=1, keepdim=True)
    rows = of_subjects.flatten(1)
    weights = torch.linalg.lstsq(basis.T, rows.T).solution
    fitted = (basis.T @ weights).T
    left = rows - fitted
    common, _ = _cross(left.reshape_as(of_subjects))
    mean_left = left.mean(0)
    length = float(mean_left.square().sum())
    keep = (max(common, 0.0) / length) ** 0.5 if length > 0 else 0.0
    shared = (fitted.mean(0) + min(keep, 1.0) * mean_left).reshape(n, n)
    shared = shared - (noise or 0.0) * centring
    signal = _without_mean(fitted.mean(0).reshape(n, n), centring)
    everything = _without_mean(shared, centring)
    values, vectors = torch.linalg.eigh(shared)
    kept = values > 1e-12 * values[-1]
    return Components(
        vectors[:, kept] * values[kept].sqrt(),
        int(min(max(1, round(nu)), MOST_DIMENSIONS)),
        noise,
        min(1.0, float(signal.square().sum() / everything.square().sum())),
    )


def _without_mean(kernel: Tensor, centring: Tensor) -> Tensor:
    return kernel - (kernel * centring).sum() / centring.square().sum() * centring
