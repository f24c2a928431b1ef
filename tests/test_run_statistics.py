"""Differences, intervals and p values over seeds against scipy, enumeration and planted truth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from experiments_fixture import EPS, make_experiment
from scipy import stats

from repalign.experiments.dose import dose_response
from repalign.experiments.paired_tests import (
    holm,
    image_interval,
    sign_flip_p,
    smallest_sign_flip_p,
    t_interval,
)
from repalign.experiments.run_records import runs_of
from repalign.experiments.run_statistics import effect_sizes, robustness_differences


def aucs(experiment: dict[str, Any], condition: str, attack: str = "pgd") -> list[float]:
    """Read without the functions under test."""
    return [
        next(row["auc"] for row in run["curves"] if row["attack"] == attack)
        for run in experiment["runs"]
        if run["condition"] == condition
    ]


def dose_rows(
    seeds: int, doses: tuple[float, ...], random: np.random.Generator, *, effect: float,
    by_clean: float = 0.0, clean_of_dose: float = 0.0,
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    for seed, dose in itertools.product(range(seeds), doses):
        clean = clean_of_dose * dose + random.standard_normal()
        auc = effect * dose + by_clean * clean + 0.3 * random.standard_normal() + seed
        rows.append({"condition": "aligned", "lambda": dose, "seed": seed, "clean": clean,
                     "auc": auc, "alignment": 2 * dose})  # fmt: skip
    return rows


# ---------------------------------------------------------------- tests of few units


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flip_equals_scipys_exact_permutation(random, n):
    x = random.standard_normal(n) + 0.4
    if n == 1:
        assert sign_flip_p(x) == 1.0
        return
    result = stats.permutation_test(
        (x, np.zeros(n)), lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=np.inf, alternative="two-sided",
    )  # fmt: skip
    assert sign_flip_p(x) == pytest.approx(result.pvalue)


def test_sign_flip_is_exact_with_ties_and_zeros():
    x = [0.1, 0.2, 0.3, 0.0, -0.1]  # sums that are equal but for rounding count as equal
    every = [abs(sum(s * v for s, v in zip(signs, (1, 2, 3, 0, -1), strict=True)))
             for signs in itertools.product((1, -1), repeat=5)]  # fmt: skip
    assert sign_flip_p(x) == np.mean([total >= 5 for total in every])
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


def test_agreeing_signs_give_the_smallest_p():
    for n in range(1, 10):
        assert sign_flip_p(np.linspace(0.1, 0.2, n)) == smallest_sign_flip_p(n) == 2 / 2**n
    assert math.isnan(sign_flip_p([]))
    assert math.isnan(smallest_sign_flip_p(0))


def test_random_sign_patterns_agree_with_the_normal_limit(random):
    x = random.standard_normal(40) + 0.3
    z = abs(x.sum()) / math.sqrt(np.square(x).sum())
    assert sign_flip_p(x) == pytest.approx(2 * stats.norm.sf(z), abs=0.01)
    assert sign_flip_p(np.ones(40)) == smallest_sign_flip_p(40)


def test_sign_flip_holds_its_level_under_the_null(random):
    draws = random.standard_normal((2000, 7))
    rate = np.mean([sign_flip_p(x) <= 0.05 for x in draws])
    assert 0.02 < rate <= stats.binom.ppf(0.999, 2000, 0.05) / 2000


def test_holm_is_the_step_down_definition():
    p = [0.01, 0.04, 0.03, math.nan, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_t_interval_is_scipys(random):
    x, y = random.standard_normal((2, 8))
    low, high = stats.ttest_rel(x, y).confidence_interval(0.9)
    assert t_interval(x - y, confidence=0.9) == pytest.approx((low, high))
    assert all(math.isnan(end) for end in t_interval([0.3]))


def test_image_interval_is_agresti_and_mins_for_one_seed():
    # b = 10 and c = 4 discordant images of 100; half an image added to each of the four cells.
    differences = np.repeat([1.0, -1.0, 0.0], [10, 4, 86])
    b, c, n = 10.5, 4.5, 102
    error = math.sqrt((b + c) / n - ((b - c) / n) ** 2) / math.sqrt(n)
    reach = stats.norm.ppf(0.975) * error
    assert image_interval([differences]) == pytest.approx(
        ((b - c) / n - reach, (b - c) / n + reach)
    )


def test_image_interval_covers_the_true_difference(random):
    inside = []
    for _ in range(400):  # two seeds on the same images, true difference 0.1
        ease = random.random(80)
        pairs = [
            (random.random(80) < 0.8 * ease + 0.2).astype(float)
            - (random.random(80) < 0.8 * ease + 0.1)
            for _ in range(2)
        ]
        low, high = image_interval(pairs)
        inside.append(low <= 0.1 <= high)
    assert stats.binom.ppf(0.001, 400, 0.95) / 400 <= np.mean(inside) <= 0.995


def test_image_interval_is_undefined_for_unequal_images():
    assert all(math.isnan(end) for end in image_interval([np.zeros(3), np.zeros(4)]))
    assert all(math.isnan(end) for end in image_interval([]))


# ---------------------------------------------------------------- differences


def test_differences_are_paired_by_seed_as_scipy_pairs_them():
    experiment = make_experiment(seeds=range(6))
    experiment["runs"].reverse()  # order tells nothing
    by_hand = stats.ttest_rel(
        *(np.array(aucs(experiment, name)) for name in ("aligned", "baseline"))
    )
    found = [d for d in robustness_differences(experiment, against="baseline")
             if d.measure == "AUC" and d.attack == "pgd"]  # fmt: skip
    [auc] = found
    low, high = by_hand.confidence_interval()
    assert (auc.low, auc.high) == pytest.approx((low, high))
    assert auc.n_seeds == 6
    assert auc.p == auc.p_holm == 2 / 64
    assert auc.can_be_significant
    assert auc.upper_bound


def test_every_measure_has_its_row():
    found = robustness_differences(make_experiment(), against="baseline")
    levels = [("accuracy", eps) for eps in EPS]
    assert [(d.measure, d.eps) for d in found] == [
        ("clean", None), ("AUC", None), *levels, ("AUC", None), *levels,
    ]  # fmt: skip
    assert [d.upper_bound for d in found[1:7]] == [True, False, True, True, True, True]


def test_three_seeds_never_reach_significance():
    for one in robustness_differences(make_experiment(), against="baseline"):
        assert one.p_smallest == 0.25
        assert not one.can_be_significant


def test_holm_over_eps_can_take_significance_from_six_seeds():
    found = robustness_differences(make_experiment(seeds=range(6)), against="baseline")
    at = [d for d in found if d.eps and d.attack == "pgd"]
    assert [d.p_holm_smallest for d in at] == [4 * 2 / 64] * 4
    assert [d.p_holm for d in at] == holm([d.p for d in at])
    assert not any(d.can_be_significant for d in at)
    zero = next(d for d in found if d.eps == 0)
    assert zero.p_holm == zero.p


def test_seeds_without_a_partner_or_value_are_left_out():
    experiment = make_experiment(seeds=(0, 1, 2, 3))
    runs = experiment["runs"]
    experiment["runs"] = [r for r in runs if (r["condition"], r["seed"]) != ("baseline", 3)]
    broken = next(r for r in runs if (r["condition"], r["seed"]) == ("aligned", 1))
    for row in broken["curves"]:
        row["auc"] = None
        row["accuracy"] = math.nan
    found = robustness_differences(experiment, against="baseline")
    assert {d.measure: d.seeds for d in found} == {
        "clean": (0, 1, 2), "AUC": (0, 2), "accuracy": (0, 2),
    }  # fmt: skip


def test_the_interval_over_images_uses_what_each_image_shows():
    experiment = make_experiment(seeds=(4,))
    one = next(d for d in robustness_differences(experiment, against="baseline") if d.eps == 0.1)
    a, b = (
        np.array(run["correct"]["pgd Linf"][EPS.index(0.1)], dtype=float)
        for name in ("aligned", "baseline")
        for run in experiment["runs"]
        if run["condition"] == name
    )
    assert (one.images_low, one.images_high) == pytest.approx(image_interval([a - b]))
    assert one.n_images == 200
    assert math.isnan(one.low)
    assert math.isnan(one.sd)


def test_the_interval_of_auc_over_images_holds_its_mean():
    found = robustness_differences(make_experiment(), against="baseline")
    auc = next(d for d in found if d.measure == "AUC")
    middle = (auc.images_low + auc.images_high) / 2
    assert middle == pytest.approx(auc.mean * 200 / 202)


def test_without_correct_images_there_is_no_interval_over_them():
    experiment = make_experiment()
    for run in experiment["runs"]:
        del run["correct"]
    found = robustness_differences(experiment, against="baseline")
    assert all(math.isnan(d.images_low) and d.n_images == 0 for d in found)


def test_equal_networks_have_no_difference():
    experiment = make_experiment()
    found = robustness_differences(experiment, against="aligned")
    assert {(d.mean, d.p) for d in found} == {(0.0, 1.0)}


def test_two_runs_of_one_seed_are_refused():
    experiment = make_experiment()
    experiment["runs"].append(experiment["runs"][0])
    with pytest.raises(ValueError, match="two runs of condition 'baseline' have seed 0"):
        robustness_differences(experiment, against="baseline")


def test_runs_at_another_lambda_do_not_stand_for_their_condition():
    experiment = make_experiment()
    other = dict(next(r for r in experiment["runs"] if r["condition"] == "aligned"))
    experiment["runs"].append(other | {"lambda": 9.0, "clean": 0.1})
    assert [run["lambda"] for run in runs_of(experiment, "aligned").values()] == [1.0] * 3


def test_a_confidence_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="confidence is 95; expected a share"):
        robustness_differences(make_experiment(), against="baseline", confidence=95)


def test_effect_sizes_are_numpys_moments():
    experiment = make_experiment()
    rows = effect_sizes(experiment)
    assert [r["condition"] for r in rows if r["attack"] == "pgd"] == [
        c["name"] for c in experiment["conditions"] if c["applicable"]
    ]
    row = next(r for r in rows if (r["condition"], r["attack"]) == ("one-hot", "apgd"))
    values = aucs(experiment, "one-hot", "apgd")
    assert row["auc_mean"] == pytest.approx(np.mean(values))
    assert row["auc_sd"] == pytest.approx(np.std(values, ddof=1))
    assert [one["eps"] for one in row["accuracy"]] == list(EPS)
    assert row["title"] == "One-hot labels"


# ---------------------------------------------------------------- dose and response


def test_dose_response_correlations_are_scipys(random):
    rows = dose_rows(4, (0.0, 0.5, 1.0), random, effect=0.5, by_clean=0.5, clean_of_dose=0.3)
    found = dose_response({"dose": rows})
    dose, auc, clean = (np.array([r[k] for r in rows]) for k in ("lambda", "auc", "clean"))
    assert found.spearman == pytest.approx(stats.spearmanr(dose, auc).statistic)
    assert found.pearson == pytest.approx(np.corrcoef(stats.rankdata(dose), auc)[0, 1])
    d_a, d_c, a_c = (
        stats.spearmanr(x, y).statistic for x, y in ((dose, auc), (dose, clean), (auc, clean))
    )
    partial = (d_a - d_c * a_c) / math.sqrt((1 - d_c**2) * (1 - a_c**2))
    assert found.partial == pytest.approx(partial)
    assert (found.n_runs, found.n_seeds, found.doses) == (12, 4, (0.0, 0.5, 1.0))


def test_dose_response_enumerates_permutations_within_seeds(random):
    rows = dose_rows(2, (0.0, 1.0, 2.0), random, effect=0.2)
    found = dose_response({"dose": rows})
    dose, auc = (np.array([r[k] for r in rows]) for k in ("lambda", "auc"))
    sizes = [
        abs(stats.spearmanr(dose, auc[[*first, *second]]).statistic)
        for first in itertools.permutations(range(3))
        for second in itertools.permutations(range(3, 6))
    ]
    assert found.p == np.mean(np.array(sizes) >= abs(found.spearman) - 1e-12)
    assert found.p_smallest == np.mean(np.array(sizes) >= max(sizes) - 1e-12)
    assert found.kind == "all 36 permutations within seeds"


def test_a_planted_dose_is_found_and_one_that_clean_accuracy_explains_is_not(random):
    doses = (0.0, 0.5, 1.0, 2.0)
    found = dose_response({"dose": dose_rows(3, doses, random, effect=2.0)})
    assert found.partial > 0.5
    assert found.p_partial < 0.01
    through_clean = dose_rows(6, doses, random, effect=0.0, by_clean=1.5, clean_of_dose=2.0)
    for row in through_clean:  # seeds alike, so that only clean accuracy remains
        row["auc"] -= row["seed"]
    explained = dose_response({"dose": through_clean})
    assert explained.spearman > 0.6
    assert explained.p < 0.01
    assert explained.p_partial > 0.05


def test_dose_response_holds_its_level_under_the_null(random):
    p = [
        (found.p, found.p_partial)
        for _ in range(300)
        for found in [dose_response(
            {"dose": dose_rows(2, (0.0, 0.5, 1.0, 2.0), random, effect=0.0, by_clean=0.3)}
        )]
    ]  # fmt: skip
    bound = stats.binom.ppf(0.999, 300, 0.05) / 300
    rates = (np.array(p) <= 0.05).mean(0)
    assert (rates <= bound).all()
    assert (rates > 0.005).all()


def test_many_runs_are_permuted_at_random_and_reproducibly(random):
    rows = {"dose": dose_rows(5, (0.0, 0.5, 1.0, 2.0), random, effect=0.5)}
    first = dose_response(rows)
    assert first == dose_response(rows)
    assert first.kind == "9999 random permutations within seeds"


def test_too_few_doses_say_why():
    experiment = {"dose": [r for r in make_experiment()["dose"] if r["lambda"] < 1]}
    found = dose_response(experiment)
    assert math.isnan(found.spearman)
    assert found.reason == (
        "6 runs at 2 values of λ; a dose–response needs 5 runs and 3 values or more"
    )


def test_the_baseline_is_the_dose_zero_and_checkpoints_are_not_pooled():
    experiment = make_experiment()
    assert dose_response(experiment).doses == (0.0, 0.5, 1.0, 2.0)
    experiment["dose"].append(experiment["dose"][1])
    with pytest.raises(ValueError, match="Checkpoints of one run are not pooled"):
        dose_response(experiment)


def test_alignment_can_be_the_dose_and_nothing_else():
    assert dose_response(make_experiment(), by="alignment").spearman > 0.8
    with pytest.raises(ValueError, match="by is 'seed'; expected 'lambda' or 'alignment'"):
        dose_response(make_experiment(), by="seed")


def test_a_clean_accuracy_that_says_all_leaves_no_partial_correlation():
    rows = [
        {"condition": "aligned", "lambda": dose, "seed": 0, "clean": dose, "auc": dose**2}
        for dose in (0.0, 1.0, 2.0, 3.0, 4.0)
    ]
    found = dose_response({"dose": rows})
    assert found.spearman == pytest.approx(1.0)
    assert math.isnan(found.partial)
    assert found.reason == "clean accuracy says all of the dose or of the robustness"
