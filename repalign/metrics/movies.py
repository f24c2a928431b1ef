"""RDMs of responses along time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Array, Device, as_tensor
from repalign.metrics.gram import in_working_precision
from repalign.metrics.presentations import Labels
from repalign.metrics.rdms import rdm

Bin = slice | tuple[int, int] | Sequence[int] | np.ndarray[Any, Any]


def _times_of(which: Bin, n_times: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the indices of the times in a bin."""
    bounds = slice(*which) if isinstance(which, tuple) else which
    times = np.arange(n_times)[bounds] if isinstance(bounds, slice) else np.asarray(bounds)
    if times.ndim != 1 or len(times) == 0 or times.dtype.kind not in "iu":
        raise ValueError(
            f"bin {which!r} holds no times of {n_times}; expected a slice, a (start, stop) pair, "
            "or a list of indices."
        )
    if times.min() < -n_times or times.max() >= n_times:
        raise ValueError(f"bin {which!r} reaches beyond the {n_times} times of x.")
    return times


def rdm_movie(
    x: Array,
    *,
    method: str = "correlation",
    bins: Sequence[Bin] | None = None,
    noise: Array | None = None,
    stimulus: Labels | None = None,
    fold: Labels | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    weighting: str = "number",
    device: Device = None,
) -> Float[Tensor, "bin pair"]:
    """Return one RDM a time, or a bin of times over which responses are averaged first.

    Args:
        x: (stimulus, neuroid, time), (repeat, stimulus, neuroid, time), or (presentation, neuroid,
            time) with ``stimulus``.
        bins: times of each bin: a slice, a (start, stop) pair without the stop, or a list of
            indices. None: every time by itself.
        method, noise, stimulus, fold, prior_lambda, prior_weight, weighting, device: as in ``rdm``;
            the noise is that of all times.

    Returns:
        Condensed RDMs in the order of the bins.

    Raises:
        ValueError: a bin without times or beyond them, another shape, or what ``rdm`` raises.

    Example:
        >>> x = torch.arange(24.0).reshape(3, 2, 4) ** 2
        >>> rdm_movie(x, method="euclidean", bins=[(0, 2), (2, 4)]).shape
        torch.Size([2, 3])

    Reference:
        Cichy, Pantazis & Oliva 2014, https://doi.org/10.1038/nn.3635
    """
    tensor = as_tensor(x, device=device)
    if tensor.ndim not in ((3,) if stimulus is not None else (3, 4)):
        raise ValueError(
            f"x has shape {tuple(tensor.shape)}; expected (stimulus, neuroid, time), (repeat, "
            "stimulus, neuroid, time), or (presentation, neuroid, time) with stimulus=."
        )
    if bins is None:
        frames = tensor.movedim(-1, 0)
    else:
        chosen = [_times_of(which, tensor.shape[-1]) for which in bins]
        frames = torch.stack(
            [in_working_precision(tensor[..., times]).mean(-1) for times in chosen]
        )
    return rdm(
        frames,
        method=method,
        noise=noise,
        stimulus=stimulus,
        fold=fold,
        prior_lambda=prior_lambda,
        prior_weight=prior_weight,
        weighting=weighting,
        batch_dims=1,
    )
