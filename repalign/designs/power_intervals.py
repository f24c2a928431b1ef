"""What a pilot leaves open of the power of a design: its effect is an estimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from scipy.stats import t as student_t
from torch import Tensor

from repalign.designs.simulated_designs import Shifted
from repalign.inference import bootstrap_draws, evaluate_dual, two_factor_variances
from repalign.metrics import compare_rdms
from repalign.metrics.pairs import stimulus_count

FEWER = 4.0  # times smaller or larger that effects of a design are than the pilot's, at most
GRID = 41  # effects between the ends of the pilot's interval, at which power is read


def pilot_effect(
    layers: Float[Tensor, "2 pair"],
    subjects: Float[Tensor, "subject pair"],
    *,
    comparator: str,
    n_resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the layers' difference in a pilot, and half its interval for other pilots.

    Over new stimuli and new subjects: t with the two-factor corrected variance.

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    values = compare_rdms(layers[:, None], subjects[None], method=comparator, batch_dims=2).mean(1)
    n_stimuli = stimulus_count(layers.shape[1])
    draws = bootstrap_draws(n_stimuli, len(subjects), n_resamples=n_resamples, seed=seed)
    dual = evaluate_dual(layers, subjects, draws, comparator=comparator, ceilings=False)
    found = two_factor_variances(dual, draws)
    reach = student_t.ppf((1 + confidence) / 2, found.degrees_of_freedom)
    error = float(found.differences[0, 1]) ** 0.5
    return float(values[0] - values[1]), float(reach) * error


def power_interval(
    tests: Sequence[Shifted],
    effects: Float[Tensor, "*simulation"],
    *,
    alpha: float,
    pilot: tuple[float, float] | None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of power, with what the pilot leaves open of the effect.

    Power is read over the interval of the pilot's effect d ± r: each simulated data set is tested
    again, its effect shifted by up to ±r·m/d, with m the mean effect of the data sets (m/d is how
    far noise that the design has and the pilot had not makes effects smaller; it is taken within
    1/4 and 4, for pilots without an effect). With Wilson's interval (l, u) of the share p of
    significant data sets, and the least and the greatest of these powers, p₁ and p₂:
    ``p − √((p − l)² + (p − p₁)²)`` to ``p + √((u − p)² + (p₂ − p)²)``.

    Args:
        tests: p values of shifted effects, one function a simulated data set.
        effects: of the data sets.
        alpha: level of the test.
        pilot: its effect, and half the interval of that (``pilot_effect``); None where the effect
            is given: the interval is the simulation's own.

    Reference:
        Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; Zou & Donner 2008 (the sum of
        errors), https://doi.org/10.1002/sim.3095
    """
    reach = 0.0
    if pilot is not None:
        ratio = float(effects.mean()) / pilot[0] if pilot[0] else 1.0
        reach = pilot[1] * min(max(ratio, 1 / FEWER), FEWER)
    shifts = torch.linspace(-reach, reach, GRID, dtype=torch.float64)
    powers = (torch.stack([p_of(shifts) for p_of in tests]) <= alpha).double().mean(0)
    k, n = round(float(powers[GRID // 2]) * len(tests)), len(tests)
    low, high = binomtest(k, n).proportion_ci(confidence, method="wilson")
    p = k / n
    down = torch.tensor([p - low, p - float(powers.min())], dtype=torch.float64).norm()
    up = torch.tensor([high - p, float(powers.max()) - p], dtype=torch.float64).norm()
    return max(0.0, p - float(down)), min(1.0, p + float(up))
