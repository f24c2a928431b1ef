"""The sets that an attack may search, Linf and L2 balls within bounds, and what every attack is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from repalign.robustness.image_random import normal_numbers, uniform_numbers

Images = Float[Tensor, "image channel height width"]
Labels = Int64[Tensor, "image"]
Logits = Float[Tensor, "image class"]
Model = Callable[[Tensor], Tensor]
Bounds = tuple[float, float]
ROUNDING = 1e-4  # share of eps (and, in L2, a hair of each pixel) that float32 may be off


@runtime_checkable
class Attack(Protocol):
    """Frozen parameters with a call that looks for images which a model gets wrong."""

    @property
    def name(self) -> str:
        """The name in ``ATTACKS``."""

    @property
    def norm(self) -> str:
        """The norm that bounds the perturbation, a name in ``BALLS``."""

    def __call__(
        self,
        model: Model,
        images: Images,
        labels: Labels,
        *,
        eps: float,
        bounds: Bounds = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> Images:
        """Return one image for each, within ``eps`` and ``bounds``, wrong where one was found."""


class Ball(Protocol):
    """All images within ``eps`` of some images, and within bounds."""

    @property
    def images(self) -> Images:
        """The centres."""

    @property
    def eps(self) -> float:
        """The radius, in the units of the images."""

    @property
    def bounds(self) -> Bounds:
        """The least and the greatest value of a pixel."""

    def project_(self, x: Images) -> Images:
        """Move ``x``, in place, into the ball and the bounds."""

    def direction(self, gradient: Images) -> Images:
        """Return the step of norm 1 along which the loss grows most; a gradient may be a view."""

    def length(self, x: Images) -> Float[Tensor, "image"]:
        """Return the norm of the perturbation of each image."""

    def random_point(self, seeds: Labels, *, draw: int, surface: bool = False) -> Images:
        """Return points drawn uniformly in the ball, or scaled to its surface, within bounds."""


AnyBall = TypeVar("AnyBall", bound="LinfBall | L2Ball")


def per_image(values: Float[Tensor, "image"]) -> Float[Tensor, "image 1 1 1"]:
    """Return one number an image in a shape that multiplies images."""
    return values[:, None, None, None]


def take(images: Tensor, which: Tensor) -> Tensor:
    """Select images, keeping their memory format."""
    kept = images[which]
    if images.ndim == 4 and not images.is_contiguous():
        kept = kept.contiguous(memory_format=memory_format(images))
    return kept


def memory_format(images: Images) -> torch.memory_format:
    """Return ``channels_last`` for images that lie so in memory, else the contiguous format."""
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def take_ball(ball: AnyBall, which: Tensor) -> AnyBall:
    """Return the ball around some of the images."""
    return replace(ball, images=take(ball.images, which))


@dataclass(frozen=True)
class LinfBall:
    """Images of which no pixel is further than ``eps`` from ``images``, within ``bounds``.

    Example:
        >>> ball = LinfBall(torch.full((1, 1, 1, 2), 0.9), 0.25, (0.0, 1.0))
        >>> ball.project_(torch.tensor([[[[0.0, 2.0]]]])).flatten().tolist()
        [0.6499999761581421, 1.0]
    """

    norm: ClassVar[str] = "Linf"
    images: Images
    eps: float
    bounds: Bounds

    @cached_property
    def _lower(self) -> Images:
        return (self.images - self.eps).clamp_(min=self.bounds[0])

    @cached_property
    def _upper(self) -> Images:
        return (self.images + self.eps).clamp_(max=self.bounds[1])

    def project_(self, x: Images) -> Images:
        """Move ``x``, in place, into the ball and the bounds."""
        return x.clamp_(self._lower, self._upper)

    def direction(self, gradient: Images) -> Images:
        """Return the sign of a gradient; NaN stays NaN, to be noticed, where torch's sign is 0."""
        return gradient.sign().masked_fill_(gradient.isnan(), torch.nan)

    def length(self, x: Images) -> Float[Tensor, "image"]:
        """Return the largest absolute change of a pixel."""
        return (x - self.images).abs().flatten(1).amax(1)

    def random_point(self, seeds: Labels, *, draw: int, surface: bool = False) -> Images:
        """Return points uniform in the cube, or scaled until one pixel touches it."""
        offset = uniform_numbers(seeds, draw=draw, like=self.images).mul_(2).sub_(1)
        if surface:
            offset /= per_image(offset.abs().flatten(1).amax(1))
        return self.project_(offset.mul_(self.eps).add_(self.images))


@dataclass(frozen=True)
class L2Ball:
    """Images within the Euclidean distance ``eps`` of ``images``, within ``bounds``.

    Example:
        >>> ball = L2Ball(torch.full((1, 1, 1, 2), 0.5), 0.25, (0.0, 1.0))
        >>> ball.project_(torch.tensor([[[[0.5, 5.0]]]])).flatten().tolist()
        [0.5, 0.75]
    """

    norm: ClassVar[str] = "L2"
    images: Images
    eps: float
    bounds: Bounds

    def project_(self, x: Images) -> Images:
        """Move ``x``, in place, into the ball, then into the bounds, which keeps it in the ball."""
        x -= self.images
        length = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
        x *= (self.eps / length).clamp_(max=1.0)  # eps / 0 is clamped too
        return x.add_(self.images).clamp_(*self.bounds)

    def direction(self, gradient: Images) -> Images:
        """Return the gradient at length 1; zero stays zero."""
        tiny = torch.finfo(gradient.dtype).tiny
        largest = gradient.abs().amax((1, 2, 3), keepdim=True)
        step = gradient / largest.clamp_(min=tiny)  # else squares of a small gradient are zero
        return step.div_(torch.linalg.vector_norm(step, dim=(1, 2, 3), keepdim=True).clamp_(min=1))

    def length(self, x: Images) -> Float[Tensor, "image"]:
        """Return the Euclidean length of the perturbation."""
        lengths: Tensor = torch.linalg.vector_norm(x - self.images, dim=(1, 2, 3))
        return lengths

    def random_point(self, seeds: Labels, *, draw: int, surface: bool = False) -> Images:
        """Return points uniform in the ball, or on its surface, cut by the bounds."""
        offset = self.direction(normal_numbers(seeds, draw=2 * draw, like=self.images))
        if not surface:
            share = uniform_numbers(seeds, draw=2 * draw + 1, like=self.images[:, :1, :1, :1])
            offset *= share.pow_(1 / self.images[0].numel())
        return self.project_(offset.mul_(self.eps).add_(self.images))


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"L2": L2Ball, "Linf": LinfBall}


def check_inside(ball: Ball, x: Images) -> None:
    """Raise a ValueError unless images lie in the ball and within bounds, up to rounding."""
    if x.shape != ball.images.shape or x.dtype != ball.images.dtype:
        raise ValueError(
            f"An attack returned {tuple(x.shape)} of {x.dtype}; expected "
            f"{tuple(ball.images.shape)} of {ball.images.dtype}, one image for each."
        )
    furthest, low, high = (v.item() for v in (ball.length(x).amax(), x.amin(), x.amax()))
    (least, greatest), allowed = ball.bounds, ball.eps * (1 + ROUNDING) + 1e-6
    if not (furthest <= allowed and low >= least - 1e-6 and high <= greatest + 1e-6):
        raise ValueError(
            f"An attack returned images {furthest:.6g} away, with values from {low:.6g} to "
            f"{high:.6g}; expected at most eps = {ball.eps:.6g}, from {least:g} to {greatest:g}. "
            "NaN comes from a model whose output or gradient is NaN."
        )
