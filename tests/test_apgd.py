"""APGD: its checkpoints, its step size, its targets, and that it is no weaker than PGD."""

from __future__ import annotations

import pytest
import torch
from attack_problems import Linear, accuracy, trained_on_digits
from torch import Tensor, nn

from repalign.robustness import APGD, PGD
from repalign.robustness.apgd import step_checkpoints
from repalign.robustness.perturbations import L2Ball, check_inside

NORMS = pytest.mark.parametrize(
    ("norm", "sizes"), [("Linf", (0.05, 0.1, 0.15, 0.2)), ("L2", (0.3, 0.6, 0.9, 1.2))]
)


def right_at(model: nn.Module, found: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return model(found).argmax(1) == labels


def test_checkpoints_are_those_of_the_paper():
    """p = 0, .22, .41, .57, .70, .80, .87, .93, .99 of the steps, rounded up."""
    assert step_checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert step_checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert step_checkpoints(1) == [1]
    for steps in range(1, 300):
        found = step_checkpoints(steps)
        assert found == sorted(set(found))
        assert found[0] >= 1
        assert found[-1] <= steps


@NORMS
def test_apgd_t_is_no_weaker_than_pgd_20(norm, sizes):
    model, images, labels = trained_on_digits(80)
    for eps in sizes[1:]:
        left = [
            accuracy(model, attack(model, images, labels, eps=eps), labels)
            for attack in (APGD(norm=norm, steps=30, n_targets=3), PGD(norm=norm, steps=20))
        ]
        assert left[0] <= left[1]


@NORMS
def test_every_loss_comes_near_the_strongest_attack(norm, sizes):
    model, images, labels = trained_on_digits(50)
    left = {}
    for loss in ("dlr-targeted", "ce", "dlr", "ce-targeted"):
        attack = APGD(norm=norm, loss=loss, steps=30)
        left[loss] = accuracy(model, attack(model, images, labels, eps=sizes[1]), labels)
    strongest = min(left.values())
    assert left["dlr-targeted"] <= strongest + 0.02
    assert max(left.values()) <= strongest + 0.08


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_linear_models_lose_eps_times_the_dual_norm(norm, dual):
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 4, 5, generator=draw, dtype=torch.float64)
    images = 0.3 + 0.4 * torch.rand(6, 2, 4, 5, generator=draw, dtype=torch.float64)
    model = Linear(weights, bias=50.0)
    found = APGD(norm=norm, loss="ce")(model, images, torch.zeros(6, dtype=torch.int64), eps=0.02)
    expected = (0.02 * weights.norm(p=dual)).expand(6)
    torch.testing.assert_close((model(images) - model(found))[:, 0], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_gradients_that_are_views_of_one_number_are_followed(norm):
    """The gradient of a sum is one number, expanded, which nothing may write to."""

    def total(images: Tensor) -> Tensor:
        return torch.stack([images.sum((1, 2, 3)), torch.full((len(images),), 7.9)], 1)

    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    eps = {"Linf": 0.05, "L2": 0.2}[norm]
    for attack in (APGD(norm=norm, steps=30, loss="ce"), PGD(norm=norm)):
        assert (total(attack(total, images, labels, eps=eps)).argmax(1) == 1).all()
    nothing = APGD(norm=norm, steps=30, loss="ce")(total, images, labels, eps=eps / 1000)
    expected = images - {"Linf": eps, "L2": eps / 4}[norm] / 1000
    torch.testing.assert_close(nothing, expected)


class Peak(nn.Module):
    """Class 1 wins only within ``radius`` of one image, a narrow peak inside the ball."""

    def __init__(self, peak: Tensor, radius: float) -> None:
        super().__init__()
        self.peak, self.radius = peak, radius

    def forward(self, images: Tensor) -> Tensor:
        far = (images - self.peak).flatten(1).norm(dim=1)
        return torch.stack([far / self.radius, torch.ones_like(far)], 1)


def test_halving_steps_finds_peaks_that_fixed_steps_jump_over():
    draw = torch.Generator().manual_seed(0)
    images = torch.full((20, 1, 4, 4), 0.5, dtype=torch.float64)  # each starts elsewhere
    offset = torch.randn(1, 4, 4, generator=draw, dtype=torch.float64)
    peak = 0.5 + 0.2 * offset / offset.norm()
    labels = torch.zeros(20, dtype=torch.int64)
    model = Peak(peak, radius=0.004)
    check_inside(L2Ball(images, 0.3, (0.0, 1.0)), peak.expand(20, 1, 4, 4))
    halving = APGD(norm="L2", steps=100, loss="ce")(model, images, labels, eps=0.4)
    fixed = PGD(norm="L2", steps=100, step_size=0.1)(model, images, labels, eps=0.4)
    assert not right_at(model, halving, labels).any()
    assert right_at(model, fixed, labels).sum() >= 10


def test_the_likeliest_wrong_classes_are_aimed_at():
    """Class 2 is likelier without an attack, but only class 3 can win."""

    def model(images: Tensor) -> Tensor:
        pixel = images[:, 0, 0, 0]
        zero = torch.zeros_like(pixel)
        return torch.stack(
            [zero + 1, zero - 9, zero + 0.9 - 0.001 * pixel, 20 * pixel - 10, zero], 1
        )

    images, labels = torch.full((3, 1, 2, 2), 0.51), torch.zeros(3, dtype=torch.int64)
    assert model(images).argsort(1, descending=True)[0].tolist() == [0, 2, 3, 4, 1]
    one = APGD(steps=20, n_targets=1, loss="ce-targeted")
    two = APGD(steps=20, n_targets=2, loss="ce-targeted")
    assert not (model(two(model, images, labels, eps=0.1)).argmax(1) == 0).any()
    least = one(model, images - 0.05, labels, eps=0.04)
    assert (model(least).argmax(1) == 0).all()


def test_images_that_are_wrong_cost_no_more_passes():
    digits = trained_on_digits(60)
    sizes = []

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return digits.model(images)

    APGD(steps=50, n_targets=9)(counted, digits.images, digits.labels, eps=0.3)
    correct = sizes[1]
    assert sizes[0] == 60
    assert sum(sizes[1:]) < 2 * correct * 50  # one target of nine, and that not to its end
    assert sizes == sorted(sizes, reverse=True)


def test_restarts_and_targets_only_help():
    model, images, labels = trained_on_digits(100)

    def wrong(**parameters: object) -> Tensor:
        attack = APGD(steps=10, **parameters)
        return ~right_at(model, attack(model, images, labels, eps=0.12), labels)

    few = wrong(n_targets=1)
    assert (wrong(n_targets=4) | ~few).all()
    assert (wrong(n_targets=1, restarts=3) | ~few).all()
    assert wrong(n_targets=4).sum() > few.sum()


@pytest.mark.parametrize(("classes", "loss", "needs"), [(2, "dlr", 3), (3, "dlr-targeted", 4)])
def test_losses_need_their_classes(classes, loss, needs):
    images, labels = torch.rand(4, 1, 3, 3), torch.zeros(4, dtype=torch.int64)
    model = lambda x: x.flatten(1)[:, :classes] + torch.eye(classes)[0] * 5  # noqa: E731
    with pytest.raises(ValueError, match=f"the {needs} largest logits; the model gives {classes}"):
        APGD(loss=loss)(model, images, labels, eps=0.1)
    APGD(loss="ce", steps=3)(model, images, labels, eps=0.1)
    APGD(loss="ce-targeted", steps=3)(model, images, labels, eps=0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "margin"}, "'margin' is no loss of APGD; choose one of ce, ce-targeted, dlr"),
        ({"norm": "L0"}, "'L0' is no norm"),
        ({"loss": "dlr", "n_targets": 3}, "n_targets is 3, but 'dlr' aims at no class"),
        ({"n_targets": 0}, "n_targets is 0"),
        ({"restarts": -1}, "restarts is -1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        APGD(**parameters)
