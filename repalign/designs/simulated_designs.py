"""Data sets of a design, drawn from the components of a pilot, and their tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.designs.pilot_components import Components
from repalign.inference import (
    bootstrap_draws,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    sign_flip_test,
    t_test,
    two_factor_variances,
)
from repalign.metrics import compare_rdms
from repalign.metrics.pairs import condensed, square_form

LEAST_FLIPS = 1000  # all patterns of signs up to 9 subjects


@dataclass(frozen=True)
class Design:
    """One design: numbers of stimuli, of subjects, and of repetitions (sessions) of each."""

    n_stimuli: int
    n_subjects: int
    repetitions: int


def simulate_design(
    components: Components,
    layers: Float[Tensor, "2 pair"],
    design: Design,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "2 pair"], Float[Tensor, "subject pair"]]:
    """Return RDMs of the layers and of new subjects, for stimuli drawn from the pilot's.

    Stimuli are drawn with replacement; copies of one have the same signal and noise of their own,
    and pairs of copies are NaN, since other stimuli than the pilot's are never that alike.

    Args:
        components: from ``estimate_components``.
        layers: RDMs of the pilot's stimuli.
        design: how many of what.
        generator: of all random numbers.
    """
    root, nu = components.root, components.dimensions
    origin = torch.randint(len(root), (design.n_stimuli,), generator=generator)
    shape = (design.n_subjects, root.shape[1], nu)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    responses = root[origin] @ weights
    if components.noise:
        shape = (design.n_subjects, design.n_stimuli, nu)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        responses += (components.noise / design.repetitions) ** 0.5 * noise
    gram = responses @ responses.mT / nu
    own = gram.diagonal(dim1=-2, dim2=-1)
    distances = own[:, :, None] + own[:, None, :] - 2 * gram
    same = origin[:, None] == origin
    of_layers = square_form(layers)[:, origin[:, None], origin]
    return (
        condensed(of_layers.masked_fill(same, torch.nan)),
        condensed(distances.masked_fill(same, torch.nan)),
    )


Shifted = Callable[[Tensor], Tensor]  # p values, had the effect been larger by so much
Found = tuple[float, float, Shifted]  # effect, p, and p of shifted effects


def _subjects(
    layers: Tensor, subjects: Tensor, comparator: str, n_resamples: int, seed: int
) -> Found:
    values = compare_rdms(layers[:, None], subjects[None], method=comparator, batch_dims=2)
    difference = values[0] - values[1]

    def p_of(shifts: Tensor) -> Tensor:
        shifted = difference[:, None] + shifts
        return sign_flip_test(shifted, n_flips=max(LEAST_FLIPS, n_resamples), seed=seed).p

    return float(difference.mean()), float(p_of(torch.zeros(1))), p_of


def _stimuli(
    layers: Tensor, subjects: Tensor, comparator: str, n_resamples: int, seed: int
) -> Found:
    n = _n_stimuli(layers)
    draws = bootstrap_draws(n, len(subjects), over="stimuli", n_resamples=n_resamples, seed=seed)
    values = evaluate_resamples(layers, subjects, draws, comparator=comparator, ceilings=True)
    spread = estimated_variances(values, draws)
    return _by_t(layers, subjects, comparator, spread.differences[0, 1], spread.degrees_of_freedom)


def _two_factor(
    layers: Tensor, subjects: Tensor, comparator: str, n_resamples: int, seed: int
) -> Found:
    draws = bootstrap_draws(_n_stimuli(layers), len(subjects), n_resamples=n_resamples, seed=seed)
    values = evaluate_dual(layers, subjects, draws, comparator=comparator)
    spread = two_factor_variances(values, draws)
    return _by_t(layers, subjects, comparator, spread.differences[0, 1], spread.degrees_of_freedom)


def _by_t(
    layers: Tensor, subjects: Tensor, comparator: str, variance: Tensor, freedom: int
) -> Found:
    values = compare_rdms(layers[:, None], subjects[None], method=comparator, batch_dims=2)
    effect = (values[0] - values[1]).mean()

    def p_of(shifts: Tensor) -> Tensor:
        return t_test(effect + shifts, variance.expand(len(shifts)), degrees_of_freedom=freedom).p

    return float(effect), float(p_of(torch.zeros(1))), p_of


def _n_stimuli(rdms: Int[Tensor, "rdm pair"]) -> int:
    return square_form(rdms[0]).shape[0]


DesignTest = Callable[[Tensor, Tensor, str, int, int], Found]
TESTS: dict[str, tuple[str, DesignTest]] = {
    "two-factor": ("new stimuli and new subjects: t test, two-factor bootstrap", _two_factor),
    "stimuli": ("new stimuli, the same subjects: t test, bootstrap over stimuli", _stimuli),
    "subjects": ("new subjects, the same stimuli: sign flips over subjects", _subjects),
}


def smallest_p(test: str, n_subjects: int, n_resamples: int) -> float:
    """Return the least p value that the test can give."""
    if test != "subjects":
        return 0.0
    n_flips = max(LEAST_FLIPS, n_resamples)
    patterns = 2.0**n_subjects
    return max(2.0 / patterns, 0.0 if patterns <= n_flips else 1 / (n_flips + 1))
