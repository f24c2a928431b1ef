"""The HSIC terms of two populations from their responses, with no matrix of all stimulus pairs.

With column-centred responses the rows of a Gram matrix K sum to zero, so those of K without its
diagonal sum to −|xᵢ|²: what U-centring subtracts is known before any product is taken.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.gram import centre, in_working_precision, product, symmetric_product

ROWS = 128  # of the Gram matrices at a time: enough for full BLAS speed, little enough for a cache
ENOUGH_LEFT = 1e-4  # share of |K|² that must survive U-centring before a quick way is trusted
UNDERFLOW = 1e-50  # of |K|²: below, float32 products begin to vanish


@dataclass(frozen=True)
class HSICTerms:
    """Inner products of the centred Gram matrices of x and y: all that CKA is made of.

    Terms of several batches add up; the ratio is taken once, of the sums.
    """

    xy: Float[Tensor, ""]
    xx: Float[Tensor, ""]
    yy: Float[Tensor, ""]

    def __add__(self, other: "HSICTerms") -> "HSICTerms":
        """Return the terms of both."""
        return HSICTerms(self.xy + other.xy, self.xx + other.xx, self.yy + other.yy)

    def cka(self) -> Float[Tensor, ""]:
        """Return xy / √(xx · yy), NaN where a population has no geometry."""
        lengths = self.xx.sqrt() * self.yy.sqrt()
        return (self.xy / lengths).masked_fill(lengths == 0, torch.nan)


@dataclass(frozen=True)
class Moments:
    """Sums over stimuli from which ⟨K̃, L̃⟩ follows exactly; sums of two sets of stimuli add up.

    With u = x − origin_x, v = y − origin_y, a = |u|² and b = |v|² of each stimulus. Any origin
    gives the same result; one near the mean keeps all digits.
    """

    n: int
    origin_x: Float[Tensor, "neuroid"]
    origin_y: Float[Tensor, "unit"]
    u: Float[Tensor, "neuroid"]
    v: Float[Tensor, "unit"]
    uv: Float[Tensor, "neuroid unit"]
    a: Float[Tensor, ""]
    b: Float[Tensor, ""]
    ab: Float[Tensor, ""]
    bu: Float[Tensor, "neuroid"]
    av: Float[Tensor, "unit"]

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "stimulus neuroid"],
        y: Float[Tensor, "stimulus unit"],
        origin_x: Float[Tensor, "neuroid"],
        origin_y: Float[Tensor, "unit"],
    ) -> "Moments":
        """Sum over the stimuli of ``x`` and ``y``; with ``y is x`` at half the work."""
        same = y is x
        u = in_working_precision(x) - origin_x
        v = u if same else in_working_precision(y) - origin_y
        a, b = u.square().sum(1), v.square().sum(1)
        uv = symmetric_product(u.mT) if same else product(u.mT, v)
        return cls(
            n=len(x),
            origin_x=origin_x,
            origin_y=origin_y,
            u=u.sum(0),
            v=v.sum(0),
            uv=uv,
            a=a.sum(),
            b=b.sum(),
            ab=a @ b,
            bu=b @ u,
            av=a @ v,
        )

    def about(self, origin_x: Tensor, origin_y: Tensor) -> "Moments":
        """Return the same sums about other origins."""
        if origin_x is self.origin_x and origin_y is self.origin_y:
            return self
        d, e = origin_x - self.origin_x, origin_y - self.origin_y
        dd, ee = d @ d, e @ e
        a = self.a - 2 * d @ self.u + self.n * dd
        b = self.b - 2 * e @ self.v + self.n * ee
        ab = self.ab - 2 * e @ self.av - 2 * d @ self.bu + 4 * d @ self.uv @ e
        u, v = self.u - self.n * d, self.v - self.n * e
        return Moments(
            n=self.n,
            origin_x=origin_x,
            origin_y=origin_y,
            u=u,
            v=v,
            uv=self.uv - d[:, None] * self.v - u[:, None] * e,
            a=a,
            b=b,
            ab=ab + ee * (self.a - 2 * d @ self.u) + dd * b,
            bu=self.bu - 2 * self.uv @ e + ee * self.u - d * b,
            av=self.av - 2 * d @ self.uv + dd * self.v - e * a,
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Return the sums over the stimuli of both, about this one's origin."""
        other = other.about(self.origin_x, self.origin_y)
        return Moments(
            self.n + other.n,
            self.origin_x,
            self.origin_y,
            *(
                getattr(self, part) + getattr(other, part)
                for part in ("u", "v", "uv", "a", "b", "ab", "bu", "av")
            ),
        )

    def inner(self, *, debiased: bool) -> tuple[Tensor, Tensor]:
        """Return ⟨K̃, L̃⟩ of the centred Gram matrices, and |XᵀY|², of which it is what is left."""
        n = self.n
        about_mean = self.about(self.origin_x + self.u / n, self.origin_y + self.v / n)
        whole = about_mean.uv.square().sum()
        if not debiased:
            return whole, whole
        diagonals = about_mean.ab * n / (n - 2)
        return whole - diagonals + about_mean.a * about_mean.b / ((n - 1) * (n - 2)), whole


@dataclass(frozen=True)
class FeatureSums:
    """Moments of x with x, x with y and y with y: CKA in O(n p²) and p × p memory."""

    xx: Moments
    xy: Moments
    yy: Moments

    @classmethod
    def of(
        cls,
        x: Float[Tensor, "stimulus neuroid"],
        y: Float[Tensor, "stimulus unit"],
        *,
        like: "FeatureSums | None" = None,
    ) -> "FeatureSums":
        """Sum over the stimuli of ``x`` and ``y``, about their means, or the origins of ``like``.

        Sums that share their origins are the cheapest to add.
        """
        origin_x = like.xy.origin_x if like else _mean_pattern(x)
        origin_y = like.xy.origin_y if like else _mean_pattern(y)
        return cls(
            Moments.of(x, x, origin_x, origin_x),
            Moments.of(x, y, origin_x, origin_y),
            Moments.of(y, y, origin_y, origin_y),
        )

    def __add__(self, other: "FeatureSums") -> "FeatureSums":
        """Return the sums over the stimuli of both."""
        return FeatureSums(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy)

    def terms(self, *, debiased: bool) -> tuple[HSICTerms, bool]:
        """Return the terms, and whether U-centring left enough of them to trust the digits."""
        xx, all_x = self.xx.inner(debiased=debiased)
        yy, all_y = self.yy.inner(debiased=debiased)
        xy, _ = self.xy.inner(debiased=debiased)
        rounding = 64 * torch.finfo(xx.dtype).eps
        xx, yy = (
            xx.masked_fill(xx <= rounding * all_x, 0),
            yy.masked_fill(yy <= rounding * all_y, 0),
        )
        return HSICTerms(xy, xx, yy), bool((xx > ENOUGH_LEFT * all_x) & (yy > ENOUGH_LEFT * all_y))


def _mean_pattern(x: Float[Tensor, "stimulus neuroid"]) -> Float[Tensor, "neuroid"]:
    """Return the mean over stimuli, exact for constant columns."""
    first = in_working_precision(x[0])
    return first + (x - x[0]).mean(0, dtype=first.dtype)


def _centred_rows(
    x: Float[Tensor, "stimulus neuroid"], *, debiased: bool, single: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return centred responses, what U-centring adds to each row, and |xᵢ|²."""
    # In float32 a difference is rounded relative to itself, so that an offset costs no digits.
    centred = centre(x if single else in_working_precision(x), 0)
    parts = torch.split(centred, ROWS)
    squares = torch.cat([in_working_precision(part).square().sum(1) for part in parts])
    n = len(x)
    if not debiased:
        return centred, torch.zeros_like(squares), squares
    return centred, squares / (n - 2) - squares.sum() / (2 * (n - 1) * (n - 2)), squares


def terms_by_rows(
    x: Float[Tensor, "stimulus neuroid"],
    y: Float[Tensor, "stimulus unit"],
    *,
    debiased: bool,
    single: bool = False,
    rows: int = ROWS,
) -> tuple[HSICTerms, bool]:
    """Return the terms from blocks of rows of the upper triangles of both Gram matrices.

    Args:
        x, y: responses to the same stimuli.
        debiased: U-centre, rather than doubly centre.
        single: take the products in float32, after centring; everything else is float64.
        rows: of a block; the memory needed is two blocks and a centred copy of the responses.

    Returns:
        The terms, and whether U-centring left enough of them to trust the digits.
    """
    sides = [_centred_rows(side, debiased=debiased, single=single) for side in (x, y)]
    totals = torch.zeros(3, dtype=sides[0][1].dtype, device=x.device)
    for start in range(0, len(x), rows):
        k, m = (
            _gram_rows(centred, added, start, rows, debiased=debiased)
            for centred, added, _ in sides
        )
        totals = totals + torch.stack([_twice_upper(k, m), _twice_upper(k, k), _twice_upper(m, m)])
    xy, xx, yy = totals.unbind()
    lengths = torch.stack([squares.square().sum() for *_, squares in sides])
    rounding = (len(x) * torch.finfo(totals.dtype).eps) ** 2 * lengths
    xx, yy = xx.masked_fill(xx <= rounding[0], 0), yy.masked_fill(yy <= rounding[1], 0)
    trusted = (torch.stack([xx, yy]) > ENOUGH_LEFT * lengths) & (totals[1:] > UNDERFLOW)
    return HSICTerms(xy, xx, yy), bool(trusted.all() & totals.isfinite().all())


def _gram_rows(
    centred: Tensor, added: Tensor, start: int, rows: int, *, debiased: bool
) -> Float[Tensor, "row column"]:
    """Return rows of a centred Gram matrix, from the diagonal on."""
    block = in_working_precision(product(centred[start : start + rows], centred[start:].mT))
    if debiased:
        block += added[start:]
        block += added[start : start + rows, None]
        block.diagonal().zero_()
    return block


def _twice_upper(k: Tensor, m: Tensor) -> Float[Tensor, ""]:
    """Return ⟨k, m⟩ over all columns and, since the matrices are symmetric, their mirror images."""
    n = len(k)
    return 2 * k.flatten() @ m.flatten() - (k[:, :n] * m[:, :n]).sum()
