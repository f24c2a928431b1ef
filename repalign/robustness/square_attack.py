"""The Square attack: random search over squares, which asks a model for logits and nothing else."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from repalign.metrics.comparators import check_choice
from repalign.robustness.attack_calls import Problem, SearchesImages, check_count
from repalign.robustness.attack_losses import margin_loss
from repalign.robustness.gradient_attacks import mean_logits
from repalign.robustness.image_random import uniform_numbers
from repalign.robustness.perturbations import (
    Images,
    L2Ball,
    Labels,
    LinfBall,
    per_image,
    take,
    take_ball,
)

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
TILES = 5  # the first L2 perturbation has so many along each side
Uniform = Callable[[int], Float[Tensor, "image count"]]


def changed_share(query: int, *, queries: int, p_init: float) -> float:
    """Return the share of pixels that a query changes: p_init, halved nine times on the way.

    Example:
        >>> [changed_share(query, queries=5000, p_init=0.8) for query in (1, 6, 26, 4500)]
        [0.8, 0.4, 0.2, 0.0015625]
    """
    halvings = bisect.bisect_left(HALVINGS, query * 10_000 // queries)
    return p_init / float(2**halvings)


@dataclass(frozen=True, kw_only=True)
class Square(SearchesImages):
    """A black-box attack: squares at random places are kept where they lower the margin.

    Linf: from vertical stripes of ±eps on, a square of each channel becomes ±eps. L2: from tiles of
    bumps on, a square gets a bump with the energy of another square, which is cleared. The
    squares shrink. It uses no gradient, so a model that masks its gradients does not stop it. An
    image that is wrong takes no further queries.

    Args:
        norm: "Linf" or "L2".
        queries: forward passes for an image, at most.
        p_init: share of the pixels that the first squares cover.

    Raises:
        ValueError: an unknown norm, queries below 1 or p_init not in (0, 1]; at the call, images,
            labels or a model that do not fit.

    Example:
        >>> model = lambda images: torch.cat([images.sum((1, 2, 3))[:, None], torch.ones(2, 1)], 1)
        >>> images, labels = torch.full((2, 1, 1, 2), 0.75), torch.zeros(2, dtype=torch.int64)
        >>> Square(queries=50)(model, images, labels, eps=0.5).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]

    Notes:
        Squares differ between the images of a batch, and random numbers are as in `PGD`. Tiles and
        squares have at least 3 pixels a side in L2 where the image has.

    Reference:
        Andriushchenko et al. 2020, https://doi.org/10.48550/arXiv.1912.00049
    """

    name: ClassVar[str] = "square"
    norm: str = "Linf"
    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        """Refuse a norm that does not exist, and numbers that make no sense."""
        check_choice(self.norm, SEARCHES, "norm")
        check_count(self.queries, "queries")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init is {self.p_init}; expected a share above 0 and at most 1.")

    def _search(self, problem: Problem) -> Images:
        start, propose = SEARCHES[self.norm]
        ball, labels, seeds = problem.ball, problem.labels, problem.seeds
        found = torch.empty_like(ball.images)
        which = torch.arange(len(found), device=found.device)
        x = ball.images
        best = torch.full_like(problem.logits[:, 0], -torch.inf)
        for query in range(self.queries):
            if query == 0:
                tried = start(ball, _numbers(seeds, 0))
            else:
                share = changed_share(query, queries=self.queries, p_init=self.p_init)
                tried = propose(ball, x, share, _numbers(seeds, query))
            logits = mean_logits(problem.model, tried)
            margins = margin_loss(logits, labels).nan_to_num(nan=-torch.inf)
            better = margins > best if query else torch.ones_like(which, dtype=torch.bool)
            x = torch.where(per_image(better), tried, x)
            best = torch.where(better, margins, best)
            resists = (logits.argmax(1) == labels) | (best < 0)
            if not bool(resists.all()):
                found[which[~resists]] = x[~resists]
                x, best, which = take(x, resists), best[resists], which[resists]
                ball, labels, seeds = take_ball(ball, resists), labels[resists], seeds[resists]
                if len(which) == 0:
                    return found
        found[which] = x
        return found


def _numbers(seeds: Labels, draw: int) -> Uniform:
    """Return what gives so many uniform numbers an image, of one draw."""
    like = torch.empty(len(seeds), 1, device=seeds.device)
    return lambda count: uniform_numbers(seeds, draw=draw, like=like.expand(-1, count))


def _signs(numbers: Float[Tensor, "image count"]) -> Float[Tensor, "image count"]:
    return (numbers - 0.5).sign()


def _corner(numbers: Float[Tensor, "image 2"], x: Images, side: int) -> tuple[Tensor, Tensor]:
    """Where a square of this side begins, row and column."""
    height, width = x.shape[-2:]
    top, left = numbers[:, 0] * (height - side + 1), numbers[:, 1] * (width - side + 1)
    return top.long(), left.long()


def _stripes(ball: LinfBall | L2Ball, uniform: Uniform) -> Images:
    """Vertical stripes, ±eps in each channel."""
    count, channels, _, width = ball.images.shape
    signs = _signs(uniform(channels * width)).reshape(count, channels, 1, width)
    return ball.project_(ball.images + ball.eps * signs)


def _flat_square(ball: LinfBall | L2Ball, x: Images, share: float, uniform: Uniform) -> Images:
    """One square of each image, ±eps in each channel."""
    *_, channels, height, width = x.shape
    side = max(1, min(round((share * height * width) ** 0.5), height, width))
    numbers = uniform(2 + channels)
    top, left = _corner(numbers[:, :2], x, side)
    row, column = (torch.arange(size, device=x.device) for size in (height, width))
    rows = (row >= top[:, None]) & (row < top[:, None] + side)
    columns = (column >= left[:, None]) & (column < left[:, None] + side)
    window = rows[:, None, :, None] & columns[:, None, None, :]
    signs = _signs(numbers[:, 2:])[:, :, None, None].to(x.dtype)
    return ball.project_(torch.where(window, ball.images + ball.eps * signs, x))


def _bump(height: int, width: int, like: Tensor) -> Float[Tensor, "height width"]:
    """Rings around the middle, higher inwards: Σ_{k ≥ d} 1/(k + 1)² at Chebyshev distance d."""
    rings = max(height, width) // 2 + 1
    weights = 1 / torch.arange(1, rings + 1, device=like.device, dtype=like.dtype) ** 2
    heights = weights.flip(0).cumsum(0).flip(0)
    row = (torch.arange(height, device=like.device) - height // 2).abs()
    column = (torch.arange(width, device=like.device) - width // 2).abs()
    return heights[torch.maximum(row[:, None], column[None, :])]


def _dipole(side: int, like: Tensor) -> Float[Tensor, "side side"]:
    """A bump above its negative, of length 1."""
    upper = side // 2
    halves = [_bump(rows, side, like) for rows in (upper, side - upper) if rows]
    halves = [half / torch.linalg.vector_norm(half) for half in halves]
    pattern: Tensor = torch.cat([halves[0], *(-half for half in halves[1:])])
    pattern /= torch.linalg.vector_norm(pattern)
    return pattern


def _dipoles(numbers: Float[Tensor, "image 1"], side: int, like: Tensor) -> Tensor:
    """The pattern of each image, one way or the other."""
    pattern = _dipole(side, like)
    return torch.where(numbers[:, :, None] < 0.5, pattern, pattern.mT)


def _tiles(ball: LinfBall | L2Ball, uniform: Uniform) -> Images:
    """A grid of patterns with random signs in each channel, scaled to length eps."""
    images = ball.images
    count, channels, height, width = images.shape
    side = max(min(height, width) // TILES, min(3, height, width))
    down, across = height // side, width // side
    numbers = uniform(1 + channels * down * across)
    signs = _signs(numbers[:, 1:]).reshape(count, channels, down, across).to(images.dtype)
    grid = signs.repeat_interleave(side, 2).repeat_interleave(side, 3)
    grid = grid * _dipoles(numbers[:, :1], side, images).repeat(1, down, across)[:, None]
    top, left = (height - down * side) // 2, (width - across * side) // 2
    change = torch.zeros_like(images)
    change[:, :, top : top + down * side, left : left + across * side] = grid
    return _at_full_length(ball, change)


def _at_full_length(ball: LinfBall | L2Ball, change: Images) -> Images:
    return ball.project_(ball.direction(change).mul_(ball.eps).add_(ball.images))


def _places(
    numbers: Float[Tensor, "image 2"], x: Images, side: int
) -> Int64[Tensor, "image channel place"]:
    """The places of a square's pixels in the flattened channels."""
    top, left = _corner(numbers, x, side)
    step = torch.arange(side, device=x.device)
    rows, columns = top[:, None] + step, left[:, None] + step
    places = (rows[:, :, None] * x.shape[-1] + columns[:, None, :]).flatten(1)
    return places[:, None, :].expand(-1, x.shape[1], -1)


def _moved_square(ball: LinfBall | L2Ball, x: Images, share: float, uniform: Uniform) -> Images:
    """Give one square a pattern with the energy of both squares and of what eps still allows."""
    count, channels, height, width = x.shape
    side = max(round((share * height * width) ** 0.5), 3)
    side = min(side + (side % 2 == 0), height, width)
    numbers = uniform(5 + channels)
    first, second = (_places(numbers[:, i : i + 2], x, side) for i in (0, 2))
    change = (x - ball.images).flatten(2)
    left = (ball.eps**2 - change.square().sum((1, 2), keepdim=True)).clamp_(min=0)
    squares = torch.zeros_like(change).scatter_(2, first, 1).scatter_(2, second, 1)
    energy = (change * squares).square().sum(2, keepdim=True) + left / channels
    old = change.gather(2, first)
    pattern = _dipoles(numbers[:, 4:5], side, x).flatten(1)[:, None]
    new = pattern * _signs(numbers[:, 5:])[:, :, None].to(x.dtype)
    new += old / torch.linalg.vector_norm(old, dim=2, keepdim=True).clamp_(min=1e-12)
    new *= energy.sqrt() / torch.linalg.vector_norm(new, dim=2, keepdim=True).clamp_(min=1e-12)
    change.scatter_(2, second, 0).scatter_(2, first, new)
    return _at_full_length(ball, change.reshape(count, channels, height, width))


Start = Callable[[LinfBall | L2Ball, Uniform], Images]
Propose = Callable[[LinfBall | L2Ball, Images, float, Uniform], Images]
SEARCHES: dict[str, tuple[Start, Propose]] = {
    "L2": (_tiles, _moved_square),
    "Linf": (_stripes, _flat_square),
}
