"""The whole call of `infer` where there is nothing to be found."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import repalign as ra
from repalign.metrics import CKA, RSA, Ridge

pytestmark = pytest.mark.filterwarnings("ignore::repalign.FixedStimuliWarning")
NULLS = {  # metric, settings, number of data sets, share of the responses that subjects share
    "rsa over stimuli": (RSA(rdm="euclidean"), {"over": "stimuli"}, 40, 1),
    "rsa over both": (RSA(rdm="euclidean", comparator="corr"), {"over": "both"}, 40, 1),
    "max-t": (RSA(rdm="euclidean"), {"over": "both", "correction": "max-t"}, 40, 1),
    "cosine": (RSA(rdm="euclidean", comparator="cosine"), {"over": "both"}, 40, 1),
    "over subjects": (RSA(rdm="euclidean"), {"over": "subjects", "test": "t"}, 40, 0),
    "signs": (RSA(rdm="euclidean"), {"over": "subjects", "correction": "max-t"}, 40, 0),
    "cka over stimuli": (CKA(), {"over": "stimuli"}, 40, 1),
    "cka over both": (CKA(), {"over": "both"}, 40, 1),
    "ridge": (Ridge(folds=2), {"n_permutations": 19, "correction": "max-t"}, 20, 1),
}


@pytest.mark.parametrize("case", list(NULLS))
def test_unrelated_models_are_seldom_found(case):
    """False positives among 3 models, by any test of the call, against the binomial bound.

    Over subjects, the stimuli are fixed: what they happen to share with a model is true of them.
    Only subjects that share nothing are a null there.
    """
    metric, settings, n_sets, share = NULLS[case]
    wrong = dict.fromkeys(("chance", "labels", "pairs"), 0)
    for seed in range(n_sets):
        random = np.random.default_rng([seed, 5])
        shared = share * random.normal(size=(16, 4))
        brains = [shared + random.normal(size=shared.shape) for _ in range(7 if share else 8)]
        nets = {name: random.normal(size=(16, 4)) for name in "abc"}
        brains = brains[:2] if case == "ridge" else brains
        found = ra.infer(
            brains, nets, metric, n_resamples=100, **{"n_permutations": 300, **settings}
        )
        for hypothesis, rows in found.tests.groupby("hypothesis"):
            if hypothesis != "ceiling":
                wrong[hypothesis] += bool((rows["p_corrected"] <= 0.05).any())
        wrong["pairs"] += bool((found.pairs["p_corrected"] <= 0.05).any())
    bound = scipy.stats.binom.isf(0.05 / (3 * len(NULLS)), n_sets, 0.05)
    assert max(wrong.values()) <= bound, wrong


def test_over_subjects_what_these_stimuli_share_with_a_model_counts_and_the_claim_says_so():
    random = np.random.default_rng(3)
    shared = random.normal(size=(12, 4))
    brains = [shared + 0.1 * random.normal(size=shared.shape) for _ in range(8)]
    found = ra.infer(brains, random.normal(size=(12, 4)), over="subjects", n_resamples=100)
    assert found.table["p"][0] < 0.05  # for these 12 stimuli, and no others
    assert "for these stimuli and no others" in found.claim
    both = ra.infer(brains, random.normal(size=(12, 4)), over="both", n_resamples=100)
    assert both.table["p"][0] > 0.05
