import doctest
import importlib
import math
import pkgutil

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

from repalign import inference
from repalign.inference import (
    RESAMPLED,
    Draws,
    bootstrap_predictions,
    bootstrap_rsa,
    default_resamples,
    delete_one_cka,
    evaluate_resamples,
    jackknife_cka,
    prediction_intervals,
)
from repalign.metrics import CKA, RSA, Ridge, fold_scores, rdm
from repalign.metrics.comparators import compare_rdms
from repalign.metrics.pairs import square_form
from repalign.metrics.resampled import draw_multiplicities

BOTH = pytest.mark.parametrize("debiased", [True, False], ids=["debiased", "biased"])
SCIPY = {
    "spearman": lambda a, b: scipy.stats.spearmanr(a, b).statistic,
    "corr": lambda a, b: scipy.stats.pearsonr(a, b).statistic,
    "cosine": lambda a, b: 1 - scipy.spatial.distance.cosine(a, b),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def explicitly_resampled(vector: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
    drawn = torch.arange(len(counts)).repeat_interleave(counts)
    i, j = np.triu_indices(len(drawn), 1)
    distinct = drawn[i] != drawn[j]
    return square_form(vector)[drawn[i], drawn[j]][distinct].numpy()


MODULES = [name for _, name, _ in pkgutil.iter_modules(inference.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"repalign.inference.{name}")).failed == 0


# Bootstrap of RSA


def with_gaps(vector: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The resampled RDM, square, without the pairs of a stimulus with itself."""
    drawn = torch.arange(len(counts)).repeat_interleave(counts)
    square = square_form(vector)[drawn][:, drawn]
    return square.masked_fill(drawn[:, None] == drawn, torch.nan)


def in_resamples(a: torch.Tensor, b: torch.Tensor, counts: torch.Tensor, comparator: str):
    """What `bootstrap_rsa` takes percentiles of."""
    draws = Draws(counts, torch.ones(len(counts), 1).long(), "stimuli", "bootstrap")
    return evaluate_resamples(b, a, draws, comparator=comparator, ceilings=False).models


@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "ties"])
@pytest.mark.parametrize("comparator", sorted(RESAMPLED))
def test_weights_equal_comparing_resampled_rdms(comparator, ties):
    rdms = torch.stack([rdm(normal(11, 5, seed=s), method="euclidean") for s in range(4)])
    rdms = rdms.round(decimals=0) if ties else rdms
    counts = draw_multiplicities(11, n_resamples=25, generator=seeded())
    found = in_resamples(rdms[0], rdms[1:], counts, comparator)
    expected = [
        [
            compare_rdms(with_gaps(rdms[0], c), with_gaps(b, c), method=comparator).item()
            for b in rdms[1:]
        ]
        for c in counts
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert found.std() > 0.001
    if comparator in SCIPY:
        scipys = [
            [
                SCIPY[comparator](*(explicitly_resampled(r, c) for r in (rdms[0], b)))
                for b in rdms[1:]
            ]
            for c in counts
        ]
        np.testing.assert_allclose(found, scipys, rtol=0, atol=1e-10)
    intervals = bootstrap_rsa(rdms[0], rdms[1:], comparator=comparator, n_resamples=25)
    for interval, column in zip(intervals, np.array(expected).T, strict=True):
        ends = np.quantile(column, [0.025, 0.975])
        assert [interval.low, interval.high] == pytest.approx(ends, abs=1e-9)


def test_a_stimulus_drawn_half_the_time_leaves_no_gap_in_whitened_intervals():
    rdms = torch.rand(3, 15, generator=seeded(), dtype=torch.float64)
    counts = draw_multiplicities(6, n_resamples=300, generator=seeded())
    assert (counts == 4).any()  # N/2 + 1 of 6
    for comparator in ("cosine_cov", "corr_cov"):
        assert in_resamples(rdms[0], rdms[1:], counts, comparator).isfinite().all()


@pytest.mark.parametrize("comparator", ["pearson", "spearman"])
def test_constant_resamples_are_nan_and_left_out(comparator):
    labels = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])[:, None]
    a = rdm(labels, method="euclidean") * 0.3 + 0.1
    b = torch.rand(1, 15, generator=seeded())
    counts = torch.tensor([[1, 2, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
    found = in_resamples(a, b, counts, comparator)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
    interval = bootstrap_rsa(a, b, comparator=comparator, n_resamples=100)[0]
    assert -1 <= interval.low < interval.high <= 1


def test_multiplicities_are_seeded_and_hold_three_stimuli():
    counts = draw_multiplicities(3, n_resamples=200, generator=seeded())
    assert (counts == 1).all()  # all others have fewer than 3 distinct
    counts = draw_multiplicities(4, n_resamples=500, generator=seeded())
    assert (counts.sum(1) == 4).all()
    assert ((counts > 0).sum(1) >= 3).all()
    assert torch.equal(counts, draw_multiplicities(4, n_resamples=500, generator=seeded()))
    counts = draw_multiplicities(50, n_resamples=400, generator=seeded()).double()
    assert counts.mean(0).std() < 0.1
    assert counts.var().item() == pytest.approx(1 - 1 / 50, abs=0.05)


def test_intervals_are_percentiles_shared_between_models():
    rdms = torch.stack([rdm(normal(12, 5, seed=s)) for s in range(3)])
    both = bootstrap_rsa(rdms[0], rdms[1:], n_resamples=200, seed=3, confidence=0.8)
    alone = bootstrap_rsa(rdms[0], rdms[2:], n_resamples=200, seed=3, confidence=0.8)
    assert both[1] == alone[0]
    counts = draw_multiplicities(12, n_resamples=200, generator=seeded(3))
    values = in_resamples(rdms[0], rdms[1:], counts, "spearman").numpy()
    for interval, column in zip(both, values.T, strict=True):
        assert [interval.low, interval.high] == pytest.approx(np.quantile(column, [0.1, 0.9]))
        assert interval.n_resamples == 200
        assert "80 %" in interval.kind
    assert bootstrap_rsa(rdms[0], rdms[1:], seed=4) != bootstrap_rsa(rdms[0], rdms[1:], seed=3)


def test_resamples_are_fewer_for_many_pairs():
    assert default_resamples(4186) == 1000
    assert default_resamples(719_400) == 278
    assert default_resamples(10**8) == 100
    assert bootstrap_rsa(torch.rand(10), torch.rand(1, 10))[0].n_resamples == 1000


@pytest.mark.parametrize("comparator", ["pearson", "spearman"])
def test_bootstrap_covers_the_truth(comparator):
    metric = RSA(rdm="euclidean", comparator=comparator)
    mixing = normal(4, 4, seed=99)

    def populations(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        z = normal(n, 4, seed=seed)
        return z, z @ mixing + 0.5 * normal(n, 4, seed=seed + 10_000)

    truth = metric(*populations(1000, 7)).item()
    covered = 0
    for seed in range(100):
        x, y = map(metric.prepare, populations(25, 1000 + seed))
        interval = bootstrap_rsa(x, y[None], comparator=comparator, n_resamples=100)[0]
        covered += interval.low <= truth <= interval.high
    assert 88 <= covered <= 100
    assert 0.2 < truth < 0.9


# Jackknife of CKA


@BOTH
def test_delete_one_values_equal_deleting(debiased):
    x, y = normal(12, 5) + 2, normal(12, 30, seed=1)
    k, m = x @ x.T, y @ y.T
    found = delete_one_cka(k, m, debiased=debiased)
    for i in range(12):
        kept = torch.arange(12) != i
        expected = CKA(debiased=debiased)(x[kept], y[kept])
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-10)


@BOTH
def test_jackknife_interval_is_the_value_and_its_error(debiased):
    x, y = normal(15, 5), normal(15, 4, seed=1) + normal(15, 4, seed=0)
    k, m = (CKA().prepare(v) for v in (x, y))
    found = jackknife_cka(k, m, debiased=debiased, confidence=0.9)
    without = delete_one_cka(k, m, debiased=debiased)
    error = math.sqrt(14 / 15 * ((without - without.mean()) ** 2).sum())
    value = CKA(debiased=debiased)(x, y).item()
    reach = scipy.stats.t.ppf(0.95, 14) * error
    assert [found.low, found.high] == pytest.approx([value - reach, value + reach], abs=1e-10)
    assert found.n_resamples == 15
    assert "jackknife" in found.kind


def test_jackknife_covers_the_truth():
    spread = torch.tensor([2.0, 1.0, 1.0]).double()
    squares = spread.square()
    # y = spread ⊙ z plus unit noise: CKA = ‖Cov(z, y)‖² / (‖Cov(z)‖ ‖Cov(y)‖)
    truth = (squares.sum() / (3**0.5 * (squares + 1).norm())).item()
    covered = 0
    for seed in range(100):
        z = normal(40, 3, seed=seed)
        y = z * spread + normal(40, 3, seed=seed + 10_000)
        interval = jackknife_cka(*(CKA().prepare(v) for v in (z, y)))
        covered += interval.low <= truth <= interval.high
    assert 88 <= covered <= 100
    assert 0.5 < truth < 0.9


def test_jackknife_is_undefined_where_cka_is():
    interval = jackknife_cka(torch.eye(8), CKA().prepare(normal(8, 3)))
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


# Bootstrap of held-out predictions


def test_prediction_bootstrap_equals_scoring_resampled_rows():
    x = normal(40, 6)
    y = x @ normal(6, 5, seed=1) + 2 * normal(40, 5, seed=2)
    predictions, fold = Ridge(folds=4).predict(x, y)
    found = bootstrap_predictions(predictions, y, fold, n_resamples=50, seed=1, confidence=0.9)
    generator = seeded(1)
    rows: list[list[torch.Tensor]] = [[] for _ in range(50)]
    for k in range(4):
        members = (fold == k).nonzero()[:, 0]
        counts = draw_multiplicities(10, n_resamples=50, generator=generator, at_least=2)
        for drawn, count in zip(rows, counts, strict=True):
            drawn.append(members.repeat_interleave(count))
    values = []
    for drawn in map(torch.cat, rows):
        assert len(drawn) == 40
        values.append(fold_scores(predictions[drawn], y[drawn], fold[drawn]).nanquantile(0.5))
    expected = np.quantile(torch.stack(values), [0.05, 0.95])
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-10)
    value = fold_scores(predictions, y, fold).median().item()
    assert found.low < value < found.high


def test_prediction_bootstrap_refuses_folds_of_two():
    y = normal(10, 3)
    with pytest.raises(ValueError, match="a fold holds 2 stimuli"):
        bootstrap_predictions(y, y, torch.arange(10) % 5, n_resamples=10)


def test_prediction_bootstrap_is_the_same_in_blocks(monkeypatch):
    x = normal(30, 4)
    predictions, fold = Ridge(folds=3).predict(x, normal(30, 5, seed=1))
    whole = bootstrap_predictions(predictions, x[:, [0, 1, 2, 3, 0]], fold, n_resamples=20)
    monkeypatch.setattr(prediction_intervals, "BLOCK_ELEMENTS", 5 * 3)
    blocks = bootstrap_predictions(predictions, x[:, [0, 1, 2, 3, 0]], fold, n_resamples=20)
    assert [blocks.low, blocks.high] == pytest.approx([whole.low, whole.high], abs=1e-12)


def test_prediction_bootstrap_stays_around_zero_without_an_effect():
    x, y = normal(100, 10), normal(100, 8, seed=1)
    interval = bootstrap_predictions(*swap(Ridge().predict(x, y), y), n_resamples=300)
    assert interval.low < 0 < interval.high


def swap(predicted: tuple[torch.Tensor, torch.Tensor], y: torch.Tensor) -> tuple:
    return predicted[0], y, predicted[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_rsa(torch.rand(10), torch.rand(2, 6)), "model × pair, of the same"),
        (lambda: bootstrap_rsa(torch.rand(10), torch.rand(10)), "model × pair, of the same"),
        (lambda: bootstrap_rsa(torch.rand(7), torch.rand(1, 7)), "7 pairs fits no number"),
        (lambda: bootstrap_rsa(torch.rand(1), torch.rand(1, 1)), "of at least 3 stimuli"),
        (
            lambda: bootstrap_rsa(torch.rand(6), torch.full((1, 6), torch.nan)),
            "hold 6 NaN.*constant patterns",
        ),
        (
            lambda: bootstrap_rsa(torch.rand(6), torch.rand(1, 6), comparator="tau"),
            "'tau' is no RDM comparator",
        ),
        (
            lambda: bootstrap_rsa(torch.rand(6), torch.rand(1, 6), confidence=95),
            "confidence is 95; expected a share between 0 and 1",
        ),
        (lambda: jackknife_cka(torch.eye(4), torch.eye(4)), "needs 5 or more stimuli; there are 4"),
        (lambda: jackknife_cka(torch.eye(6), torch.eye(7)), "both must cover the same stimuli"),
        (
            lambda: bootstrap_predictions(normal(6, 2), normal(6, 3), torch.arange(6) % 2),
            "expected one row a stimulus",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
