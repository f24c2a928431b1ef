import dataclasses
import doctest
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import binomtest
from torch import nn

from repalign.networks import Network
from repalign.robustness import curves, intervals, predictions
from repalign.robustness.curves import robustness_curve, worst_case
from repalign.robustness.gradient_attacks import FGSM, PGD
from repalign.robustness.intervals import area_interval, wilson

EPS = (0.0, 0.03, 0.1, 0.2, 0.3)


class Linear(nn.Module):
    """Two classes by the mean of the pixels, in float64: FGSM is the optimal attack."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = self.dropout(images).mean((1, 2, 3))
        return torch.stack([self.cut.expand_as(mean), mean], 1)


def shades(n: int = 37) -> torch.Tensor:
    return torch.linspace(0.02, 0.99, n)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


def curve(model=None, images=None, labels=None, **changes):
    arguments = {"attack": FGSM(), "eps": EPS, "device": "cpu", "progress": False} | changes
    images = shades() if images is None else images
    return robustness_curve(model or Linear(), images, labels, **arguments)


@pytest.mark.parametrize("module", [curves, intervals, predictions], ids=lambda m: m.__name__)
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("norm", "reach"), [("Linf", 1.0), ("L2", 0.25)])
@pytest.mark.parametrize("kind", [FGSM, PGD])
def test_the_curve_of_a_linear_model_is_known(kind, norm, reach):
    grey = shades()[:, 0, 0, 0]
    found = curve(attack=kind(norm=norm))
    for eps, accuracy in zip(EPS, found.accuracy, strict=True):
        # L2: eps over 16 equal pixels moves each by eps / 4
        assert accuracy == pytest.approx(float(((grey - 0.5).abs() > eps * reach).float().mean()))
    assert found.reference == "own clean prediction"
    assert (found.attack, found.norm, found.n_images) == (kind.name, norm, 37)
    assert found.parameters == dataclasses.asdict(kind(norm=norm))


def test_images_that_are_wrong_without_an_attack_stay_wrong_and_are_not_attacked():
    labels = (shades()[:, 0, 0, 0] > 0.5).long()
    labels[::3] = 1 - labels[::3]
    seen = []

    class Counting(FGSM):
        def __call__(self, model, images, labels, **keywords):
            seen.append(len(images))
            return FGSM()(model, images, labels, **keywords)

    found = curve(labels=labels, attack=Counting())
    assert found.reference == "labels"
    assert found.accuracy[0] == pytest.approx(24 / 37)
    assert not found.correct[:, ::3].any()
    assert seen == [24] * 4  # at 0 there is no attack


def test_rows_say_what_is_an_upper_bound():
    found = curve()
    assert found.upper_bound
    rows = found.rows()
    assert [row["upper_bound"] for row in rows] == [False, True, True, True, True]
    assert [row["eps"] for row in rows] == list(EPS)
    assert set(rows[0]) == {
        "attack", "norm", "eps", "accuracy", "ci_low", "ci_high", "n_images", "reference",
        "upper_bound",
    }  # fmt: skip
    assert not curve(eps=(0.0,)).upper_bound


def test_the_area_is_the_trapezoid_over_the_range():
    found = curve(eps=(0.05, 0.1, 0.3))
    expected = trapezoid(found.accuracy, found.eps) / 0.25
    assert found.auc == pytest.approx(expected, abs=1e-12)
    assert found.auc_low < found.auc < found.auc_high
    assert math.isnan(curve(eps=(0.1,)).auc)


def test_intervals_are_those_of_scipy():
    for right, n, confidence in ((0, 9, 0.95), (7, 9, 0.9), (9, 9, 0.95), (480, 1000, 0.99)):
        found = wilson(right, n, confidence=confidence)
        expected = binomtest(right, n).proportion_ci(confidence, method="wilson")
        assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_of_the_area_is_that_over_images():
    rng = np.random.default_rng(0)
    threshold = rng.random(150)
    correct = threshold > np.array([0.0, 0.3, 0.8])[:, None]
    eps = (0.0, 0.1, 0.4)
    area, low, high = area_interval(correct, eps, n_resamples=4000)
    resamples = rng.integers(0, 150, (4000, 150))
    areas = trapezoid(correct.mean(1), eps) / 0.4
    slow = [trapezoid(correct[:, rows].mean(1), eps) / 0.4 for rows in resamples]
    assert area == pytest.approx(areas)
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.005)


def test_the_interval_of_the_area_holds_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(300):
        correct = rng.random(80) > np.array([0.1, 0.5, 0.8])[:, None]
        _, low, high = area_interval(correct, (0.0, 1.0, 2.0), seed=seed, n_resamples=500)
        covered += low <= (0.9 / 2 + 0.5 + 0.2 / 2) / 2 <= high
    assert covered >= 270  # of 300, 285 expected


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3))


def random_images(n: int = 60) -> torch.Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_rerun_is_identical_and_torchs_own_random_numbers_are_untouched():
    state = torch.get_rng_state()
    noisy = nn.Sequential(network(), NoisyLogits())
    first, again = (
        curve(noisy, random_images(), attack=PGD(steps=3), batch_size=25) for _ in range(2)
    )
    assert np.array_equal(first.correct, again.correct)
    assert (first.auc_low, first.auc_high) == (again.auc_low, again.auc_high)
    assert torch.equal(torch.get_rng_state(), state)
    other = curve(noisy, random_images(), attack=PGD(steps=3), batch_size=25, seed=1)
    assert not np.array_equal(first.correct, other.correct)


class NoisyLogits(nn.Module):
    def forward(self, logits):
        return logits + 0.1 * torch.randn_like(logits)


def test_batches_of_any_kind_give_the_same_curve():
    images, model = random_images(), network()
    labels = model(images).argmax(1)
    whole = curve(model, images, labels)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), batch_size=17
    )
    for found in (
        curve(model, loader),
        curve(model, iter(loader)),
        curve(model, images, labels, batch_size=7),
        curve(model, images.numpy(), labels.numpy()),
    ):
        assert np.array_equal(found.correct, whole.correct)
        assert found.reference == "labels"
    alone = curve(model, [images[:30], images[30:]])
    assert alone.reference == "own clean prediction"
    assert np.array_equal(alone.correct, whole.correct)


def test_the_model_is_in_evaluation_mode_and_afterwards_as_it_was():
    model = Linear().train()
    model.dropout.eval()
    found = curve(model)
    assert found.accuracy[0] == 1
    assert model.training
    assert not model.dropout.training
    assert model.cut.grad is None


def test_the_normalisation_of_a_network_is_kept_inside():
    module = Linear().eval()
    shown = Network(name="shades", module=module)
    mean, std = shown.preprocessing.mean[0], shown.preprocessing.std[0]
    module.cut.data.fill_((0.5 - mean) / std)
    images = shades().expand(-1, len(shown.preprocessing.mean), -1, -1)

    def by_hand(x):
        centre = x.new_tensor(shown.preprocessing.mean)[:, None, None]
        return module((x - centre) / x.new_tensor(shown.preprocessing.std)[:, None, None])

    assert np.array_equal(curve(shown, images).correct, curve(by_hand, images).correct)
    assert 0.1 < curve(shown, images).accuracy[2] < 0.9


def test_the_worst_case_is_right_only_where_all_attacks_leave_it_right():
    model, images = network(), random_images()
    each = [curve(model, images, attack=a) for a in (FGSM(), PGD(steps=2), FGSM(loss="margin"))]
    worst = worst_case(each)
    assert np.array_equal(worst.correct, each[0].correct & each[1].correct & each[2].correct)
    assert worst.attack == "worst case of fgsm, pgd"
    assert len(worst.parameters["attacks"]) == 3
    assert worst.auc <= min(found.auc for found in each)
    assert worst_case(each[:1]).accuracy == each[0].accuracy


class Runaway:
    name: ClassVar[str] = "runaway"
    norm = "Linf"

    def __call__(self, model, images, labels, *, eps, bounds=(0.0, 1.0), generator=None):
        return (images + 2 * eps).clamp(*bounds)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curve(eps=(0.1, 0.1)), r"eps are \[0.1, 0.1\]; expected sizes from 0"),
        (lambda: curve(eps=(-0.1, 0.1)), "expected sizes from 0 or more that grow"),
        (lambda: curve(eps=()), r"eps are \[\]; expected"),
        (lambda: curve(attack=Runaway()), "An attack returned images .* away"),
        (lambda: curve(batch_size=0), "batch_size is 0; expected 1 or more"),
        (lambda: curve(images=255 * shades()), "values from 5.1 to 252.45; expected 0 to 1"),
        (lambda: curve(images=shades()[:, 0]), r"shape \(37, 4, 4\); expected \(image, channel"),
        (lambda: curve(images=shades() * math.nan), "values from nan to nan; expected"),
        (lambda: curve(labels=torch.zeros(5).long()), r"labels have shape \(5,\) for 37 images"),
        (lambda: curve(labels=torch.full((37,), -1)), "label -1 is out of range; the model has 2"),
        (lambda: curve(images=[], labels=None), "there are no batches; expected 1 or more"),
        (
            lambda: curve(images=[shades()], labels=torch.zeros(37).long()),
            "labels were given beside batches",
        ),
        (lambda: curve(lambda x: x.mean((1, 2, 3))), r"gives shape \(37,\) for 37 images"),
        (lambda: curve(lambda x: x.flatten(1) / 0), "logits that are NaN or infinite"),
        (lambda: curve(bounds=(1.0, 0.0)), "bounds are .1.0, 0.0.; expected the least"),
        (lambda: worst_case([]), "there are no curves"),
        (
            lambda: worst_case([curve(), curve(attack=FGSM(norm="L2"))]),
            "the curves differ in norm: Linf and L2",
        ),
        (lambda: worst_case([curve(), curve(eps=(0.0, 0.1))]), "the curves differ in eps"),
        (lambda: wilson(5, 4), "5 of 4 is no share"),
        (lambda: wilson(1, 4, confidence=95), "confidence is 95; expected a share"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mixed_batches_are_refused():
    images = shades()
    with pytest.raises(ValueError, match="some batches have labels and some have none"):
        curve(images=[images[:9], (images[9:], torch.zeros(28).long())])
    with pytest.raises(TypeError, match="the model gives a tuple; expected a tensor of logits"):
        curve(lambda x: (x, x))
    with pytest.raises(TypeError, match="model is a str; expected a module or a function"):
        curve("resnet18")
