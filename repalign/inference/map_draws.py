"""A statistic at many points, and the same under the null hypothesis: sign flips, permutations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t
from torch import Tensor

from repalign.inference.significance import ROUNDING, Alternative

BLOCK_ELEMENTS = 1 << 22  # 32 MiB of float64: draws that are in memory at a time
CACHED_ELEMENTS = 1 << 15

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class DrawnMaps:
    """A map of a statistic, and the maps of all draws under the null hypothesis.

    Args:
        observed: t or z of each point.
        blocks: the same of the draws, (draw, point), some at a time; they come once.
        isf: value that the statistic of one point exceeds with a probability.
        two_sided: values below 0 count too.
        exact: the draws are all that there are, the observed map among them.
        smallest_p: the least that a test by them can return, whatever the effect.
        kind: how they were made, in words.
    """

    observed: Numbers
    blocks: Iterator[Numbers]
    isf: Callable[[float], float]
    two_sided: bool
    exact: bool
    smallest_p: float
    kind: str

    def threshold(self, p: float) -> float:
        """Return the value of the statistic whose p, of a single point, is this."""
        return float(self.isf(p / (2 if self.two_sided else 1)))

    def share(self, n_beyond: NDArray[Any], n_draws: int) -> Numbers:
        """Return p, given how many draws are as extreme; never 0."""
        extra = 0 if self.exact else 1
        return (n_beyond + extra) / (n_draws + extra)

    def family_p(self, compared: Numbers, largest: Numbers) -> Numbers:
        """Return p corrected for the whole map: the share of draws whose largest is as large."""
        top = np.sort(largest)
        most = max(float(top[-1]), float(compared.max(initial=0)), np.finfo(float).tiny)
        below = np.searchsorted(top, compared - ROUNDING * most, side="left")
        return self.share(len(top) - below, len(top))


def flipped_maps(
    rows: Float[Tensor, "subject point"], *, alternative: Alternative, n_flips: int, seed: int
) -> DrawnMaps:
    """Return t of the mean over subjects, and the same with the signs of whole subjects flipped."""
    n = len(rows)
    signs, exact = sign_patterns(n, n_flips, seed)
    squares = rows.square().sum(0)
    parts = torch.split(signs, max(1, BLOCK_ELEMENTS // max(1, rows.shape[1])))
    two_sided = alternative == "two-sided"
    least = (2.0 if two_sided else 1.0) / 2.0**n
    return DrawnMaps(
        t_statistics(rows.sum(0, keepdim=True), squares, n)[0].numpy(),
        (np.asarray(t_statistics(part @ rows, squares, n).numpy()) for part in parts),
        partial(student_t.isf, df=n - 1),
        two_sided,
        exact,
        least if exact else max(least, 1 / (n_flips + 1)),
        f"sign-flip over subjects, {'exact' if exact else 'random'}, {alternative}",
    )


def permuted_maps(
    observed: Numbers,
    null: NDArray[np.floating],
    *,
    alternative: Alternative,
    draws: str = "permutation of stimulus labels",
) -> DrawnMaps:
    """Return z of a map and of those of random permutations, over all of them at each point.

    Raises:
        ValueError: points that hold NaN or infinity.
    """
    n = len(null)
    mean = (null.sum(0, dtype=np.float64) + observed) / (n + 1)
    squares = (observed - mean) ** 2
    step = max(1, CACHED_ELEMENTS // len(observed))
    for at in range(0, n, step):
        squares += ((null[at : at + step] - mean) ** 2).sum(0)
    if not np.isfinite(squares).all():
        raise ValueError(
            f"{int((~np.isfinite(squares)).sum())} positions hold NaN or infinity; leave them out"
        )
    spread = np.sqrt(squares / (n + 1))
    spread = np.where(spread > 0, spread, 1)
    size = max(1, BLOCK_ELEMENTS // len(observed))
    return DrawnMaps(
        (observed - mean) / spread,
        ((null[at : at + size] - mean) / spread for at in range(0, n, size)),
        norm.isf,
        alternative == "two-sided",
        False,
        1 / (n + 1),
        f"{draws}, random, {alternative}",
    )


def sign_patterns(
    n_subjects: int, n_flips: int, seed: int
) -> tuple[Float[Tensor, "flip subject"], bool]:
    """Return all patterns of signs, the one of no flip first, or random ones if they are fewer."""
    if n_subjects < 63 and 2**n_subjects <= n_flips:
        patterns = torch.arange(2**n_subjects)[:, None] >> torch.arange(n_subjects) & 1
        return 1.0 - 2.0 * patterns.double(), True
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2, (n_flips, n_subjects), generator=generator)
    return 1.0 - 2.0 * drawn.double(), False


def t_statistics(
    sums: Float[Tensor, "flip test"], squares: Float[Tensor, "test"], n: int
) -> Float[Tensor, "flip test"]:
    """Return mean/standard error; a mean with no spread at all counts as the largest number."""
    spread = (squares - sums.square() / n).clamp(min=0)
    rounding = 1e-13 * squares
    t = sums / n / (spread.maximum(rounding) / (n * (n - 1))).sqrt()
    return t.where(squares > 0, 0)
