"""Layers of far more units than stimuli, rotated into as many units as there are stimuli.

All that most metrics know of a layer are the inner products of its patterns and their means over
units. Both add up over units, so that the layer itself is never held together.
"""

from math import frexp
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from repalign.metrics import Metric

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_UNITS = 4096  # multiplied in the precision asked for; the products are added in float64
ROWS_AT_ONCE = 64  # in float64, for the sums that go with a block
SMALL = 500  # stimuli up to which several threads only hold each other up
SAFE_EXPONENT = 30  # of two: squares of values between its powers are safe in float32
PRECISIONS = {"float32": np.float32, "float64": np.float64}
"""What the products of a block are taken in."""


class GramSum:
    """The Gram matrix and the means over units of responses that come some units at a time.

    The units of a block are first centred over stimuli by a float32 number c close to their mean.
    With x̃ = x − c, what was taken is put back in float64: ``XXᵀ = Σ x̃x̃ᵀ + t1ᵀ + 1tᵀ + Σc²``,
    t = Σ x̃c. So a unit far from zero costs no digits of how it varies.

    Args:
        n_stimuli: rows of every block.
        precision: of the products within a block, a name in ``PRECISIONS``.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(5, 300))
        >>> total = GramSum(5, precision="float64")
        >>> for piece in np.split(x, 3, axis=1):
        ...     total.add(piece)
        >>> bool(np.allclose(total.gram(), x @ x.T)), bool(np.allclose(total.means(), x.mean(1)))
        (True, True)
    """

    def __init__(self, n_stimuli: int, *, precision: str = "float32") -> None:
        """Start with no units."""
        self.dtype = PRECISIONS[precision]
        self.units = 0
        self._centred = np.zeros((n_stimuli, n_stimuli))
        self._cross = np.zeros(n_stimuli)
        self._sums = np.zeros(n_stimuli)
        self._offsets = self._squares = 0.0
        self._product = np.empty((n_stimuli, n_stimuli), self.dtype)

    def add(self, piece: Float[Array, "stimulus unit"]) -> None:
        """Add some units; values that are not finite make the sums NaN."""
        threads = 1 if len(piece) <= SMALL else None
        with np.errstate(all="ignore"), threadpool_limits(threads, user_api="blas"):
            for start in range(0, piece.shape[1], BLOCK_UNITS):
                self._add(piece[:, start : start + BLOCK_UNITS])

    def _add(self, block: Array) -> None:
        centre = block.mean(axis=0, dtype=np.float32)
        near = np.subtract(block, centre, dtype=self.dtype)
        taken = centre.astype(np.float64)
        for first in range(0, len(near), ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            exact = near[rows].astype(np.float64)
            self._cross[rows] += np.einsum("ij,j->i", exact, taken)
            self._sums[rows] += exact.sum(axis=1)
        self._offsets += taken.sum()
        self._squares += taken @ taken
        self.units += block.shape[1]
        _, exponent = frexp(max(near.max(), -near.min()))
        scale = 1.0
        if abs(exponent) > SAFE_EXPONENT:  # squares would leave the range of float32
            scale = 2.0**-exponent
            near *= near.dtype.type(scale)
        np.matmul(near, near.T, out=self._product)  # BLAS' SYRK: half the work
        if scale != 1:
            self._centred += self._product.astype(np.float64) / scale**2
        else:
            self._centred += self._product

    def gram(self) -> Float[Array, "stimulus stimulus"]:
        """Return the inner products of the patterns over all units that were added."""
        whole = self._centred + self._cross
        whole += self._cross[:, None]
        whole += self._squares
        return whole

    def means(self) -> Float[Array, "stimulus"]:
        """Return each pattern's mean over units."""
        means: Array = (self._sums + self._offsets) / self.units
        return means


def rotate_gram(
    gram: Float[Array, "stimulus stimulus"], means: Float[Array, "stimulus"], units: int
) -> Float[Array, "stimulus rotated"]:
    """Return n + 1 units with the inner products, means and mean products of p units.

    ``X″ = √(q/p) F H + m 1ᵀ`` with q = n + 1, FFᵀ = XXᵀ − p m mᵀ (the patterns less their means m)
    and H the q − 1 orthonormal rows of a Helmert matrix, which are orthogonal to 1. So X″ has the
    means of X, and ``X″X″ᵀ/q = XXᵀ/p``: an RDM of X″ is that of X whether it is Euclidean
    (a mean over units), of cosines or of correlations, and what depends on inner products up to a
    factor (CKA, Procrustes, ridge and PLS from X) has the value it has on X.

    Args:
        gram: XXᵀ, of the patterns as they are.
        means: of each pattern over units.
        units: their number p.

    Returns:
        X″, (n, n + 1), in float64: what is far from zero in many units at once is so in few here,
        and float32 would round more than it did in X.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4, 50))
        >>> y = rotate_gram(x @ x.T, x.mean(1), 50)
        >>> y.shape, bool(np.allclose(np.corrcoef(y), np.corrcoef(x)))
        ((4, 5), True)
    """
    from scipy.linalg import helmert

    rotated = len(gram) + 1
    varying = gram - units * np.outer(means, means)
    values, vectors = np.linalg.eigh(varying)
    vectors *= np.sqrt(values.clip(min=0) * (rotated / units))
    turned: Array = vectors @ helmert(rotated)
    turned += means[:, None]
    return turned


def ignores_rotation(metric: "Metric") -> bool:
    """Tell whether a metric has the same value on a rotated layer (see ``rotate_gram``).

    So have metrics that ignore every rotation, and those of correlations over units: the rotation
    keeps each pattern's mean.

    Example:
        >>> from repalign.metrics import CKA, RSA, SoftMatching
        >>> [ignores_rotation(one) for one in (CKA(), RSA(), RSA(rdm="poisson"), SoftMatching())]
        [True, True, False, False]
    """
    return any(word in metric.invariances for word in KEPT_BY_ROTATION)


KEPT_BY_ROTATION = ("rotation", "pattern offset")
"""Invariances of which one suffices: the second is that of correlations over units alone."""
