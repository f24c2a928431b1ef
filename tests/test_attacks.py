"""Balls, losses, FGSM and PGD: closed forms, invariances, and what is refused."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError

import pytest
import torch
from attack_problems import Linear, accuracy, trained_on_digits
from scipy import stats
from torch import Tensor, nn

from repalign.networks import Network
from repalign.robustness import APGD, ATTACKS, BALLS, FGSM, PGD, Attack, PixelNetwork, Square
from repalign.robustness.attack_losses import LOSSES, TARGETED_LOSSES, dlr_loss, margin_loss
from repalign.robustness.gradient_attacks import NoGradientError, image_gradient
from repalign.robustness.image_random import image_seeds, normal_numbers, uniform_numbers
from repalign.robustness.perturbations import check_inside

EVERY = [
    pytest.param(attack, id=f"{attack.name}-{norm}")
    for norm in BALLS
    for attack in (
        FGSM(norm=norm),
        PGD(norm=norm, steps=5, restarts=2),
        APGD(norm=norm, steps=8, n_targets=2),
        Square(norm=norm, queries=30),
    )
]
EPS = {"Linf": 0.1, "L2": 0.6}
NORMS = pytest.mark.parametrize("norm", BALLS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def linear_problem(dtype: torch.dtype = torch.float64) -> tuple[Linear, Tensor, Tensor]:
    """Images so far from the bounds that no small perturbation meets them, all of class 0."""
    weights = torch.randn(2, 4, 5, generator=seeded(1), dtype=torch.float64)
    images = 0.4 + 0.2 * some_images(6, 2, 4, 5).double()
    bias = 0.05 - (images * weights).sum((1, 2, 3)).min().item()
    labels = torch.zeros(6, dtype=torch.int64)
    return Linear(weights, bias).to(dtype), images.to(dtype), labels


# balls


@NORMS
@pytest.mark.parametrize("surface", [False, True])
def test_random_points_lie_in_the_ball_and_in_bounds(norm, surface):
    images = some_images(50, 3, 4, 4)
    ball = BALLS[norm](images, 0.3, (0.0, 1.0))
    x = ball.random_point(image_seeds(50, generator=None, device=images.device), draw=0)
    check_inside(ball, x)
    assert ball.length(x).min() > 0
    wide = BALLS[norm](images, 0.3, (-9.0, 9.0))
    seeds = image_seeds(50, generator=None, device=images.device)
    lengths = wide.length(wide.random_point(seeds, draw=0, surface=surface))
    if surface:
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.3))
    else:
        assert lengths.max() < 0.3


@NORMS
def test_random_points_are_uniform_in_the_ball(norm):
    """The share of the volume within a point's own distance is uniform, in any dimension."""
    images = torch.zeros(2000, 1, 2, 2)
    ball = BALLS[norm](images, 2.0, (-9.0, 9.0))
    x = ball.random_point(image_seeds(2000, generator=None, device=images.device), draw=3)
    volume = (ball.length(x) / 2.0) ** 4
    assert stats.kstest(volume.numpy(), "uniform").pvalue > 0.01
    assert x.mean((0, 1)).abs().max() < 0.1


@NORMS
def test_projection_finds_the_nearest_point_of_the_ball(norm):
    images = some_images(200, 1, 2, 2)
    ball = BALLS[norm](images, 0.4, (-9.0, 9.0))
    far = images + 0.3 * torch.randn(200, 1, 2, 2, generator=seeded(2))
    nearest = ball.project_(far.clone())
    check_inside(ball, nearest)
    inside = ball.length(far) < 0.4
    assert inside.any()
    torch.testing.assert_close(nearest[inside], far[inside])
    seeds = image_seeds(200, generator=None, device=images.device)
    for draw in range(30):
        other = ball.random_point(seeds, draw=draw, surface=True)
        closer = (nearest - far).flatten(1).norm(dim=1) - (other - far).flatten(1).norm(dim=1)
        assert closer.max() < 1e-5


@NORMS
def test_the_direction_is_the_best_step_of_length_one(norm):
    """⟨u, g⟩ is the dual norm of g; and gradients too small to square still have a direction."""
    gradient = torch.randn(20, 3, 4, 4, generator=seeded())
    ball = BALLS[norm](torch.zeros_like(gradient), 1.0, (-9.0, 9.0))
    step = ball.direction(gradient)
    dual = {"Linf": 1, "L2": 2}[norm]
    gained, expected = (step * gradient).sum((1, 2, 3)), gradient.flatten(1).norm(p=dual, dim=1)
    torch.testing.assert_close(gained, expected)
    torch.testing.assert_close(ball.length(step), torch.ones(20))
    torch.testing.assert_close(ball.direction(gradient * 1e-30), step)
    assert torch.equal(ball.direction(torch.zeros_like(gradient)), torch.zeros_like(gradient))


@NORMS
def test_an_image_outside_is_noticed(norm):
    images = some_images(3, 1, 2, 2)
    ball = BALLS[norm](images, 0.1, (0.0, 1.0))
    with pytest.raises(ValueError, match="expected at most eps = 0.1, from 0 to 1"):
        check_inside(ball, images.flip(0))
    with pytest.raises(ValueError, match="NaN comes from"):
        check_inside(ball, images * torch.nan)
    with pytest.raises(ValueError, match=r"returned \(2, 1, 2, 2\)"):
        check_inside(ball, images[:2])


# random numbers of an image


def test_random_numbers_are_uniform_normal_and_differ_between_draws_and_seeds():
    seeds = image_seeds(40, generator=seeded(), device=torch.device("cpu"))
    like = torch.empty(40, 3, 10, 10)
    uniform = uniform_numbers(seeds, draw=0, like=like)
    normal = normal_numbers(seeds, draw=1, like=like)
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 0.01
    assert uniform.min() > 0
    assert uniform.max() < 1
    columns = torch.cat([uniform.flatten(1), uniform_numbers(seeds, draw=1, like=like).flatten(1)])
    correlations = torch.corrcoef(columns) - torch.eye(80)
    assert correlations.abs().max() < 0.3
    neighbours = uniform_numbers(torch.arange(40), draw=0, like=like)  # seeds that are in a row
    assert stats.kstest(neighbours.flatten().numpy(), "uniform").pvalue > 0.01
    assert (torch.corrcoef(neighbours.flatten(1)) - torch.eye(40)).abs().max() < 0.3


def test_seeds_of_two_halves_are_those_of_the_whole():
    whole = image_seeds(10, generator=seeded(3), device=torch.device("cpu"))
    generator = seeded(3)
    halves = [image_seeds(n, generator=generator, device=torch.device("cpu")) for n in (4, 6)]
    assert torch.equal(whole, torch.cat(halves))
    assert whole.unique().numel() == 10


# losses


def test_losses_rise_as_the_label_loses_and_ignore_what_they_should():
    logits = torch.randn(30, 6, generator=seeded(), dtype=torch.float64)
    labels = torch.randint(6, (30,), generator=seeded(1))
    worse = logits - 0.5 * nn.functional.one_hot(labels, 6)
    for loss in LOSSES.values():
        assert (loss(worse, labels) >= loss(logits, labels)).all()
    torch.testing.assert_close(dlr_loss(3 * logits + 7, labels), dlr_loss(logits, labels))
    wrong = logits.argmax(1) != labels
    assert torch.equal(margin_loss(logits, labels) > 0, wrong)
    assert torch.equal(dlr_loss(logits, labels) > 0, wrong)


def test_targeted_losses_have_their_closed_forms():
    logits = torch.tensor([[4.0, 1.0, 2.0, 0.0]])
    label, target = torch.tensor([0]), torch.tensor([1])
    found = {name: loss(logits, label, target).item() for name, loss in TARGETED_LOSSES.items()}
    assert found["dlr-targeted"] == pytest.approx((1 - 4) / (4 - (1 + 0) / 2))
    assert found["ce-targeted"] == pytest.approx(logits.log_softmax(1)[0, 1].item())


@pytest.mark.parametrize("name", [*LOSSES, *TARGETED_LOSSES])
def test_losses_pass_gradcheck(name):
    logits = torch.randn(5, 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    labels, targets = torch.arange(5), torch.arange(1, 6)
    if name in LOSSES:
        assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, labels), logits)
    else:
        assert torch.autograd.gradcheck(lambda z: TARGETED_LOSSES[name](z, labels, targets), logits)


def test_cross_entropy_keeps_its_gradient_where_torchs_has_none():
    """p_j of the other classes, and minus their sum for the label, to the last digit."""
    logits = torch.tensor([[60.0, 0.0, 1.0], [1.0, 2.0, 3.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    (found,) = torch.autograd.grad(LOSSES["ce"](logits, labels).sum(), logits)
    exact = logits.detach().double().softmax(1)
    exact[range(2), labels] = 0
    exact[range(2), labels] = -exact.sum(1)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    torch_own = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(LOSSES["ce"](logits, labels), torch_own)


# closed forms


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize(("kind", "parameters"), [(FGSM, {}), (PGD, {"step_size": 0.01})])
def test_linear_models_lose_eps_times_the_dual_norm(kind, parameters, loss):
    model, images, labels = linear_problem()
    for norm, dual in (("Linf", 1), ("L2", 2)):
        eps = 0.01
        found = kind(norm=norm, loss=loss, **parameters)(model, images, labels, eps=eps)
        lost = (model(images) - model(found))[:, 0]
        expected = eps * model.weights.detach().norm(p=dual)
        torch.testing.assert_close(lost, expected.expand(6), rtol=1e-6, atol=1e-9)


def test_the_l2_optimum_of_a_linear_model_is_along_its_weights():
    model, images, labels = linear_problem()
    found = PGD(norm="L2", steps=30, step_size=0.1)(model, images, labels, eps=0.1)
    expected = images - 0.1 * model.weights.detach() / model.weights.detach().norm()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_linf_optimum_is_cut_by_the_bounds():
    weights = torch.randn(1, 3, 3, generator=seeded(1))
    images = some_images(5, 1, 3, 3)
    model = Linear(weights, bias=80.0)  # cross-entropy as torch has it would give no gradient
    expected = (images - 0.7 * weights.sign()).clamp(0, 1)
    labels = torch.zeros(5, dtype=torch.int64)
    for attack in (FGSM(), PGD()):
        torch.testing.assert_close(attack(model, images, labels, eps=0.7), expected)


@NORMS
def test_fgsm_is_pgd_of_one_step_of_size_eps(norm):
    model, images, labels = trained_on_digits(100)
    eps = EPS[norm]
    fgsm = FGSM(norm=norm)(model, images, labels, eps=eps)
    pgd = PGD(norm=norm, steps=1, step_size=eps, random_start=False)
    found = pgd(model, images, labels, eps=eps)
    with torch.no_grad():
        lower = margin_loss(model(fgsm), labels) < margin_loss(model(images), labels)
    torch.testing.assert_close(found, torch.where(lower[:, None, None, None], images, fgsm))


# what holds for every attack


@pytest.mark.parametrize("attack", EVERY)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 1.5)])
def test_attacks_stay_in_their_ball_and_in_bounds(attack, bounds):
    model, images, labels = trained_on_digits(30)
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append((x.amin().item(), x.amax().item()))
        return model(x)

    eps = EPS[attack.norm]
    found = attack(watched, images, labels, eps=eps, bounds=bounds)
    check_inside(BALLS[attack.norm](images, eps, bounds), found)
    assert min(low for low, _ in seen) >= bounds[0]
    assert max(high for _, high in seen) <= bounds[1]
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert accuracy(model, found, labels) < accuracy(model, images, labels) - 0.05


@pytest.mark.parametrize("attack", EVERY)
def test_attacks_leave_the_model_the_images_and_torchs_random_numbers_alone(attack):
    model, images, labels = trained_on_digits(20)
    model[0].weight.grad = before = torch.ones_like(model[0].weight)
    model[1].training = True  # some modes differ: neither may be set
    state, copy = torch.random.get_rng_state(), images.clone()
    weights = [p.detach().clone() for p in model.parameters()]
    try:
        with torch.no_grad():
            attack(model, images, labels, eps=0.2)
        assert model[0].weight.grad is before
        assert torch.equal(before, torch.ones_like(before))
        assert all(p.grad is None for p in list(model.parameters())[1:])
        assert [m.training for m in model] == [False, True, False, False, False, False]
    finally:
        model[0].weight.grad = None
        model[1].training = False
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert torch.equal(images, copy)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("attack", EVERY)
def test_a_batch_changes_nothing_for_its_images(attack):
    digits = trained_on_digits(40)
    model = lambda x: digits.model.double()(x)  # noqa: E731 float64: no rounding flips a sign
    images, labels, eps = digits.images.double(), digits.labels, EPS[attack.norm]
    try:
        whole = attack(model, images, labels, eps=eps, generator=seeded(5))
        generator = seeded(5)
        parts = [
            attack(model, images[part], labels[part], eps=eps, generator=generator)
            for part in (slice(0, 7), slice(7, 8), slice(8, 40))
        ]
    finally:
        digits.model.float()
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", EVERY)
def test_generators_repeat_and_vary_attacks(attack):
    model, images, labels = trained_on_digits(30)
    run = [
        attack(model, images, labels, eps=EPS[attack.norm] / 4, generator=generator)
        for generator in (None, None, seeded(1), seeded(1))
    ]
    assert torch.equal(run[0], run[1])
    assert torch.equal(run[2], run[3])
    assert torch.equal(run[0], run[2]) == (attack.name == "fgsm")


@pytest.mark.parametrize("attack", EVERY)
def test_wrong_images_and_a_ball_of_nothing_are_left_as_they_are(attack):
    model, images, labels = trained_on_digits(20)
    predicted = model(images).argmax(1)
    mixed = torch.where(torch.arange(20) < 12, (predicted + 1) % 10, predicted)
    found = attack(model, images, mixed, eps=EPS[attack.norm])
    assert torch.equal(found[:12], images[:12])
    assert (found[12:] != images[12:]).flatten(1).any(1).all()
    same = attack(model, images, (predicted + 1) % 10, eps=0.3)
    assert torch.equal(same, images)
    same = attack(model, images, predicted, eps=0.0)
    assert torch.equal(same, images)
    assert same.data_ptr() != images.data_ptr()
    assert attack(model, images[:0], labels[:0], eps=0.1).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("attack", EVERY)
def test_channels_last_and_inference_mode_change_nothing(attack):
    torch_model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        for i, p in enumerate(torch_model.parameters()):
            p.copy_(torch.randn(p.shape, generator=seeded(i)) / 3)
    torch_model.double()
    images = some_images(12, 3, 6, 6).double()
    labels = torch_model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    expected = attack(torch_model, images, labels, eps=0.05)
    last = images.contiguous(memory_format=torch.channels_last)
    found = attack(torch_model, last, labels, eps=0.05)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    with torch.inference_mode():
        inside = attack(torch_model, images.clone(), labels, eps=0.05)
    torch.testing.assert_close(inside, expected, rtol=0, atol=1e-9)


def test_the_registry_holds_attacks_with_frozen_parameters():
    assert list(ATTACKS) == ["apgd", "fgsm", "pgd", "square"]
    for name, kind in ATTACKS.items():
        attack = kind()
        assert attack.name == name
        assert attack.norm == "Linf"
        assert isinstance(attack, Attack)
        with pytest.raises(FrozenInstanceError):
            attack.norm = "L2"


# PGD


@NORMS
def test_more_steps_restarts_and_eps_only_help(norm):
    model, images, labels = trained_on_digits(100)

    def left(eps: float, **parameters: int) -> float:
        attack = PGD(norm=norm, **parameters)
        return accuracy(model, attack(model, images, labels, eps=eps), labels)

    for share in (0.5, 1.5):
        eps = share * EPS[norm]
        once = left(eps, steps=20)
        assert left(eps, steps=20, restarts=4) <= once
        assert left(eps, steps=60) <= once + 0.01
        fgsm = accuracy(model, FGSM(norm=norm)(model, images, labels, eps=eps), labels)
        assert once <= fgsm
    curve = [left(share * EPS[norm], steps=20) for share in (0.25, 0.5, 1, 2, 4)]
    assert all(a >= b for a, b in itertools.pairwise(curve))
    assert curve[-1] == 0


def test_half_precision_logits_are_attacked_in_float32():
    model, images, labels = trained_on_digits(60)
    half = lambda x: model(x).half()  # noqa: E731
    left = [accuracy(model, PGD()(one, images, labels, eps=0.1), labels) for one in (half, model)]
    assert left[0] == pytest.approx(left[1], abs=0.04)


class Noisy(nn.Module):
    """Digits seen through noise; its own generator makes it repeatable."""

    def __init__(self, model: nn.Module, size: float) -> None:
        super().__init__()
        self.model, self.size, self.generator = model, size, seeded()

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=self.generator)
        return self.model(images + self.size * noise)


def test_averaged_gradients_find_the_direction_behind_the_noise():
    digits = trained_on_digits(40)
    noisy = Noisy(digits.model, 0.5)

    def gradient(samples: int) -> Tensor:
        loss = LOSSES["ce"]
        found = image_gradient(
            noisy, digits.images, lambda z: loss(z, digits.labels), samples=samples
        )[2]
        return found.flatten(1)

    truth = gradient(400)
    agreement = {n: nn.functional.cosine_similarity(gradient(n), truth).mean() for n in (1, 16)}
    assert agreement[16] > 0.9
    assert agreement[1] < agreement[16] - 0.1


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_averaging_gradients_makes_attacks_on_noisy_models_stronger(kind):
    digits = trained_on_digits(100)

    def left(samples: int) -> float:
        model = Noisy(digits.model, 0.35)
        attack = kind(steps=10, loss="ce", gradient_samples=samples)
        found = attack(model, digits.images, digits.labels, eps=0.12)
        return sum(accuracy(model, found, digits.labels) for _ in range(20)) / 20

    assert left(12) < left(1) - 0.02


# what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps is -0.1; expected a finite number of 0 or more"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"images": torch.full((4, 1, 8, 8), 2.0)}, "values from 2 to 2; expected 0 to 1"),
        ({"images": torch.full((4, 1, 8, 8), torch.nan)}, "values from nan"),
        ({"images": torch.rand(4, 8, 8)}, r"shape \(4, 8, 8\); expected \(image, channel"),
        ({"images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8)}, "images are torch.uint8"),
        ({"images": torch.zeros(4, 1, 8, 8).half()}, "autocast inside the model"),
        ({"labels": torch.tensor([0, 1, 2, 10])}, "label 10 is out of range; .* 0 to 9"),
        ({"labels": torch.tensor([0, 1, 2, -1])}, "label -1 is out of range"),
        ({"labels": torch.zeros(4)}, "labels are torch.float32; expected integers"),
        ({"labels": torch.zeros(4, dtype=torch.bool)}, "torch.bool; expected integers"),
        ({"labels": torch.tensor([0, 1, 2])}, r"shape \(3,\) for 4 images"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, r"shape \(4, 1\)"),
        ({"bounds": (1.0, 0.0)}, r"bounds are \(1.0, 0.0\)"),
        ({"model": lambda x: x.sum((1, 2, 3))}, r"the model gives shape \(4,\) for 4 images"),
        ({"model": lambda x: x.flatten(1)[:, :1]}, r"gives shape \(4, 1\) .* 2 or more classes"),
        ({"model": lambda x: x.flatten(1) / 0 * 0}, "logits that are NaN or infinite for 4 of 4"),
    ],
)
def test_bad_input_is_refused_with_its_value(change, message):
    good = {
        "model": trained_on_digits().model,
        "images": some_images(4, 1, 8, 8),
        "labels": torch.arange(4),
        "eps": 0.1,
        "bounds": (0.0, 1.0),
    }
    model, images, labels, eps, bounds = {**good, **change}.values()
    for kind in ATTACKS.values():
        with pytest.raises((TypeError, ValueError), match=message):
            kind()(model, images, labels, eps=eps, bounds=bounds)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (FGSM, {"norm": "L1"}, "'L1' is no norm; choose one of L2, Linf"),
        (PGD, {"norm": "linf"}, "'linf' is no norm"),
        (FGSM, {"loss": "hinge"}, "'hinge' is no loss of FGSM; choose one of ce, dlr, margin"),
        (PGD, {"loss": "dlr-targeted"}, "'dlr-targeted' is no loss of PGD"),
        (PGD, {"steps": 0}, "steps is 0; expected a whole number of 1 or more"),
        (PGD, {"steps": 2.5}, "steps is 2.5"),
        (PGD, {"gradient_samples": True}, "gradient_samples is True"),
        (PGD, {"step_size": 0.0}, "step_size is 0.0; expected a positive number"),
        (PGD, {"restarts": 3, "random_start": False}, "every run would be the same"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(kind, parameters, message):
    with pytest.raises(ValueError, match=message):
        kind(**parameters)


@pytest.mark.parametrize("attack", [FGSM(), PGD(), APGD(loss="ce")])
@pytest.mark.parametrize(
    "cut",
    [
        lambda x: trained_on_digits().model(x.detach()),
        lambda x: trained_on_digits().model(x.detach()).detach(),
    ],
)
def test_a_model_without_gradients_is_told_apart_from_a_robust_one(attack, cut):
    images = some_images(4, 1, 8, 8)
    labels = trained_on_digits().model(images).argmax(1)
    with pytest.raises(NoGradientError, match="attack it with Square"):
        attack(cut, images, labels, eps=0.1)


@NORMS
@pytest.mark.parametrize("kind", [FGSM, PGD, APGD])
def test_nan_gradients_are_refused(kind, norm):
    """√0 is 0, its gradient infinite, and 0 · ∞ NaN."""
    model = lambda x: x.flatten(1)[:, :4] + (0 * x).sum((1, 2, 3)).sqrt()[:, None]  # noqa: E731
    images = some_images(4, 1, 8, 8)
    labels = model(images).argmax(1)
    with pytest.raises(ValueError, match="NaN"):
        kind(norm=norm, loss="ce")(model, images, labels, eps=0.01)


# pixels


def test_a_pixel_network_normalises_and_follows_its_module():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 4)).eval()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    network = PixelNetwork(module, mean, std)
    images = some_images(5, 3, 2, 2)
    shape = (1, 3, 1, 1)
    expected = module((images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape))
    assert torch.equal(network(images), expected)
    assert not network.training
    network.train()
    assert module.training
    network.eval()
    assert not module.training
    assert set(network.state_dict()) == {"module.2.weight", "module.2.bias"}
    assert network.double()(images.double()).dtype == torch.float64


def test_a_pixel_network_takes_its_numbers_from_the_card():
    network = Network(name="flat", module=nn.Flatten().eval())
    found = PixelNetwork.of(network)
    torch.testing.assert_close(found.mean.flatten(), torch.tensor(network.preprocessing.mean))
    torch.testing.assert_close(found.std.flatten(), torch.tensor(network.preprocessing.std))
    assert found.module is network.module


def test_pixel_networks_refuse_other_channels_and_a_std_of_zero():
    network = PixelNetwork(nn.Identity(), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 4\); this network takes \(image, 3"):
        network(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="every std greater than 0"):
        PixelNetwork(nn.Identity(), (0.5,), (0.0,))
    with pytest.raises(ValueError, match="one number a channel"):
        PixelNetwork(nn.Identity(), (0.5, 0.5), (0.5,))


# GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("attack", EVERY)
def test_cuda_leaves_the_same_accuracy(attack):
    model, images, labels = trained_on_digits(200)
    eps = EPS[attack.norm]
    expected = accuracy(model, attack(model, images, labels, eps=eps), labels)
    try:
        where = [one.to("cuda") for one in (images, labels)]
        model.to("cuda")
        found = attack(model, *where, eps=eps)
        assert found.device.type == "cuda"
        assert accuracy(model, found, where[1]) == pytest.approx(expected, abs=0.02)
    finally:
        model.to("cpu")
