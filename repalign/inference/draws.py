"""Which stimuli and subjects each resample holds, as multiplicities drawn before anything else."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from repalign.metrics.pairs import MINIMUM_STIMULI
from repalign.metrics.resampled import draw_multiplicities

Over = Literal["stimuli", "subjects", "both"]
OVER: tuple[str, ...] = get_args(Over)
MINIMUM_DISTINCT = 0.75  # share of the units that may be asked to be distinct: 1 − 1/e are expected


def stream(seed: int, name: str) -> torch.Generator:
    """Return the generator of one kind of draws, independent of the others' with the same seed.

    torch takes the last 32 bits of a seed: seed + 2³² would be the same stream again.
    """
    words = [seed, *name.encode()]
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


@dataclass(frozen=True)
class Draws:
    """How often each stimulus and each subject is in each resample.

    Row i of both belongs to resample i and depends on nothing but the seed, so that rows can be
    evaluated in any blocks, on any number of workers.

    Args:
        stimuli: multiplicities, resample × stimulus; all 1 where stimuli are not resampled.
        subjects: multiplicities, resample × subject; all 1 where subjects are not resampled.
        over: what is resampled: ``stimuli``, ``subjects`` or ``both``.
        kind: ``bootstrap``, ``subsampling`` or ``jackknife``.
    """

    stimuli: Int[Tensor, "resample stimulus"]
    subjects: Int[Tensor, "resample subject"]
    over: Over
    kind: Literal["bootstrap", "subsampling", "jackknife"]

    def __len__(self) -> int:
        """Return the number of resamples."""
        return len(self.stimuli)

    @property
    def n_units(self) -> int:
        """Number of units resampled; the smaller number if over both."""
        sizes = {"stimuli": self.stimuli.shape[1], "subjects": self.subjects.shape[1]}
        return min(sizes.values()) if self.over == "both" else sizes[self.over]


def check_over(over: str) -> None:
    """Raise a ValueError unless ``over`` says what to resample."""
    if over not in OVER:
        raise ValueError(f"over is {over!r}; expected one of {', '.join(OVER)}.")


def _check_sizes(n_stimuli: int, n_subjects: int, *, over: str) -> None:
    check_over(over)
    if over != "subjects" and n_stimuli <= MINIMUM_STIMULI:
        raise ValueError(
            f"There are {n_stimuli} stimuli; to resample them needs {MINIMUM_STIMULI + 1} or more, "
            f"since a resample needs {MINIMUM_STIMULI} distinct ones. Add stimuli, or use "
            "over='subjects'."
        )
    if over != "stimuli" and n_subjects < 2:
        raise ValueError(
            f"There are {n_subjects} subjects; to resample them needs 2 or more. Use "
            "over='stimuli', which says nothing of new subjects."
        )


def bootstrap_draws(
    n_stimuli: int,
    n_subjects: int,
    *,
    over: Over = "both",
    n_resamples: int = 1000,
    seed: int = 0,
    at_least_stimuli: int = MINIMUM_STIMULI,
    at_least_subjects: int = 1,
) -> Draws:
    """Draw stimuli, subjects or both, with replacement.

    Resamples with fewer than 3 distinct stimuli are drawn again. With one seed the stimuli (and the
    subjects) are the same whether the others are resampled or not.

    Args:
        n_stimuli, n_subjects: how many there are.
        over: what to resample; the multiplicities of the rest are 1.
        n_resamples: number of resamples.
        seed: seed of the draws, which are the same on every device and number of workers.
        at_least_stimuli, at_least_subjects: resamples with fewer distinct ones are drawn again; for
            cross-validation, which divides the distinct ones into folds.

    Raises:
        ValueError: fewer than 4 stimuli or 2 subjects to resample, more asked to be distinct than a
            resample can be expected to hold, fewer than 1 resample, or an unknown ``over``.

    Example:
        >>> draws = bootstrap_draws(5, 3, n_resamples=2)
        >>> draws.stimuli.sum(1).tolist(), draws.subjects.sum(1).tolist()
        ([5, 5], [3, 3])

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    _check_sizes(n_stimuli, n_subjects, over=over)
    for what, n, least in (
        ("stimuli", n_stimuli if over != "subjects" else None, at_least_stimuli),
        ("subjects", n_subjects if over != "stimuli" else None, at_least_subjects),
    ):
        if n is not None and least > max(MINIMUM_DISTINCT * n, MINIMUM_STIMULI):
            raise ValueError(
                f"at_least_{what} is {least} of {n}; a resample holds about {0.63 * n:.0f} "
                f"distinct ones, and hardly ever more than {MINIMUM_DISTINCT * n:.0f}. Use fewer "
                "folds."
            )
    stimuli = torch.ones(max(n_resamples, 0), n_stimuli, dtype=torch.int64)
    subjects = torch.ones(max(n_resamples, 0), n_subjects, dtype=torch.int64)
    if over != "subjects":
        generator = torch.Generator().manual_seed(seed)
        stimuli = draw_multiplicities(
            n_stimuli,
            n_resamples=n_resamples,
            generator=generator,
            at_least=max(MINIMUM_STIMULI, at_least_stimuli),
        )
    if over != "stimuli":
        generator = stream(seed, "subjects")
        subjects = draw_multiplicities(
            n_subjects, n_resamples=n_resamples, generator=generator, at_least=at_least_subjects
        )
    return Draws(stimuli, subjects, over, "bootstrap")


def subsample_draws(
    n_stimuli: int,
    n_subjects: int = 1,
    *,
    n_drawn: int | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Draws:
    """Draw subsets of the stimuli, without replacement.

    Args:
        n_stimuli, n_subjects: how many there are; all subjects are in every subset.
        n_drawn: number of stimuli in each subset; half of them, rounded up, if None.
        n_resamples: number of subsets.
        seed: seed of the draws, which are the same on every device and number of workers.

    Raises:
        ValueError: ``n_drawn`` not between 3 and ``n_stimuli`` − 1, or fewer than 1 resample.

    Example:
        >>> subsample_draws(8, n_drawn=6, n_resamples=3).stimuli.sum(1).tolist()
        [6, 6, 6]

    Reference:
        Politis & Romano 1994, https://doi.org/10.1214/aos/1176325770
    """
    drawn = (n_stimuli + 1) // 2 if n_drawn is None else n_drawn
    if not MINIMUM_STIMULI <= drawn < n_stimuli or n_resamples < 1:
        raise ValueError(
            f"{n_resamples} subsets of {drawn} of {n_stimuli} stimuli were asked for; expected 1 "
            f"or more, of {MINIMUM_STIMULI} to {n_stimuli - 1} stimuli."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n_resamples, n_stimuli, generator=generator, dtype=torch.float64).argsort(1)
    subjects = torch.ones(n_resamples, n_subjects, dtype=torch.int64)
    return Draws((order.argsort(1) < drawn).to(torch.int64), subjects, "stimuli", "subsampling")


def jackknife_draws(n_stimuli: int, n_subjects: int, *, over: Over = "stimuli") -> Draws:
    """Leave out each stimulus, or each subject, in turn.

    Args:
        n_stimuli, n_subjects: how many there are.
        over: ``stimuli`` or ``subjects``.

    Raises:
        ValueError: fewer than 4 stimuli or 2 subjects to leave one out of, or ``over='both'``.

    Example:
        >>> jackknife_draws(4, 1).stimuli[0].tolist()
        [0, 1, 1, 1]

    Reference:
        Efron & Stein 1981, https://doi.org/10.1214/aos/1176345462
    """
    _check_sizes(n_stimuli, n_subjects, over=over)
    if over == "both":
        raise ValueError("The jackknife leaves out stimuli or subjects, one kind at a time.")
    n = n_stimuli if over == "stimuli" else n_subjects
    left_out = 1 - torch.eye(n, dtype=torch.int64)
    ones = torch.ones(n, n_subjects if over == "stimuli" else n_stimuli, dtype=torch.int64)
    pair = (left_out, ones) if over == "stimuli" else (ones, left_out)
    return Draws(*pair, over, "jackknife")
