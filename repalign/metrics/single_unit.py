"""Predictivity by the one unit that is best correlated with each neuroid."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.folds import fold_masks
from repalign.metrics.gram import centre, check_responses, in_working_precision, product
from repalign.metrics.predictivity import Predictivity


@dataclass(frozen=True, kw_only=True)
class SingleUnit(Predictivity):
    """One-to-one predictivity: each neuroid of ``y`` is predicted by a single unit of ``x``.

    ŷ = ȳ + b(x_u − x̄_u), with u the unit of greatest correlation with the neuroid on the training
    stimuli, and b their regression slope there. Units may serve several neuroids.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli, or their groups.
        seed: seed of the shuffle.
        score: ``pearson``, ``r2`` or ``explained_variance``, as in ``fold_scores``.

    Raises:
        ValueError: fewer than 2 stimuli a fold, values that are not finite, or wrong shapes.

    Note:
        The greatest correlation is a signed one: a unit that falls where the neuroid rises does not
        share its tuning. Unlike a regression this asks for the axes of the code, not only for the
        space that they span, so that the value changes if ``x`` is rotated.

        Units that are constant on the training stimuli are never chosen. Where all are, or the
        neuroid is, the prediction is the training mean, which has no correlation: NaN.

    Example:
        >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        >>> round(SingleUnit()(x, 2 * x[:, [3, 1]] + 1).item(), 6)
        1.0

    Reference:
        Arend et al. 2018 (no DOI), https://hdl.handle.net/1721.1/118847; Khosla & Williams 2023,
        https://doi.org/10.48550/arXiv.2311.09466
    """

    name: ClassVar[str] = "single-unit"
    mapping: ClassVar[str] = "= ȳ + b(x_u − x̄_u), u = argmax corr(x_u, y)"
    reference: ClassVar[str] = "Arend et al. 2018, https://hdl.handle.net/1721.1/118847"

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to ``x`` without changing the value."""
        return ("translation", "isotropic scale", "neuroid order", "neuroid scale")

    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus feature"]:
        """Return the column-centred ``x`` in float64."""
        check_responses(x, at_least=self.minimum_stimuli)
        return centre(in_working_precision(x), 0)

    def held_out_predictions(
        self,
        prepared: Float[Tensor, "stimulus feature"],
        y: Float[Tensor, "stimulus neuroid"],
        fold: Int[Tensor, "stimulus"],
        groups: Int[Tensor, "stimulus"] | None,
    ) -> Float[Tensor, "stimulus neuroid"]:
        """Return the prediction of each fold's rows by the units chosen on the others."""
        predictions = torch.empty_like(y)
        for test in fold_masks(fold):
            x, targets = prepared[~test], y[~test]
            lengths, spreads = (centre(v, 0).square().sum(0).sqrt() for v in (x, targets))
            covariance = product(centre(x, 0).mT, centre(targets, 0))
            correlation = covariance / lengths[:, None]  # times each neuroid's own spread
            correlation = correlation.masked_fill(lengths[:, None] == 0, -torch.inf)
            unit = correlation.argmax(0)
            slope = covariance.gather(0, unit[None])[0] / lengths[unit].square()
            slope = slope.masked_fill((lengths[unit] == 0) | (spreads == 0), 0)
            deviation = prepared[test][:, unit] - x[:, unit].mean(0)
            predictions[test] = targets.mean(0) + slope * deviation
        return predictions
