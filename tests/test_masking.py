import doctest

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from repalign.robustness import masking, masking_trials
from repalign.robustness.gradient_attacks import PGD
from repalign.robustness.masking import (
    GradientMaskingError,
    GradientMaskingWarning,
    masking_audit,
)
from repalign.robustness.masking_checks import CHECKS, POINTS
from repalign.robustness.masking_trials import advantage

EPS = {"Linf": 0.1, "L2": 0.6}
NORMS = pytest.mark.parametrize("norm", EPS)


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:1300]
    return images[train], labels[train], images[test], labels[test]


def trained(seed: int, *, eps: float = 0.0) -> nn.Module:
    """A small network on digits, trained on adversarial images where eps is not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        images, labels, _, _ = digits()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(10):
            for batch in torch.randperm(len(images)).split(100):
                x, y = images[batch], labels[batch]
                x = PGD(steps=4)(model, x, y, eps=eps) if eps else x
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return trained(0)


class Changed(nn.Module):
    """A model behind a change of its images, and before one of its logits."""

    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, images):
        return self.after(self.model(self.before(images)))


def audit(model, norm="Linf", **changes):
    _, _, images, labels = digits()
    arguments = {"eps": EPS[norm], "norm": norm, "queries": 150, "restarts": 3, "device": "cpu"}
    return masking_audit(model, images, labels, progress=False, **arguments | changes)


def failed(model, norm="Linf", **changes) -> set[str]:
    with pytest.warns(GradientMaskingWarning, match="overstates the model's robustness"):
        found = audit(model, norm, **changes)
    with pytest.raises(GradientMaskingError, match="checks for masked gradients failed at"):
        found.check()
    assert not found.passed
    return {check.name for check in found.checks if check.passed is False}


@pytest.mark.parametrize("module", [masking, masking_trials], ids=lambda m: m.__name__)
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("norm", "seed"), [*(("Linf", s) for s in range(5)), ("L2", 0)])
def test_plain_models_raise_no_alarm(norm, seed):
    found = audit(trained(seed), norm)
    assert found.passed
    found.check()
    assert [check.name for check in found.checks] == list(CHECKS)
    assert {check.name for check in found.checks if check.passed is None} == {"transfer"}


@NORMS
def test_adversarially_trained_models_raise_no_alarm(norm, plain):
    found = audit(trained(0, eps=0.1), norm, surrogate=plain)
    assert found.passed
    assert all(check.passed for check in found.checks), found.rows()
    values = {check.name: check.values for check in found.checks}
    assert values["transfer"]["other"] > values["transfer"]["reference"]


MASKED = {
    "quantised": ({"before": lambda x: (8 * x).round() / 8}, {"black box", "zero gradients"}),
    "stop-gradient": ({"before": lambda x: x.detach() + 0 * x}, {"black box", "zero gradients"}),
    "saturated": ({"after": lambda z: 1e4 * z}, {"losses agree", "zero gradients", "black box"}),
}


@NORMS
@pytest.mark.parametrize("kind", MASKED)
def test_planted_masking_fails_the_audit(kind, norm, plain):
    change, expected = MASKED[kind]
    assert expected <= failed(Changed(plain, **change), norm, restarts=1)


def test_shattered_gradients_fail_the_audit_though_they_are_not_zero(plain):
    shattered = Changed(plain, before=lambda x: x + 0.05 * torch.sin(400 * x))
    found = failed(shattered, restarts=1)
    assert {"iterations help", "black box"} <= found
    assert "zero gradients" not in found


def test_a_surrogate_reveals_masking(plain):
    model = Changed(plain, before=lambda x: (8 * x).round() / 8)
    assert "transfer" in failed(model, surrogate=trained(1), restarts=1, steps=5)


def test_a_model_without_any_gradient_fails_every_check_that_needs_one(plain):
    found = failed(Changed(plain, before=lambda x: x.detach()), restarts=1)
    assert {"zero gradients", "iterations help", "unbounded attack"} <= found


def noisy(model: nn.Module) -> nn.Module:
    return Changed(model, before=lambda x: x + 0.05 * torch.randn_like(x))


def test_a_stochastic_model_needs_averaged_gradients(plain):
    assert "deterministic" in failed(noisy(plain), steps=5, restarts=1)


def test_averaged_gradients_clear_a_stochastic_model_and_say_so(plain):
    found = audit(noisy(plain), gradient_samples=5, restarts=2, steps=10, queries=50)
    assert found.passed
    check = next(check for check in found.checks if check.name == "deterministic")
    assert "5 gradients are averaged" in check.detail
    assert {"noise", "single", "reference", "other"} <= check.values.keys()


def test_the_audit_is_repeatable_and_leaves_no_trace(plain):
    model = noisy(plain).train()
    state = torch.get_rng_state()
    first, second = (
        audit(model, gradient_samples=2, restarts=1, steps=3, queries=20, n_images=60, seed=3)
        for _ in range(2)
    )
    assert first.rows() == second.rows()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None or parameter.grad.any() for parameter in plain.parameters())


def test_own_predictions_stand_in_for_labels(plain):
    _, _, images, _ = digits()
    found = masking_audit(plain, images, eps=0.1, queries=50, device="cpu", progress=False)
    assert found.n_images == len(images)
    assert found.passed


def test_an_advantage_is_the_difference_and_its_exact_mcnemar_p():
    rng = np.random.default_rng(0)
    a, b = rng.random(200) < 0.6, rng.random(200) < 0.5
    gain, p = advantage(a, b)
    assert gain == pytest.approx(a.mean() - b.mean())
    n = int((a != b).sum())
    assert p == pytest.approx(binomtest(int((a & ~b).sum()), n, alternative="greater").pvalue)
    assert advantage(a, a) == (0.0, 1.0)


def test_chance_alone_seldom_looks_like_an_advantage():
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(500):
        a, b = rng.random((2, 200)) < 0.5
        gain, p = advantage(a, b)
        alarms += gain > POINTS and p < 0.01
    assert alarms <= 12  # of 500, at most 5 expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 0.0}, "eps is 0.0; expected a size above 0"),
        ({"norm": "L2", "steps": 0}, "steps is 0; expected a whole number"),
        ({"n_images": 20}, "of 20 images are right without an attack; the audit needs 30"),
        ({"bounds": (0.0, 0.5)}, "images have values from 0 to 1; expected 0 to 0.5"),
    ],
)
def test_errors_say_what_is_wrong(changes, message, plain):
    with pytest.raises(ValueError, match=message):
        audit(plain, **changes)
