"""Features matched to neuroids: planted pairs, the null, alignment; and the study of controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, false_discovery_control, kstest

from repalign.autoencoders.components import principal_components
from repalign.autoencoders.matching import match_features
from repalign.autoencoders.study import direction_overlap, feature_study
from repalign.autoencoders.training import train_autoencoder
from repalign.recording import make_activations, make_rdm_recording, make_recording

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*explained variance is:UserWarning")


def sparse_features(random: np.random.Generator, n: int, features: int) -> Array:
    on = random.random((n, features)) < 0.15
    return on * random.exponential(size=(n, features))


def test_planted_neuroids_are_found(random: np.random.Generator) -> None:
    features = sparse_features(random, 300, 80)
    chosen = random.choice(80, 10, replace=False)
    signal = features[:, chosen]
    neuroids = np.concatenate(
        [
            signal + 0.5 * signal.std(axis=0) * random.normal(size=(300, 10)),
            random.normal(size=(300, 10)),
        ],
        axis=1,
    )
    found = match_features(features, neuroids, permutations=400, device="cpu")
    np.testing.assert_array_equal(found.neuroids.partner[:10], chosen)
    np.testing.assert_array_equal(found.features.partner[chosen], np.arange(10))
    assert (found.neuroids.p_family[:10] < 0.05).all()
    assert (found.neuroids.q[:10] < 0.05).all()
    assert (found.neuroids.p_family[10:] > 0.05).all()
    assert (found.features.q[chosen] < 0.05).all()
    assert np.median(found.neuroids.held_out[:10]) == pytest.approx(1 / np.sqrt(1.25), abs=0.05)
    assert abs(found.neuroids.held_out[10:].mean()) < 0.1
    others = np.setdiff1d(np.arange(80), chosen)
    assert abs(found.features.held_out[others].mean()) < 0.05
    np.testing.assert_allclose(found.features.density, (features != 0).mean(axis=0))


def test_correlations_and_folds_agree_with_numpy(random: np.random.Generator) -> None:
    x, y = random.normal(size=(40, 5)), random.normal(size=(40, 7))
    found = match_features(x, y, permutations=50, seed=3, device="cpu")
    r = np.corrcoef(x.T, y.T)[:5, 5:]
    np.testing.assert_allclose(found.features.r, r.max(axis=1))
    np.testing.assert_allclose(found.neuroids.r, r.max(axis=0))
    np.testing.assert_array_equal(found.features.partner, r.argmax(axis=1))
    from repalign.metrics.folds import shuffled_folds

    fold = shuffled_folds(40, folds=2, seed=3).numpy()
    scores = []
    for out in (fold == 0, fold == 1):
        inside = np.corrcoef(x[~out].T, y[~out].T)[:5, 5:]
        outside = np.corrcoef(x[out].T, y[out].T)[:5, 5:]
        scores.append(outside[np.arange(5), inside.argmax(axis=1)])
    np.testing.assert_allclose(found.features.held_out, np.mean(scores, axis=0))
    generator = torch.Generator().manual_seed(3)
    null = np.array(
        [
            np.corrcoef(x.T, y[torch.randperm(40, generator=generator).numpy()].T)[:5, 5:]
            for _ in range(50)
        ]
    )
    p = (1 + (null.max(axis=2) >= r.max(axis=1) - 1e-6).sum(axis=0)) / 51
    np.testing.assert_allclose(found.features.p, p)
    np.testing.assert_allclose(found.features.q, false_discovery_control(p))
    largest = null.max(axis=(1, 2))
    family = (1 + (largest[:, None] >= r.max(axis=1) - 1e-6).sum(axis=0)) / 51
    np.testing.assert_allclose(found.features.p_family, family)


def test_noise_gives_uniform_p() -> None:
    trials, p, family = 200, [], []
    for seed in range(trials):
        random = np.random.default_rng(seed)
        features = sparse_features(random, 40, 6)
        noise = random.normal(size=(40, 8))
        found = match_features(features, noise, permutations=99, seed=seed, device="cpu")
        p += [found.features.p[0], found.neuroids.p[0]]  # one of each is independent of the rest
        family.append(np.nanmin(found.features.p_family))
    for values in (p[::2], p[1::2], family):
        rejected = int((np.array(values) <= 0.05).sum())
        assert rejected <= binom.ppf(0.999, trials, 0.05)
        assert kstest(values, "uniform").pvalue > 0.001


def test_p_of_the_median_held_out_correlation_is_uniform_for_noise() -> None:
    trials, p = 150, []
    for seed in range(trials):
        random = np.random.default_rng(seed)
        features, noise = random.normal(size=(40, 6)), random.normal(size=(40, 8))
        p.append(match_features(features, noise, permutations=39, seed=seed, device="cpu"))
    for side in ("features", "neuroids"):
        values = [getattr(found, side).p_held_out for found in p]
        assert sum(value <= 0.05 for value in values) <= binom.ppf(0.999, trials, 0.05)
        assert kstest(values, "uniform").pvalue > 0.001


def test_permuted_held_out_correlations_are_those_of_permuted_stimuli(
    random: np.random.Generator,
) -> None:
    x, y = sparse_features(random, 60, 9), random.normal(size=(60, 4))
    found = match_features(x, y, permutations=5, seed=2, device="cpu")
    generator = torch.Generator().manual_seed(2)
    for row in range(5):
        order = torch.randperm(60, generator=generator).numpy()
        moved = match_features(x, y[order], permutations=1, seed=2, device="cpu")
        for side in ("features", "neuroids"):
            null = getattr(found, side).held_out_null[row]
            np.testing.assert_allclose(null, getattr(moved, side).held_out, atol=1e-5)


def test_conclusion_says_what_was_found_and_what_was_not(random: np.random.Generator) -> None:
    x = sparse_features(random, 300, 20)
    noise = random.normal(size=(300, 4))
    y = np.concatenate([x[:, :6] + 0.1 * random.normal(size=(300, 6)), noise], axis=1)
    found = match_features(x, y, permutations=200, device="cpu")
    assert found.conclusion().startswith("6 of 10 neuroids have a feature that is closer")
    assert found.summary()["neuroids_certain"] == 6
    assert found.summary()["neuroids_held_out_p"] == pytest.approx(1 / 101)
    none = match_features(x, noise, permutations=200, device="cpu").conclusion()
    assert none.startswith("No neuroid has a feature of its own beyond what the best of all pairs")
    few = match_features(x, y, permutations=10, device="cpu").conclusion()
    assert few == "10 permutations cannot give a p of 0.05 or less: take 1000."
    with np.errstate(all="ignore"):
        dead = match_features(np.zeros((300, 2)), y, permutations=20, device="cpu")
    assert "nothing can be matched" in dead.conclusion()


def test_noise_is_not_discovered() -> None:
    discovered = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        found = match_features(
            sparse_features(random, 60, 50),
            random.normal(size=(60, 20)),
            permutations=200,
            seed=seed,
            device="cpu",
        )
        discovered += bool((found.features.q <= 0.05).any())
    assert discovered <= binom.ppf(0.999, 40, 0.05)


def test_the_sign_counts_unless_it_is_told_not_to(random: np.random.Generator) -> None:
    features = random.normal(size=(200, 4))
    neuroid = -features[:, [2]] + 0.3 * random.normal(size=(200, 1))
    signed = match_features(features, neuroid, permutations=99, device="cpu")
    unsigned = match_features(features, neuroid, permutations=99, signed=False, device="cpu")
    assert signed.neuroids.partner[0] != 2
    assert unsigned.neuroids.partner[0] == 2
    assert unsigned.neuroids.r[0] > 0.9
    assert unsigned.neuroids.held_out[0] > 0.9


def test_stimuli_match_by_id_and_repetitions_are_averaged(random: np.random.Generator) -> None:
    ids = [f"s{i}" for i in range(50)]
    features = sparse_features(random, 50, 6)
    acts = make_activations(features, ids, "net", "layer#topk-6", (6,))
    order = random.permutation(50)[:40]
    trials = np.concatenate([features[order, 4:5] + random.normal(size=(40, 1)) for _ in range(3)])
    brain = make_recording(
        trials, stimulus_id=[ids[i] for i in order] * 3, region="IT", neuroid_id=["cell"]
    )
    found = match_features(acts, brain, permutations=99, device="cpu")
    assert found.n_stimuli == 40
    assert "40 stimuli matched by id, of 40 and 50" in found.note
    assert found.neuroids.names == ("cell",)
    assert found.neuroids.partner_names == ("feature-0004",)
    mean = trials.reshape(3, 40).mean(axis=0)
    assert found.neuroids.r[0] == pytest.approx(np.corrcoef(mean, features[order, 4])[0, 1])
    row = found.neuroids.rows()[0]
    assert row["partner"] == "feature-0004"
    assert row["p"] == pytest.approx(0.01)


def test_dead_features_have_no_partner_and_are_none(random: np.random.Generator) -> None:
    features = sparse_features(random, 60, 5)
    features[:, 1] = 0
    neuroids = -np.abs(features[:, [0]]) - features[:, [2]]  # correlates negatively with most
    found = match_features(features, neuroids, permutations=50, device="cpu")
    assert found.features.partner[1] == -1
    assert np.isnan(found.features.p[1])
    assert found.features.rows()[1]["r"] is None
    assert found.features.density[1] == 0
    assert found.neuroids.partner[0] != 1
    assert found.summary()["features_matched"] == 4
    silent = match_features(np.zeros((60, 3)), neuroids, permutations=5, device="cpu")
    assert not silent.features.defined.any()
    assert not silent.neuroids.defined.any()


def test_blocks_give_the_same(random: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = sparse_features(random, 50, 23), random.normal(size=(50, 7))
    whole = match_features(x, y, permutations=30, device="cpu")
    monkeypatch.setattr("repalign.autoencoders.partners.BLOCK_ELEMENTS", 40)
    blocks = match_features(x, y, permutations=30, device="cpu")
    for side in ("features", "neuroids"):
        a, b = getattr(whole, side), getattr(blocks, side)
        assert a.partner_names == b.partner_names
        for name in ("r", "held_out", "p", "q", "p_family"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12)


def test_bad_input_is_named(random: np.random.Generator) -> None:
    x, y = random.normal(size=(20, 3)), random.normal(size=(20, 2))
    with pytest.raises(ValueError, match="permutations is 0"):
        match_features(x, y, permutations=0)
    with pytest.raises(ValueError, match="folds is 1"):
        match_features(x, y, folds=1)
    with pytest.raises(ValueError, match="5 shared stimuli; semi-matching needs 6"):
        match_features(x[:5], y[:5])
    with pytest.raises(ValueError, match="20 stimuli in recording, 19 in features"):
        match_features(x[:19], y)
    with pytest.raises(ValueError, match="NaN or infinite"):
        match_features(np.where(x > 1, np.nan, x), y)
    ids = [f"s{i}" for i in range(20)]
    brain = make_recording(np.where(y > 1, np.nan, y), stimulus_id=ids, region="IT")
    with pytest.raises(ValueError, match="recording has .* NaN or infinite"):
        match_features(make_activations(x, ids, "net", "layer", (3,)), brain)
    rdm = make_rdm_recording(
        np.zeros((1, 20, 20)), stimulus_id=ids, subject=["a"], species="human", region="IT"
    )
    with pytest.raises(ValueError, match="published RDMs only"):
        match_features(make_activations(x, ids, "net", "layer", (3,)), rdm)


# directions, and the study


def test_overlap_is_1_with_itself_in_any_order_and_chance_with_noise(
    random: np.random.Generator,
) -> None:
    x = random.normal(size=(300, 16))
    options: dict[str, Any] = {"features": 24, "k": 3, "steps": 100, "device": "cpu"}
    one = train_autoencoder(x, **options)
    same = direction_overlap(one, one)
    assert (same.max_cosine, same.matched_cosine) == pytest.approx((1, 1), abs=1e-5)
    pca = principal_components(x, features=16, device="cpu")
    pca.network.directions.data.neg_()
    assert direction_overlap(pca, pca).max_cosine == pytest.approx(1, abs=1e-5)
    other = train_autoencoder(random.normal(size=(300, 16)), seed=1, **options)
    found = direction_overlap(one, other)
    assert found.max_cosine == pytest.approx(found.chance, abs=0.1)
    assert found.matched_cosine <= found.max_cosine
    with pytest.raises(ValueError, match="different spaces"):
        direction_overlap(one, train_autoencoder(x[:, :8], **options))


def test_study_finds_planted_features_in_seeds_and_not_in_controls() -> None:
    random = np.random.default_rng(1)
    n, d = 1500, 24
    ids = [f"s{i}" for i in range(n)]
    codes = (random.random((n, 40)) < 0.06) * random.uniform(0.5, 1.5, (n, 40))
    planted = random.normal(size=(40, d))
    acts = make_activations(codes @ planted, ids, "net", "layer", (d,))
    noise = random.normal(size=(n, 60)) @ random.normal(size=(60, d))
    twin = make_activations(noise, ids, "net@random", "layer", (d,))
    neuroids = codes[:, :12] + 0.2 * random.normal(size=(n, 12))
    brain = make_recording(neuroids, stimulus_id=ids, region="IT")
    study = feature_study(
        acts,
        twin,
        brain,
        features=60,
        k=4,
        steps=600,
        seeds=(0, 1),
        permutations=50,
        learning_rate=3e-3,
        device="cpu",
    )
    held_out = {
        (row["network"], row["kind"], row["seed"]): row["neuroids_held_out"] for row in study.rows
    }
    assert len(held_out) == 8
    for seed in (0, 1):
        assert held_out["trained", "topk", seed] > held_out["trained", "pca", None] + 0.2
        assert held_out["trained", "topk", seed] > held_out["trained", "units", None] + 0.2
        assert abs(held_out["untrained", "topk", seed]) < 0.1
    overlaps = {(row["first"], row["second"]): row for row in study.overlaps}
    seeds = overlaps["trained topk-60 seed 0", "trained topk-60 seed 1"]
    assert seeds["max_cosine"] > seeds["chance"] + 0.2
    with pytest.raises(ValueError, match="needs 2 or more"):
        feature_study(acts, twin, brain, features=8, seeds=(0,))
