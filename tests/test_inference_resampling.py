"""Draws, resampled evaluations, variances and intervals: invariances, closed forms, coverage."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch

from repalign.ceiling import nili_ceiling
from repalign.inference import (
    RESAMPLED,
    Draws,
    ModelRDMs,
    bca_intervals,
    bootstrap_draws,
    check_interval,
    crossvalidate_resamples,
    crossvalidated_variances,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    jackknife_draws,
    pair_sums,
    percentile_intervals,
    resampled_products,
    resampled_ranks,
    subsample_draws,
    subsampled_cka,
    t_intervals,
    two_factor_variances,
)
from repalign.inference.flexible_models import fitted_blend, fitted_weights
from repalign.metrics import CKA, rdm
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.model_rdms import fit_interpolate, fit_weights
from repalign.metrics.subsets import take_stimuli

EACH = pytest.mark.parametrize("comparator", RESAMPLED)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def material(
    n_stimuli: int = 10, n_subjects: int = 4, n_models: int = 3, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    shared = normal(n_stimuli, 4, seed=seed)
    noise = normal(n_models + n_subjects, n_stimuli, 4, seed=seed + 1000)
    rdms = torch.stack([rdm(shared + one, method="euclidean") for one in noise])
    return rdms[:n_models], rdms[n_models:]


# Draws


@pytest.mark.parametrize("over", ["stimuli", "subjects", "both"])
def test_draws_resample_what_they_say(over):
    draws = bootstrap_draws(6, 3, over=over, n_resamples=400)
    assert (draws.stimuli.sum(1) == 6).all()
    assert (draws.subjects.sum(1) == 3).all()
    assert ((draws.stimuli > 0).sum(1) >= 3).all()
    assert bool((draws.stimuli == 1).all()) == (over == "subjects")
    assert bool((draws.subjects == 1).all()) == (over == "stimuli")
    assert draws.n_units == {"stimuli": 6, "subjects": 3, "both": 3}[over]


def test_draws_of_one_seed_share_stimuli_and_subjects():
    both, stimuli, subjects = (
        bootstrap_draws(7, 5, over=over, n_resamples=50, seed=3)
        for over in ("both", "stimuli", "subjects")
    )
    assert torch.equal(both.stimuli, stimuli.stimuli)
    assert torch.equal(both.subjects, subjects.subjects)
    assert not torch.equal(both.stimuli, bootstrap_draws(7, 5, n_resamples=50, seed=4).stimuli)
    # independent of each other
    wide = bootstrap_draws(40, 40, n_resamples=500)
    r = np.corrcoef(wide.stimuli.numpy().ravel(), wide.subjects.numpy().ravel())[0, 1]
    assert abs(r) < 4 / math.sqrt(wide.stimuli.numel())


def test_subsets_are_uniform_and_hold_no_stimulus_twice():
    draws = subsample_draws(5, n_drawn=3, n_resamples=4000)
    assert draws.stimuli.max() == 1
    patterns, counts = draws.stimuli.unique(dim=0, return_counts=True)
    assert len(patterns) == 10
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_jackknife_leaves_out_each_in_turn():
    assert torch.equal(jackknife_draws(5, 2).stimuli, 1 - torch.eye(5, dtype=torch.int64))
    over = jackknife_draws(5, 2, over="subjects")
    assert torch.equal(over.subjects, 1 - torch.eye(2, dtype=torch.int64))
    assert over.stimuli.shape == (2, 5)


# Evaluations


@EACH
def test_one_of_each_is_the_plain_comparison(comparator):
    models, subjects = material()
    draws = Draws(torch.ones(1, 10).long(), torch.ones(1, 4).long(), "both", "bootstrap")
    found = evaluate_resamples(models, subjects, draws, comparator=comparator)
    expected = compare_rdms(models[:, None], subjects[None], method=comparator, batch_dims=2)
    np.testing.assert_allclose(found.models[0], expected.mean(1), rtol=0, atol=1e-10)
    lower, upper = nili_ceiling(subjects, comparator=comparator)
    np.testing.assert_allclose(found.lower[0], lower.mean(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.upper[0], upper.mean(), rtol=0, atol=1e-10)


@EACH
def test_values_do_not_depend_on_blocks_workers_or_the_company(comparator, monkeypatch):
    models, subjects = material(n_stimuli=12)
    draws = bootstrap_draws(12, 4, n_resamples=40)
    whole = evaluate_resamples(models, subjects, draws, comparator=comparator)
    for module, name, value in (
        (pair_sums, "BLOCK_ELEMENTS", 64),
        (resampled_products, "BLOCK_ELEMENTS", 64),
        (resampled_ranks, "SAMPLES_A_TASK", 7),
        (resampled_ranks, "ROW_ELEMENTS", 600),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(resampled_ranks.torch, "get_num_threads", lambda: 3)
    rows = slice(11, 29)
    part = Draws(draws.stimuli[rows], draws.subjects[rows], "both", "bootstrap")
    alone = evaluate_resamples(models[1:], subjects, part, comparator=comparator)
    np.testing.assert_allclose(alone.models, whole.models[rows, 1:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(alone.lower, whole.lower[rows], rtol=0, atol=1e-12)
    np.testing.assert_allclose(alone.upper, whole.upper[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "ties"])
@EACH
def test_few_drawn_stimuli_are_evaluated_as_if_there_were_no_others(comparator, ties):
    models, subjects = material(n_stimuli=30)
    if ties:
        models, subjects = models.round(), subjects.round()
    chosen = torch.tensor([3, 8, 9, 17, 21, 28])
    counts = torch.zeros(2, 30, dtype=torch.int64)
    counts[0, chosen] = torch.tensor([2, 1, 1, 3, 1, 1])
    counts[1, chosen] = 1
    subject_counts = torch.tensor([[1, 0, 2, 1], [1, 1, 1, 1]])
    few = evaluate_resamples(
        models, subjects, Draws(counts, subject_counts, "both", "bootstrap"), comparator=comparator
    )
    cut = [torch.stack([take_stimuli(one, chosen) for one in rdms]) for rdms in (models, subjects)]
    all_of_them = evaluate_resamples(
        *cut,
        Draws(counts[:, chosen], subject_counts, "both", "bootstrap"),
        comparator=comparator,
    )
    for field in dataclasses.fields(few):
        found, expected = getattr(few, field.name), getattr(all_of_them, field.name)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@EACH
def test_order_of_stimuli_and_subjects_and_units_do_not_matter(comparator):
    models, subjects = material()
    draws = bootstrap_draws(10, 4, n_resamples=20)
    before = evaluate_resamples(models, subjects, draws, comparator=comparator)
    stimuli, order = torch.randperm(10), torch.randperm(4)
    scale = torch.tensor([0.1, 3, 20, 1])[:, None]
    after = evaluate_resamples(
        5 * torch.stack([take_stimuli(one, stimuli) for one in models]),
        torch.stack([take_stimuli(one, stimuli) for one in (scale * subjects)])[order],
        Draws(draws.stimuli[:, stimuli], draws.subjects[:, order], "both", "bootstrap"),
        comparator=comparator,
    )
    for field in dataclasses.fields(before):
        np.testing.assert_allclose(
            getattr(before, field.name), getattr(after, field.name), rtol=0, atol=1e-9
        )


@EACH
def test_upper_ceiling_bounds_the_lower_and_is_one_for_equal_subjects(comparator):
    models, subjects = material()
    draws = bootstrap_draws(10, 4, n_resamples=50, at_least_subjects=2)
    found = evaluate_resamples(models, subjects, draws, comparator=comparator)
    assert (found.upper > found.lower).all()
    same = evaluate_resamples(models, subjects[:1].expand(4, -1), draws, comparator=comparator)
    if comparator != "rho-a" and comparator != "tau-a":  # copies are ties there
        np.testing.assert_allclose(same.lower, 1, atol=1e-9)
        np.testing.assert_allclose(same.upper, 1, atol=1e-9)


def test_lower_ceiling_of_one_distinct_subject_is_undefined():
    models, subjects = material()
    counts = torch.tensor([[4, 0, 0, 0], [3, 1, 0, 0]])
    draws = Draws(torch.ones(2, 10).long(), counts, "subjects", "bootstrap")
    for comparator in RESAMPLED:
        found = evaluate_resamples(models, subjects, draws, comparator=comparator)
        assert found.lower.isnan().tolist() == [True, False]
        assert found.upper[0].item() > found.upper[1].item()
        assert found.models.isfinite().all()


@EACH
def test_constant_resamples_are_nan_not_numbers(comparator):
    labels = torch.tensor([0.0, 0, 0, 0, 0, 1])[:, None]
    flat = rdm(labels, method="euclidean")
    models = torch.stack([flat, torch.rand(15).double()])
    counts = torch.tensor([[2, 2, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    draws = Draws(counts, torch.ones(2, 1).long(), "stimuli", "bootstrap")
    found = evaluate_resamples(models, torch.rand(1, 15).double(), draws, comparator=comparator)
    assert found.models.isnan().tolist() == [[True, False], [False, False]]


def test_a_subject_that_is_not_drawn_counts_for_nothing_even_if_constant():
    models, subjects = material()
    broken = torch.cat([subjects, torch.ones(1, 45).double()])
    stimuli = bootstrap_draws(10, 4, over="stimuli", n_resamples=5).stimuli
    for comparator in RESAMPLED:
        found, expected = (
            evaluate_resamples(
                models,
                rdms,
                Draws(
                    stimuli,
                    torch.tensor([1, 1, 2, 0, 0])[: len(rdms)].expand(5, -1).contiguous(),
                    "stimuli",
                    "bootstrap",
                ),
                comparator=comparator,
            )
            for rdms in (broken, subjects)
        )
        np.testing.assert_allclose(found.models, expected.models, atol=1e-12)
        np.testing.assert_allclose(found.lower, expected.lower, atol=1e-12)


def test_large_numbers_of_stimuli_do_not_overflow_concordance():
    n = 320  # more than 46340 pairs
    models, subjects = material(n_stimuli=n, n_subjects=2, n_models=1)
    draws = Draws(torch.ones(1, n).long(), torch.ones(1, 2).long(), "both", "bootstrap")
    found = evaluate_resamples(models, subjects, draws, comparator="tau-a")
    expected = [scipy.stats.kendalltau(models[0], one).statistic for one in subjects]
    assert found.models.item() == pytest.approx(np.mean(expected), abs=1e-12)


# Variances


def test_jackknife_and_subset_variances_are_those_of_a_mean_over_stimuli():
    # of a mean over n units, both variances are s²/n
    x = normal(12)
    for draws in (jackknife_draws(12, 1), subsample_draws(12, n_drawn=4, n_resamples=20_000)):
        weights = draws.stimuli.double()
        means = (weights @ x) / weights.sum(1)
        evaluations = evaluate_resamples(*material(12, 1, 1), draws, ceilings=False)
        evaluations = dataclasses.replace(evaluations, models=means[:, None])
        found = estimated_variances(evaluations, draws).models.item()
        assert found == pytest.approx(
            x.var().item() / 12, rel=1e-9 if draws.n_units == len(draws) else 0.05
        )


def test_variances_of_differences_see_what_models_share():
    models, subjects = material(n_stimuli=15)
    models = torch.cat([models, models[:1] * 2 + 1e-9])
    draws = bootstrap_draws(15, 4, over="stimuli", n_resamples=200)
    found = estimated_variances(
        evaluate_resamples(models, subjects, draws, comparator="corr"), draws
    )
    assert found.differences[0, 3].item() < 1e-12
    assert found.differences[0, 1] > 1e-5
    assert torch.equal(found.differences, found.differences.T)
    assert found.differences.diagonal().abs().max() == 0


def test_two_factor_variance_recovers_both_sources():
    """Values a + b over subjects and stimuli with interaction: the plain variance is too large."""
    truth, corrected, plain = [], [], []
    for seed in range(60):
        n_subjects, n_stimuli = 8, 14
        shared = normal(n_stimuli, 3, seed=seed)
        rdms = torch.stack(
            [
                rdm(shared + normal(n_stimuli, 3, seed=seed * 100 + 7 + s), method="euclidean")
                for s in range(n_subjects)
            ]
        )
        model = rdm(shared, method="euclidean")
        draws = bootstrap_draws(n_stimuli, n_subjects, n_resamples=300, seed=seed)
        dual = evaluate_dual(model, rdms, draws, comparator="corr", ceilings=False)
        one = Draws(torch.ones(1, 14).long(), torch.ones(1, 8).long(), "both", "bootstrap")
        truth.append(evaluate_resamples(model, rdms, one, comparator="corr").models.item())
        corrected.append(two_factor_variances(dual, draws).models.item())
        plain.append(estimated_variances(dual.both, draws).models.item())
    expected = np.var(truth, ddof=1)
    assert np.mean(plain) > 1.3 * np.mean(corrected)
    assert abs(np.log(np.mean(corrected) / expected)) < abs(np.log(np.mean(plain) / expected))
    assert 0.5 < np.mean(corrected) / expected < 2


# Intervals


def test_bca_equals_scipy():
    x = np.random.default_rng(0).exponential(size=25)
    expected = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(1)
    )
    values = torch.from_numpy(expected.bootstrap_distribution)[:, None]
    without = torch.from_numpy((x.sum() - x) / 24)[:, None]
    found = bca_intervals(values, torch.tensor([x.mean()]), without)[0]
    ends = expected.confidence_interval
    assert [found.low, found.high] == pytest.approx([ends.low, ends.high], abs=2e-3)
    percentile = percentile_intervals(values, confidence=0.95, kind="")[0]
    assert abs(percentile.low - ends.low) > 5e-3


def test_t_intervals_are_those_of_a_mean():
    x = normal(20)
    found = t_intervals(
        x.mean()[None], (x.var() / 20)[None], degrees_of_freedom=19, n_resamples=1, confidence=0.9
    )[0]
    expected = scipy.stats.ttest_1samp(x.numpy(), 0).confidence_interval(0.9)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high])


@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_two_factors_have_t_intervals_only(interval):
    check_interval(interval, over="stimuli")
    check_interval("t", over="both")
    with pytest.raises(ValueError, match="mends their variance.*Use interval='t'"):
        check_interval(interval, over="both")


# CKA


@pytest.mark.parametrize("debiased", [True, False], ids=["debiased", "biased"])
def test_cka_of_subsets_is_that_of_the_chosen_rows(debiased):
    x, y = normal(15, 6) + 3, normal(15, 4, seed=1)
    y[:, 0] += x[:, 0]
    draws = subsample_draws(15, n_drawn=9, n_resamples=20)
    found = subsampled_cka(x @ x.T, torch.stack([y @ y.T, x @ x.T]), draws, debiased=debiased)
    for row, chosen in zip(found, draws.stimuli.bool(), strict=True):
        expected = CKA(debiased=debiased)(x[chosen], y[chosen])
        assert row[0].item() == pytest.approx(expected.item(), abs=1e-10)
    np.testing.assert_allclose(found[:, 1], 1, atol=1e-10)


# Flexible models


def test_weights_from_products_equal_those_from_rdms():
    components = torch.rand(4, 66, generator=torch.Generator().manual_seed(0)).double()
    data = components[0] + 0.3 * components[2] - 0.5 * components[3]
    for nonnegative in (True, False):
        gram = (components @ components.T)[None]
        found = fitted_weights(gram, (components @ data)[None], nonnegative=nonnegative)[0]
        expected = fit_weights(components, data, nonnegative=nonnegative)
        np.testing.assert_allclose(found / found.norm(), expected, atol=1e-9)
        assert bool((found < 0).any()) == (not nonnegative)
    blend = fitted_blend(gram, (components @ data)[None])[0]
    np.testing.assert_allclose(blend, fit_interpolate(components, data), atol=1e-9)
    inside = components[1] + 0.4 * components[2]
    blend = fitted_blend(gram, (components @ inside)[None])[0]
    np.testing.assert_allclose(blend, [0, 1 / 1.4, 0.4 / 1.4, 0], atol=1e-9)


@pytest.mark.parametrize("comparator", ["cosine", "corr", "cosine_cov", "corr_cov"])
def test_a_planted_mixture_is_found_on_held_out_stimuli(comparator):
    components = torch.rand(3, 276, generator=torch.Generator().manual_seed(2)).double()
    mixture = components[0] + 2 * components[1]
    subjects = mixture * torch.tensor([1.0, 2.0, 0.5])[:, None]
    models = [
        ModelRDMs(components, fit="weights"),
        ModelRDMs(components, fit="interpolate"),
        ModelRDMs(components, fit="select"),
        ModelRDMs(components[1]),
        ModelRDMs(components[2]),
    ]
    draws = bootstrap_draws(24, 3, n_resamples=20, at_least_stimuli=9)
    found = crossvalidate_resamples(models, subjects, draws, comparator=comparator, n_folds=3)
    weights, blend, choice, second, third = found.models.mean((0, 1)).tolist()
    assert weights == pytest.approx(1, abs=1e-9)
    assert blend == pytest.approx(1, abs=1e-9)
    assert choice == pytest.approx(second, abs=1e-9)
    assert second > third + 0.01


def test_fitting_to_noise_gains_nothing_on_held_out_stimuli():
    components = normal(6, 435).abs()
    subjects = normal(3, 435, seed=1).abs()
    draws = bootstrap_draws(30, 3, n_resamples=60, at_least_stimuli=9)
    models = [ModelRDMs(components, fit="weights", nonnegative=False)]
    found = crossvalidate_resamples(models, subjects, draws, comparator="corr", n_folds=3)
    assert abs(found.models.mean()) < 0.05
    # in training stimuli six free weights do fit noise
    fit = fit_weights(components, subjects, method="corr", nonnegative=False)
    assert compare_rdms(fit @ components, subjects.mean(0), method="corr") > 0.1


def test_folds_add_variance_and_the_correction_takes_it_away():
    plain, of_two, of_many = [], [], []
    for seed in range(3):
        models, subjects = material(n_stimuli=24, n_models=1, seed=seed)
        draws = bootstrap_draws(24, 4, over="stimuli", n_resamples=500, at_least_stimuli=12)
        two, many = (
            crossvalidate_resamples(
                [ModelRDMs(models[0])], subjects, draws, comparator="corr", n_folds=4, n_repeats=r
            )
            for r in (2, 12)
        )
        plain.append(two.models.mean(1).var().item())
        of_two.append(crossvalidated_variances(two.values, draws).models.item())
        of_many.append(crossvalidated_variances(many.values, draws).models.item())
    assert np.mean(plain) > 2 * np.mean(of_many)
    assert np.mean(of_two) == pytest.approx(np.mean(of_many), rel=0.3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("comparator", RESAMPLED)
def test_a_gpu_gives_the_same(comparator):
    models, subjects = material()
    draws = bootstrap_draws(10, 4, n_resamples=50)
    here = evaluate_resamples(models, subjects, draws, comparator=comparator)
    there = evaluate_resamples(models, subjects, draws, comparator=comparator, device="cuda")
    assert there.models.is_cuda
    np.testing.assert_allclose(there.models.cpu(), here.models, rtol=0, atol=1e-10)
    np.testing.assert_allclose(there.lower.cpu(), here.lower, rtol=0, atol=1e-10)


# Errors

RDMS = torch.rand(6, 45, generator=torch.Generator().manual_seed(0))
DRAWS = bootstrap_draws(10, 3, n_resamples=5)
GAPS = RDMS[:3].clone().index_fill_(1, torch.tensor([4]), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_draws(3, 2), "There are 3 stimuli; to resample them needs 4 or more"),
        (lambda: bootstrap_draws(9, 1), "There are 1 subjects.*Use over='stimuli'"),
        (lambda: bootstrap_draws(9, 3, over="runs"), "over is 'runs'; expected one of stimuli"),
        (lambda: bootstrap_draws(9, 3, n_resamples=0), "0 resamples"),
        (lambda: bootstrap_draws(9, 3, at_least_stimuli=9), "hardly ever.*Use fewer folds"),
        (lambda: subsample_draws(9, n_drawn=9), "expected 1 or more, of 3 to 8 stimuli"),
        (lambda: jackknife_draws(9, 3, over="both"), "one kind at a time"),
        (lambda: evaluate_resamples(RDMS[:3], RDMS[:3, :36], DRAWS), "45 and 36 pairs"),
        (
            lambda: evaluate_resamples(RDMS[:3], RDMS[2:], DRAWS),
            "draws are of 10 stimuli and 3 subjects; the RDMs have 10 and 4",
        ),
        (
            lambda: evaluate_resamples(GAPS, RDMS[3:], DRAWS),
            "model RDMs hold 3 NaN where no subject does",
        ),
        (
            lambda: evaluate_resamples(RDMS[:3], GAPS, DRAWS, comparator="corr_cov"),
            "1 pairs are missing.*Leave out the stimuli concerned",
        ),
        (
            lambda: evaluate_resamples(RDMS[:3], RDMS[3:], DRAWS, comparator="bures"),
            "'bures' is no RDM comparator with resampling",
        ),
        (
            lambda: evaluate_dual(
                RDMS[:3], RDMS[3:], bootstrap_draws(10, 3, over="stimuli", n_resamples=5)
            ),
            "needs over='both'",
        ),
        (
            lambda: crossvalidate_resamples([ModelRDMs(RDMS[0])], RDMS[3:], DRAWS, n_folds=4),
            "fewer than 12 distinct stimuli.*at_least_stimuli=12",
        ),
        (
            lambda: crossvalidate_resamples([ModelRDMs(RDMS[:2])], RDMS[3:], DRAWS),
            "fit='fixed' has 2 RDMs; expected 1",
        ),
        (
            lambda: crossvalidate_resamples(
                [ModelRDMs(RDMS[:2], fit="weights")], RDMS[3:], DRAWS, comparator="spearman"
            ),
            "'spearman' is no inner product of RDMs",
        ),
        (lambda: ModelRDMs(RDMS, fit="best"), "fit is 'best'; expected one of fixed"),
        (lambda: ModelRDMs(RDMS, fit="select", nonnegative=False), "does not apply"),
        (
            lambda: crossvalidated_variances(torch.rand(5, 1, 3), DRAWS),
            "1 division into folds.*n_repeats=2",
        ),
        (
            lambda: subsampled_cka(torch.eye(10), torch.eye(10)[None], DRAWS),
            "without replacement.*duplicates count noise as signal",
        ),
        (
            lambda: t_intervals(torch.ones(1), torch.ones(1), degrees_of_freedom=0, n_resamples=1),
            "degrees_of_freedom is 0",
        ),
        (lambda: check_interval("normal", over="stimuli"), "interval is 'normal'"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
