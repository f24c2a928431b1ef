"""The adversarial robustness toolbox as an oracle of PGD, APGD and Square."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from attack_problems import accuracy, trained_on_digits
from torch import Tensor, nn

from repalign.robustness import APGD, FGSM, PGD, Square

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    evasion: ModuleType = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

SIZES = {"Linf": (0.1, 0.15), "L2": (0.6, 0.9)}
POWERS = {"Linf": np.inf, "L2": 2}
NORMS = pytest.mark.parametrize("norm", SIZES)


def left_by_art(
    kind: Callable[..., Any],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seed: int = 0,
    **parameters: Any,
) -> float:
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = kind(classifier, batch_size=len(images), **parameters)
    state = np.random.get_state()  # ART draws from numpy's global numbers  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = attack.generate(images.numpy(), labels.numpy())
    finally:
        np.random.set_state(state)  # noqa: NPY002
    model.zero_grad()
    return accuracy(model, torch.as_tensor(found), labels)


@NORMS
def test_pgd_leaves_what_arts_leaves(norm):
    problem = trained_on_digits()
    for eps in SIZES[norm]:
        expected = left_by_art(
            evasion.ProjectedGradientDescent,
            *problem,
            norm=POWERS[norm],
            eps=eps,
            eps_step=2.5 * eps / 20,
            max_iter=20,
            num_random_init=1,
            verbose=False,
        )
        found = accuracy(problem.model, PGD(norm=norm)(*problem, eps=eps), problem.labels)
        assert found == pytest.approx(expected, abs=0.02)


@NORMS
def test_fgsm_leaves_what_arts_leaves(norm):
    problem = trained_on_digits()
    for eps in SIZES[norm]:
        expected = left_by_art(
            evasion.FastGradientMethod, *problem, norm=POWERS[norm], eps=eps, eps_step=eps
        )
        found = accuracy(problem.model, FGSM(norm=norm)(*problem, eps=eps), problem.labels)
        assert found == pytest.approx(expected, abs=0.005)


@NORMS
def test_apgd_on_the_cross_entropy_leaves_what_arts_leaves(norm):
    problem = trained_on_digits(200)
    for eps in SIZES[norm]:
        expected = left_by_art(
            evasion.AutoProjectedGradientDescent,
            *problem,
            norm=POWERS[norm],
            eps=eps,
            eps_step=2 * eps,
            max_iter=40,
            nb_random_init=1,
            loss_type="cross_entropy",
            verbose=False,
        )
        attack = APGD(norm=norm, steps=40, loss="ce")
        runs = [
            attack(*problem, eps=eps, generator=torch.Generator().manual_seed(seed))
            for seed in range(2)
        ]
        found = sum(accuracy(problem.model, x, problem.labels) for x in runs) / 2
        assert found == pytest.approx(expected, abs=0.02)


@functools.cache
def enlarged(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Digits of 32 × 32 pixels: ART's squares never reach the last row and column."""
    model, images, labels = trained_on_digits(count)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return nn.Sequential(nn.AvgPool2d(4), model).eval(), large, labels


@pytest.mark.parametrize(("eps", "weaker_by"), [(0.1, 0.05), (0.15, 0.1)])
def test_square_leaves_what_arts_leaves_with_as_many_queries(eps, weaker_by):
    """Means of four runs: ART tries one square for all images, so that its runs differ much."""
    problem = enlarged(100)
    expected = [
        left_by_art(
            evasion.SquareAttack,
            *problem,
            seed=seed,
            eps=eps,
            max_iter=150,
            p_init=0.8,
            verbose=False,
        )
        for seed in range(4)
    ]
    runs = [
        Square(queries=150)(*problem, eps=eps, generator=torch.Generator().manual_seed(seed))
        for seed in range(4)
    ]
    found = sum(accuracy(problem[0], x, problem[2]) for x in runs) / 4
    assert sum(expected) / 4 - weaker_by <= found <= sum(expected) / 4 + 0.03


def test_square_in_l2_is_no_weaker_than_arts():
    """Whose perturbations are not brought to the length that the paper gives them."""
    problem = enlarged(40)
    expected = left_by_art(
        evasion.SquareAttack, *problem, norm=2, eps=2.4, max_iter=100, p_init=0.8, verbose=False
    )
    attack = Square(norm="L2", queries=100, p_init=0.8)
    assert accuracy(problem[0], attack(*problem, eps=2.4), problem[2]) <= expected + 0.02
