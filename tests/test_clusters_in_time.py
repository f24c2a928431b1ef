"""Clusters along time and time by time; latencies. Against MNE, a plain loop, rates, planted."""

import mne
import numpy as np
import pytest
import scipy.stats
import torch
from scipy import ndimage

from repalign.inference import (
    Graph,
    cluster_permutation_test,
    cluster_test_of_null,
    latency,
    onset_latency,
    peak_latency,
    sign_flip_map_test,
)

ALPHA, DATA_SETS = 0.05, 400
RATES = 4  # rates that this file measures: their bound is Bonferroni-corrected for them
MOST = scipy.stats.binom.ppf(1 - 0.05 / RATES, DATA_SETS, ALPHA)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def smooth(x: torch.Tensor, width: float) -> torch.Tensor:
    """Smoothed along the last dimension, as overlapping bins are."""
    return torch.from_numpy(ndimage.gaussian_filter1d(x.numpy(), width, axis=-1))


@pytest.mark.parametrize("shape", [(40,), (11, 13), (4, 5, 6)])
@pytest.mark.parametrize(("alternative", "tail"), [("two-sided", 0), ("greater", 1)])
def test_clusters_equal_those_of_mne(shape, alternative, tail):
    values = normal(8, *shape)
    values[:, 2:4] += 0.9
    found = cluster_permutation_test(values, threshold=1.5, alternative=alternative)
    t, parts, p, null = mne.stats.permutation_cluster_1samp_test(
        values.numpy(),
        threshold=1.5,
        n_permutations="all",
        tail=tail,
        out_type="mask",
        verbose="error",
    )
    np.testing.assert_allclose(found.statistic, t, atol=1e-12)
    masks = np.zeros((len(parts), *shape), dtype=bool)
    for mask, part in zip(masks, parts, strict=True):
        mask[part] = True
    sizes = np.array([t[mask].sum() for mask in masks])
    order = np.argsort(-np.abs(sizes), kind="stable")
    np.testing.assert_allclose(found.size, sizes[order], atol=1e-10)
    for k, one in enumerate(order, start=1):
        np.testing.assert_array_equal(found.labels == k, masks[one])
    # MNE takes the observed map for one or two of the other patterns, and half of them two-sided.
    assert len(found.null) == 2**8
    assert all((found.null - abs(size)).abs().min() < 1e-9 for size in null)
    np.testing.assert_allclose(found.p, p[order], atol=2 / len(null))
    assert found.smallest_p == (2 if tail == 0 else 1) / 2**8


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_a_time_course_is_a_map_whose_neighbours_follow_each_other(alternative):
    values = smooth(normal(9, 50), 1) + 0.4
    found = cluster_permutation_test(values, size="extent", alternative=alternative, n_flips=300)
    chain = np.eye(50, k=1) + np.eye(50, k=-1)
    of_map = sign_flip_map_test(
        values.numpy(), graph=Graph.of(chain), statistic="extent", cluster_p=0.05,
        alternative=alternative, n_flips=300,
    )  # fmt: skip
    p = torch.cat([torch.ones(1, dtype=torch.float64), found.p])[found.labels]
    np.testing.assert_array_equal(p, of_map.p_family)
    np.testing.assert_array_equal(found.statistic, of_map.statistic)
    assert (found.threshold, found.smallest_p) == (of_map.threshold, of_map.smallest_p)
    assert 0 < found.p.min() < found.p.max() < 1


def test_extent_counts_points_and_maps_of_different_draws_do_not_touch():
    values = torch.ones(6, 5, dtype=torch.float64) + normal(6, 5) / 100
    found = cluster_permutation_test(values, threshold=2, size="extent")
    assert found.size.tolist() == [5.0]
    assert found.null.max() == 5  # not 5 × draws
    assert found.p.item() == found.smallest_p == 2 / 64


def test_random_flips_are_reproducible_and_say_their_smallest_p():
    values = normal(20, 15) + 0.2
    one, two = (cluster_permutation_test(values, n_flips=199, seed=4) for _ in range(2))
    assert torch.equal(one.p, two.p)
    assert torch.equal(one.null, two.null)
    assert one.smallest_p == 1 / 200
    assert "random" in one.kind
    assert not torch.equal(one.null, cluster_permutation_test(values, n_flips=199, seed=5).null)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_clusters_along_time_appear_as_rarely_as_they_should(alternative):
    found = 0
    for seed in range(DATA_SETS):
        values = smooth(normal(10, 40, seed=seed), 2)
        clusters = cluster_permutation_test(values, alternative=alternative)
        found += bool((clusters.p <= ALPHA).any())
    assert DATA_SETS * ALPHA / 3 < found <= MOST


def test_clusters_in_time_by_time_appear_as_rarely_as_they_should():
    found = 0
    for seed in range(DATA_SETS):
        values = smooth(smooth(normal(8, 12, 12, seed=seed), 1).mT, 1)
        found += bool((cluster_permutation_test(values).p <= ALPHA).any())
    assert DATA_SETS * ALPHA / 3 < found <= MOST


def test_clusters_of_permuted_labels_appear_as_rarely_as_they_should():
    found = 0
    for seed in range(DATA_SETS):
        every = smooth(normal(200, 40, seed=seed), 2)
        found += bool((cluster_test_of_null(every[0], every[1:]).p <= ALPHA).any())
    assert DATA_SETS * ALPHA / 3 < found <= MOST


def test_a_planted_effect_is_found_where_it_is():
    hits = 0
    for seed in range(50):
        values = smooth(normal(12, 60, seed=seed), 1)
        values[:, 20:35] += 0.7
        inside = cluster_permutation_test(values, n_flips=500).significant()
        hits += bool(inside[22:33].float().mean() > 0.9 and inside.sum() < 22)
    assert hits >= 45


def test_two_effects_of_opposite_sign_are_two_clusters():
    values = normal(10, 30) / 5
    values[:, 5:10] += 1
    values[:, 10:14] -= 1
    found = cluster_permutation_test(values)
    assert found.labels[5:10].tolist() == [1] * 5
    assert found.labels[10:14].tolist() == [2] * 4
    assert found.size[0] > 0 > found.size[1]
    assert (cluster_permutation_test(values, alternative="greater").labels[10:14] == 0).all()


def test_a_time_without_values_separates_clusters():
    values = torch.ones(8, 7, dtype=torch.float64) + normal(8, 7) / 100
    values[:, 3] = torch.nan
    found = cluster_permutation_test(values)
    assert found.labels.tolist() in ([1, 1, 1, 0, 2, 2, 2], [2, 2, 2, 0, 1, 1, 1])
    assert found.statistic[3].isnan()
    assert not found.p.isnan().any()


def test_no_cluster_is_no_error():
    found = cluster_permutation_test(normal(10, 4) / 100 + torch.tensor([1.0, -1, 1, -1]) * 0)
    assert (found.p > 0).all()
    none = cluster_permutation_test(normal(10, 4), threshold=1e6)
    assert none.p.numel() == 0
    assert not none.significant().any()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_few_subjects_cannot_be_significant_and_the_smallest_p_says_so(n):
    found = cluster_permutation_test(torch.ones(n, 3, dtype=torch.float64))
    assert found.p.tolist() == [found.smallest_p]
    assert found.smallest_p == 2 / 2**n > 0.05


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (torch.ones(1, 5), {}, "2 or more subjects"),
        (torch.ones(5), {}, "2 or more subjects"),
        (torch.ones(5, 0), {}, "1 or more points"),
        (torch.ones(5, 3), {"n_flips": 0}, "n_flips is 0"),
        (torch.ones(5, 3), {"threshold": -1.0}, "threshold is -1"),
        (torch.ones(5, 3), {"size": "volume"}, "expected 'mass' or 'extent'"),
        (torch.ones(5, 3), {"alternative": "less"}, "alternative is 'less'"),
        (torch.tensor([[1.0, 2], [torch.nan, 1]]), {}, r"1 points .* subjects, \[1\]"),
        (torch.full((4, 3), torch.nan), {}, "nothing to test"),
    ],
)
def test_bad_values_are_said(values, settings, message):
    with pytest.raises(ValueError, match=message):
        cluster_permutation_test(values, **settings)


def test_a_null_of_other_points_is_refused():
    with pytest.raises(ValueError, match=r"observed has shape \(4,\) and null \(9, 5\)"):
        cluster_test_of_null(torch.ones(4), torch.ones(9, 5))
    with pytest.raises(ValueError, match="nothing to test"):
        cluster_test_of_null(torch.full((2,), torch.nan), torch.full((9, 2), torch.nan))


# Latencies

TIMES = torch.arange(-100.0, 500.0, 10.0)


def bump(onset: float) -> torch.Tensor:
    """A rise from 0 to 1 within 100 ms, and down again within 200."""
    t = TIMES.double()
    return ((t - onset) / 100).clamp(0, 1) - ((t - onset - 100) / 200).clamp(0, 1)


def test_onset_and_peak_of_a_ramp_are_exact():
    course = bump(50)
    assert peak_latency(course, TIMES).item() == 150
    for fraction in (0.25, 0.5, 0.75):
        found = onset_latency(course, TIMES.double(), fraction=fraction).item()
        assert found == pytest.approx(50 + 100 * fraction)
    raised = onset_latency(course + 3, TIMES.double(), baseline=(-100, 0)).item()
    assert raised == pytest.approx(100)
    assert onset_latency(-course, TIMES.double()).isnan()
    assert onset_latency(torch.ones(60), TIMES).isnan()
    assert peak_latency(torch.full((60,), torch.nan), TIMES).isnan()


def test_the_jackknife_equals_the_plain_loop():
    courses = bump(50) + normal(7, 60) / 20
    found = latency(courses, TIMES)
    others = [
        onset_latency(courses[np.arange(7) != i].mean(0), TIMES.double()).item() for i in range(7)
    ]
    error = np.sqrt(6 / 7 * np.sum((np.array(others) - np.mean(others)) ** 2))
    assert found.error == pytest.approx(error)
    reach = scipy.stats.t.ppf(0.975, 6) * error
    assert (found.low, found.high) == pytest.approx((found.value - reach, found.value + reach))


@pytest.mark.parametrize("method", ["jackknife", "bootstrap"])
def test_intervals_of_the_onset_cover_it(method):
    covered = 0
    many = torch.stack([bump(50 + float(shift)) for shift in 20 * normal(5000, seed=999)])
    truth = onset_latency(many.mean(0), TIMES.double())  # the mean of ramps is no ramp
    for seed in range(150):
        shifts = 20 * normal(12, seed=seed)
        courses = torch.stack([bump(50 + float(shift)) for shift in shifts])
        found = latency(courses, TIMES, method=method, n_resamples=300)
        covered += found.low <= truth <= found.high
    assert scipy.stats.binom.ppf(0.01, 150, 0.86) <= covered <= 149


def test_an_onset_that_is_not_there_has_no_interval():
    for method in ("jackknife", "bootstrap"):
        found = latency(-torch.ones(6, 60), TIMES, method=method, n_resamples=50)
        assert np.isnan([found.value, found.low, found.high]).all()
        assert found.n_undefined == (6 if method == "jackknife" else 50)


@pytest.mark.parametrize(
    ("courses", "times", "settings", "message"),
    [
        (torch.ones(1, 3), [0, 1, 2], {}, "2 or more subjects"),
        (torch.ones(4, 3), [0, 1], {}, "there are 2 times"),
        (torch.ones(4, 3), [0, 2, 1], {}, "must ascend"),
        (torch.full((4, 3), torch.nan), [0, 1, 2], {}, "no NaN"),
        (torch.ones(4, 3), [0, 1, 2], {"of": "end"}, "of is 'end'"),
        (torch.ones(4, 3), [0, 1, 2], {"fraction": 1.0}, "fraction is 1"),
        (torch.ones(4, 3), [0, 1, 2], {"baseline": (-9, -5)}, "holds none of the times"),
    ],
)
def test_bad_courses_are_said(courses, times, settings, message):
    with pytest.raises(ValueError, match=message):
        latency(courses, times, **settings)
