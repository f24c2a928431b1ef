"""How many stimuli, subjects and repetitions tell two layers apart: power by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repalign.choices import as_whole_number
from repalign.designs.pilot_components import (
    Components,
    as_layers,
    as_sessions,
    estimate_components,
)
from repalign.designs.power_intervals import pilot_effect, power_interval
from repalign.designs.simulated_designs import TESTS, Design, simulate_design, smallest_p
from repalign.metrics.calls import Array
from repalign.metrics.comparators import check_choice
from repalign.progress import track

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

DIMENSIONS = ("n_stimuli", "n_subjects", "repetitions")
WHITENED = ("cosine_cov", "corr_cov")


@dataclass(frozen=True)
class DesignPower:
    """The power of one design.

    Args:
        n_stimuli, n_subjects, repetitions: the design.
        power: share of simulated data sets in which the layers differ significantly.
        low, high: 95 % interval of the power: of the number of simulations, and of the effect in
            the pilot, which is an estimate.
        mean_difference: mean over simulations of the first layer's value less the second's.
        n_simulations: how many.
    """

    n_stimuli: int
    n_subjects: int
    repetitions: int
    power: float
    low: float
    high: float
    mean_difference: float
    n_simulations: int


@dataclass(frozen=True)
class Power:
    """Power over a grid of designs.

    Args:
        designs: one a design, in the order of the grid.
        test: name in ``TESTS``, and ``claim``, what it claims.
        alpha: level of the test.
        comparator: of RDMs.
        pilot_difference: the layers' difference in the pilot itself.
        pilot_reach: half its 95 % interval, over new stimuli and new subjects; NaN where
            components were given, whose effect is then taken as it is.
        components: what was estimated from the pilot.
        n_resamples, seed: of the simulations.
        smallest_p: the least that the test can return, a number of subjects.
    """

    designs: tuple[DesignPower, ...]
    test: str
    claim: str
    alpha: float
    comparator: str
    pilot_difference: float
    pilot_reach: float
    components: Components = field(repr=False)
    n_resamples: int
    seed: int
    smallest_p: dict[int, float]

    def least(self, power: float = 0.8) -> DesignPower | None:
        """Return the design of fewest presentations with at least that power; None if none."""
        enough = [one for one in self.designs if one.power >= power]
        cost = [one.n_stimuli * one.n_subjects * one.repetitions for one in enough]
        return enough[int(np.argmin(cost))] if enough else None

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a design."""
        common = {
            "test": self.test,
            "alpha": self.alpha,
            "comparator": self.comparator,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
        }
        return [
            {**vars(one), "smallest_p": self.smallest_p[one.n_subjects], **common}
            for one in self.designs
        ]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a design."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def to_xarray(self) -> xr.Dataset:
        """Return power, its interval and the difference over n_stimuli, n_subjects, repetitions."""
        import xarray as xr

        axes = {
            name: list(dict.fromkeys(getattr(one, name) for one in self.designs))
            for name in DIMENSIONS
        }
        shape = tuple(map(len, axes.values()))
        names = ("power", "low", "high", "mean_difference")
        values = {
            name: (DIMENSIONS, np.reshape([getattr(one, name) for one in self.designs], shape))
            for name in names
        }
        attrs = {"test": self.test, "alpha": self.alpha, "comparator": self.comparator}
        return xr.Dataset(values, coords=axes, attrs=attrs)


def power(
    pilot: Array | Components,
    layers: Array,
    *,
    n_stimuli: int | Sequence[int],
    n_subjects: int | Sequence[int],
    repetitions: int | Sequence[int] = 1,
    test: str = "two-factor",
    comparator: str = "corr",
    alpha: float = 0.05,
    n_simulations: int = 200,
    n_resamples: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> Power:
    """Simulate how often designs would tell two layers apart, from what a pilot measured.

    From the pilot's RDMs follow the geometry that subjects share, how much subjects differ and how
    noisy a session is (`estimate_components`). New subjects are drawn from these, new stimuli from
    the pilot's, and each simulated data set is tested as real ones are.

    Args:
        pilot: squared Euclidean, crossnobis or correlation distances of 2 or more subjects,
            (subject, pair), or (subject, session, pair); or `Components`.
        layers: RDMs of the two layers, of the pilot's stimuli in the same order.
        n_stimuli, n_subjects, repetitions: the grid. A repetition is one session of the pilot;
            more than 1 needs a pilot with sessions.
        test: ``two-factor`` claims new stimuli and new subjects, ``stimuli`` new stimuli for the
            same subjects, ``subjects`` new subjects for the same stimuli.
        comparator: of RDMs; no whitened one, which needs all pairs.
        alpha: level of the two-sided test.
        n_simulations: simulated data sets a design.
        n_resamples: bootstrap samples of each.
        seed: each data set has a generator of its own, so that a design's power depends on the
            seed and the design alone.
        progress: show a progress bar on stderr.

    Returns:
        A `Power`: one row a design, with the interval of its power.

    Raises:
        ValueError: a pilot of fewer than 2 subjects or with NaN, repetitions that it cannot tell,
            designs too small to test, or unknown names.

    Note:
        The interval holds the error of the simulation, and what the pilot leaves open of the
        layers' difference: power is read at both ends of the difference's interval, over new
        stimuli and new subjects. How subjects differ and how noisy a session is are taken as
        estimated, signal and noise to fill the same number of directions, stimuli to be like the
        pilot's; a difference that was picked because it is large is overestimated.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> features = torch.randn(2, 30, 6, generator=draw)
        >>> layers = torch.cdist(features, features)[:, *torch.triu_indices(30, 30, 1)] ** 2
        >>> brains = features[0] + 0.5 * torch.randn(4, 30, 6, generator=draw)
        >>> pilot = torch.cdist(brains, brains)[:, *torch.triu_indices(30, 30, 1)] ** 2
        >>> found = power(
        ...     pilot, layers, n_stimuli=[20], n_subjects=[4, 8], test="subjects", n_simulations=40
        ... )
        >>> [(one.n_subjects, one.power > 0.9) for one in found.designs], found.smallest_p
        ([(4, False), (8, True)], {4: 0.125, 8: 0.0078125})

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    check_choice(test, TESTS, "test")
    seed = as_whole_number(seed, "seed")
    if comparator in WHITENED:
        raise ValueError(f"comparator {comparator!r} needs all pairs of stimuli; use 'corr'")
    if not 0 < alpha < 1 or n_simulations < 1 or n_resamples < 2:
        raise ValueError(
            f"alpha is {alpha}, n_simulations {n_simulations} and n_resamples {n_resamples};"
            " expected a share, 1 or more, and 2 or more"
        )
    models = as_layers(layers)
    components = pilot if isinstance(pilot, Components) else estimate_components(pilot, models)
    measured = None
    if not isinstance(pilot, Components):
        averaged = as_sessions(pilot).mean(1)
        measured = pilot_effect(
            models, averaged, comparator=comparator, n_resamples=n_resamples, seed=seed
        )
    difference, reach = measured or (float("nan"), float("nan"))
    sizes = [
        _whole_numbers(value, name)
        for value, name in zip((n_stimuli, n_subjects, repetitions), DIMENSIONS, strict=True)
    ]
    grid = [Design(*one) for one in product(*sizes)]
    _check_grid(grid, components)
    claim, run = TESTS[test]
    found = []
    for design in track(grid, "power", show=progress):
        effects, p, shifted = [], [], []
        for number in range(n_simulations):
            words = [seed, design.n_stimuli, design.n_subjects, design.repetitions, number]
            state = int(np.random.SeedSequence(words).generate_state(1)[0])
            generator = torch.Generator().manual_seed(state)
            data = simulate_design(components, models, design, generator)
            effect, value, p_of = run(*data, comparator, n_resamples, state)
            effects.append(effect)
            p.append(value)
            shifted.append(p_of)
        low, high = power_interval(shifted, torch.tensor(effects), alpha=alpha, pilot=measured)
        found.append(
            DesignPower(
                **vars(design),
                power=float((np.array(p) <= alpha).mean()),
                low=low,
                high=high,
                mean_difference=float(np.mean(effects)),
                n_simulations=n_simulations,
            )
        )
    return Power(
        designs=tuple(found),
        test=test,
        claim=claim,
        alpha=alpha,
        comparator=comparator,
        pilot_difference=difference,
        pilot_reach=reach,
        components=components,
        n_resamples=n_resamples,
        seed=seed,
        smallest_p={n: smallest_p(test, n, n_resamples) for n in sizes[1]},
    )


def _whole_numbers(value: int | Sequence[int], name: str) -> list[int]:
    return [as_whole_number(one, name) for one in np.atleast_1d(np.asarray(value)).tolist()]


def _check_grid(grid: Sequence[Design], components: Components) -> None:
    if not grid:
        raise ValueError("there are no designs; give numbers of stimuli, subjects and repetitions")
    for one in grid:
        if one.n_stimuli < 5 or one.n_subjects < 2 or one.repetitions < 1:
            raise ValueError(f"{one}: expected 5 or more stimuli, 2 subjects and 1 repetition")
        if one.repetitions != 1 and components.noise is None:
            raise ValueError(
                "the pilot has 1 session a subject, which does not tell noise from subjects; give"
                " (subject, session, pair), or leave repetitions out: as many as in the pilot"
            )
