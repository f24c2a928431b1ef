import numpy as np
import pytest
import torch

from repalign.metrics import CKA, METRICS, RSA
from repalign.metrics.calls import average_of_repeats, compare_populations


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EVERY = pytest.mark.parametrize(
    "metric", [kind() for kind in METRICS.values()], ids=lambda m: m.name
)


@EVERY
def test_repetitions_are_averaged_and_missing_ones_left_out(metric):
    x, y = normal(3, 30, 8), normal(30, 7, seed=1)
    x[1, 4] = x[0, 9] = x[2, 9] = torch.nan
    average = x.nanmean(0)
    torch.testing.assert_close(metric(x, y), metric(average, y), equal_nan=True)


@EVERY
def test_batches_are_explicit_and_broadcast(metric):
    x, y = normal(2, 3, 30, 8), normal(1, 3, 30, 7, seed=1)
    found = metric(x, y, batch_dims=2)
    assert found.shape == (2, 3)
    one = metric(x[1, 2], y[0, 2])
    torch.testing.assert_close(found[1, 2], one, rtol=1e-9, atol=1e-10)


@EVERY
def test_numpy_arrays_and_single_precision_are_taken(metric):
    x, y = normal(30, 8), normal(30, 7, seed=1)
    found = metric(x.numpy(), y.float(), device="cpu")
    torch.testing.assert_close(found.double(), metric(x, y).double(), rtol=1e-4, atol=1e-4)


@EVERY
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:1], "x has 1 stimuli"),
        (lambda x: x.index_fill(0, torch.tensor([3]), torch.nan), "in rows 3"),
        (lambda x: x.masked_fill(x > 2, torch.inf), "NaN or infinite"),
        (lambda x: x[:20], "x has 20 stimuli and y has 30"),
        (lambda x: x[:, 0], "expected .stimulus, neuroid."),
        (
            lambda x: torch.stack([x, x]).index_fill(1, torch.tensor([3]), torch.nan),
            "no repetition",
        ),
        (lambda x: torch.stack([x, x.masked_fill(x > 2, torch.nan)]), "some neuroids are NaN"),
    ],
)
def test_bad_input_is_the_same_error_in_every_metric(metric, spoil, message):
    with pytest.raises(ValueError, match=message):
        metric(spoil(normal(30, 8)), normal(30, 7, seed=1))


@EVERY
def test_words_and_complex_numbers_are_refused(metric):
    for wrong in (np.array([["a"] * 3] * 30), normal(30, 8).to(torch.complex128)):
        with pytest.raises(TypeError, match="real"):
            metric(wrong, normal(30, 7))


def test_gradients_flow_through_the_average_of_repetitions():
    x = normal(3, 6, 4)
    x[1, 2] = torch.nan
    x.requires_grad_()
    average_of_repeats(x).sum().backward()
    assert x.grad is not None
    assert x.grad[1, 2].eq(0).all()
    assert x.grad[0, 2].eq(0.5).all()


def test_batches_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\), do not broadcast"):
        CKA()(normal(2, 9, 3), normal(3, 9, 3), batch_dims=1)


def test_results_of_any_shape_are_stacked():
    found = compare_populations(
        lambda a, b: a.mean(0), normal(2, 9, 3), normal(2, 9, 3), needs=RSA(), batch_dims=1
    )
    assert found.shape == (2, 3)


@EVERY
def test_patterns_that_are_all_the_same_have_no_geometry(metric):
    y = normal(30, 7, seed=1)
    for scale in (0.0, 1.0, 1e-9):
        flat = scale * torch.ones(30, 1, dtype=torch.float64) * normal(1, 8)
        assert metric(flat, y).isnan()
        assert metric(y, flat).isnan()


@EVERY
def test_one_neuroid_is_compared_or_refused_by_name(metric):
    try:
        value = metric(normal(30, 1), normal(30, 7, seed=1))
    except ValueError as error:
        assert "neuroid" in str(error)  # noqa: PT017
    else:
        assert not value.isnan()


@EVERY
def test_a_metric_says_truly_whether_gradients_flow(metric):
    x = normal(30, 4).requires_grad_()
    y = normal(30, 3, seed=1)
    if not metric.differentiable:
        value = metric(x, y)
        assert not value.requires_grad
        return
    assert torch.autograd.gradcheck(lambda x: metric(x, y), (x,), atol=1e-6)


def test_views_of_numpy_arrays_that_run_backward_are_taken():
    x, y = normal(9, 4).numpy(), normal(9, 3, seed=1).numpy()
    found = CKA()(x[::-1], y[::-1])
    torch.testing.assert_close(found, CKA()(x, y))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: CKA()(normal(9, 3), normal(9, 3), batch_dims=-1), ValueError, "batch_dims is -1"),
        (lambda: CKA(debiased="false"), TypeError, "expected True or False"),
        (lambda: CKA("rbf"), TypeError, "positional"),
        (lambda: METRICS["ridge"](folds=2.5), TypeError, "folds is 2.5; expected a whole number"),
        (lambda: METRICS["pls"](components=2.5), ValueError, "components is 2.5"),
        (lambda: METRICS["mutual-knn"](k=2.5), ValueError, "k is 2.5"),
        (lambda: CKA(debiased=False)(normal(2, 3), normal(2, 3)), ValueError, "needs 3 or more"),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
