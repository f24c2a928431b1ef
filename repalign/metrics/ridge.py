"""Ridge predictivity, with a penalty for each neuroid."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.calls import check_finite
from repalign.metrics.folds import shuffled_folds
from repalign.metrics.gram import (
    centre,
    centred_gram,
    check_responses,
    column_blocks,
    in_working_precision,
    product,
)
from repalign.metrics.leave_out import least_error, leave_one_out_errors
from repalign.metrics.predictivity import Predictivity
from repalign.metrics.ridge_selection import check_alphas, cross_validated_errors
from repalign.metrics.spectra import Spectrum, fold_spectra, restricted


@dataclass(frozen=True, kw_only=True)
class Ridge(Predictivity):
    """Ridge predictivity: how well the features of ``x`` foretell each neuroid of ``y``.

    ŷ = ȳ + (x − x̄)ᵀ(XᵀX + αI)⁻¹Xᵀ(Y − ȳ), fitted on training folds; a neuroid's score is the
    Pearson correlation of ŷ and y within each held-out fold, averaged over folds; the value is the
    median over neuroids.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli, or their groups.
        seed: seed of the shuffle.
        score: ``pearson``, ``r2`` or ``explained_variance``, as in ``fold_scores``.
        alphas: penalties as multiples of the mean eigenvalue of the fold's centred training kernel
            (its trace over the number of training stimuli), so that they mean the same at any scale
            of the features. Each neuroid takes the one of least error on the training stimuli.
        inner_folds: how that error is found: None leaves each training stimulus out in turn,
            exactly; a number splits the training stimuli into so many folds, which keep groups
            together as the outer ones do.

    Raises:
        ValueError: fewer than 2 stimuli a fold, values that are not finite, or wrong shapes.

    Note:
        Correlations are taken within folds because predictions pooled over folds carry the training
        means: the training mean is low where the fold's responses are high, so that the pooled
        correlation of unrelated responses lies below zero.

        The features enter through their Gram matrix (as many features as stimuli, or more) or their
        covariance, computed once; each fold then removes its own rows.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> x = torch.randn(60, 5, generator=draw)
        >>> y = x @ torch.randn(5, 3, generator=draw)
        >>> Ridge()(x, y).item() > 0.999
        True

    Reference:
        Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634; as a score of models
        of the brain: Schrimpf et al. 2018, https://doi.org/10.1101/407007
    """

    alphas: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-10, 11))
    inner_folds: int | None = None

    name: ClassVar[str] = "ridge"
    mapping: ClassVar[str] = "= ȳ + (x − x̄)ᵀ(XᵀX + αI)⁻¹Xᵀ(Y − ȳ)"
    reference: ClassVar[str] = (
        "Hoerl & Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        check_alphas(self.alphas)
        if self.inner_folds is not None and self.inner_folds < 2:
            raise ValueError(
                f"inner_folds is {self.inner_folds}; expected 2 or more, or None to leave each "
                "stimulus out in turn."
            )

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: 2 a fold, and as many for training as there are inner folds."""
        return max(2 * self.folds, 2 * (self.inner_folds or 0))

    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus column"]:
        """Return what of ``x`` all folds and all targets share, in float64.

        The n × n Gram matrix if there are as many features as stimuli or more; otherwise the
        column-centred ``x``. Only the first is square.
        """
        check_responses(x, at_least=self.minimum_stimuli)
        if x.shape[1] >= x.shape[0]:
            prepared = centred_gram(column_blocks(x))
        else:
            prepared = centre(in_working_precision(x), 0)
        if not bool(prepared.isfinite().all()):  # NaN spreads to it, and it is the smaller
            check_finite(x)
        return prepared

    def take_prepared(
        self, prepared: Float[Tensor, "stimulus column"], rows: Int[Tensor, "chosen"]
    ) -> Float[Tensor, "chosen column"]:
        """Return what was prepared of ``x`` for some of the stimuli only."""
        return restricted(prepared, rows)

    def held_out_predictions(
        self,
        prepared: Float[Tensor, "stimulus column"],
        y: Float[Tensor, "stimulus neuroid"],
        fold: Int[Tensor, "stimulus"],
        groups: Int[Tensor, "stimulus"] | None,
    ) -> Float[Tensor, "stimulus neuroid"]:
        """Return the prediction of each fold's rows by a fit to the others."""
        predictions = torch.empty_like(y)
        for test, spectrum in fold_spectra(prepared, fold):
            train = ~test
            penalties = spectrum.eigenvalues.new_tensor(self.alphas)
            penalties = penalties * spectrum.eigenvalues.sum() / train.sum()
            if self.inner_folds is None:
                errors = leave_one_out_errors(*spectrum[:2], y[train], penalties)
            else:
                rows = restricted(prepared, train)
                inner = shuffled_folds(
                    len(rows),
                    folds=self.inner_folds,
                    seed=self.seed,
                    groups=None if groups is None else groups[train],
                ).to(y.device)
                errors = cross_validated_errors(rows, y[train], penalties, inner, spectrum[:2])
            best, _ = least_error(errors, penalties)
            predictions[test] = predictions_of(spectrum, y[train], best)
        return predictions


def predictions_of(
    spectrum: Spectrum,
    y: Float[Tensor, "train neuroid"],
    penalties: Float[Tensor, "neuroid"],
) -> Float[Tensor, "test neuroid"]:
    """Return the test rows' predictions by a fit to ``y``, each neuroid with its penalty."""
    coordinates = product(spectrum.train.mT, centre(y, 0))
    weights = coordinates / (spectrum.eigenvalues[:, None] + penalties)
    return y.mean(0) + product(spectrum.test, weights)
