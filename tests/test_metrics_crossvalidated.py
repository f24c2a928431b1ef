import itertools

import numpy as np
import pytest
import torch

from repalign.metrics import crossvalidated, rdm
from repalign.metrics.noise import noise_precision

METHODS = ["crossnobis", "poisson_cv"]


def counts(*shape: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    mean = 2 + 6 * torch.rand(*shape[-2:], generator=draw, dtype=torch.float64)
    return torch.poisson(mean.expand(shape), generator=draw)


def definition(method: str, folds: np.ndarray, i: int, j: int) -> float:
    """The mean over ordered pairs of folds, by the formula, of complete folds."""
    rates = (folds + 0.1) / 1.1
    other = np.log(rates) if method == "poisson_cv" else folds
    first = rates if method == "poisson_cv" else folds
    pairs = itertools.permutations(range(len(folds)), 2)
    return float(
        np.mean([(first[f, i] - first[f, j]) @ (other[g, i] - other[g, j]) for f, g in pairs])
    )


def labelled(x: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Repetitions as presentations in random order, the missing ones left out."""
    n_repeats, n, p = x.shape
    rows = x.reshape(-1, p)
    stimulus, fold = np.tile(np.arange(n), n_repeats), np.repeat(np.arange(n_repeats), n)
    kept = np.random.default_rng(0).permutation(np.flatnonzero(~rows.isnan().all(1).numpy()))
    return rows[kept], stimulus[kept], fold[kept]


@pytest.mark.parametrize("n_folds", [2, 5])
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_mean_over_pairs_of_folds(method, n_folds):
    x = counts(n_folds, 5, 7)
    expected = [
        definition(method, x.numpy(), i, j) / 7 for i, j in itertools.combinations(range(5), 2)
    ]
    np.testing.assert_allclose(rdm(x, method=method), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_relabelling_folds_changes_nothing(method):
    x = counts(4, 5, 6)
    whole = rdm(x, method=method)
    torch.testing.assert_close(rdm(x[[2, 0, 3, 1]], method=method), whole)
    rows, stimulus, fold = labelled(x)
    for names in (["d", "a", "c", "b"], [7, 3, 10, -1]):
        found = rdm(rows, method=method, stimulus=stimulus, fold=np.array(names)[fold])
        torch.testing.assert_close(found, whole)
    x[0, 1] = x[2, 4] = torch.nan
    torch.testing.assert_close(rdm(x[[2, 0, 3, 1]], method=method), rdm(x, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [np.array, list, torch.tensor])
def test_labels_give_what_repetitions_give(method, kind):
    x = counts(3, 5, 6)
    rows, stimulus, fold = labelled(x)
    found = rdm(rows, method=method, stimulus=kind(stimulus.tolist()), fold=kind(fold.tolist()))
    torch.testing.assert_close(found, rdm(x, method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [1, 40])
def test_short_and_long_string_labels_keep_all_twelve_repetitions(method, length):
    x = counts(12, 4, 6)
    labels = [letter * length for letter in "badc"] * 12
    found = rdm(x.reshape(-1, 6), method=method, stimulus=labels)
    torch.testing.assert_close(found, rdm(x[:, [1, 0, 3, 2]], method=method))
    ids = [f"{'x' * length}-{fold}" for fold in range(12) for _ in range(4)]
    torch.testing.assert_close(
        rdm(x.reshape(-1, 6), method=method, stimulus=np.array(labels), fold=np.array(ids)), found
    )


@pytest.mark.parametrize("method", METHODS)
def test_several_presentations_in_a_fold_are_averaged(method):
    x = counts(6, 5, 6)
    fold = np.repeat([0, 1, 2, 0, 1, 2], 5)
    found = rdm(x.reshape(-1, 6), method=method, stimulus=np.tile(np.arange(5), 6), fold=fold)
    torch.testing.assert_close(found, rdm((x[:3] + x[3:]) / 2, method=method))


def loop(rows, stimulus, fold, similarity):
    """All pairs of presentations in different folds, one by one, and how many there are."""
    n = stimulus.max() + 1
    total, weight = np.zeros((n, n)), np.zeros((n, n))
    for a, b in itertools.permutations(range(len(rows)), 2):
        if fold[a] != fold[b]:
            value, share = similarity(rows[a], rows[b])
            total[stimulus[a], stimulus[b]] += value
            weight[stimulus[a], stimulus[b]] += share
    own = total / weight
    i, j = np.triu_indices(n, 1)
    return own[i, i] + own[j, j] - 2 * own[i, j]


def kullback(x, y):
    x, y = (x + 0.1) / 1.1, (y + 0.1) / 1.1
    return -np.nansum((x - y) * np.log(x / y)) / 2, np.isfinite(x * y).sum()


def shared_product(x, y):
    return np.nansum(x * y), np.isfinite(x * y).sum()


@pytest.mark.parametrize(
    ("method", "similarity"), [("crossnobis", shared_product), ("poisson_cv", kullback)]
)
@pytest.mark.parametrize("weighting", ["number", "equal"])
@pytest.mark.parametrize("missing", ["presentations", "neuroids"])
def test_unbalanced_designs_average_all_pairs_of_presentations(
    method, similarity, weighting, missing, monkeypatch
):
    x = counts(4, 5, 6)
    x[1, 2] = x[3, 0] = x[0, 0] = torch.nan
    if missing == "neuroids":
        x[torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.2] = torch.nan
    rows, stimulus, fold = labelled(x)

    def shared(a, b):
        value, share = similarity(a, b)
        return (value, share) if weighting == "number" else (value / share, 1)

    expected = loop(rows.numpy(), stimulus, fold, shared)
    options = {"method": method, "weighting": weighting}
    found = rdm(rows, stimulus=stimulus, fold=fold, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    if missing == "presentations":
        torch.testing.assert_close(rdm(x, **options), found)
    monkeypatch.setattr(crossvalidated, "BLOCK_ELEMENTS", 40)
    torch.testing.assert_close(rdm(rows, stimulus=stimulus, fold=fold, **options), found)


def test_weights_do_not_matter_where_all_neuroids_are_there():
    x = counts(3, 5, 6)
    rows, stimulus, _ = labelled(x)
    found = rdm(rows, stimulus=stimulus, method="euclidean", weighting="equal")
    torch.testing.assert_close(found, rdm(x, method="euclidean"))
    ragged = torch.cat([rows, rows], 1)
    ragged[:, 6:] = torch.nan
    for weighting in ("number", "equal"):
        torch.testing.assert_close(
            rdm(ragged, stimulus=stimulus, method="euclidean", weighting=weighting), found
        )


def test_pairs_that_share_no_neuroid_are_nan():
    nan = torch.nan
    x = torch.tensor([[1.0, nan], [2, nan], [nan, 1], [nan, 4], [5, 1], [2, 2]])
    found = rdm(x, method="crossnobis", stimulus=[0, 0, 1, 1, 2, 2], fold=[0, 1] * 3)
    assert found.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("missing", [False, True])
def test_crossnobis_of_pure_noise_is_centred_on_zero(missing):
    draw = torch.Generator().manual_seed(0)
    values, biased = [], []
    for _ in range(300):
        x = torch.randn(3, 6, 4, generator=draw, dtype=torch.float64)
        if missing:
            x[0, 1] = x[2, 3] = torch.nan
        values.append(rdm(x, method="crossnobis"))
        biased.append(rdm(x, method="euclidean"))
    found = torch.stack(values)
    error = found.mean(1).std() / 300**0.5
    assert abs(found.mean()) < 4 * error
    assert torch.stack(biased).mean() > 20 * error


def test_crossnobis_recovers_the_noise_free_distances():
    draw = torch.Generator().manual_seed(1)
    signal = torch.randn(6, 5, generator=draw, dtype=torch.float64)
    mixing = torch.randn(5, 5, generator=draw, dtype=torch.float64)
    noise = torch.randn(400, 6, 5, generator=draw, dtype=torch.float64) @ mixing
    x = signal + noise
    expected = rdm(signal, method="mahalanobis", noise=torch.linalg.inv(mixing.mT @ mixing))
    found = rdm(x, method="crossnobis", noise=noise_precision(x, method="full"))
    error = (found - expected).abs().max()
    assert error < 0.15 * expected.max()


@pytest.mark.parametrize("missing", [False, True])
def test_equal_precisions_of_folds_are_one_precision(missing):
    x = counts(3, 5, 4)
    if missing:
        x[1, 2] = torch.nan
    precision = noise_precision(counts(4, 9, 4), method="full")
    one = rdm(x, method="crossnobis", noise=precision)
    each = rdm(x, method="crossnobis", noise=precision.expand(3, 4, 4))
    torch.testing.assert_close(each, one)
    whitened = x @ torch.linalg.cholesky(precision)
    torch.testing.assert_close(rdm(whitened, method="crossnobis"), one)


def test_float32_with_an_offset_of_complete_folds_is_right():
    x = (counts(4, 6, 20) / 7 + 1e4).float()
    exact = rdm(x.double() - 1e4, method="crossnobis")
    torch.testing.assert_close(rdm(x, method="crossnobis"), exact, rtol=1e-8, atol=1e-10)
    small = counts(4, 6, 20)
    scaled = rdm(1e-8 * small, method="crossnobis") * 1e16
    torch.testing.assert_close(scaled, rdm(small, method="crossnobis"))


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_populations(method):
    x = counts(3, 5, 6)
    x[1, 2] = torch.nan
    batch = torch.stack([x, counts(3, 5, 6, seed=2)])[:, None]
    found = rdm(batch, method=method, batch_dims=2)
    assert found.shape == (2, 1, 10)
    torch.testing.assert_close(found[0, 0], rdm(x, method=method))
    torch.testing.assert_close(found[1, 0], rdm(batch[1, 0], method=method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [False, True])
def test_gradients_flow(method, missing):
    x = counts(3, 4, 3)
    rows, stimulus, fold = labelled(x)
    if missing:
        rows, stimulus, fold = rows[1:], stimulus[1:], fold[1:]
    rows.requires_grad_()
    options = {"method": method, "stimulus": stimulus, "fold": fold}
    assert torch.autograd.gradcheck(lambda rows: rdm(rows, **options), rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rdm(counts(5, 4), method="crossnobis"), "needs .repeat.*method='euclidean'"),
        (lambda: rdm(counts(1, 5, 4), method="poisson_cv"), "'row 0' is in 1. Use method='eucl"),
        (
            lambda: rdm(counts(3, 4), method="crossnobis", stimulus=["face", "car", "car"]),
            "'car' has 2 presentations and 'face' has 1.*Say with fold=",
        ),
        (
            lambda: rdm(
                counts(3, 4), method="crossnobis", stimulus=["face", "car", "car"], fold=[0, 0, 1]
            ),
            "2 or more folds.*'face' is in 1",
        ),
        (lambda: rdm(counts(2, 3, 4), method="crossnobis", fold=[0, 1]), "give both or neither"),
        (lambda: rdm(counts(2, 3, 4) - 9, method="poisson_cv"), "rates are 0 or negative"),
        (
            lambda: rdm(counts(2, 3, 4), method="poisson_cv", prior_weight=-1),
            "neither may be negative",
        ),
        (
            lambda: rdm(counts(2, 3, 4), method="crossnobis", noise=torch.eye(4).expand(3, 4, 4)),
            "noise holds 3 precision matrices; expected one for each of the 2 folds",
        ),
        (
            lambda: rdm(
                torch.tensor([[1.0, torch.nan], [2, 3], [4, 5], [5, 6]]),
                method="crossnobis",
                stimulus=[0, 1, 0, 1],
                noise=torch.eye(2),
            ),
            "few neuroids are NaN.*Leave out noise=",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
