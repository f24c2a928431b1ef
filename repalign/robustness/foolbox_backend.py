"""Attacks of foolbox, as attacks of ours; the only module that imports foolbox."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from repalign.metrics.comparators import check_choice
from repalign.robustness.attack_calls import Problem, SearchesImages
from repalign.robustness.perturbations import BALLS, Images, Model

_POWERS = {"L2": 2.0, "Linf": float("inf")}


def _foolbox() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports names that scipy has deprecated
            import foolbox
    except ImportError as error:
        raise ImportError("foolbox's attacks need: pip install 'repalign[robust]'") from error
    module: ModuleType = foolbox
    return module


class _OfImagesAlone(torch.autograd.Function):
    """A model whose backward pass reaches its images only: foolbox's would fill ``grad``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: Model) -> Tensor:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = model(leaf)
        ctx.graph = leaf, logits
        return logits.detach()

    @staticmethod
    def backward(ctx: Any, *outside: Tensor) -> tuple[Tensor | None, None]:
        leaf, logits = ctx.graph
        (gradient,) = torch.autograd.grad(logits, leaf, outside, retain_graph=True)
        return gradient, None


class _Behind(nn.Module):
    """A module for foolbox around any model, which it does not register: nothing is moved."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._call = (model,)
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        if not images.requires_grad:
            return self._call[0](images)
        logits: Tensor = _OfImagesAlone.apply(images, self._call[0])  # type: ignore[no-untyped-call]
        return logits


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(SearchesImages):
    """An attack class of foolbox, with its parameters.

    Args:
        name: of the class in ``foolbox.attacks``, such as "LinfDeepFoolAttack".
        norm: "Linf" or "L2", the norm that the class bounds.
        parameters: what the class is made with.

    Raises:
        ImportError: foolbox is not installed.
        ValueError: no such class, parameters that it does not take, or another norm; at the call,
            images, labels or a model that do not fit.

    Example:
        >>> FoolboxAttack(name="L2DeepFoolAttack", norm="L2", parameters={"steps": 10}).norm
        'L2'

    Notes:
        Random numbers of foolbox are torch's global ones; they are seeded for the call by
        ``generator`` and then put back. They depend on the batch.

    Reference:
        Rauber et al. 2020, https://doi.org/10.21105/joss.02607
    """

    name: str
    norm: str = "Linf"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the attack once, so that what is wrong shows here."""
        check_choice(self.norm, BALLS, "norm")
        self._make()

    def _make(self) -> Any:
        attacks = _foolbox().attacks
        kind = getattr(attacks, self.name, None)
        if not isinstance(kind, type):
            names = [n for n in vars(attacks) if n.endswith("Attack") and n.startswith(self.norm)]
            raise ValueError(
                f"foolbox.attacks has no class {self.name!r}; for {self.norm} it has "
                f"{', '.join(sorted(names))}."
            )
        try:
            made = kind(**self.parameters)
        except TypeError as error:
            raise ValueError(f"foolbox's {self.name} cannot be made: {error}") from error
        try:
            power = made.distance.p
        except (AttributeError, ValueError):  # a class that leaves its norm to the caller
            power = None
        if power != _POWERS[self.norm]:
            raise ValueError(
                f"foolbox's {self.name} bounds the norm with p = {power}; norm is {self.norm!r}, "
                f"so expected p = {_POWERS[self.norm]}."
            )
        return made

    def _search(self, problem: Problem) -> Images:
        images, bounds = problem.images, problem.ball.bounds
        devices = [images.device] if images.device.type == "cuda" else []
        foolbox = _foolbox()
        model = foolbox.PyTorchModel(_Behind(problem.model), bounds=bounds, device=images.device)
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(problem.seeds[0]))
            _, cut, _ = self._make()(model, images, problem.labels, epsilons=problem.ball.eps)
        found: Tensor = cut.detach().to(images.dtype)
        return problem.ball.project_(found.clone())
