"""What models score in the data and in every resample of one region, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.inference import (
    Draws,
    DualEvaluations,
    Evaluations,
    Variances,
    estimated_variances,
    two_factor_variances,
)
from repalign.inference.monte_carlo import kept_in_groups
from repalign.inference.variances import resampling_factor

Parts = Mapping[str, Evaluations]  # by what is resampled: "both", "subjects", "stimuli"
Values = TypeVar("Values", Evaluations, Tensor)  # in resamples, which are their rows


@dataclass(frozen=True)
class Scored:
    """Values of one region's models, in the data and in resamples.

    Args:
        values: of the data as they are, one a model.
        lower, upper: the noise ceiling; None where there is none, for the reason in ``ceiling``.
        ceiling: its kind, such as ``over subjects``, or why there is none.
        by_subject: values of each subject; None for models that were fitted to several.
        parts: evaluations by what was resampled: ``stimuli``, ``subjects``, or of the bootstrap
            over both ``both`` too. Those of fitted models are means over divisions into folds.
        draws: which stimuli and subjects each resample holds, by the same names.
        variances: of values, differences and distances to the ceilings.
        without: the same without each block of the resamples, for the Monte Carlo error of what
            they give; empty where no resample was drawn at random.
        divisions: values, and the lower ceiling as the last column, in each division into folds;
            None where nothing was fitted, NaN in divisions to which nothing could be.
        ceiling_variances: of the lower and the upper ceiling.
        left_out: values without each unit in turn, for BCa intervals.
        chance: what each model scores with each subject on average if stimuli are labelled at
            random; None where that is unknown. One row for all if models were fitted.
    """

    values: Float[Tensor, model]
    lower: float | None
    upper: float | None
    ceiling: str
    by_subject: Float[Tensor, "subject model"] | None
    parts: Parts
    draws: Mapping[str, Draws]
    variances: Variances
    without: Sequence[Variances]
    ceiling_variances: Float[Tensor, 2]
    left_out: Float[Tensor, "unit model"] | None
    chance: Float[Tensor, "subject model"] | None
    divisions: Float[Tensor, "division value"] | None = None

    @property
    def resampled(self) -> Evaluations:
        """Evaluations in resamples of all that is resampled, or of the first factor of two."""
        return next(iter(self.parts.values()))

    @property
    def effects(self) -> Float[Tensor, model]:
        """Values less what chance gives, or the values where that is unknown."""
        return self.values if self.chance is None else self.values - self.chance.mean(0)

    def deviations(self, *, less_ceiling: bool = False) -> Float[Tensor, "deviation model"]:
        """Deviations from the mean over resamples, whose products are the models' covariances.

        With ``less_ceiling`` they are of the values less the lower ceiling.
        """
        names = ("both",) if "both" in self.parts else tuple(self.parts)
        rows = []
        for name in names:
            part = self.parts[name]
            values = part.models - part.lower[:, None] if less_ceiling else part.models
            values = values[values.isfinite().all(1)]
            scale = (resampling_factor(self.draws[name]) / max(1, len(values) - 1)) ** 0.5
            rows.append(scale * (values - values.mean(0)))
        return torch.cat(rows)


VariancesOf = Callable[[Parts], Variances]


def variances_without_blocks(
    parts: Mapping[str, Values],
    draws: Mapping[str, Draws],
    variances_of: Callable[[dict[str, Values]], Variances],
) -> list[Variances]:
    """Variances without each block of resamples; none of a jackknife, which draws nothing."""
    kept = {
        name: kept_in_groups(len(draws[name])) for name in parts if draws[name].kind != "jackknife"
    }
    n_groups = min(map(len, kept.values()), default=0)
    return [
        variances_of({name: v[kept[name][i]] if name in kept else v for name, v in parts.items()})
        for i in range(n_groups)
    ]


def variances_of_parts(parts: Parts, draws: Draws) -> Variances:
    """Variances over stimuli or subjects, or two-factor corrected over both."""
    if draws.over == "both":
        dual = DualEvaluations(*(parts[name] for name in ("both", "subjects", "stimuli")))
        return two_factor_variances(dual, draws)
    return estimated_variances(parts[draws.over], draws)


def summed_variances(stimuli: Variances, subjects: Variances) -> Variances:
    """Variance for new stimuli and new subjects: the sum of both, too large by their interaction.

    A bootstrap over both would draw stimuli with replacement, which not every metric survives.
    """
    return Variances(
        stimuli.models + subjects.models,
        stimuli.differences + subjects.differences,
        stimuli.to_lower + subjects.to_lower,
        stimuli.to_upper + subjects.to_upper,
        min(stimuli.degrees_of_freedom, subjects.degrees_of_freedom),
    )


def variances_of_ceilings(parts: Parts, variances_of: VariancesOf) -> Float[Tensor, 2]:
    """The variances of both ceilings, each taken for a model."""
    found = []
    for name in ("lower", "upper"):
        alone = {
            key: replace(one, models=getattr(one, name)[:, None]) for key, one in parts.items()
        }
        found.append(variances_of(alone).models[0])
    return torch.stack(found)


def join(chunks: Sequence[Evaluations]) -> Evaluations:
    """Chunks of resamples, one after the other, on the CPU."""
    return Evaluations(
        torch.cat([chunk.models.cpu() for chunk in chunks]),
        torch.cat([chunk.lower.cpu() for chunk in chunks]),
        torch.cat([chunk.upper.cpu() for chunk in chunks]),
    )


def over_subjects(
    by_subject: Float[Tensor, "subject model"],
    draws: Draws,
    ceilings: tuple[Float[Tensor, resample], Float[Tensor, resample]] | None = None,
) -> Evaluations:
    """Mean over the subjects that are drawn of values that each of them has."""
    weights = draws.subjects.to(by_subject)
    models = weights @ by_subject / weights.sum(1, keepdim=True)
    undefined = models.new_full((len(models),), torch.nan)
    return Evaluations(models, *(ceilings or (undefined, undefined)))


def known(value: float) -> float | None:
    """The number, or None where it is undefined."""
    return value if value == value else None
