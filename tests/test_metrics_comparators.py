import doctest
import itertools
import warnings

import numpy as np
import pytest
import rsatoolbox
import scipy.stats
import torch
from rsatoolbox.rdm import compare as rsatoolbox_compare
from scipy.spatial.distance import pdist, squareform

from repalign.metrics import CKA, bures, comparators, pairs, ranks, whitened
from repalign.metrics.comparators import (
    COMPARATORS,
    DISTANCES,
    Comparator,
    comparator_named,
    compare_rdms,
)
from repalign.metrics.ranks import centred_ranks, concordance

METHODS = sorted({comparator.name for comparator in COMPARATORS.values()})
RANKED = ["rho-a", "spearman", "tau-a", "tau-b"]
WHITENED = ["corr_cov", "cosine_cov"]
SMOOTH = ["bures", "bures_metric", "corr", "corr_cov", "cosine", "cosine_cov"]


def patterns(n: int, p: int = 30, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, p))


def distances(n: int, k: int, *, seed: int = 0) -> np.ndarray:
    """Return k RDMs of squared Euclidean distances over the number of neuroids."""
    return np.stack([pdist(patterns(n, seed=10 * seed + i), "sqeuclidean") / 30 for i in range(k)])


def tied(n: int, k: int, *, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(1, 4, size=(k, n * (n - 1) // 2))
    values[:, 0] = 9  # not constant
    return values.astype(float)


def reference(a: np.ndarray, b: np.ndarray, method: str, **options) -> np.ndarray:
    rdms = (rsatoolbox.rdm.RDMs(np.atleast_2d(x)) for x in (a, b))
    return rsatoolbox_compare(*rdms, method=method, **options)


def table(a: np.ndarray, b: np.ndarray, method: str, **options) -> np.ndarray:
    """Return all comparisons of two stacks of RDMs, as rsatoolbox does."""
    return compare_rdms(a[:, None], b[None], method=method, batch_dims=2, **options).numpy()


def dense_covariance(n: int, sigma: np.ndarray) -> np.ndarray:
    """Return V, pair × pair, word for word."""
    rows = [np.eye(n)[i] - np.eye(n)[j] for i, j in itertools.combinations(range(n), 2)]
    return (np.array(rows) @ sigma @ np.array(rows).T) ** 2


def dense_cosine(a: np.ndarray, b: np.ndarray, v: np.ndarray) -> float:
    ab, aa, bb = (x @ np.linalg.solve(v, y) for x, y in ((a, b), (a, a), (b, b)))
    return ab / np.sqrt(aa * bb)


def covariance(n: int) -> np.ndarray:
    root = np.random.default_rng(5).normal(size=(n, n))
    return root @ root.T + np.eye(n)


@pytest.mark.parametrize("module", [comparators, pairs, ranks, whitened, bures])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("n", [3, 4, 5, 20])
@pytest.mark.parametrize("rdms", [distances, tied])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "bures"] + ["kendall"])
def test_compare_rdms_equals_rsatoolbox(method, rdms, n):
    a, b = rdms(n, 2), rdms(n, 3, seed=1)
    np.testing.assert_allclose(
        table(a, b, method), reference(a, b, method), rtol=0, atol=1e-12, equal_nan=False
    )


@pytest.mark.parametrize("method", ["corr", "corr_cov", "tau-a", "tau-b"])
def test_compare_rdms_equals_rsatoolbox_for_92_stimuli(method):
    a, b = distances(92, 1), np.round(distances(92, 1, seed=1), 1)
    np.testing.assert_allclose(table(a, b, method), reference(a, b, method), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [3, 4, 5, 20])
def test_bures_equals_rsatoolbox_within_the_rounding_of_its_roots(n):
    a, b = distances(n, 2), distances(n, 2, seed=1)
    found = table(a, b, "bures")
    np.testing.assert_allclose(found, reference(a, b, "bures"), rtol=0, atol=3e-8)
    squared = table(a, b, "bures_metric")
    np.testing.assert_allclose(squared, reference(a, b, "bures_metric"), rtol=0, atol=1e-6)


def test_bures_of_no_squared_distances_compares_the_nearest_gram_matrices():
    a, b = tied(8, 2)
    grams = [whitened.gram_of_rdm(torch.from_numpy(x)).numpy() for x in (a, b)]
    assert min(np.linalg.eigvalsh(k).min() for k in grams) < -0.1
    roots = []
    for k in grams:
        values, basis = np.linalg.eigh(k)
        roots.append(np.sqrt(values.clip(0))[:, None] * basis.T)
    nuclear = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    expected = nuclear / np.sqrt((roots[0] ** 2).sum() * (roots[1] ** 2).sum())
    assert compare_rdms(a, b, method="bures").item() == pytest.approx(expected, abs=1e-7)
    assert compare_rdms(b, a, method="bures").item() == pytest.approx(expected, abs=1e-7)
    assert compare_rdms(a, a, method="bures").item() == pytest.approx(1, abs=1e-12)
    assert reference(a, a, "bures").item() > 1.01  # the reference has no such bound


@pytest.mark.parametrize(("p", "q"), [(30, 40), (3, 5), (1, 20)])
def test_bures_is_the_nuclear_norm_of_the_cross_covariance(p, q):
    x, y = patterns(12, p), patterns(12, q, seed=1)
    x0, y0 = x - x.mean(0), y - y.mean(0)
    nuclear = np.linalg.svd(x0.T @ y0, compute_uv=False).sum()
    lengths = (x0**2).sum(), (y0**2).sum()
    a, b = pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean")
    found = compare_rdms(a, b, method="bures").item()
    assert found == pytest.approx(nuclear / np.sqrt(lengths[0] * lengths[1]), abs=1e-12)
    found = compare_rdms(a, b, method="bures_metric").item()
    assert found == pytest.approx(sum(lengths) - 2 * nuclear, rel=1e-11)


@pytest.mark.parametrize(
    ("method", "statistic"),
    [
        ("spearman", scipy.stats.spearmanr),
        ("corr", scipy.stats.pearsonr),
        ("pearson", scipy.stats.pearsonr),
        ("tau-b", scipy.stats.kendalltau),
        ("kendall", scipy.stats.kendalltau),
    ],
)
def test_compare_rdms_equals_scipy(method, statistic):
    a, b = distances(15, 1)[0], tied(15, 1)[0]
    assert compare_rdms(a, b, method=method).item() == pytest.approx(
        statistic(a, b).statistic, abs=1e-12
    )


def test_other_names_are_the_same_comparators():
    assert comparator_named("pearson") is COMPARATORS["corr"]
    assert comparator_named("kendall") is COMPARATORS["tau-b"]


def test_concordance_counts_every_pair_of_values():
    generator = torch.Generator().manual_seed(0)
    for n, levels in ((2, 2), (3, 3), (33, 4), (200, 10), (129, 1000)):
        u = torch.randint(levels, (3, 1, n), generator=generator).double()
        v = torch.randint(levels, (4, n), generator=generator).double()
        u[..., 0], v[..., 0] = -1, -1  # not all tied
        signs = [(x[..., :, None] - x[..., None, :]).sign() for x in (u, v)]
        expected = (signs[0] * signs[1]).sum((-2, -1)) / 2
        torch.testing.assert_close(
            concordance(centred_ranks(u), centred_ranks(v)), expected, rtol=0, atol=0
        )


def test_rho_a_is_the_mean_spearman_over_all_ways_to_break_ties():
    a, b = np.array([1.0, 1, 2, 3, 3, 3]), np.array([2.0, 4, 1, 1, 5, 6])

    def ways(x: np.ndarray) -> list[np.ndarray]:
        orders = {tuple(np.lexsort((p, x))) for p in itertools.permutations(range(6))}
        return [np.argsort(order) for order in orders]

    each = [np.corrcoef(u, v)[0, 1] for u in ways(a) for v in ways(b)]
    assert compare_rdms(a, b, method="rho-a").item() == pytest.approx(np.mean(each), abs=1e-12)


def test_only_tie_adjusted_ranks_reward_ties():
    graded = distances(12, 1)[0]
    split = (graded > np.median(graded)).astype(float)
    values = {m: compare_rdms(graded, split, method=m).item() for m in RANKED}
    assert values["tau-b"] > values["tau-a"] + 0.1
    assert values["spearman"] > values["rho-a"] + 0.05


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("method", WHITENED)
def test_whitened_comparators_equal_the_dense_covariance(method, n):
    a, b = tied(n, 1)[0], distances(n, 1)[0]
    if method == "corr_cov":
        a, b = a - a.mean(), b - b.mean()
    for sigma in (np.eye(n), np.diag(np.linspace(1, 3, n)), covariance(n)):
        expected = dense_cosine(a, b, dense_covariance(n, sigma))
        found = compare_rdms(a, b, method=method, sigma_k=sigma).item()
        assert found == pytest.approx(expected, abs=1e-10)
    assert compare_rdms(a, b, method=method).item() == pytest.approx(
        dense_cosine(a, b, dense_covariance(n, np.eye(n))), abs=1e-12
    )


@pytest.mark.parametrize("method", WHITENED)
def test_a_covariance_of_patterns_equals_rsatoolbox_within_its_tolerance(method):
    a, b, sigma = distances(10, 2), distances(10, 2, seed=1), covariance(10)
    found = table(a, b, method, sigma_k=sigma)
    np.testing.assert_allclose(found, reference(a, b, method, sigma_k=sigma), rtol=0, atol=1e-4)
    plain = table(a, b, method)
    assert np.abs(found - plain).max() > 1e-2
    same = table(a, b, method, sigma_k=np.ones(10))
    np.testing.assert_allclose(same, reference(a, b, method, sigma_k=np.ones(10)), atol=1e-12)


@pytest.mark.parametrize("method", WHITENED)
def test_variances_mean_their_diagonal_matrix_and_scale_does_not_count(method):
    a, b, variances = distances(8, 1)[0], distances(8, 1, seed=1)[0], np.linspace(1, 4, 8)
    values = [
        compare_rdms(a, b, method=method, sigma_k=s).item()
        for s in (variances, np.diag(variances), 1e-6 * variances, np.diag(variances) + 7)
    ]
    np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-9)
    assert abs(values[0] - compare_rdms(a, b, method=method).item()) > 1e-4


def test_whitened_cosine_of_squared_distances_is_biased_linear_cka():
    x, y = torch.from_numpy(patterns(15, 6)), torch.from_numpy(patterns(15, 9, seed=1))
    a, b = (pdist(z.numpy(), "sqeuclidean") for z in (x, y))
    expected = CKA(debiased=False)(x, y).item()
    assert compare_rdms(a, b, method="cosine_cov").item() == pytest.approx(expected, abs=1e-12)
    unsquared = compare_rdms(a**0.5, b**0.5, method="cosine_cov").item()
    assert abs(unsquared - expected) > 0.01


@pytest.mark.parametrize("method", [m for m in METHODS if m != "bures"])
def test_missing_pairs_are_left_out_as_in_rsatoolbox(method):
    a, b = distances(9, 2), tied(9, 3)
    for x in (a, b):
        x[:, [0, 7, 8, 20]] = np.nan
    np.testing.assert_allclose(
        table(a, b, method), reference(a, b, method), rtol=0, atol=1e-10, equal_nan=False
    )


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_whitened_missing_pairs_equal_the_covariance_of_those_that_are_left(share):
    a, b = distances(10, 1)[0], distances(10, 1, seed=1)[0]
    kept = np.random.default_rng(0).random(45) > share
    sigma = covariance(10)
    expected = dense_cosine(a[kept], b[kept], dense_covariance(10, sigma)[kept][:, kept])
    a[~kept], b[~kept] = np.nan, np.nan
    found = compare_rdms(a, b, method="cosine_cov", sigma_k=sigma).item()
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_stimulus_that_misses_all_its_pairs_is_left_out(method):
    a, b = (squareform(distances(8, 1, seed=s)[0]) for s in (0, 1))
    rest = np.delete(np.arange(8), 3)
    expected = compare_rdms(a[rest][:, rest], b[rest][:, rest], method=method).item()
    a[3], a[:, 3], b[3], b[:, 3] = np.nan, np.nan, np.nan, np.nan
    assert compare_rdms(a, b, method=method).item() == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("method", [*METHODS, "bures_metric"])
def test_square_condensed_and_batched_rdms_give_the_same_values(method):
    a, b = distances(6, 2), distances(6, 3, seed=1)
    expected = [[compare_rdms(x, y, method=method).item() for y in b] for x in a]
    np.testing.assert_allclose(table(a, b, method), expected, rtol=0, atol=1e-12)
    squares = [torch.from_numpy(np.stack([squareform(x) for x in stack])) for stack in (a, b)]
    squares[0].diagonal(dim1=1, dim2=2).fill_(torch.nan)
    found = compare_rdms(squares[0][:, None], squares[1][None], method=method, batch_dims=2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert compare_rdms(a[0], b[0], method=method).shape == ()


@pytest.mark.parametrize("method", METHODS)
def test_comparators_ignore_scale_order_and_exchange_but_not_matching(method):
    a, b = (squareform(distances(9, 1, seed=s)[0]) for s in (0, 1))
    value = compare_rdms(a, b, method=method).item()
    order = np.random.default_rng(1).permutation(9)
    shuffled_a, shuffled_b = a[order][:, order], b[order][:, order]
    for x, y in ((1e-8 * a, b), (1e-16 * a, 1e4 * b), (b, a), (shuffled_a, shuffled_b)):
        assert compare_rdms(x, y, method=method).item() == pytest.approx(value, abs=1e-11)
    assert compare_rdms(a, a, method=method).item() == pytest.approx(1, abs=1e-12)
    assert abs(compare_rdms(shuffled_a, b, method=method).item() - value) > 1e-4


@pytest.mark.parametrize(
    ("method", "monotone", "offset"),
    [(m, m in RANKED, m in (*RANKED, "corr")) for m in METHODS],
)
def test_only_ranks_ignore_monotone_maps_and_only_centred_ones_an_offset(method, monotone, offset):
    a, b = distances(9, 1)[0], distances(9, 1, seed=1)[0]
    value = compare_rdms(a, b, method=method).item()
    assert (abs(compare_rdms(a**3, b, method=method).item() - value) < 1e-9) == monotone
    ignores = abs(compare_rdms(a + 1, b, method=method).item() - value) < 1e-9
    assert ignores == (offset or method == "corr_cov")


@pytest.mark.parametrize("method", METHODS)
def test_float32_and_float64_agree(method):
    a, b = (distances(9, 1, seed=s)[0].astype(np.float32) for s in (0, 1))
    found = compare_rdms(a, b, method=method)
    assert found.dtype == torch.float64
    expected = compare_rdms(a.astype(float), b.astype(float), method=method)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_rdm_has_no_extent_where_the_comparator_sees_none(method):
    constant, a = np.full(36, 0.1), distances(9, 1)[0]
    sees_size = method in ("bures", "cosine", "cosine_cov")
    assert bool(compare_rdms(constant, a, method=method).isnan()) != sees_size
    assert compare_rdms(np.zeros(36), a, method=method).isnan()
    assert compare_rdms(a, np.zeros(36), method=method).isnan()


@pytest.mark.parametrize("comparator", COMPARATORS.values(), ids=lambda c: c.name)
def test_a_comparator_of_an_rdm_with_nan_is_nan(comparator):
    a, b = torch.from_numpy(distances(6, 2))
    b[2] = torch.nan
    assert comparator(a, b).isnan()
    assert comparator(torch.stack([a, b]), a).isnan().tolist() == [False, True]


@pytest.mark.parametrize("method", [*METHODS, "bures_metric"])
def test_gradients_flow_where_a_comparator_says_so(method):
    a, b = (torch.from_numpy(distances(5, 2, seed=s)).requires_grad_() for s in (0, 1))
    comparator = (COMPARATORS | DISTANCES)[method]
    assert comparator.differentiable == (method in SMOOTH)
    assert comparator(a, b).requires_grad == comparator.differentiable
    if comparator.differentiable:
        assert torch.autograd.gradcheck(comparator, (a, b))


@pytest.mark.parametrize("method", WHITENED)
def test_gradients_flow_past_missing_pairs_and_through_a_covariance(method):
    a, b = (torch.from_numpy(distances(5, 1, seed=s)[0]) for s in (0, 1))
    missing = torch.arange(10) == 3

    def compare(a: torch.Tensor) -> torch.Tensor:
        x, y = (z.masked_fill(missing, torch.nan) for z in (a, b))
        return compare_rdms(x, y, method=method, sigma_k=covariance(5))

    assert torch.autograd.gradcheck(compare, a.requires_grad_())


def test_bures_gradients_are_right_for_few_neuroids_and_negative_eigenvalues():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)

    def of_patterns(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b = (torch.pdist(z).square() for z in (x, y))
        return compare_rdms(a, b, method="bures")

    assert torch.autograd.gradcheck(of_patterns, (x.requires_grad_(), y.requires_grad_()))
    a, b = torch.from_numpy(tied(5, 2) + 0.1 * distances(5, 2)).requires_grad_()
    assert torch.autograd.gradcheck(COMPARATORS["bures"], (a, b))


@pytest.mark.parametrize("comparator", (COMPARATORS | DISTANCES).values(), ids=lambda c: c.name)
def test_every_comparator_states_what_it_is(comparator):
    assert comparator.name in COMPARATORS | DISTANCES
    assert comparator.formula
    assert "https://doi.org/10." in comparator.reference
    low, high = comparator.range
    values = table(distances(5, 6), distances(5, 6, seed=1), comparator.name)
    assert low <= values.min()
    assert values.max() <= high
    assert comparator.higher_is_more_similar == (comparator.name in COMPARATORS)


def test_a_comparator_of_ones_own_needs_no_registration():
    signs = Comparator("signs", "cosine of signs", (-1, 1), "here", False, scale=torch.sign)
    a = np.array([1.0, -2.0, 3.0])
    assert compare_rdms(a, -5 * a, method=signs).item() == pytest.approx(-1)


def rdm(n: int = 5) -> np.ndarray:
    return distances(n, 1)[0]


def with_nan(place: int) -> np.ndarray:
    a = rdm()
    a[place] = np.nan
    return a


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_rdms(rdm(), rdm(), method="tau"), "'tau' is no RDM comparator; choose"),
        (lambda: compare_rdms(distances(5, 3), rdm()), r"\(3, 10\); .*batch_dims=1"),
        (lambda: compare_rdms(rdm()[:9], rdm()), "9 pairs fits no number of stimuli"),
        (lambda: compare_rdms(rdm(), rdm(6)), "have 10 and 15 pairs.*stimulus_id"),
        (lambda: compare_rdms(rdm(2), rdm(2)), "a has 2 stimuli; comparing RDMs needs 3"),
        (lambda: compare_rdms(rdm(), np.triu(squareform(rdm()))), "b is not symmetric"),
        (lambda: compare_rdms(np.ones((4, 4)), rdm(4)), "diagonal of a holds 1; expected 0 or NaN"),
        (lambda: compare_rdms(np.where(rdm() > 2, np.inf, 1), rdm()), "a has .* infinite values"),
        (lambda: compare_rdms(with_nan(3), rdm()), "1 pairs are missing .NaN. in one RDM"),
        (lambda: compare_rdms(np.nan * rdm(), np.nan * rdm()), "All pairs of the RDMs are missing"),
        (
            lambda: compare_rdms(with_nan(3), with_nan(3), method="bures"),
            "bures needs all pairs of the stimuli; 1 are missing",
        ),
        (
            lambda: compare_rdms(rdm(), rdm(), method="corr", sigma_k=np.eye(5)),
            "sigma_k does not apply to 'corr'",
        ),
        (
            lambda: compare_rdms(rdm(), rdm(), method="cosine_cov", sigma_k=np.eye(4)),
            r"sigma_k has shape \(4, 4\); expected the covariance of 5 stimuli",
        ),
        (
            lambda: compare_rdms(rdm(), rdm(), method="cosine_cov", sigma_k=np.tri(5)),
            "sigma_k is not symmetric",
        ),
        (
            lambda: compare_rdms(rdm(), rdm(), method="cosine_cov", sigma_k=np.ones((5, 5))),
            "must be positive definite",
        ),
        (
            lambda: compare_rdms(distances(5, 2), distances(5, 3), batch_dims=1),
            r"batches of a and b, \(2,\) and \(3,\), do not broadcast",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_holds_no_numbers_is_refused():
    with pytest.raises(TypeError, match="expected an array of real numbers"):
        compare_rdms(np.array(["a", "b", "c"]), np.ones(3))


def test_bures_refuses_missing_pairs_whose_rest_only_counts_like_an_rdm():
    a, b = distances(4, 2)
    a[[0, 1, 3]], b[[0, 1, 3]] = np.nan, np.nan  # 3 pairs are left, of 4 stimuli
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(reference(a, b, "bures")).all()  # read as an RDM of 3 stimuli
    with pytest.raises(ValueError, match="bures needs all pairs"):
        compare_rdms(a, b, method="bures")
