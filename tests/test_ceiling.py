import doctest
import itertools
import math

import pytest
import torch

from repalign import ceiling, split_half
from repalign.ceiling import Ceiling, ceiling_over_subjects, jackknife_error, nili_ceiling
from repalign.metrics import CKA, COMPARATORS, RSA, Procrustes, Ridge
from repalign.metrics.gram import centre
from repalign.split_half import has_split_half, split_half_ceiling


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def recording(
    repeats: int = 4, stimuli: int = 120, neuroids: int = 40, noise: float = 1.5, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise-free responses (of a few dimensions) and their noisy repetitions."""
    truth = normal(stimuli, 6, seed=seed) @ normal(6, neuroids, seed=seed + 1) / 6**0.5
    return truth, truth + noise * normal(repeats, stimuli, neuroids, seed=seed + 2)


def drop_some(trials: torch.Tensor) -> torch.Tensor:
    """Leave between 1 and all repetitions of a stimulus."""
    generator = torch.Generator().manual_seed(3)
    left = torch.randint(1, len(trials) + 1, (trials.shape[1],), generator=generator)
    missing = torch.arange(len(trials))[:, None] >= left
    return trials.masked_fill(missing[..., None], torch.nan)


def test_examples_run():
    assert doctest.testmod(ceiling).failed == 0
    assert doctest.testmod(split_half).failed == 0


# Between subjects


@pytest.mark.parametrize("comparator", sorted(COMPARATORS))
def test_equal_subjects_have_a_ceiling_of_one(comparator):
    scaled = torch.rand(45, dtype=torch.float64) * torch.tensor([[1.0], [7.0], [0.2]])
    for bound in nili_ceiling(scaled, comparator=comparator):
        torch.testing.assert_close(bound, torch.ones(3).double())


@pytest.mark.parametrize("comparator", sorted(COMPARATORS))
def test_a_subject_of_two_has_the_other_as_lower_bound(comparator):
    rdms = torch.rand(2, 45, generator=torch.Generator().manual_seed(0))
    lower, upper = nili_ceiling(rdms, comparator=comparator)
    expected = COMPARATORS[comparator](rdms[0], rdms[1])
    torch.testing.assert_close(lower, expected.expand(2))
    assert (upper > lower).all()


def test_no_ranking_beats_the_upper_bound_under_spearman():
    rdms = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)).exp().pow(4)
    upper = nili_ceiling(rdms, comparator="spearman")[1].mean().item()
    rankings = torch.tensor(list(itertools.permutations(range(6)))).double()
    scores = COMPARATORS["spearman"](rankings[:, None], rdms).mean(1)
    assert scores.max().item() <= upper + 1e-12


@pytest.mark.parametrize("comparator", ["pearson", "cosine"])
def test_no_rdm_nearby_beats_the_upper_bound(comparator):
    rdms = torch.rand(4, 28, generator=torch.Generator().manual_seed(1)).double()
    rdms *= torch.tensor([[1.0], [100.0], [1.0], [0.01]])
    upper = nili_ceiling(rdms, comparator=comparator)[1].mean().item()
    unit = COMPARATORS[comparator].scaled(rdms)
    best = (unit / unit.norm(dim=1, keepdim=True)).mean(0)
    candidates = best + 0.05 * best.std() * normal(200, 28)
    scores = COMPARATORS[comparator](candidates[:, None], rdms).mean(1)
    assert scores.max().item() <= upper
    assert upper - scores.max().item() < 0.01


@pytest.mark.parametrize("rdms", [torch.rand(1, 10), torch.rand(10)], ids=["one", "flat"])
def test_one_subject_has_no_ceiling_between_subjects(rdms):
    with pytest.raises(ValueError, match=r"rdms has shape .* 2 or more subjects.*split_half"):
        nili_ceiling(rdms)


# Within a subject


@pytest.mark.parametrize("repeats", ["even", "odd", "ragged"])
@pytest.mark.parametrize("metric", [CKA(), RSA(rdm="euclidean", comparator="pearson")], ids=str)
def test_the_truth_scores_its_ceiling(metric, repeats):
    truth, trials = recording(repeats=5 if repeats == "odd" else 6, noise=2.0)
    if repeats == "ragged":
        trials = drop_some(trials)
    repeated = (~trials.isnan()).all(-1).sum(0) >= 2
    score = metric(truth[repeated], trials[:, repeated].nanmean(0)).item()
    assert score == pytest.approx(split_half_ceiling(trials, metric, splits=10).value, abs=0.03)
    assert score < 0.95


@pytest.mark.parametrize("ragged", [False, True], ids=["complete", "ragged"])
@pytest.mark.parametrize(
    "metric",
    [RSA(), RSA(comparator="pearson"), RSA(rdm="euclidean", comparator="spearman")],
    ids=str,
)
def test_the_ceiling_of_other_rsa_is_too_low_if_anything(metric, ragged):
    truth, trials = recording(repeats=6, stimuli=80, noise=1.0)
    if ragged:
        trials = drop_some(trials)
    repeated = (~trials.isnan()).all(-1).sum(0) >= 2
    score = metric(truth[repeated], trials[:, repeated].nanmean(0)).item()
    found = split_half_ceiling(trials, metric, splits=5)
    assert 0.6 * score < found.value < score + 0.01
    assert "conservative" in found.note


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_predictions_of_the_truth_score_the_ceiling_per_neuroid(repeats):
    truth, trials = recording(repeats=repeats, stimuli=300)
    measured = trials.mean(0)
    t, m = centre(truth, 0), centre(measured, 0)
    scores = (t * m).sum(0) / (t.norm(dim=0) * m.norm(dim=0))
    found = split_half_ceiling(trials, Ridge())
    assert found.value == pytest.approx(scores.median().item(), abs=0.03)
    assert scores.median() < 0.92


def test_ceiling_per_neuroid_is_spearman_brown_for_equal_halves():
    _, trials = recording(repeats=2, stimuli=3000, neuroids=1)
    r = torch.corrcoef(trials[:, :, 0])[0, 1].item()
    found = split_half_ceiling(trials, Ridge(), splits=1)
    assert found.value == pytest.approx(math.sqrt(2 * r / (1 + r)), abs=2e-3)


@pytest.mark.parametrize("metric", [CKA(), RSA(), Ridge()], ids=str)
def test_noise_free_repetitions_have_a_ceiling_of_one(metric):
    truth, _ = recording()
    found = split_half_ceiling(truth.expand(3, -1, -1), metric)
    assert [found.low, found.value, found.high] == pytest.approx([1, 1, 1], abs=1e-9)


def test_biased_measures_say_that_their_ceiling_is_too_high():
    truth, trials = recording(repeats=2, stimuli=30)
    found = split_half_ceiling(trials, CKA(debiased=False))
    assert found.value > CKA(debiased=False)(truth, trials.mean(0)) + 0.03
    assert "too high" in found.note
    assert "too high" in split_half_ceiling(trials, RSA(comparator="cosine")).note
    assert split_half_ceiling(trials, CKA()).note == ""


@pytest.mark.parametrize("level", [False, True], ids=["all", "level"])
def test_presentations_enter_one_half_at_random(level):
    trials = drop_some(torch.zeros(5, 40, 1, dtype=torch.float64))
    trials = trials[:, (~trials.isnan()).any(-1).sum(0) >= 2]
    recorded = ~trials.isnan().any(-1)
    coded = trials + 10.0 ** torch.arange(5)[:, None, None]  # a digit for each repetition
    counts = torch.full_like(recorded.sum(0), 2) if level else recorded.sum(0)
    seen = set()
    for first, second in split_half.random_halves(coded, recorded, splits=20, seed=0, level=level):
        sums = first[:, 0] * (counts // 2), second[:, 0] * (counts - counts // 2)
        for one, two, count, whole in zip(*sums, counts, coded[..., 0].T, strict=True):
            digits = f"{round(one.item()):05d}", f"{round(two.item()):05d}"
            assert [d.count("1") for d in digits] == [count // 2, count - count // 2]
            both = round(one.item() + two.item())
            assert set(f"{both:05d}") <= {"0", "1"}  # no presentation is in both halves
            assert level or both == whole.nansum()
            seen.add(digits)
    assert len(seen) > 15


def test_stimuli_with_one_repetition_are_left_out_and_counted():
    _, trials = recording(stimuli=50)
    trials[1:, :7] = torch.nan
    found = split_half_ceiling(trials, CKA())
    assert "7 stimuli with fewer than 2 repetitions left out" in found.note
    expected = split_half_ceiling(trials[:, 7:], CKA())
    assert (found.low, found.high) == (expected.low, expected.high)


def test_the_seed_decides_the_splits():
    _, trials = recording(stimuli=40)
    found = [split_half_ceiling(trials, CKA(), seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0].low < found[0].value < found[0].high
    assert isinstance(found[0], Ceiling)
    assert (found[0].kind, found[0].n_splits, found[0].n_subjects) == ("split-half", 20, None)


def test_without_signal_the_ceiling_is_undefined_or_zero():
    noise = normal(1, 30, 8)
    opposite = torch.cat([noise, -0.5 * noise])
    assert split_half_ceiling(opposite, Ridge()).value == 0
    found = [split_half_ceiling(normal(2, 12, 500, seed=s), CKA(), splits=1) for s in range(8)]
    undefined = [math.isnan(c.value) for c in found]
    assert 0 < sum(undefined) < 8
    assert undefined == ["1 splits undefined (no reliable signal)" in c.note for c in found]


def test_nothing_is_clamped_at_one():
    found = [split_half_ceiling(normal(2, 6, 3, seed=s) + normal(6, 3), CKA()) for s in range(30)]
    assert max(c.high for c in found if not math.isnan(c.high)) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"expected repeat × stimulus × neuroid.*Do not average"),
        (lambda x: x[:1], "0 of 10 stimuli have 2 or more repetitions.*Use single trials"),
        (lambda x: x[:, :3], "3 of 3 stimuli"),
        (
            lambda x: x.masked_fill(x == x[1, 2, 3], torch.nan),
            "In 1 presentations of responses some neuroids",
        ),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        split_half_ceiling(change(normal(3, 10, 5)), CKA())


@pytest.mark.parametrize(
    "metric",
    [Procrustes(), RSA(rdm="crossnobis"), RSA(rdm="euclidean", comparator="bures")],
    ids=["procrustes", "crossnobis", "bures"],
)
def test_metrics_without_inner_products_of_averages_have_no_split_half_ceiling(metric):
    assert not has_split_half(metric)
    with pytest.raises(ValueError, match="has no split-half ceiling"):
        split_half_ceiling(normal(3, 10, 5), metric)


def test_the_jackknife_error_of_a_mean_is_its_standard_error():
    errors, truth = [], 1 / math.sqrt(200)
    for seed in range(20):
        x = normal(200, seed=seed)
        errors.append(jackknife_error(lambda kept, x=x: float(x[kept].mean()), 200, seed=seed))
    assert sum(errors) / 20 == pytest.approx(truth, rel=0.15)


def test_the_error_of_a_ceiling_is_how_it_varies_over_stimuli():
    values, errors = [], []
    for seed in range(25):
        signal = normal(60, 20, seed=seed)
        found = split_half_ceiling(signal + normal(4, 60, 20, seed=100 + seed), CKA(), seed=seed)
        values.append(found.value)
        errors.append(found.error)
    spread = torch.tensor(values).std().item()
    assert 0.5 * spread < sum(errors) / len(errors) < 2 * spread


def test_the_range_over_subjects_is_the_mean_of_their_bounds():
    rdms = normal(5, 45).square()
    low, high = nili_ceiling(rdms, comparator="corr")
    found = ceiling_over_subjects(rdms, comparator="corr")
    assert (found.low, found.high) == pytest.approx((low.mean().item(), high.mean().item()))
    assert found.n_subjects == 5
    assert found.error > 0
    one = ceiling_over_subjects(rdms, comparator="corr", subject=3)
    assert (one.low, one.high) == pytest.approx((low[3].item(), high[3].item()))


@pytest.mark.parametrize("comparator", ["spearman", "rho-a", "corr", "cosine"])
def test_no_model_beats_the_upper_bound_over_subjects(comparator):
    rdms = (normal(45) + 0.7 * normal(6, 45, seed=1)).square()
    compare = COMPARATORS[comparator]
    bound = ceiling_over_subjects(rdms, comparator=comparator).high
    best = max(compare(rdms, m).mean().item() for m in (rdms.mean(0), *rdms, *normal(50, 45).abs()))
    assert best <= bound + 1e-9
