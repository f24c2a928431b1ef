import doctest

import numpy as np
import pytest
import torch

from repalign.metrics import noise
from repalign.metrics.noise import (
    COVARIANCES,
    covariance_of_residuals,
    noise_covariance,
    noise_precision,
    precision_of,
)

METHODS = sorted(COVARIANCES)


def trials(*shape: int, seed: int = 0) -> torch.Tensor:
    """Repetitions, stimuli, neuroids with correlated noise of variances 1, 2, 3 …"""
    draw = torch.Generator().manual_seed(seed)
    n, p = shape[-2:]
    noise = torch.randn(*shape, generator=draw, dtype=torch.float64)
    mixing = torch.linalg.cholesky(truth(p))
    return 5 * torch.randn(n, p, generator=draw, dtype=torch.float64) + noise @ mixing.mT


def truth(p: int) -> torch.Tensor:
    scale = torch.arange(1, p + 1, dtype=torch.float64).sqrt()
    return (0.3 + 0.7 * torch.eye(p)) * scale[:, None] * scale


def test_examples_run():
    assert doctest.testmod(noise).failed == 0


@pytest.mark.parametrize("repeats", [2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_degrees_of_freedom_are_stimuli_times_repetitions_less_one(method, repeats):
    found = noise_covariance(trials(repeats, 3000, 4), method=method)
    np.testing.assert_allclose(found.diagonal(), truth(4).diagonal(), rtol=0.15)
    few = torch.stack(
        [noise_covariance(trials(2, 4, 3, seed=s), method=method) for s in range(800)]
    )
    assert few.mean(0).trace().item() == pytest.approx(truth(3).trace().item(), rel=0.06)


def test_full_is_the_mean_of_the_covariances_within_stimuli():
    x = trials(4, 6, 3)
    each = torch.stack([torch.cov(x[:, i].T) for i in range(6)])
    torch.testing.assert_close(noise_covariance(x, method="full"), each.mean(0))
    torch.testing.assert_close(noise_covariance(x, method="diag"), each.mean(0).diagonal().diag())


@pytest.mark.parametrize("method", METHODS)
def test_missing_presentations_and_labels_are_the_same_design(method):
    x = trials(4, 6, 3)
    x[1, 2] = x[3, 0] = torch.nan
    rows, labels = x.reshape(-1, 3), np.tile(list("fedcba"), 4)
    found = noise_covariance(x, method=method)
    torch.testing.assert_close(noise_covariance(rows, stimulus=labels, method=method), found)
    residuals = (x - x.nanmean(0)).reshape(-1, 3)
    kept = ~residuals.isnan().any(1)
    expected = covariance_of_residuals(residuals[kept], dof=int(kept.sum()) - 6, method=method)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_signal_offset_and_precision_do_not_matter(method):
    x = trials(3, 8, 4)
    found = noise_covariance(x, method=method)
    moved = noise_covariance(x + 1e4, method=method)
    torch.testing.assert_close(moved, found, rtol=1e-9, atol=1e-9)
    single = noise_covariance((x + 1e4).float(), method=method)
    torch.testing.assert_close(single, found, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(noise_covariance(1e-8 * x, method=method), 1e-16 * found)


def test_shrinkage_goes_to_its_target_with_few_residuals_and_to_nothing_with_many():
    def part_off(x: torch.Tensor, method: str) -> float:
        shrunk, full = (covariance_of_residuals(x, method=m) for m in (method, "full"))
        return float(
            (shrunk - shrunk.diagonal().diag()).norm() / (full - full.diagonal().diag()).norm()
        )

    few, many = trials(1, 6, 10)[0], trials(1, 20000, 10)[0] - trials(1, 20000, 10, seed=1)[0]
    for method in ("shrinkage_eye", "shrinkage_diag"):
        assert part_off(few, method) < 0.8
        assert part_off(many, method) > 0.98
    spread = covariance_of_residuals(few, method="shrinkage_eye").diagonal()
    full = covariance_of_residuals(few, method="full").diagonal()
    assert spread.std() < 0.8 * full.std()
    diagonal = covariance_of_residuals(few, method="shrinkage_diag").diagonal()
    torch.testing.assert_close(diagonal, full)


@pytest.mark.parametrize("method", METHODS)
def test_one_neuroid_has_its_variance(method):
    x = trials(3, 5, 1)
    expected = x.var(0).mean().reshape(1, 1)
    torch.testing.assert_close(noise_covariance(x, method=method), expected)


@pytest.mark.parametrize("method", METHODS)
def test_precision_is_the_inverse(method):
    x = trials(4, 10, 5)
    product = noise_precision(x, method=method) @ noise_covariance(x, method=method)
    torch.testing.assert_close(product, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow(method):
    x = trials(3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: noise_precision(x, method=method), x)


def still(x: torch.Tensor) -> torch.Tensor:
    x[..., 1] = 3
    return x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_covariance(trials(2, 4, 3), method="x"), "'x' is no covariance method"),
        (lambda: noise_covariance(trials(4, 3)[0]), "x has shape"),
        (lambda: noise_covariance(trials(1, 4, 3)), "one presentation of each of 4 stimuli"),
        (lambda: noise_covariance(trials(4, 3)), r"needs \(repeat, stimulus, neuroid\)"),
        (lambda: noise_covariance(trials(4, 3), stimulus=[1, 2]), "each of the 4 presentations"),
        (
            lambda: noise_covariance(
                torch.tensor([[1.0, torch.nan], [2, 3], [4, 5]]), stimulus=[1, 1, 1]
            ),
            "few neuroids are NaN",
        ),
        (lambda: noise_precision(trials(2, 4, 9), method="full"), "no inverse.*shrinkage_eye"),
        (lambda: noise_precision(still(trials(3, 4, 3)), method="diag"), "no inverse"),
        (
            lambda: noise_covariance(still(trials(3, 4, 3)), method="shrinkage_diag"),
            "first: 1.*shrinkage_eye",
        ),
        (lambda: covariance_of_residuals(trials(1, 3)), "dof is 0"),
        (lambda: covariance_of_residuals(trials(4, 3), dof=-1), "dof is -1"),
        (lambda: covariance_of_residuals(trials(4, 3).sqrt()), "residuals has .* NaN"),
        (lambda: covariance_of_residuals(trials(2, 4, 3)), "residuals has shape"),
        (lambda: precision_of(torch.zeros(2, 2)), "no inverse"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
