"""How well one population's responses foretell another's: what all such metrics share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.metrics.calls import Array, Device, check_finite, compare_populations
from repalign.metrics.comparators import check_choice
from repalign.metrics.folds import (
    SCORES,
    Groups,
    fold_scores,
    group_numbers,
    median_of_defined,
    shuffled_folds,
)
from repalign.metrics.gram import (
    centre,
    check_responses,
    check_same_stimuli,
    cores_for_blas,
    in_working_precision,
)


@dataclass(frozen=True, kw_only=True)
class Predictivity(ABC):
    """The frame of metrics that predict each neuroid of ``y`` from ``x`` on held-out folds.

    A neuroid's score is taken within each held-out fold and averaged over folds; the value is the
    median over neuroids. What a metric adds is ``prepare`` and ``held_out_predictions``.

    Args:
        folds: number of folds, into which ``seed`` shuffles the stimuli, or their groups.
        seed: seed of the shuffle.
        score: ``pearson``, ``r2`` or ``explained_variance``, as in ``fold_scores``.

    Raises:
        ValueError: fewer than 2 stimuli a fold, values that are not finite, or wrong shapes.
    """

    folds: int = 5
    seed: int = 0
    score: str = "pearson"

    name: ClassVar[str]
    mapping: ClassVar[str]
    reference: ClassVar[str]
    symmetric: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False
    needs_responses: ClassVar[bool] = True
    needs_repeats: ClassVar[bool] = False
    fits_alone: ClassVar[bool] = True  # each neuroid's prediction knows nothing of the others
    higher_is_more_similar: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name, value in (("folds", self.folds), ("seed", self.seed)):
            if not isinstance(value, int):
                raise TypeError(f"{name} is {value!r}; expected a whole number.")
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; cross-validation needs 2 or more. Use 5.")
        check_choice(self.score, SCORES, "score")

    @property
    def formula(self) -> str:
        """The definition in one line."""
        measure = {"pearson": "corr", "r2": "R²", "explained_variance": "explained variance"}
        return f"median over neuroids of {measure[self.score]}(y, ŷ), ŷ {self.mapping}, held out"

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value."""
        return (-1.0 if self.score == "pearson" else float("-inf"), 1.0)

    @property
    def invariances(self) -> tuple[str, ...]:
        """What may be done to ``x`` without changing the value."""
        return ("rotation", "translation", "isotropic scale", "neuroid order")

    @property
    def minimum_stimuli(self) -> int:
        """Fewest stimuli: 2 a fold."""
        return 2 * self.folds

    def __call__(
        self,
        x: Float[Array, "*batch stimulus feature"],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch"]:
        """Return the median over neuroids of the held-out scores.

        Args:
            x: the responses that predict; repetitions, which come before stimuli, are averaged.
            y: the responses to be predicted, of the same stimuli.
            groups: a label a stimulus; stimuli of one group (views of an object, copies of an
                image) stay in one fold.
            batch_dims: number of leading dimensions that number populations.
            device: where to compute; None is where ``x`` is.
        """
        return median_of_defined(
            self.scores(x, y, groups=groups, batch_dims=batch_dims, device=device)
        )

    def scores(
        self,
        x: Float[Array, "*batch stimulus feature"],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> Float[Tensor, "*batch neuroid"]:
        """Return each neuroid's held-out score; NaN where it is constant in every fold."""
        return compare_populations(
            partial(self._scores, groups=groups),
            x,
            y,
            needs=self,
            batch_dims=batch_dims,
            device=device,
        )

    def predict(
        self,
        x: Float[Array, "*batch stimulus feature"],
        y: Float[Array, "*batch stimulus neuroid"],
        *,
        groups: Groups = None,
        batch_dims: int = 0,
        device: Device = None,
    ) -> tuple[Float[Tensor, "*batch stimulus neuroid"], Int[Tensor, "stimulus"]]:
        """Return the held-out prediction of every response, and the fold of every stimulus."""
        predictions = compare_populations(
            partial(self._predictions, groups=groups),
            x,
            y,
            needs=self,
            batch_dims=batch_dims,
            device=device,
        )
        return predictions, self._folds(predictions, groups)

    @abstractmethod
    def prepare(self, x: Float[Tensor, "stimulus feature"]) -> Float[Tensor, "stimulus column"]:
        """Return what of ``x`` all folds and all targets share, in float64."""

    @abstractmethod
    def held_out_predictions(
        self,
        prepared: Float[Tensor, "stimulus column"],
        y: Float[Tensor, "stimulus neuroid"],
        fold: Int[Tensor, "stimulus"],
        groups: Int[Tensor, "stimulus"] | None,
    ) -> Float[Tensor, "stimulus neuroid"]:
        """Return the prediction of each fold's rows by a fit to the others."""

    def take_prepared(
        self, prepared: Float[Tensor, "stimulus column"], rows: Int[Tensor, "chosen"]
    ) -> Float[Tensor, "chosen column"]:
        """Return what was prepared of ``x`` for some of the stimuli only."""
        return centre(prepared[rows], 0)

    def compare_prepared(
        self,
        prepared: Float[Tensor, "stimulus column"],
        y: Float[Tensor, "stimulus neuroid"],
        *,
        groups: Groups = None,
    ) -> Float[Tensor, ""]:
        """Return the value for a prepared ``x`` and the targets as they are."""
        predictions, fold = self.predict_prepared(prepared, y, groups=groups)
        return median_of_defined(fold_scores(predictions, y, fold, score=self.score))

    def predict_prepared(
        self,
        prepared: Float[Tensor, "stimulus column"],
        y: Float[Tensor, "stimulus neuroid"],
        *,
        groups: Groups = None,
    ) -> tuple[Float[Tensor, "stimulus neuroid"], Int[Tensor, "stimulus"]]:
        """Return what ``predict`` does, for a prepared ``x``."""
        check_responses(y, name="y", at_least=self.minimum_stimuli)
        check_same_stimuli(prepared, y)
        check_finite(y, name="y")
        fold = self._folds(y, groups)
        numbers = None if groups is None else group_numbers(groups, len(y)).to(y.device)
        with cores_for_blas(prepared):
            predictions = self.held_out_predictions(
                prepared, in_working_precision(y), fold, numbers
            )
        return predictions, fold

    def _folds(self, y: Tensor, groups: Groups) -> Int[Tensor, "stimulus"]:
        n = y.shape[-2]
        return shuffled_folds(n, folds=self.folds, seed=self.seed, groups=groups).to(y.device)

    def _predictions(self, x: Tensor, y: Tensor, *, groups: Groups) -> Tensor:
        return self.predict_prepared(self.prepare(x), y, groups=groups)[0]

    def _scores(self, x: Tensor, y: Tensor, *, groups: Groups) -> Tensor:
        predictions, fold = self.predict_prepared(self.prepare(x), y, groups=groups)
        return fold_scores(predictions, y, fold, score=self.score)


class Directions(NamedTuple):
    """How well ``x`` predicts ``y``, and ``y`` predicts ``x``."""

    forward: Float[Tensor, "*batch"]
    reverse: Float[Tensor, "*batch"]


def both_directions(
    metric: Predictivity,
    x: Float[Array, "*batch stimulus neuroid"],
    y: Float[Array, "*batch stimulus unit"],
    *,
    groups: Groups = None,
    batch_dims: int = 0,
    device: Device = None,
) -> Directions:
    """Return the predictivity from ``x`` to ``y`` and from ``y`` to ``x``, over the same folds.

    A network may foretell all of a region's responses and yet hold much that the region does not:
    then forward is high and reverse is low.

    Args:
        metric: a predictivity metric.
        x, y: responses to the same stimuli, prepared and averaged over repetitions once each.
        groups, batch_dims, device: as in a call of the metric.

    Example:
        >>> from repalign.metrics.ridge import Ridge
        >>> rich = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
        >>> forward, reverse = both_directions(Ridge(), rich, rich[:, :3])
        >>> bool(forward > 0.99), bool(reverse < 0.5)
        (True, True)

    Reference:
        Muzellec & Kar 2025, https://doi.org/10.1101/2025.08.08.669382
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        pairs = ((metric.prepare(a), b), (metric.prepare(b), a))
        return torch.stack([metric.compare_prepared(*pair, groups=groups) for pair in pairs])

    values = compare_populations(kernel, x, y, needs=metric, batch_dims=batch_dims, device=device)
    return Directions(*values.unbind(-1))
