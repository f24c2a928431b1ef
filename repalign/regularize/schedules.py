"""When the alignment term counts, and how much."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The weight of the alignment term at each training step.

    ``weight(t) = 0`` for ``t < warm_up``, else ``min(1, (t − warm_up + 1) / ramp) · g``, with
    ``g ~ Bernoulli(mix_rate)`` drawn from (seed, t) alone, so that a run that is resumed at step t
    draws what the uninterrupted one drew.

    Args:
        warm_up: steps without alignment at the start.
        ramp: steps over which the weight then grows linearly to 1; 0 is at once.
        mix_rate: probability that a step has the alignment term.
        seed: of the draws.

    Raises:
        ValueError: negative numbers of steps, a mix rate outside (0, 1], or a negative seed.

    Example:
        >>> schedule = Schedule(warm_up=2, ramp=4)
        >>> [schedule.weight(step) for step in range(7)]
        [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Reference:
        Warm-up and Bernoulli mixing as in Dapello et al. 2023, ICLR (no DOI),
        https://openreview.net/forum?id=SMYdcXjJh1q
    """

    warm_up: int = 0
    ramp: int = 0
    mix_rate: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the parameters."""
        for name in ("warm_up", "ramp", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if not 0 < self.mix_rate <= 1:
            raise ValueError(
                f"mix_rate is {self.mix_rate}; expected more than 0 and at most 1. To train "
                "without alignment, weigh the loss with 0."
            )

    def weight(self, step: int) -> float:
        """Return the weight at ``step``, counted from 0."""
        if step < self.warm_up:
            return 0.0
        if self.mix_rate < 1:
            draw = np.random.default_rng([self.seed, step]).random()
            if draw >= self.mix_rate:
                return 0.0
        return min(1.0, (step - self.warm_up + 1) / self.ramp) if self.ramp else 1.0
