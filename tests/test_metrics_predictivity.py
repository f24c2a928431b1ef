"""What all metrics of predictivity share: folds, scores, groups, directions."""

import doctest

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch

from repalign.metrics import folds, predictivity
from repalign.metrics.banded import BandedRidge
from repalign.metrics.folds import SCORES, fold_scores, group_numbers, shuffled_folds
from repalign.metrics.pls import PLS
from repalign.metrics.predictivity import both_directions
from repalign.metrics.ridge import Ridge
from repalign.metrics.single_unit import SingleUnit

METRICS = [
    Ridge(folds=3),
    Ridge(folds=3, inner_folds=3),
    BandedRidge(folds=3, inner_folds=3, bands=(2, 3), mixtures=3),
    PLS(folds=3, components=3),
    SingleUnit(folds=3),
]
each_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def planted(n: int, p: int, targets: int = 3, noise: float = 0.5) -> tuple:
    x = normal(n, p)
    return x, x @ normal(p, targets, seed=1) / p**0.5 + noise * normal(n, targets, seed=2)


@pytest.mark.parametrize("module", [folds, predictivity], ids=lambda m: m.__name__)
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_folds_are_balanced_shuffled_and_seeded():
    fold = shuffled_folds(23, folds=5, seed=0)
    assert sorted(fold.bincount().tolist()) == [4, 4, 5, 5, 5]
    assert not torch.equal(fold, torch.arange(23) % 5)
    assert torch.equal(fold, shuffled_folds(23, folds=5, seed=0))
    assert not torch.equal(fold, shuffled_folds(23, folds=5, seed=1))


def test_groups_of_one_change_no_fold():
    fold = shuffled_folds(23, folds=5, seed=3, groups=[f"image-{k}" for k in range(23)])
    assert torch.equal(fold, shuffled_folds(23, folds=5, seed=3))


def test_groups_stay_in_one_fold_and_folds_stay_balanced():
    labels = np.repeat([f"object-{k}" for k in range(12)], [9, 1, 5, 2, 7, 3, 3, 1, 4, 2, 2, 1])
    labels = np.random.default_rng(0).permutation(labels)
    fold = shuffled_folds(40, folds=4, seed=0, groups=labels)
    for label in set(labels):
        assert len(set(fold[torch.from_numpy(labels == label)].tolist())) == 1
    assert fold.bincount().tolist() == [10, 10, 10, 10]


def test_as_many_groups_as_folds_are_the_folds():
    runs = [0, 0, 1, 2, 2, 2, 1, 3]
    fold = shuffled_folds(8, folds=4, seed=0, groups=runs)
    assert len(set(zip(fold.tolist(), runs, strict=True))) == 4


def test_group_numbers_keep_long_labels_apart():
    assert group_numbers(np.array(["ab", "ac", "ab"]), 3).tolist() == [0, 1, 0]


@pytest.mark.parametrize("score", sorted(SCORES))
def test_scores_are_the_means_over_folds_of_those_of_others(score):
    y, p, fold = normal(30, 4), normal(30, 4, seed=1) + 0.3, torch.arange(30) % 3
    oracle = {
        "pearson": lambda t, e: scipy.stats.pearsonr(t, e).statistic,
        "r2": sklearn.metrics.r2_score,
        "explained_variance": sklearn.metrics.explained_variance_score,
    }[score]
    expected = [
        np.mean([oracle(y[fold == k, j], p[fold == k, j]) for k in range(3)]) for j in range(4)
    ]
    np.testing.assert_allclose(fold_scores(p, y, fold, score=score), expected, rtol=1e-10)


def test_explained_variance_is_blind_to_an_offset_and_r2_is_not():
    y, fold = normal(30, 2), torch.arange(30) % 3
    assert fold_scores(y + 5, y, fold, score="explained_variance").tolist() == pytest.approx([1, 1])
    assert (fold_scores(y + 5, y, fold, score="r2") < 0).all()


@pytest.mark.parametrize("score", sorted(SCORES))
def test_scores_of_float32_with_an_offset_are_those_without(score):
    y, p, fold = normal(30, 4), normal(30, 4, seed=1), torch.arange(30) % 3
    p32, y32 = (p + 1e4).float(), (y + 1e4).float()
    expected = fold_scores(p32.double() - 1e4, y32.double() - 1e4, fold, score=score)
    torch.testing.assert_close(fold_scores(p32, y32, fold, score=score), expected)


@pytest.mark.parametrize("score", sorted(SCORES))
def test_constant_targets_leave_out_folds_then_neuroids(score):
    x, y = planted(33, 5)
    metric = Ridge(folds=3, score=score)
    predictions, fold = metric.predict(x, y)
    y[:, 0] = 0.1
    y[fold == 1, 1] = 0.1
    scores = fold_scores(predictions, y, fold, score=score)
    assert scores[0].isnan()
    kept = fold != 1
    expected = fold_scores(predictions[kept], y[kept], fold[kept], score=score)[1]
    torch.testing.assert_close(scores[1], expected, rtol=1e-12, atol=0)
    assert metric.scores(x, y)[0].isnan()
    assert metric(x, y).item() == pytest.approx(metric.scores(x, y)[1:].mean().item())


@each_metric
def test_the_value_is_the_median_of_scores_of_held_out_predictions(metric):
    x, y = planted(30, 5)
    predictions, fold = metric.predict(x, y)
    expected = fold_scores(predictions, y, fold)
    torch.testing.assert_close(metric.scores(x, y), expected, rtol=0, atol=1e-12)
    assert metric(x, y).item() == pytest.approx(expected.median().item())
    assert metric.compare_prepared(metric.prepare(x), y).item() == metric(x, y).item()


@each_metric
def test_each_fold_is_predicted_without_its_own_responses(metric):
    x, y = planted(30, 5)
    predictions, fold = metric.predict(x, y)
    changed = torch.where((fold == 1)[:, None], normal(30, 3, seed=9), y)
    again, _ = metric.predict(x, changed)
    torch.testing.assert_close(again[fold == 1], predictions[fold == 1], rtol=0, atol=1e-12)
    assert not torch.allclose(again[fold != 1], predictions[fold != 1])


@each_metric
def test_duplicates_in_one_group_never_straddle_folds(metric):
    """Two copies of each image tell nothing of other images, and seem to if they are split."""
    x, y = normal(30, 5).repeat_interleave(2, 0), normal(30, 8, seed=1).repeat_interleave(2, 0)
    image = torch.arange(60) // 2
    _, fold = metric.predict(x, y, groups=image)
    assert torch.equal(fold[::2], fold[1::2])
    _, straddling = metric.predict(x, y)
    assert not torch.equal(straddling[::2], straddling[1::2])


def test_duplicates_that_straddle_folds_would_be_taken_for_a_relation():
    x, y = normal(60, 50).repeat_interleave(2, 0), normal(60, 9, seed=1).repeat_interleave(2, 0)
    image = torch.arange(120) // 2
    assert Ridge()(x, y) > 0.5
    assert abs(Ridge()(x, y, groups=image)) < 0.2


@each_metric
def test_batches_repetitions_and_arrays_are_taken(metric):
    x, y = normal(2, 30, 5), normal(2, 30, 3, seed=1)
    scores = metric.scores(x, y, batch_dims=1)
    assert scores.shape == (2, 3)
    torch.testing.assert_close(scores[1], metric.scores(x[1], y[1]))
    trials = torch.stack([y[0] - 1, y[0] + 1, torch.full_like(y[0], torch.nan)])
    value = metric(x[0].numpy(), trials.numpy())
    assert value.item() == pytest.approx(metric(x[0], y[0]).item())


@each_metric
@pytest.mark.parametrize("score", sorted(SCORES))
def test_an_unrelated_population_predicts_nothing(metric, score):
    from dataclasses import replace

    metric = replace(metric, score=score)
    values = [metric(normal(60, 5, seed=s), normal(60, 20, seed=s + 50)) for s in range(6)]
    assert torch.stack(values).mean() < 0.08


def test_squared_scores_would_find_a_relation_where_there_is_none():
    """Averages of squares are above 0 by construction, so that a test against 0 is no test."""
    false_positives = {"signed": 0, "squared": 0}
    for seed in range(40):
        scores = Ridge(folds=2, alphas=(1.0,)).scores(
            normal(24, 3, seed=seed), normal(24, 12, seed=seed + 99)
        )
        for kind, values in (("signed", scores), ("squared", scores.square())):
            p = scipy.stats.ttest_1samp(values, 0, alternative="greater").pvalue
            false_positives[kind] += int(p < 0.05)
    assert false_positives["squared"] > 30
    assert false_positives["signed"] < 12


def test_directions_are_the_metric_forward_and_back():
    x, y = planted(40, 5)
    metric = Ridge(folds=4)
    forward, reverse = both_directions(metric, x, y, groups=torch.arange(40) // 2)
    assert forward.item() == metric(x, y, groups=torch.arange(40) // 2).item()
    assert reverse.item() == metric(y, x, groups=torch.arange(40) // 2).item()


def test_a_rich_population_predicts_a_poor_one_and_not_back():
    rich = normal(120, 12)
    directions = both_directions(PLS(components=12), rich, rich @ normal(12, 2, seed=1))
    assert directions.forward > 0.99
    assert directions.reverse < 0.6


@each_metric
def test_every_metric_states_what_it_is(metric):
    assert metric.range == (-1.0, 1.0)
    assert metric.formula.startswith("median over neuroids of corr(y, ŷ)")
    assert metric.minimum_stimuli == 6
    assert not metric.symmetric
    assert "https://" in metric.reference
    assert type(metric)(score="r2").range == (float("-inf"), 1.0)
    assert "R²" in type(metric)(score="r2").formula


@each_metric
def test_a_constant_population_predicts_the_mean(metric):
    x, y = planted(30, 5)
    predictions, fold = metric.predict(torch.full_like(x, 0.1), y)
    for k in range(3):
        expected = y[fold != k].mean(0).expand_as(y[fold == k])
        torch.testing.assert_close(predictions[fold == k], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ridge(folds=1), "folds is 1; cross-validation needs 2"),
        (lambda: PLS(score="r"), "'r' is no score; choose one of explained_variance, pearson, r2"),
        (lambda: Ridge()(normal(9, 3), normal(9, 2)), "x has 9 stimuli; ridge needs 10 or more"),
        (lambda: PLS()(normal(9, 3), normal(9, 2)), "x has 9 stimuli; pls needs 20 or more"),
        (lambda: Ridge()(normal(10, 3), normal(12, 2)), "x has 10 stimuli and y has 12"),
        (lambda: Ridge()(normal(10, 3), normal(10)), "y has shape"),
        (lambda: Ridge()(normal(10, 3).log(), normal(10, 2)), "x has .* NaN or infinite"),
        (lambda: Ridge()(normal(10, 3), normal(10, 2).log()), "y has .* NaN or infinite"),
        (
            lambda: Ridge()(normal(10, 3), normal(10, 2), groups=[0, 1]),
            "groups has 2 labels for 10 stimuli",
        ),
        (
            lambda: Ridge()(normal(10, 3), normal(10, 2), groups=[0, 1] * 5),
            "There are 2 groups for 5 folds; .* Use folds=2",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
