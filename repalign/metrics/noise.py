"""The covariance of noise over neuroids, and its inverse, from residuals of repetitions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_tensor, check_finite
from repalign.metrics.comparators import check_choice
from repalign.metrics.gram import in_working_precision, symmetric_product
from repalign.metrics.presentations import Labels, Repeated, as_presentations, averages

Residuals = Float[Tensor, "*batch residual neuroid"]


def _full(residuals: Residuals, dof: float) -> Tensor:
    return symmetric_product(residuals.mT) / dof


def _diagonal(residuals: Residuals, dof: float) -> Tensor:
    return (residuals.square().sum(-2) / dof).diag_embed()


def _shrunk_to_identity(residuals: Residuals, dof: float) -> Tensor:
    """Ledoit & Wolf: the covariance S is mixed with its mean variance, m·I.

    The weight of m·I is b² / d², d² = |S − mI|² and b² the mean over residuals of |xxᵀ − S|² over
    their number: |xxᵀ|² = |x|⁴, so no product of two neuroids is squared one by one.
    """
    n, p = residuals.shape[-2:]
    covariance = symmetric_product(residuals.mT) / n
    level = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    target = level * torch.eye(p, dtype=residuals.dtype, device=residuals.device)
    distance = (covariance - target).square().sum((-2, -1))
    fourth = residuals.square().sum(-1).square().mean(-1)
    error = torch.minimum((fourth - covariance.square().sum((-2, -1))) / n, distance)
    weight = (error / distance.where(distance > 0, 1))[..., None, None]
    return (weight * target + (1 - weight) * covariance) * (n / dof)


def _shrunk_to_diagonal(residuals: Residuals, dof: float) -> Tensor:
    """Schäfer & Strimmer: correlations are shrunk by λ, the sum of their variances over squares."""
    n, p = residuals.shape[-2:]
    covariance = symmetric_product(residuals.mT) / dof
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    if bool((variance == 0).any()):
        still = (variance == 0).nonzero()[:, -1].tolist()
        raise ValueError(
            f"{len(still)} neuroids (first: {still[0]}) are the same in all repetitions, so they "
            "have no correlation. Leave them out, or use method='shrinkage_eye'."
        )
    scaled = residuals / variance.sqrt()[..., None, :]
    mean = symmetric_product(scaled.mT) / (n - 1)
    mean_square = symmetric_product(scaled.square().mT) / (n - 1)
    off = 1 - torch.eye(p, dtype=residuals.dtype, device=residuals.device)
    errors = (n / dof**2 * (mean_square - mean.square()) * off).sum((-2, -1))
    squares = (mean.square() * off).sum((-2, -1))
    shrinkage = (errors / squares.where(squares > 0, 1)).clamp(0, 1)[..., None, None]
    return covariance * (1 - shrinkage * off)


@dataclass(frozen=True)
class Covariance:
    """An estimator of covariances.

    Args:
        estimate: from centred residuals, (*batch, residual, neuroid), and their degrees of freedom
            to the covariance.
        invariances: what may be done to responses without changing distances whitened by it, but
            for their scale.
    """

    estimate: Callable[[Tensor, float], Tensor]
    invariances: tuple[str, ...]


_ALWAYS = ("translation", "isotropic scale", "neuroid order")

COVARIANCES: dict[str, Covariance] = {
    "full": Covariance(
        _full, (*_ALWAYS, "rotation", "neuroid scale", "neuroid sign", "invertible linear")
    ),
    "diag": Covariance(_diagonal, (*_ALWAYS, "neuroid scale", "neuroid sign")),
    "shrinkage_eye": Covariance(_shrunk_to_identity, (*_ALWAYS, "rotation")),
    "shrinkage_diag": Covariance(_shrunk_to_diagonal, (*_ALWAYS, "neuroid scale", "neuroid sign")),
}


def covariance_of_residuals(
    residuals: Array,
    *,
    dof: float | None = None,
    method: str = "shrinkage_eye",
    device: Device = None,
) -> Float[Tensor, "neuroid neuroid"]:
    """Return the covariance over neuroids of residuals, such as those of a regression.

    Args:
        residuals: (residual, neuroid); the mean of each neuroid is subtracted.
        dof: degrees of freedom of the residuals; None is their number less 1.
        method: ``full`` is XᵀX / dof; ``diag`` its diagonal; ``shrinkage_eye`` is shrunk towards a
            multiple of the identity (Ledoit & Wolf); ``shrinkage_diag`` towards its own diagonal
            (Schäfer & Strimmer).
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where they are.

    Returns:
        A symmetric matrix in float64.

    Raises:
        ValueError: unknown method, another shape, values that are not finite, no degrees of freedom
            or, under ``shrinkage_diag``, a neuroid that never varies.

    Example:
        >>> covariance_of_residuals(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), method="full")
        tensor([[2., 4.],
                [4., 8.]], dtype=torch.float64)

    Reference:
        Ledoit & Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4; Schäfer & Strimmer 2005,
        https://doi.org/10.2202/1544-6115.1175
    """
    check_choice(method, COVARIANCES, "covariance method")
    x = as_tensor(residuals, name="residuals", device=device)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"residuals has shape {tuple(x.shape)}; expected (residual, neuroid).")
    check_finite(x, name="residuals")
    dof = len(x) - 1 if dof is None else dof
    if not 0 < dof < float("inf"):
        raise ValueError(
            f"dof is {dof}; expected a positive number: the residuals less the means or regressors "
            "that were fitted. Record 2 or more repetitions."
        )
    x = in_working_precision(x)
    return COVARIANCES[method].estimate(x - x.mean(0), dof)


def noise_covariance(
    x: Array,
    *,
    method: str = "shrinkage_eye",
    dof: float | None = None,
    stimulus: Labels | None = None,
    device: Device = None,
) -> Float[Tensor, "neuroid neuroid"]:
    """Return the covariance over neuroids of what varies between presentations of a stimulus.

    Args:
        x: (repeat, stimulus, neuroid), where a missing presentation is NaN in all neuroids, or
            (presentation, neuroid) with ``stimulus``.
        method: how it is estimated, a name in ``COVARIANCES``: see ``covariance_of_residuals``.
        dof: degrees of freedom; None is the number of presentations less that of stimuli.
        stimulus: label of each presentation.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``; None is where ``x`` is.

    Returns:
        A symmetric matrix in float64.

    Raises:
        ValueError: no repetitions, values that are not finite, or what ``covariance_of_residuals``
            raises.

    Note:
        Stimuli × (repetitions − 1) degrees of freedom, as in rsatoolbox's ``cov_from_unbalanced``;
        its function for balanced designs, which it offers as ``cov_from_measurements``, divides by
        (stimuli − 1) × repetitions and is too small, by half at two repetitions.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [5.0, 1.0]], [[3.0, 0.0], [5.0, 3.0]]])
        >>> noise_covariance(x, method="full")
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)

    Reference:
        Walther et al. 2016, https://doi.org/10.1016/j.neuroimage.2015.12.012
    """
    needs = Repeated("the covariance of noise", minimum_stimuli=1)
    presentations = as_presentations(x, stimulus=stimulus, needs=needs, device=device)
    if presentations.ragged:
        raise ValueError(
            "In some presentations a few neuroids are NaN; a covariance needs all of them. Select "
            "neuroids that were recorded together."
        )
    values = presentations.values
    if dof is None:
        dof = len(values) - presentations.n_stimuli
        if dof == 0:
            raise ValueError(
                f"x has one presentation of each of {len(values)} stimuli, which tells nothing of "
                "their noise. Give repetitions, or use no noise."
            )
    residuals = values - averages(presentations)[presentations.stimulus]
    return covariance_of_residuals(residuals, dof=dof, method=method)


def factor_covariance(
    covariance: Float[Tensor, "*batch neuroid neuroid"],
) -> tuple[Float[Tensor, "*batch neuroid neuroid"], Bool[Tensor, "*batch"]]:
    """Return the lower Cholesky factors of covariances, and which of them have an inverse."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    own = covariance.diagonal(dim1=-2, dim2=-1)
    # the part of its variance that no other neuroid explains
    left = root.diagonal(dim1=-2, dim2=-1).square() / own
    enough = (left > own.shape[-1] * torch.finfo(own.dtype).eps).all(-1)
    return root, (failed == 0) & enough


def precision_of(covariance: Float[Tensor, "neuroid neuroid"]) -> Float[Tensor, "neuroid neuroid"]:
    """Return the inverse of a covariance, as ``noise=`` of ``rdm`` takes it.

    Raises:
        ValueError: a covariance that has no inverse.

    Example:
        >>> precision_of(torch.tensor([[2.0, 1.0], [1.0, 1.0]])).round(decimals=6)
        tensor([[ 1., -1.],
                [-1.,  2.]], dtype=torch.float64)
    """
    covariance = in_working_precision(covariance)
    root, invertible = factor_covariance(covariance)
    if not bool(invertible):
        raise ValueError(
            f"The covariance of {len(covariance)} neuroids has no inverse: there are too few "
            "repetitions, or neuroids that never vary. Use method='shrinkage_eye' or "
            "'shrinkage_diag'."
        )
    return torch.cholesky_inverse(root)


def noise_precision(
    x: Array,
    *,
    method: str = "shrinkage_eye",
    dof: float | None = None,
    stimulus: Labels | None = None,
    device: Device = None,
) -> Float[Tensor, "neuroid neuroid"]:
    """Return the inverse of ``noise_covariance``, whose arguments it takes.

    Raises:
        ValueError: a covariance that has no inverse, such as a ``full`` one of more neuroids than
            degrees of freedom, or what ``noise_covariance`` raises.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [5.0, 1.0]], [[3.0, 0.0], [5.0, 5.0]]])
        >>> noise_precision(x, method="diag").diagonal()
        tensor([1.0000, 0.2500], dtype=torch.float64)

    Reference:
        Walther et al. 2016, https://doi.org/10.1016/j.neuroimage.2015.12.012
    """
    return precision_of(
        noise_covariance(x, method=method, dof=dof, stimulus=stimulus, device=device)
    )
