"""How far p values of `infer` move with the seed, and what is said where a verdict does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import repalign as ra
from repalign.metrics import CKA, RSA, Ridge

pytestmark = pytest.mark.filterwarnings("ignore::repalign.FixedStimuliWarning")
N = 24


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


TRUTH = normal(N, 6)
WEAK = {f"s{i}": TRUTH + 2 * normal(N, 6, seed=50 + i) for i in range(8)}
NETS = {
    "good": TRUTH + 0.3 * normal(N, 6, seed=30),
    "fair": TRUTH + 1.5 * normal(N, 6, seed=31),
    "none": normal(N, 6, seed=32),
}
BRAINS = {f"s{i}": TRUTH + normal(N, 6, seed=10 + i) for i in range(4)}


def rows_of(found: ra.Inference, name: str) -> dict:
    return found.table.set_index("name").loc[name].to_dict()


def quick(recording, models=NETS, metric=None, **settings) -> ra.Inference:
    return ra.infer(recording, models, metric, **{"n_resamples": 100, **settings})


LAYERS = {"net": {"a": NETS["good"], "b": NETS["fair"]}, "alone": {"c": NETS["none"]}}
PEARSON = RSA(rdm="euclidean", comparator="corr")
SEEDED = {  # metric, models, settings; none of them exact
    "both": (RSA(), NETS, {"over": "both", "correction": "max-t"}),
    "shares": (RSA(), NETS, {"over": "stimuli", "test": "resamples"}),
    "sum": (CKA(), NETS, {"over": "both"}),
    "held out": (Ridge(folds=2), NETS, {"over": "stimuli"}),
    "flips": (RSA(), NETS, {"over": "subjects"}),
    "fitted": (PEARSON, LAYERS, {"over": "both", "fit": "select", "n_folds": 2}),
    "weights": (PEARSON, LAYERS, {"over": "stimuli", "fit": "weights", "n_folds": 2}),
}


@pytest.mark.parametrize("case", SEEDED)
def test_monte_carlo_errors_are_the_spread_of_p_over_seeds(case):
    metric, models, settings = SEEDED[case]
    drawn = 5 if case == "held out" else 100  # each of them fitted anew
    brains = dict(list(WEAK.items())[:2]) if case == "held out" else WEAK
    columns = ["p", "p_error", "p_corrected", "p_corrected_error"]
    tables = []
    for seed in range(50):
        found = quick(
            brains, models, metric, seed=seed, n_permutations=drawn, workers=1, **settings
        )
        tests = [found.tests.assign(first="", second=""), found.pairs.assign(hypothesis="pairs")]
        tables.append(pd.concat([one[["hypothesis", *columns]] for one in tests]))
    hypotheses = tables[0]["hypothesis"].to_numpy()
    p, error, adjusted, adjusted_error = np.moveaxis(np.stack([t[columns] for t in tables]), 2, 0)
    assert p.shape[1] == len(hypotheses) >= 3
    low = 0.1 if case == "shares" else 0.03  # below, most draws give the smallest p
    kept = (p.mean(0) > low) & ((hypotheses != "labels") | (drawn == 100))
    for values, errors in ((p, error), (adjusted, adjusted_error)):
        told = kept & (values.mean(0) < 0.9)  # at 1 it cannot move any further
        ratio = np.sqrt(np.square(errors).mean(0)[told]) / values.std(0, ddof=1)[told]
        assert told.sum() >= 2
        assert ratio.min() > 0.65, (hypotheses[told], ratio)
        assert ratio.max() < 2.0, (hypotheses[told], ratio)
        assert 0.8 < np.median(ratio) < 1.5, (hypotheses[told], ratio)


def test_exact_tests_and_jackknives_do_not_move():
    exact = quick(BRAINS, over="subjects")  # all 16 patterns of signs
    chance = exact.tests[exact.tests["hypothesis"] == "chance"]
    assert (chance[["p_error", "p_corrected_error"]] == 0).all(axis=None)
    assert ": p, corrected" not in exact.summary()
    left_out = quick(BRAINS, metric=CKA(), method="jackknife")
    chance = left_out.tests[left_out.tests["hypothesis"] == "chance"]
    assert (chance["p_error"] == 0).all()


def test_errors_are_kept_by_name_and_shrink_with_the_draws():
    few, many = (quick(WEAK, over="both", n_resamples=n, n_permutations=n) for n in (200, 3200))
    ratio = few.tests["p_error"].to_numpy() / many.tests["p_error"].to_numpy()
    assert 2.4 < np.median(ratio) < 6.4  # the root of 16, or so
    data = few.to_xarray()
    for hypothesis, prefix in (("chance", ""), ("labels", "labels_"), ("ceiling", "ceiling_")):
        for name in ("p", "p_error"):
            np.testing.assert_array_equal(
                data[name].sel(hypothesis=hypothesis)[0], few.table[f"{prefix}{name}"]
            )
    for row in few.pairs.to_dict("records"):
        place = {"model": row["first"], "other_model": row["second"]}
        for name in ("p", "p_error"):
            assert data[f"difference_{name}"].sel(place)[0].item() == row[name]
    assert np.isnan(data["difference_p"].values[0].diagonal()).all()


def test_a_verdict_that_another_seed_may_turn_is_said_with_the_draws_that_settle_it():
    found = quick(WEAK, over="both", n_resamples=200, correction="none")
    row = found.tests.set_index(["hypothesis", "name"]).loc[("chance", "fair")]
    alpha = round(row["p"] + 0.9 * row["p_error"], 4)
    close = quick(WEAK, over="both", n_resamples=200, correction="none", confidence=1 - alpha)
    said = next(line for line in close.summary().splitlines() if line.startswith("  fair: p"))
    needed = int(said.partition("n_resamples=")[2].split()[0])
    assert needed == pytest.approx(200 * (2 / 0.9) ** 2, rel=0.1)
    assert f"{row['p']:.4f} ± {row['p_error']:.4f}" in said
    assert f"within 2 Monte Carlo errors of {alpha:g}" in close.summary()
    far = quick(WEAK, over="both", n_resamples=200, correction="none", confidence=0.1)
    assert "fair: p" not in far.summary()
    at = round(row["p"], 6)
    at = quick(WEAK, over="both", n_resamples=200, correction="none", confidence=1 - at).summary()
    assert "n_resamples=100000 would not settle it: call it undecided" in at


def test_labels_and_flips_are_settled_by_permutations():
    settings = {"over": "stimuli", "n_permutations": 200, "correction": "none"}
    row = rows_of(quick(WEAK, **settings), "none")
    close = quick(WEAK, **settings, confidence=round(1 - row["labels_p"] - 0.01, 4)).summary()
    assert any("none: labels p" in one and "n_permutations=" in one for one in close.splitlines())
