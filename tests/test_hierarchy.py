"""Hierarchy scores: beside scipy, exact nulls, planted orders, and what cannot be told."""

from itertools import permutations

import numpy as np
import pytest
import scipy.stats

from repalign.layer_regions import brain_hierarchy_score, hierarchy_score, map_layers
from repalign.recording import make_activations, make_recording


@pytest.mark.parametrize("correlation", ["spearman", "kendall"])
@pytest.mark.parametrize("summary", ["best", "mean"])
def test_value_and_exact_p_equal_all_orders_by_scipy(correlation, summary):
    random = np.random.default_rng(3)
    scores = random.random((5, 7)) + 0.05
    depths = np.array([1.0, 2, 3, 5, 8, 13, 21])
    found = hierarchy_score(scores, depths=depths, summary=summary, correlation=correlation)
    best = depths[scores.argmax(1)]
    mean = (scores * depths).sum(1) / scores.sum(1)
    of_area = best if summary == "best" else mean
    measure = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}[correlation]
    assert found.value == pytest.approx(measure(range(5), of_area).statistic, abs=1e-12)
    null = np.array([measure(order, of_area).statistic for order in permutations(range(5))])
    assert found.p == pytest.approx((null >= found.value - 1e-9).mean(), abs=1e-12)
    assert found.n_draws == 120


def test_few_areas_say_that_they_cannot_be_significant():
    three = hierarchy_score(np.eye(3))
    assert (three.value, three.p, three.smallest_p) == (pytest.approx(1), 1 / 6, 1 / 6)
    assert str(three).endswith("cannot be significant at .05")
    four = hierarchy_score(np.eye(4))
    assert four.p == four.smallest_p == 1 / 24
    assert "cannot" not in str(four)
    tied = hierarchy_score(np.eye(4), levels=[1, 2, 2, 3])
    assert tied.smallest_p == 2 / 24
    assert tied.p >= tied.smallest_p


def test_a_reversed_hierarchy_scores_minus_one_and_one_depth_is_undefined():
    assert hierarchy_score(np.eye(5)[::-1]).value == pytest.approx(-1)
    assert hierarchy_score(np.eye(5)[::-1]).p == 1
    flat = hierarchy_score(np.tile([0.1, 0.5, 0.2], (4, 1)))
    assert np.isnan(flat.value)
    assert flat.p == 1


def test_more_areas_than_can_be_enumerated_are_permuted_at_random():
    found = hierarchy_score(np.eye(12), n_permutations=999)
    assert found.p == found.smallest_p == 0.001
    assert "random" in found.kind
    assert hierarchy_score(np.eye(12), n_permutations=999) == found


def test_brain_hierarchy_score_is_spearmans_over_units_that_are_predicted():
    random = np.random.default_rng(0)
    levels = np.repeat([1, 2, 3, 4], 25)
    scores = random.normal(size=(100, 6))
    scores[np.arange(100), levels] += 1.5
    scores[::7] = -1
    scores[3, 2] = np.nan
    found = brain_hierarchy_score(scores, levels, least=0.2)
    kept = np.nan_to_num(scores).max(1) > 0.2
    best = np.nan_to_num(scores)[kept].argmax(1)
    expected = scipy.stats.spearmanr(levels[kept], best).statistic
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.p == found.smallest_p == 1 / 24
    assert len(found.depths) == kept.sum()
    free = brain_hierarchy_score(scores, levels, least=0.2, exchange="units", n_permutations=499)
    assert free.value == found.value
    assert free.p == free.smallest_p == 1 / 500


def test_exact_null_over_levels_equals_relabelling_areas():
    random = np.random.default_rng(1)
    levels = np.repeat([1, 2, 4], [5, 8, 6])
    scores = random.normal(size=(19, 5))
    found = brain_hierarchy_score(scores, levels, least=-9)
    best = scores.argmax(1)
    null = []
    for order in permutations([1, 2, 4]):
        relabelled = [dict(zip([1, 2, 4], order, strict=True))[one] for one in levels]
        null.append(scipy.stats.spearmanr(relabelled, best).statistic)
    assert found.value == pytest.approx(null[0], abs=1e-12)
    assert found.p == pytest.approx((np.array(null) >= null[0] - 1e-9).mean())


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        (np.eye(4)[:1], {}, r"shape \(1, 4\); expected numbers, 2 or more rows"),
        (np.full((3, 3), np.nan), {}, "NaN in all columns of a row"),
        (np.eye(3), {"levels": [1, 1, 1]}, "a number for each area, not equal"),
        (np.eye(3), {"depths": [1, 2]}, "a number for each layer"),
        (np.eye(3), {"summary": "median"}, "summary is 'median'"),
        (-np.eye(3), {"summary": "mean"}, "no positive score to weigh depths by"),
        (np.eye(3), {"correlation": "pearson"}, "correlation is 'pearson'"),
        (np.eye(3), {"areas": ["V1"]}, "order the rows of an array"),
    ],
)
def test_bad_input_is_explained(scores, settings, message):
    with pytest.raises(ValueError, match=message):
        hierarchy_score(scores, **settings)


def test_areas_are_regions_of_the_mapping_each_once():
    random = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(20)]
    x = {name: random.normal(size=(20, 5)) for name in ("conv1", "conv2")}
    layers = {name: make_activations(v, ids, "net", name, v.shape) for name, v in x.items()}
    regions = ["V1"] * 5 + ["IT"] * 5
    brain = make_recording(np.hstack([*x.values()]), stimulus_id=ids, region=regions)
    mapping = map_layers(brain, layers, n_permutations=0)
    assert hierarchy_score(mapping, areas=["V1", "IT"]).value == pytest.approx(1)
    for areas in (["V1", "V2"], ["V1", "V1"]):
        with pytest.raises(ValueError, match=r"expected some of \['V1', 'IT'\], each once"):
            hierarchy_score(mapping, areas=areas)


def test_units_without_scores_or_levels_are_refused():
    with pytest.raises(ValueError, match="expected a number for each of 4 units"):
        brain_hierarchy_score(np.eye(4), [1, 2])
    with pytest.raises(ValueError, match="1 levels; 2 or more"):
        brain_hierarchy_score(np.eye(4), [1, 1, 1, 1])
    with pytest.raises(ValueError, match="exchange is 'voxels'"):
        brain_hierarchy_score(np.eye(4), [1, 1, 2, 2], exchange="voxels")
