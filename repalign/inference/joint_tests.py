"""max-T for t tests: many effects of the same resamples, corrected as a family."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from repalign.inference.significance import Alternative, check_alternative

N_DRAWS = 20_000
BLOCK = 1_000
RANK = 1e-9  # singular values below this share of the largest are zero


def joint_t_test(
    effects: Float[Tensor, "test"],
    variances: Float[Tensor, "test"],
    resampled: Float[Tensor, "resample test"],
    *,
    degrees_of_freedom: int,
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> Float[Tensor, "test"]:
    """Return p values corrected by max-T: as extreme as the largest t of the family by chance.

    Drawn from the multivariate t distribution of the effects, with the correlations that they have
    over resamples: tests that go together cost less than by Holm.

    Step by step: the largest t is compared with the largest of all tests, the next with that of the
    others, and so on; ``p = (1 + number of draws whose largest t is as large)/(1 + draws)``, of
    20 000 draws, and no less than that of any larger t.

    Args:
        effects: as for ``t_test``.
        variances: one an effect; an effect without variance is none or certain.
        resampled: the effects in resamples, of which the correlations are taken; resamples in which
            any is NaN are left out.
        degrees_of_freedom: as ``Variances`` has it.
        alternative: ``two-sided``, or ``greater``.
        seed: seed of the draws.

    Raises:
        ValueError: fewer than 2 resamples in which all effects are defined.

    Example:
        >>> same = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 5)
        >>> p = joint_t_test(torch.full((5,), 2.2), torch.ones(5), same, degrees_of_freedom=10)
        >>> bool((p < 0.07).all())  # five times the same test is one: .05
        True

    Reference:
        Hothorn, Bretz & Westfall 2008, https://doi.org/10.1002/bimj.200810425; step by step:
        Westfall & Young 1993, Resampling-Based Multiple Testing (no DOI)
    """
    check_alternative(alternative)
    resampled = resampled.detach().double().cpu()
    resampled = resampled[resampled.isfinite().all(1)]
    if len(resampled) < 2:
        raise ValueError(
            f"All effects are defined in {len(resampled)} resamples; max-T takes their correlations"
            " over 2 or more. Leave out the model that is undefined, or use correction='holm'."
        )
    centred = resampled - resampled.mean(0)
    unit = centred / centred.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    _, lengths, directions = torch.linalg.svd(unit, full_matrices=False)
    kept = lengths > RANK * lengths.max()
    root = (lengths[kept, None] * directions[kept]).numpy()  # its square is the correlations
    least = torch.finfo(torch.float64).eps
    observed = (effects.double().cpu() / variances.double().cpu().clamp(min=least).sqrt()).numpy()
    observed = np.abs(observed) if alternative == "two-sided" else observed
    order = np.argsort(-observed, kind="stable")
    random = np.random.default_rng([seed, *b"joint t"])
    reached = np.zeros(observed.shape)
    for _ in range(N_DRAWS // BLOCK):
        normal = random.standard_normal((BLOCK, len(root))) @ root
        squares = random.chisquare(degrees_of_freedom, (BLOCK, 1)) / degrees_of_freedom
        t = normal / np.sqrt(squares)
        falling = (np.abs(t) if alternative == "two-sided" else t)[:, order[::-1]]
        largest = np.maximum.accumulate(falling, axis=1)[:, ::-1]  # of this test and all below it
        reached += (largest >= observed[order]).sum(0)
    adjusted = np.empty_like(reached)
    adjusted[order] = np.maximum.accumulate((1 + reached) / (1 + N_DRAWS))
    return torch.from_numpy(adjusted)
