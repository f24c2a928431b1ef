import doctest
import itertools

import numpy as np
import pytest
import torch

from repalign.metrics import CKA, hsic, streaming
from repalign.metrics.hsic_terms import FeatureSums
from repalign.metrics.streaming import cka_of_batches


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def related(n: int, p: int = 12, q: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    z = normal(n, 4)
    x = z @ normal(4, p, seed=1) + 2 * normal(n, p, seed=2)
    return x, z @ normal(4, q, seed=3) + 2 * normal(n, q, seed=4)


def batches(x: torch.Tensor, y: torch.Tensor, size: int):
    return zip(x.split(size), y.split(size), strict=True)


def test_examples_run():
    assert doctest.testmod(streaming).failed == 0


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("size", [1, 3, 7, 60])
@pytest.mark.parametrize("neuroids", [(12, 9), (80, 3)])
def test_exact_batches_of_any_size_equal_the_full_batch(debiased, size, neuroids):
    x, y = related(60, *neuroids)
    found = cka_of_batches(batches(x, y, size), debiased=debiased)
    assert found.item() == pytest.approx(CKA(debiased=debiased)(x, y).item(), abs=1e-10)


@pytest.mark.parametrize("debiased", [True, False])
def test_exact_batches_sorted_by_class_and_with_an_offset_equal_the_full_batch(debiased):
    x, y = related(60)
    order = x[:, 0].argsort()  # the first batch is nothing like the others
    x, y = (x[order] + 1e4).float(), (y[order] - 1e4).float()
    found = cka_of_batches(batches(x, y, 10), debiased=debiased)
    assert found.item() == pytest.approx(CKA(debiased=debiased)(x, y).item(), abs=1e-10)


def test_sums_of_separate_workers_add_up_whatever_their_origins():
    x, y = related(60)
    parts = [FeatureSums.of(x[i : i + 20] + 0, y[i : i + 20] + 0) for i in (0, 20, 40)]
    for first, second, third in itertools.permutations(parts):
        value = (first + (second + third)).terms(debiased=True)[0].cka()
        assert value.item() == pytest.approx(CKA()(x, y).item(), abs=1e-12)


def test_gradients_flow_through_exact_batches():
    x, y = normal(8, 3).requires_grad_(), normal(8, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: cka_of_batches(batches(x, y, 3)), (x, y))


def test_one_minibatch_is_the_full_batch():
    x, y = related(20)
    found = cka_of_batches([(x, y)], method="minibatch")
    assert found.item() == pytest.approx(CKA()(x, y).item(), abs=1e-12)


def test_minibatches_add_each_term_and_divide_once():
    x, y = related(60)
    terms = torch.zeros(3, dtype=torch.float64)
    for a, b in batches(x, y, 20):
        k, m = a @ a.T, b @ b.T
        terms += torch.stack([hsic(k, m), hsic(k, k), hsic(m, m)])
    expected = terms[0] / (terms[1] * terms[2]).sqrt()
    found = cka_of_batches(batches(x, y, 20), method="minibatch")
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    ratios = torch.stack([CKA()(a, b) for a, b in batches(x, y, 20)]).mean()
    assert abs(found - ratios) > 1e-3


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_every_batch_counts_not_only_the_last(method):
    x, y = related(80)
    shuffled = y.clone()
    shuffled[:60] = shuffled[:60].flip(0)
    found = cka_of_batches(batches(x, shuffled, 20), method=method)
    assert found < cka_of_batches(batches(x, y, 20), method=method) - 0.1


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_the_same_network_shown_different_stimuli_is_not_one(method):
    weights = normal(6, 12, seed=9)
    first, second = normal(80, 6) @ weights, normal(80, 6, seed=1) @ weights
    assert cka_of_batches(batches(first, first, 20), method=method).item() == pytest.approx(1)
    assert abs(cka_of_batches(batches(first, second, 20), method=method)) < 0.2


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_the_order_of_batches_does_not_matter(method):
    parts = list(batches(*related(60), 20))
    value = cka_of_batches(parts, method=method)
    assert cka_of_batches(parts[::-1], method=method).item() == pytest.approx(
        value.item(), abs=1e-12
    )


def test_2048_stimuli_in_minibatches_of_128_are_within_a_hundredth_of_the_full_batch():
    x, y = related(2048, 40, 30)
    full = CKA()(x, y)
    errors = []
    for seed in range(10):
        order = torch.randperm(2048, generator=torch.Generator().manual_seed(seed))
        pairs = batches(x[order], y[order], 128)
        errors.append((cka_of_batches(pairs, method="minibatch") - full).item())
    assert 0.2 < full < 0.9
    assert max(map(abs, errors)) < 0.01


def test_minibatches_of_unrelated_populations_are_centred_on_zero():
    values = torch.stack(
        [
            cka_of_batches(
                batches(normal(64, 300, seed=s), normal(64, 300, seed=s + 500), 8),
                method="minibatch",
            )
            for s in range(100)
        ]
    )
    assert abs(values.mean()) < 4 * values.std() / 10
    assert values.std() < 0.1  # one batch of 8 alone: .22


def test_a_small_minibatch_is_left_out_with_a_warning_and_counts_in_exact_ones():
    x, y = related(23)
    with pytest.warns(UserWarning, match="batch of 3 stimuli is left out"):
        found = cka_of_batches(batches(x, y, 10), method="minibatch")
    expected = cka_of_batches(batches(x[:20], y[:20], 10), method="minibatch")
    assert found.item() == pytest.approx(expected.item(), abs=1e-14)
    exact = cka_of_batches(batches(x, y, 10))
    assert exact.item() == pytest.approx(CKA()(x, y).item(), abs=1e-12)


@pytest.mark.parametrize("method", ["exact", "minibatch"])
def test_constant_responses_have_no_cka(method):
    pairs = list(batches(torch.full((20, 3), 0.1), normal(20, 5), 10))
    assert cka_of_batches(pairs, method=method).isnan()


def test_equidistant_patterns_have_no_debiased_cka():
    assert cka_of_batches(batches(torch.eye(20), normal(20, 5), 6)).isnan()


def test_numpy_batches_from_a_generator_are_taken():
    x, y = related(20)
    found = cka_of_batches((a.numpy(), b.numpy()) for a, b in batches(x, y, 7))
    assert found.item() == pytest.approx(CKA()(x, y).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka_of_batches([], method="mean"), "'mean' is no method of cka_of_batches"),
        (lambda: cka_of_batches([]), "The batches have 0 stimuli at most; CKA needs 4 or more"),
        (lambda: cka_of_batches([], method="minibatch"), "0 stimuli at most; CKA needs 4"),
        (lambda: cka_of_batches([(normal(3, 2), normal(3, 2))]), "3 stimuli at most"),
        (
            lambda: cka_of_batches(
                [(normal(9, 2), normal(9, 2))] * 2, method="minibatch", debiased=False
            ),
            "Biased HSIC does not add up",
        ),
        (lambda: cka_of_batches([(normal(9, 2), normal(8, 2))]), "x has 9 stimuli and y has 8"),
        (lambda: cka_of_batches([(normal(9), normal(9, 2))]), r"x of batch 0 has shape \(9,\)"),
        (
            lambda: cka_of_batches([(normal(9, 2), normal(9, 2)), (normal(9, 3), normal(9, 2))]),
            "Batch 1 has 3 and 2 neuroids, those before it 2 and 2",
        ),
        (
            lambda: cka_of_batches([(np.full((9, 2), np.nan), normal(9, 2))]),
            "x of batch 0 has 18 values that are NaN or infinite",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
