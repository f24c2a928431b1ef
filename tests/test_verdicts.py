"""The verdict follows its rules, and claims no more than the seeds can carry."""

from __future__ import annotations

import math
from typing import Any

import pytest
from experiments_fixture import NO_REGION, ROBUSTNESS, make_experiment

from repalign.experiments.outcomes import outcome_of
from repalign.experiments.run_statistics import robustness_differences
from repalign.experiments.verdicts import RULES, Finding, conclusion, verdict


def finding(experiment: dict[str, Any], rule: str) -> Finding:
    return next(one for one in verdict(experiment) if one.rule == rule)


def planted(gains: dict[str, list[float]], **changes: Any) -> dict[str, Any]:
    """An experiment whose AUC are exactly .5 for the aligned network, less these gains."""
    runs = [
        {
            "condition": name, "seed": seed, "lambda": 1.0, "clean": 0.9,
            "curves": [{"attack": "pgd", "norm": "Linf", "eps": eps, "accuracy": 0.5,
                        "auc": 0.5 - gain, "upper_bound": True} for eps in (0.0, 0.1)],
            "masking": {"passed": True, "checks": []},
        }
        for name, own in {"aligned": [0.0] * len(next(iter(gains.values()))), **gains}.items()
        for seed, gain in enumerate(own)
    ]  # fmt: skip
    return {"conditions": [], "runs": runs} | changes


@pytest.mark.parametrize(
    ("gains", "outcome", "passed"),
    [
        ([0.1, 0.2, 0.15, 0.1, 0.2, 0.1], "significant", True),
        ([0.1, 0.2, 0.15], "consistent", None),
        ([0.1, 0.2, -0.01], "not significant", False),
        ([0.1, 0.2, 0.15, 0.1, 0.2, -0.3], "not significant", False),
        ([-0.1, -0.2, 0.01], "not significant", False),
        ([-0.1, -0.2, -0.1], "opposite", False),
        ([-0.1] * 6, "opposite", False),
        ([0.1], "one seed", None),
        ([-0.1], "one seed", None),
        ([0.0] * 6, "not significant", False),
        ([math.nan] * 3, "not tested", None),
    ],
)
def test_a_gain_is_called_what_it_is(gains, outcome, passed):
    found = finding(planted({"baseline": gains}), "R1")
    assert (found.outcome, found.passed) == (outcome, passed)


def test_the_label_geometry_sentence():
    found = finding(planted({"one-hot": [0.05, 0.06, -0.02]}), "R3")
    assert found.text.startswith(
        "The gain over the label-geometry control is not significant, which 3 seeds could not make "
        "it (+0.030, 3 seeds; "
    )
    assert found.text.endswith("p 0.500, smallest attainable p 0.250).")


def test_few_seeds_say_that_they_cannot_be_significant():
    text = finding(planted({"baseline": [0.1, 0.2, 0.3]}), "R1").text
    assert "is positive in all 3 seeds, but 3 seeds cannot make it significant" in text
    assert "p 0.250, smallest attainable p 0.250" in text
    five = planted({"baseline": [0.1] * 5})
    assert "smallest attainable p 0.062" in finding(five, "R1").text
    assert finding(five, "R1").passed is None


@pytest.mark.parametrize("n", range(1, 6))
def test_no_rule_calls_fewer_than_six_seeds_significant(n):
    names = [name for name in ROBUSTNESS if name != "aligned"]
    found = verdict(planted({name: [0.3] * n for name in names}))
    compared = [one for one in found if one.rule in ("R1", "R2", "R3", "R4", "R10")]
    assert len(compared) == 5
    assert all(one.passed is None for one in compared)
    assert not any("is significant" in one.text for one in found)


def test_one_seed_gives_the_interval_over_images_and_says_what_it_is_of():
    text = finding(make_experiment(seeds=(0,)), "R1").text
    assert "rests on one seed, so it cannot be tested" in text
    assert "interval over images, for these two networks only" in text
    assert "smallest attainable" not in text


def test_the_least_favourable_shuffle_decides():
    gains = [0.1, 0.2, 0.15, 0.1, 0.2, 0.1]
    both = planted({"row-shuffle": gains, "gaussian": gains})
    assert finding(both, "R2").passed is True
    assert finding(both, "R2").text.endswith(
        "The control shuffled within classes and the spectrum-matched random control were not run."
    )
    mixed = planted({"row-shuffle": gains, "gaussian": [-one for one in gains]})
    assert (finding(mixed, "R2").outcome, finding(mixed, "R2").passed) == ("opposite", False)


def test_conditions_that_did_not_apply_are_named_with_their_reason():
    text = finding(make_experiment(), "R4").text
    assert f"The other region did not apply: {NO_REGION}." in text
    nothing = make_experiment(conditions={"aligned": 1.4, "baseline": 1.0})
    assert finding(nothing, "R3").text == "The label-geometry control was not run."
    assert finding(nothing, "R3").outcome == "not tested"


def test_a_failed_masking_audit_comes_first_and_undoes_its_comparisons():
    found = verdict(make_experiment(seeds=range(7), failing=("one-hot",)))
    assert (found[0].rule, found[0].passed) == ("R6", False)
    assert found[0].text == (
        "The robustness numbers of the label-geometry control are not trustworthy: "
        "the masking audit failed."
    )
    by_rule = {one.rule: one for one in found}
    assert (by_rule["R3"].outcome, by_rule["R3"].passed) == ("not trustworthy", None)
    assert by_rule["R1"].passed is True
    assert conclusion(found).startswith("The robustness numbers of the label-geometry control")


def test_a_masked_aligned_network_supports_no_claim_at_all():
    found = verdict(make_experiment(seeds=range(7), failing=("aligned",)))
    assert not any(one.passed for one in found if one.rule in ("R1", "R2", "R3", "R4", "R8", "R9"))
    assert "no claim can be made" in conclusion(found)


def test_a_single_failing_run_fails_its_condition():
    experiment = make_experiment()
    experiment["runs"][-1]["masking"]["passed"] = False
    assert finding(experiment, "R6").passed is False


def test_a_condition_without_a_masking_audit_leaves_its_rule_open():
    experiment = make_experiment()
    for run in experiment["runs"]:
        if run["condition"] == "baseline":
            run["masking"] = None
    found = finding(experiment, "R6")
    assert found.passed is None
    assert found.text == "The masking audit is incomplete. Not audited: the baseline."


def test_an_audit_of_some_seeds_says_how_many():
    experiment = make_experiment()
    assert finding(experiment, "R6").text.endswith("masking audit, in 24 of 24 runs.")
    for run in experiment["runs"]:
        if run["seed"]:
            del run["masking"]
    found = finding(experiment, "R6")
    assert found.passed is True
    assert found.text.endswith("in 8 of 24 runs; the others were not audited.")


def test_the_cost_in_clean_accuracy_is_judged_by_two_points():
    experiment = planted({"baseline": [0.1] * 3})
    for run in experiment["runs"]:
        if run["condition"] == "aligned":
            run["clean"] = 0.879
    lost = finding(experiment, "R5")
    assert (lost.passed, lost.outcome) == (False, "lost")
    assert "changed by −0.021, 3 seeds" in lost.text
    assert conclusion(verdict(experiment)).endswith("Clean accuracy was lost.")
    for run in experiment["runs"]:
        if run["condition"] == "aligned":
            run["clean"] = 0.881
    assert finding(experiment, "R5").passed is True


def test_controls_of_another_clean_accuracy_are_named():
    experiment = planted({"baseline": [0.1] * 3, "one-hot": [0.1] * 3})
    for run in experiment["runs"]:
        if run["condition"] == "one-hot":
            run["clean"] = 0.8
    text = finding(experiment, "R5").text
    assert "Not matched in clean accuracy to the aligned network (0.900)" in text
    assert "the label-geometry control (0.800)" in text


def test_an_undecided_or_absent_goodhart_audit_passes_nothing():
    audit = {"verdict": "Gamed: the gain is on trained stimuli only", "passed": False}
    found = finding(make_experiment(audit=audit), "R7")
    assert found.passed is False
    assert found.text == (
        "The Goodhart audit does not clear the aligned network: Gamed: the gain is on trained "
        "stimuli only."
    )
    gamed = verdict(make_experiment(seeds=range(6), audit=audit))
    assert conclusion(gamed).endswith("The Goodhart audit does not clear the alignment itself.")
    assert finding(make_experiment(audit={"verdict": "?", "passed": None}), "R7").passed is None
    nothing = {"verdict": "It fell.", "outcome": "nothing to audit", "passed": None}
    found = finding(make_experiment(audit=nothing), "R7")
    assert (found.text, found.passed) == ("The Goodhart audit had nothing to audit: It fell.", None)
    assert finding(make_experiment(audit={}), "R7").outcome == "not tested"


def test_a_planted_dose_response_is_found_and_its_reverse_is_opposite():
    experiment = make_experiment()
    assert finding(experiment, "R8").passed is True
    for row in experiment["dose"]:
        row["auc"] = -row["auc"]
    found = finding(experiment, "R8")
    assert (found.passed, found.outcome) == (False, "opposite")
    assert "falls with λ" in found.text
    assert finding(make_experiment(dose=[]), "R8").outcome == "not tested"


def test_a_dose_response_of_one_seed_stays_open():
    rows = [
        {"condition": "aligned", "lambda": dose, "seed": 0, "clean": clean, "auc": 0.3 + dose}
        for dose, clean in ((0, 0.9), (1, 0.91), (2, 0.9), (3, 0.92), (4, 0.9), (5, 0.91))
    ]
    found = finding(make_experiment(dose=rows), "R8")
    assert (found.passed, found.outcome) == (None, "one seed")
    assert "Over 6 runs (1 seed, 6 values of λ)" in found.text


def test_the_share_of_the_bound_is_said_and_a_broken_bound_too():
    found = finding(planted({"baseline": [0.1] * 3, "adversarial-training": [-0.1] * 3}), "R9")
    assert found.passed is True
    assert "Alignment reaches 50 % of its gain" in found.text
    broken = finding(planted({"baseline": [0.1] * 3, "adversarial-training": [0.05] * 3}), "R9")
    assert broken.passed is False
    assert "is no upper bound here" in broken.text


def test_attacks_that_disagree_leave_the_claim_open():
    experiment = planted({"baseline": [0.1] * 6})
    for run in experiment["runs"]:
        sign = 1 if run["condition"] == "baseline" else 0
        run["curves"] += [
            {"attack": "square", "norm": "L2", "eps": eps, "accuracy": 0.5, "auc": 0.5 + 0.1 * sign}
            for eps in (0.0, 1.0)
        ]
    found = finding(experiment, "R1")
    assert found.passed is None
    assert found.text.endswith(
        "By the other attacks the difference is −0.100 (square L2). "
        "The attacks disagree on its sign."
    )
    by_square = verdict(experiment, attack=("square", "L2"))
    assert by_square[0].outcome == "opposite"


def test_an_attack_that_was_not_run_is_refused():
    with pytest.raises(ValueError, match=r"no run was attacked by \('fgsm', 'L2'\)"):
        verdict(make_experiment(), attack=("fgsm", "L2"))


def test_every_rule_has_one_finding_with_words():
    for experiment in (make_experiment(), make_experiment(seeds=(3,)), {"runs": []}, {}):
        found = verdict(experiment)
        assert sorted(one.rule for one in found) == sorted(RULES)
        assert all(one.text.endswith((".", ")")) and "nan" not in one.text for one in found)


def test_the_conclusion_claims_specificity_only_where_every_control_was_beaten():
    names = ("baseline", "row-shuffle", "one-hot", "non-robust-teacher", "jitter", "rank-k")
    strong = [0.1, 0.2, 0.15, 0.1, 0.2, 0.1]
    every = conclusion(verdict(planted(dict.fromkeys(names, strong))))
    assert every == (
        "The aligned network is more robust than the baseline, significantly over seeds. "
        "The gain exceeds that of shuffled or random responses, label geometry, another teacher or "
        "region, augmentation and a few dimensions."
    )
    weak = dict.fromkeys(names, strong) | {"one-hot": [0.1, -0.1, 0.1, -0.1, 0.1, -0.1]}
    assert conclusion(verdict(planted(weak))).endswith(
        "The gain is not shown to be more than that of label geometry."
    )
    few = conclusion(verdict(planted(dict.fromkeys(names, [0.1] * 3))))
    assert "too few seeds to be significant" in few
    assert "exceeds" not in few


def test_under_the_null_no_more_than_five_percent_are_called_significant(random):
    called = 0
    for _ in range(300):
        gains = (random.standard_normal(6) / 100).tolist()
        difference = next(
            d
            for d in robustness_differences(planted({"baseline": gains}), against="baseline")
            if d.measure == "AUC"
        )
        called += outcome_of(difference) in ("significant",)
    assert called / 300 <= 0.05  # one-sided outcome: the expected rate is 1/64
