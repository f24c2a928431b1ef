"""Tests over subjects by flipping signs: is the mean over subjects different from zero?"""

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.inference.map_draws import flipped_maps
from repalign.inference.monte_carlo import error_of_share
from repalign.inference.significance import (
    Alternative,
    Significance,
    check_alternative,
    p_of_draws,
)


def sign_flip_test(
    values: Float[Tensor, "subject *test"],
    *,
    alternative: Alternative = "two-sided",
    n_flips: int = 10_000,
    seed: int = 0,
) -> Significance:
    """Test whether the mean over subjects is 0, by flipping the signs of whole subjects.

    Under the null hypothesis a subject's values are as likely as their negatives. The statistic is
    ``t = mean/(sd/√n)``, whose p value is that of the mean; max-T compares it with the largest t
    over all tests in the same flips. All 2ⁿ patterns are used where they are no more than
    ``n_flips``, random ones otherwise.

    Args:
        values: one row a subject: a model's value less chance, or the difference of two models, or
            of a model and a ceiling; one column a test, of any shape.
        alternative: ``two-sided``, or ``greater``: the mean is above 0.
        n_flips: largest number of patterns of signs.
        seed: seed of random patterns.

    Returns:
        A ``Significance``. ``smallest_p`` is 2/2ⁿ for n subjects (1/2ⁿ if one-sided): .25 for 3,
        .125 for 4 and .0625 for 5, so that with fewer than 6 subjects nothing is significant at
        .05, two-sided. p is 1 where all values are 0.

    Raises:
        ValueError: fewer than 2 subjects, fewer than 1 flip, values that are NaN, or an unknown
            alternative.

    Note:
        Subjects must be independent, and under the null hypothesis symmetric around 0. Differences
        of two models that are equally good are. Similarities of an unrelated model are not where
        subjects saw the same stimuli and share a geometry: what it resembles by chance, all of them
        show (27 % false positives in 8 simulated subjects). Test these by
        ``label_permutation_test``, or resample stimuli too.

    Example:
        >>> found = sign_flip_test(torch.tensor([0.2, 0.1, 0.3, 0.2]))
        >>> found.p.item(), found.smallest_p, found.kind
        (0.125, 0.125, 'sign-flip over subjects, exact, two-sided')

    Reference:
        Nichols & Holmes 2002, https://doi.org/10.1002/hbm.1058
    """
    check_alternative(alternative)
    shape = values.shape[1:]
    rows = values.detach().double().cpu().reshape(len(values), -1)
    n = len(rows)
    if n < 2 or n_flips < 1:
        raise ValueError(
            f"{n} subjects and {n_flips} flips were given; a sign-flip test needs 2 or more "
            "subjects and 1 or more flips. Test over stimuli instead, for the subjects there are."
        )
    undefined = (~rows.isfinite()).any(1).nonzero()[:, 0].tolist()
    if undefined:
        raise ValueError(
            f"The values of subjects {undefined} (rows, from 0) hold NaN or infinity. Leave out "
            "these subjects, or the models that are undefined for them."
        )
    drawn = flipped_maps(rows, alternative=alternative, n_flips=n_flips, seed=seed)
    null = torch.cat([torch.from_numpy(block) for block in drawn.blocks])
    observed = torch.from_numpy(drawn.observed)
    found = p_of_draws(observed, null, alternative=alternative, exact=drawn.exact)
    alone, family = (p.reshape(shape) for p in found)
    errors = [
        torch.zeros_like(p) if drawn.exact else error_of_share(p, n_flips) for p in (alone, family)
    ]
    return Significance(alone, drawn.smallest_p, drawn.kind, len(null), family, *errors)
