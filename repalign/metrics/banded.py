"""Banded ridge predictivity: several feature spaces, each with a penalty of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.banded_cv import banded_ridge_cv, check_bands
from repalign.metrics.calls import Array, Device, as_tensor, compare_populations
from repalign.metrics.folds import Groups, fold_masks, group_numbers, shuffled_folds
from repalign.metrics.gram import centre, check_responses, in_working_precision, product
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.ridge_selection import check_alphas


def drawn_mixtures(bands: int, *, count: int, seed: int) -> Float[Tensor, "mixture band"]:
    """Return the equal mixture and ``count`` − 1 from Dirichlet distributions.

    Their concentrations are 1 and 0.1 in turn: anywhere on the simplex, and close to its corners,
    where only some of the bands matter.
    """
    if bands == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    generator = np.random.default_rng(seed)
    drawn = [generator.dirichlet([(1.0, 0.1)[k % 2]] * bands) for k in range(count - 1)]
    return torch.from_numpy(np.stack([np.full(bands, 1 / bands), *drawn]))


def product_measure(
    parts: Float[Tensor, "band stimulus neuroid"],
    targets: Float[Tensor, "stimulus neuroid"],
    fold: Int[Tensor, "stimulus"],
) -> Float[Tensor, "band neuroid"]:
    """Split the variance that a sum of predictions explains into each one's share.

    Band b's share is Σ ŷ_b(2y − ŷ) / Σ y², with ŷ = Σ_b ŷ_b and all centred within the fold; shares
    are averaged over folds and add up to the explained variance. One may be negative.

    Reference:
        Dupré la Tour et al. 2022, https://doi.org/10.1016/j.neuroimage.2022.119728
    """
    shares = []
    for rows in fold_masks(fold):
        t, p = centre(in_working_precision(targets[rows]), 0), centre(parts[:, rows], 1)
        total = t.square().sum(0)
        share = (p * (2 * t - p.sum(0))).sum(1) / total
        shares.append(share.masked_fill(total == 0, torch.nan))
    return torch.stack(shares).nanmean(0)


@dataclass(frozen=True, kw_only=True)
class BandedRidge(Predictivity):
    """Ridge predictivity from several feature spaces, each with a penalty of its own.

    ŷ = ȳ + Σ_b (x_b − x̄_b)ᵀw_b with w minimising ‖Y − Xw‖² + Σ_b (α/γ_b)‖w_b‖². Each neuroid takes
    the mixture γ and the penalty α of least cross-validated error on the training stimuli; its
    score is taken within each held-out fold and averaged, and the value is the median over
    neuroids.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli, or their groups.
        seed: seed of the shuffle, and of the mixtures.
        score: ``pearson``, ``r2`` or ``explained_variance``, as in ``fold_scores``.
        bands: number of features of each feature space, side by side in ``x``. None takes ``x`` as
            one space; ``x`` may also be a list with one array a feature space.
        alphas: penalties. Each band is first scaled so that the mean eigenvalue of its centred
            training kernel is 1, and so is that of a mixture: penalties and mixtures mean the same
            at any scale of the features.
        mixtures: number of mixtures of bands that are tried.
        inner_folds: number of folds of the training stimuli that choose between them; they keep
            groups together as the outer ones do.

    Raises:
        ValueError: fewer than 2 stimuli a fold, bands that do not add up, values that are not
            finite, or wrong shapes.

    Note:
        With one band it is ``Ridge`` with the same ``inner_folds``.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> useful, noise = torch.randn(80, 3, generator=draw), torch.randn(80, 30, generator=draw)
        >>> shares = BandedRidge(mixtures=10).split_scores([useful, noise], useful)
        >>> bool((shares[0] > 0.9).all()), bool((shares[1].abs() < 0.05).all())
        (True, True)

    Reference:
        Dupré la Tour et al. 2022, https://doi.org/10.1016/j.neuroimage.2022.119728; Nunez-Elizalde
        et al. 2019, https://doi.org/10.1016/j.neuroimage.2019.04.012
    """

    bands: tuple[int, ...] | None = None
    alphas: tuple[float, ...] = tuple(10.0**k for k in range(-5, 6))
    mixtures: int = 30
    inner_folds: int = 5

    name: ClassVar[str] = "banded-ridge"
    mapping: ClassVar[str] = "= ȳ + Σ_b (x_b − x̄_b)ᵀw_b, w of least ‖Y − Xw‖² + Σ_b (α/γ_b)‖w_b‖²"
    reference: ClassVar[str] = (
        "Dupré la Tour et al. 2022, https://doi.org/10.1016/j.neuroimage.2022.119728"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        check_alphas(self.alphas)
        if self.mixtures < 1 or self.inner_folds < 2:
            raise ValueError(
                f"mixtures is {self.mixtures} and inner_folds {self.inner_folds}; expected 1 or "
                "more and 2 or more."
            )

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to ``x`` without changing the value."""
        if self.bands is None or len(self.bands) == 1:
            return super().invariances
        return ("translation", "isotropic scale")

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: 2 a fold, also of the training stimuli."""
        return 2 * max(self.folds, self.inner_folds)

    def scores(
        self,
        x: Float[Array, "*batch stimulus feature"] | Sequence[Array],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch neuroid"]:
        """Return each neuroid's held-out score; NaN where it is constant in every fold."""
        metric, joined = self._joined(x)
        return Predictivity.scores(
            metric, joined, y, groups=groups, batch_dims=batch_dims, device=device
        )

    def predict(
        self,
        x: Float[Array, "*batch stimulus feature"] | Sequence[Array],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> tuple[Float[Tensor, "*batch stimulus neuroid"], Int[Tensor, "stimulus"]]:
        """Return the held-out prediction of every response, and the fold of every stimulus."""
        metric, joined = self._joined(x)
        return Predictivity.predict(
            metric, joined, y, groups=groups, batch_dims=batch_dims, device=device
        )

    def split_scores(
        self,
        x: Float[Array, "*batch stimulus feature"] | Sequence[Array],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch band neuroid"]:
        """Return each band's share of each neuroid's explained variance, see product_measure."""
        metric, joined = self._joined(x)
        kernel = partial(metric._split, groups=groups)
        return compare_populations(
            kernel, joined, y, needs=self, batch_dims=batch_dims, device=device
        )

    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus feature"]:
        """Return the column-centred ``x`` in float64."""
        check_responses(x, at_least=self.minimum_stimuli)
        check_bands(self.bands or (x.shape[1],), x.shape[1])
        return centre(in_working_precision(x), 0)

    def held_out_predictions(
        self,
        prepared: Float[Tensor, "stimulus feature"],
        y: Float[Tensor, "stimulus neuroid"],
        fold: Int[Tensor, "stimulus"],
        groups: Int[Tensor, "stimulus"] | None,
    ) -> Float[Tensor, "stimulus neuroid"]:
        """Return the prediction of each fold's rows by a fit to the others."""
        parts = self._held_out_parts(prepared, y, fold, groups)
        return parts.sum(0)

    def _joined(self, x: Array | Sequence[Array]) -> tuple["BandedRidge", Array]:
        """Put the arrays of a list side by side, and make their widths the bands."""
        if isinstance(x, Tensor | np.ndarray):
            return self, x
        tensors = [as_tensor(part, name=f"x[{number}]") for number, part in enumerate(x)]
        shapes = [tuple(part.shape) for part in tensors]
        if len({shape[:-1] for shape in shapes}) != 1:
            raise ValueError(f"The bands of x have shapes {shapes}; expected the same stimuli.")
        widths = tuple(shape[-1] for shape in shapes)
        if self.bands not in (None, widths):
            raise ValueError(f"bands is {self.bands} and x has bands of {widths}; leave out bands.")
        return replace(self, bands=widths), torch.cat(tensors, -1)

    def _held_out_parts(
        self, prepared: Tensor, y: Tensor, fold: Tensor, groups: Tensor | None
    ) -> Float[Tensor, "part stimulus neuroid"]:
        """Return each band's part of the held-out predictions, then the training means."""
        bands = self.bands or (prepared.shape[1],)
        mixtures = drawn_mixtures(len(bands), count=self.mixtures, seed=self.seed)
        parts = y.new_empty(len(bands) + 1, *y.shape)
        for test in fold_masks(fold):
            train, n_train = centre(prepared[~test], 0), int((~test).sum())
            power = [part.square().sum() / n_train for part in torch.split(train, list(bands), 1)]
            scale = torch.stack([v.sqrt() if v > 0 else torch.ones_like(v) for v in power])
            scale = scale.repeat_interleave(torch.tensor(bands, device=y.device))
            inner = shuffled_folds(
                n_train,
                folds=self.inner_folds,
                seed=self.seed,
                groups=None if groups is None else groups[~test],
            )
            fit = banded_ridge_cv(
                train / scale,
                y[~test],
                bands=bands,
                mixtures=mixtures,
                alphas=self.alphas,
                fold=inner,
            )
            held_out = (prepared[test] - prepared[~test].mean(0)) / scale
            pairs = zip(
                torch.split(held_out, list(bands), 1),
                torch.split(fit.weights, list(bands)),
                strict=True,
            )
            for number, (features, weights) in enumerate(pairs):
                parts[number, test] = product(features, weights)
            parts[-1, test] = y[~test].mean(0)
        return parts

    def _split(self, x: Tensor, y: Tensor, *, groups: Groups) -> Tensor:
        fold = self._folds(y, groups)
        numbers = None if groups is None else group_numbers(groups, len(y)).to(y.device)
        parts = self._held_out_parts(self.prepare(x), in_working_precision(y), fold, numbers)
        return product_measure(parts[:-1], y, fold)
