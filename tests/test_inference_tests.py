"""Tests of models: exact values, rates under the null hypothesis, planted effects."""

from itertools import permutations, product

import numpy as np
import pytest
import scipy.stats
import torch

from repalign.inference import (
    RESAMPLED,
    bca_intervals,
    benjamini_hochberg,
    bootstrap_draws,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    holm,
    jackknife_draws,
    joint_t_test,
    label_permutation_test,
    percentile_intervals,
    resample_test,
    sign_flip_test,
    t_intervals,
    t_test,
    two_factor_variances,
)
from repalign.inference.label_permutations import chance_of_products
from repalign.metrics import rdm
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.subsets import take_stimuli

ALPHA, DATA_SETS = 0.05, 300
NULLS = 8  # rates that this file measures: their bound is Bonferroni-corrected for them
MOST = scipy.stats.binom.ppf(1 - 0.05 / NULLS, DATA_SETS, ALPHA)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_rdms(count: int, n_stimuli: int, seed: int) -> torch.Tensor:
    return torch.stack(
        [rdm(one, method="euclidean") for one in normal(count, n_stimuli, 5, seed=seed)]
    )


# Corrections


def test_holm_and_benjamini_hochberg_equal_their_definitions():
    p = torch.from_numpy(np.random.default_rng(0).random((3, 4)) ** 2)
    flat = p.flatten().numpy()
    fdr = scipy.stats.false_discovery_control(flat)
    np.testing.assert_allclose(benjamini_hochberg(p).flatten(), fdr, atol=1e-12)
    m, order = len(flat), np.argsort(flat)
    for alpha in (0.01, 0.1, 0.3):  # step down: reject until one is too large
        rejected = np.zeros(m, bool)
        for i, at in enumerate(order):
            if flat[at] > alpha / (m - i):
                break
            rejected[at] = True
        assert ((holm(p).flatten().numpy() <= alpha) == rejected).all()
    assert holm(p).shape == p.shape
    assert (holm(p) >= benjamini_hochberg(p)).all()
    assert holm(torch.tensor(0.04)).item() == pytest.approx(0.04)


@pytest.mark.parametrize("correction", [holm, benjamini_hochberg])
def test_corrections_refuse_what_is_no_p_value(correction):
    with pytest.raises(ValueError, match="2 of 3 p values are NaN, 0 or outside"):
        correction(torch.tensor([0.5, 0.0, float("nan")]))


# Sign flips


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_exact_sign_flips_equal_scipy(alternative):
    values = normal(9, 3) + 0.4
    found = sign_flip_test(values, alternative=alternative)
    expected = scipy.stats.permutation_test(
        (values.numpy(),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative=alternative,
        axis=0,
    )
    np.testing.assert_allclose(found.p, expected.pvalue, atol=1e-12)
    assert "exact" in found.kind
    assert found.n_draws == 512


def test_max_t_over_sign_flips_equals_its_definition():
    values = normal(6, 4) + torch.tensor([0.0, 0.5, 1.0, 2.0])
    found = sign_flip_test(values)

    def t(x: np.ndarray) -> np.ndarray:
        return np.abs(scipy.stats.ttest_1samp(x, 0).statistic)

    signs = [np.array(pattern)[:, None] for pattern in product([1, -1], repeat=6)]
    largest = np.array([t(values.numpy() * sign).max() for sign in signs])
    expected = [(largest >= one - 1e-9).mean() for one in t(values.numpy())]
    np.testing.assert_allclose(found.p_family, expected, atol=1e-12)
    assert (found.p_family >= found.p).all()


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125)])
def test_smallest_p_of_sign_flips_is_reached_by_equal_signs(n, least):
    found = sign_flip_test(torch.arange(1.0, n + 1))
    assert found.p.item() == found.smallest_p == least
    assert sign_flip_test(torch.arange(1.0, n + 1), alternative="greater").p.item() == least / 2


def test_random_sign_flips_are_close_to_exact_ones_and_never_zero():
    values = normal(14) + 0.4
    exact = sign_flip_test(values, n_flips=2**14)
    random = sign_flip_test(values, n_flips=2**14 - 1, seed=1)
    assert "exact" in exact.kind
    assert "random" in random.kind
    assert random.p.item() == pytest.approx(exact.p.item(), abs=0.01)
    strong = sign_flip_test(torch.ones(40) + normal(40) * 0.1, n_flips=999)
    assert strong.p.item() == strong.smallest_p == 1 / 1000
    assert sign_flip_test(torch.zeros(7, 2)).p.tolist() == [1, 1]


# Permutation of stimulus labels


@pytest.mark.parametrize("comparator", RESAMPLED)
def test_exact_permutations_equal_comparing_every_order(comparator):
    models, subjects = random_rdms(2, 5, 0), random_rdms(2, 5, 1)
    models[0] = models[0].round()
    value, found = label_permutation_test(models, subjects, comparator=comparator)

    def mean_similarity(orders: list[torch.Tensor]) -> np.ndarray:
        reordered = torch.stack(
            [torch.stack([take_stimuli(one, order) for one in subjects]) for order in orders]
        )
        values = compare_rdms(
            models[None, :, None], reordered[:, None], method=comparator, batch_dims=3
        )
        return values.mean(2).numpy()

    orders = [torch.tensor(p) for p in permutations(range(5))]
    null, observed = mean_similarity(orders), mean_similarity([torch.arange(5)])[0]
    np.testing.assert_allclose(value, observed, atol=1e-10)
    np.testing.assert_allclose(found.p, (null >= observed - 1e-9).mean(0), atol=1e-12)
    z, z_observed = (null - null.mean(0)) / null.std(0), (observed - null.mean(0)) / null.std(0)
    family = (z.max(1)[:, None] >= z_observed - 1e-9).mean(0)
    np.testing.assert_allclose(found.p_family, family, atol=1e-12)
    assert found.smallest_p == 1 / 120
    assert found.n_draws == 120


@pytest.mark.parametrize("comparator", ["corr", "tau-a"])
def test_random_permutations_are_seeded_and_agree_with_exact_ones(comparator):
    models, subjects = random_rdms(2, 6, 4), random_rdms(2, 6, 5)
    _, exact = label_permutation_test(models, subjects, comparator=comparator)
    settings = {"comparator": comparator, "n_permutations": 700}
    _, first = label_permutation_test(models, subjects, seed=1, **settings)
    _, again = label_permutation_test(models, subjects, seed=1, **settings)
    assert torch.equal(first.p, again.p)
    np.testing.assert_allclose(first.p, exact.p, atol=0.06)


# t tests and shares of resamples


def test_t_test_of_a_mean_equals_scipy():
    x = normal(12, 4) + 0.3
    found = t_test(x.mean(0), x.var(0) / 12, degrees_of_freedom=11)
    np.testing.assert_allclose(found.p, scipy.stats.ttest_1samp(x.numpy(), 0).pvalue, rtol=1e-9)
    one_sided = t_test(x.mean(0), x.var(0) / 12, degrees_of_freedom=11, alternative="greater")
    expected = scipy.stats.ttest_1samp(x.numpy(), 0, alternative="greater").pvalue
    np.testing.assert_allclose(one_sided.p, expected, rtol=1e-9)
    assert t_test(torch.tensor(1e6), torch.tensor(0.0), degrees_of_freedom=90).p > 0
    assert t_test(torch.zeros(2, 2), torch.zeros(2, 2), degrees_of_freedom=3).p.tolist() == [
        [1, 1],
        [1, 1],
    ]


def test_shares_of_resamples_count_both_sides():
    effects = torch.tensor([[-1.0, 1], [2, 1], [3, 1], [0, 1]])
    assert resample_test(effects, alternative="greater").p.tolist() == pytest.approx([0.6, 0.2])
    found = resample_test(effects)
    assert found.p.tolist() == pytest.approx([1, 0.4])
    assert found.smallest_p == 0.4
    undefined = resample_test(torch.full((99,), float("nan")), alternative="greater")
    assert undefined.p.item() == 1


# Rates under the null hypothesis


def test_sign_flips_keep_their_level():
    false, family = 0, 0
    for seed in range(DATA_SETS):
        found = sign_flip_test(normal(8, 5, seed=seed) ** 3, n_flips=256)
        false += int(found.p[0] <= ALPHA)
        family += int(found.p_family.min() <= ALPHA)
    assert DATA_SETS * ALPHA / 3 < false <= MOST
    assert DATA_SETS * ALPHA / 3 < family <= MOST


@pytest.mark.parametrize("comparator", ["spearman", "cosine_cov"])
def test_label_permutations_keep_their_level(comparator):
    false, family = 0, 0
    for seed in range(DATA_SETS):
        models, subjects = random_rdms(4, 9, seed), random_rdms(3, 9, 10_000 + seed)
        _, found = label_permutation_test(
            models, subjects, comparator=comparator, n_permutations=99, seed=seed
        )
        false += int(found.p[0] <= ALPHA)
        family += int(found.p_family.min() <= ALPHA)
    assert DATA_SETS * ALPHA / 3 < false <= MOST
    assert DATA_SETS * ALPHA / 3 < family <= MOST


def equally_good(seed: int, *, n_stimuli: int = 20, n_subjects: int = 8) -> tuple:
    """Two models that see the subjects' code through independent noise of one size."""
    shared = normal(n_stimuli, 6, seed=seed)
    noise = normal(2 + n_subjects, n_stimuli, 6, seed=50_000 + seed)
    rdms = torch.stack([rdm(shared + one, method="euclidean") for one in noise])
    return rdms[:2], rdms[2:]


@pytest.mark.parametrize("over", ["stimuli", "both"])
def test_equally_good_models_seldom_differ(over):
    # Over new stimuli: the noise of a model is drawn anew with each stimulus.
    false = 0
    for seed in range(DATA_SETS):
        models, subjects = equally_good(seed)
        draws = bootstrap_draws(20, 8, over=over, n_resamples=100, seed=seed)
        if over == "both":
            dual = evaluate_dual(models, subjects, draws, comparator="corr", ceilings=False)
            variances = two_factor_variances(dual, draws)
        else:
            variances = estimated_variances(
                evaluate_resamples(models, subjects, draws, comparator="corr"), draws
            )
        value = compare_rdms(models[:, None], subjects[None], method="corr", batch_dims=2).mean(1)
        p = t_test(
            value[0] - value[1],
            variances.differences[0, 1],
            degrees_of_freedom=variances.degrees_of_freedom,
        ).p
        false += int(p.item() <= ALPHA)
    assert false <= MOST


def test_planted_effects_are_found():
    shared = normal(30, 6)
    close = rdm(shared + 0.3 * normal(30, 6, seed=1), method="euclidean")
    far = rdm(shared + 2.0 * normal(30, 6, seed=2), method="euclidean")
    noise = normal(10, 30, 6, seed=3)
    subjects = torch.stack([rdm(shared + one, method="euclidean") for one in noise])
    models = torch.stack([close, far])
    value, related = label_permutation_test(models, subjects, comparator="corr")
    assert related.p[0].item() == related.smallest_p
    each = compare_rdms(models[:, None], subjects[None], method="corr", batch_dims=2)
    assert sign_flip_test(each[0] - each[1]).p.item() < 0.01
    draws = bootstrap_draws(30, 10, n_resamples=300)
    variances = two_factor_variances(
        evaluate_dual(models, subjects, draws, comparator="corr"), draws
    )
    differ = t_test(value[0] - value[1], variances.differences[0, 1], degrees_of_freedom=9)
    assert differ.p.item() < 0.01


@pytest.mark.parametrize("kind", ["percentile", "bca", "t"])
def test_intervals_over_subjects_cover_the_truth(kind):
    truth, covered = None, 0
    n_subjects, shared = 15, normal(12, 5)
    model = rdm(shared, method="euclidean")[None]

    def subjects_of(seed: int, count: int) -> torch.Tensor:
        noise = normal(count, 12, 5, seed=seed)
        return torch.stack([rdm(shared + one, method="euclidean") for one in noise])

    def mean_value(rdms: torch.Tensor) -> torch.Tensor:
        return compare_rdms(model[:, None], rdms[None], method="corr", batch_dims=2).mean(1)

    truth = mean_value(subjects_of(77, 3000)).item()
    for seed in range(150):
        subjects = subjects_of(1000 + seed, n_subjects)
        draws = bootstrap_draws(12, n_subjects, over="subjects", n_resamples=400, seed=seed)
        found = evaluate_resamples(model, subjects, draws, comparator="corr", ceilings=False)
        if kind == "percentile":
            interval = percentile_intervals(found.models, confidence=0.9, kind="")[0]
        elif kind == "bca":
            left_out = evaluate_resamples(
                model,
                subjects,
                jackknife_draws(12, n_subjects, over="subjects"),
                comparator="corr",
                ceilings=False,
            )
            interval = bca_intervals(
                found.models, mean_value(subjects), left_out.models, confidence=0.9
            )[0]
        else:
            interval = t_intervals(
                mean_value(subjects),
                estimated_variances(found, draws).models,
                degrees_of_freedom=n_subjects - 1,
                n_resamples=400,
                confidence=0.9,
            )[0]
        covered += interval.low <= truth <= interval.high
    assert 0.82 * 150 <= covered <= 0.97 * 150


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sign_flip_test(torch.ones(1, 3)), "1 subjects and 10000 flips"),
        (
            lambda: sign_flip_test(torch.tensor([[1.0], [float("nan")], [2.0]])),
            r"values of subjects \[1\]",
        ),
        (lambda: sign_flip_test(torch.ones(5), alternative="less"), "alternative is 'less'"),
        (
            lambda: t_test(torch.tensor([1.0, float("nan")]), torch.ones(2), degrees_of_freedom=3),
            "1 effects or variances are NaN",
        ),
        (
            lambda: t_test(torch.ones(1), torch.ones(1), degrees_of_freedom=0),
            "0 degrees of freedom",
        ),
        (lambda: resample_test(torch.ones(0, 2)), "no resamples"),
        (
            lambda: label_permutation_test(torch.ones(1, 10), torch.rand(2, 10), comparator="corr"),
            r"similarity of models \[0\].*constant",
        ),
        (
            lambda: label_permutation_test(torch.rand(1, 3), torch.rand(1, 3)),
            "expected 1 or more of at least 4 stimuli",
        ),
        (
            lambda: label_permutation_test(
                torch.rand(1, 10), torch.rand(2, 10).index_fill_(1, torch.tensor([3]), torch.nan)
            ),
            "1 pairs are missing.*would put them elsewhere",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# max-T of t tests


def test_joint_t_tests_of_one_effect_many_times_are_one_test():
    same = torch.randn(300, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 6)
    effects = torch.full((6,), 2.5, dtype=torch.float64)
    joint = joint_t_test(effects, torch.ones(6), same, degrees_of_freedom=7)
    alone = t_test(effects, torch.ones(6), degrees_of_freedom=7).p
    np.testing.assert_allclose(joint, alone, atol=4 * (0.05 / 20_000) ** 0.5)


def test_joint_t_tests_of_independent_effects_are_those_of_sidak_step_by_step():
    m = 5
    basis = torch.linalg.qr(torch.randn(200, m + 1, dtype=torch.float64)).Q
    basis = torch.linalg.qr(torch.cat([torch.ones(200, 1).double(), basis[:, :m]], 1)).Q[:, 1:]
    effects = torch.tensor([2.9, -2.4, 2.0, 0.5, -0.1], dtype=torch.float64)
    joint = joint_t_test(effects, torch.ones(m), basis, degrees_of_freedom=10_000)
    alone = t_test(effects, torch.ones(m), degrees_of_freedom=10_000).p
    sidak = 1 - (1 - alone) ** torch.arange(m, 0, -1)
    np.testing.assert_allclose(joint, sidak.cummax(0).values, atol=0.012)
    shuffled = [3, 0, 4, 2, 1]
    again = joint_t_test(
        effects[shuffled], torch.ones(m), basis[:, shuffled], degrees_of_freedom=10_000
    )
    np.testing.assert_allclose(again, joint[shuffled], atol=0.02)
    one_sided = joint_t_test(
        effects, torch.ones(m), basis, degrees_of_freedom=10_000, alternative="greater"
    )
    assert one_sided[1] > 0.9


def test_joint_t_tests_need_resamples_in_which_all_is_defined():
    with pytest.raises(ValueError, match="defined in 0 resamples"):
        joint_t_test(
            torch.ones(2), torch.ones(2), torch.full((9, 2), torch.nan), degrees_of_freedom=3
        )


def test_chance_of_products_is_the_mean_over_all_orders():
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    a, b = a + a.T, b + b.T
    orders = [list(order) for order in permutations(range(5))]
    mean = torch.stack([(a * b[order][:, order]).sum() for order in orders]).mean()
    assert chance_of_products(a[None], b).item() == pytest.approx(mean.item())
