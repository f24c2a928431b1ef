"""Recipes, each beside the published procedure written out with the libraries it was made of."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

from repalign.recipes import RECIPES, BrainScoreRSA, Kornblith2019, MajajHong2015PLS, Nili2014
from repalign.recording import make_recording

IDS = [f"image{i:03d}" for i in range(60)]
OBJECTS = np.array([f"object{i % 4}" for i in range(60)])
REPEATS, SITES, UNITS = 5, 9, 40


@pytest.fixture
def layer(random: np.random.Generator) -> xr.Dataset:
    order = random.permutation(60)  # matched by id, not by row
    latent = random.normal(size=(60, 6))
    features = latent @ random.normal(size=(6, UNITS)) + 0.1 * random.normal(size=(60, UNITS))
    ds = xr.Dataset(
        {"response": (("presentation", "neuroid"), features[order])},
        {"stimulus_id": ("presentation", np.array(IDS, dtype=object)[order])},
        {"kind": "activations", "model": "net", "layer": "one"},
    )
    ds.attrs["latent"] = latent
    return ds


@pytest.fixture
def brain(layer: xr.Dataset, random: np.random.Generator) -> xr.Dataset:
    signal = layer.attrs["latent"] @ random.normal(size=(6, SITES))
    trials = signal + random.normal(size=(REPEATS, 60, SITES))
    order = random.permutation(REPEATS * 60)
    ds = make_recording(
        trials.reshape(-1, SITES)[order],
        stimulus_id=np.tile(IDS, REPEATS)[order],
        repetition=np.repeat(np.arange(REPEATS), 60)[order],
        region="IT",
        subject=np.repeat(["a", "b", "c"], 3),
    )
    return ds.assign_coords(object_name=("presentation", np.tile(OBJECTS, REPEATS)[order]))


def features_of(layer: xr.Dataset) -> np.ndarray:
    return layer.sortby("stimulus_id")["response"].values


def trials_of(brain: xr.Dataset) -> np.ndarray:
    return brain.sortby(["repetition", "stimulus_id"])["response"].values.reshape(REPEATS, 60, -1)


def columnwise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([scipy.stats.pearsonr(p, t)[0] for p, t in zip(a.T, b.T, strict=True)])


def test_majajhong_is_the_published_procedure(brain, layer):
    x, trials = features_of(layer), trials_of(brain)
    y, scores = trials.mean(0), []
    splitter = StratifiedShuffleSplit(n_splits=10, train_size=0.9, random_state=1)
    for train, test in splitter.split(np.zeros(60), OBJECTS):
        model = PLSRegression(n_components=6, scale=False, tol=1e-14, max_iter=20000)
        predicted = model.fit(x[train], y[train]).predict(x[test])
        scores.append(np.median(columnwise(predicted, y[test])))
    ceilings = []
    for a, b in ShuffleSplit(n_splits=10, train_size=0.5, random_state=1).split(np.zeros(REPEATS)):
        r = columnwise(trials[a].mean(0), trials[b].mean(0))
        ceilings.append(np.median(2 * r / (1 + r)))
    found = MajajHong2015PLS(components=6)(brain, layer)
    assert found.raw == pytest.approx(np.mean(scores), abs=2e-5)
    assert found.error == pytest.approx(np.std(scores) / np.sqrt(10), abs=2e-5)
    assert found.ceiling == pytest.approx(np.mean(ceilings), abs=1e-10)
    assert found.value == pytest.approx(found.raw**2 / found.ceiling)
    older = MajajHong2015PLS(version=3, components=6)(brain, layer)
    assert older.value == pytest.approx((found.raw / found.ceiling) ** 2)
    assert (found.n_stimuli, found.n_neuroids) == (60, SITES)


def rdm(x: np.ndarray) -> np.ndarray:
    return (1 - np.corrcoef(x))[np.triu_indices(len(x), 1)]


def subject_rdms(brain: xr.Dataset) -> list[np.ndarray]:
    y = trials_of(brain).mean(0)
    return [rdm(y[:, start : start + 3]) for start in (0, 3, 6)]


def test_brainscore_rsa_is_the_published_procedure(brain, layer):
    model, rdms = rdm(features_of(layer)), subject_rdms(brain)
    values = [scipy.stats.spearmanr(one, model)[0] for one in rdms]
    ceiling = np.mean(
        [
            scipy.stats.spearmanr(one, np.mean([o for o in rdms if o is not one], axis=0))[0]
            for one in rdms
        ]
    )
    found = BrainScoreRSA()(brain, layer)
    assert found.raw == pytest.approx(np.mean(values))
    assert found.ceiling == pytest.approx(ceiling)
    assert found.value == pytest.approx(np.mean(values) / ceiling)
    assert found.n_subjects == 3


def tau_a(a: np.ndarray, b: np.ndarray) -> float:
    signs = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
    return signs.sum() / (len(a) * (len(a) - 1))


def test_nili_is_the_published_procedure(brain, layer):
    model, rdms = rdm(features_of(layer)), subject_rdms(brain)
    values = [tau_a(one, model) for one in rdms]
    ranks = np.array([scipy.stats.rankdata(one) for one in rdms])
    upper = np.mean([tau_a(one, ranks.mean(0)) for one in rdms])
    lower = np.mean([tau_a(one, np.delete(ranks, i, 0).mean(0)) for i, one in enumerate(rdms)])
    found = Nili2014()(brain, layer)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.ceiling, found.ceiling_high) == pytest.approx((lower, upper))
    assert found.p == pytest.approx(scipy.stats.wilcoxon(values, alternative="greater").pvalue)
    assert found.p >= 0.125
    assert "smallest attainable p with 3 subjects: 0.12" in found.note


def test_kornblith_is_the_published_formula_and_says_its_null(brain, layer):
    x, y = features_of(layer), trials_of(brain).mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    found = Kornblith2019()(brain, layer)
    assert found.value == pytest.approx(expected)
    assert 0 < float(found.note.rpartition(" ")[2]) < found.value


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_carry_their_name_and_paper(name):
    recipe = RECIPES[name]()
    assert recipe.name == name
    assert "doi.org" in recipe.reference


@pytest.mark.parametrize(
    ("change", "recipe", "message"),
    [
        (lambda ds: ds.drop_vars("object_name"), MajajHong2015PLS(), "coordinate 'object_name'"),
        (lambda ds: ds.isel(presentation=ds["repetition"] == 0), MajajHong2015PLS(), "2 or more"),
        (
            lambda ds: ds.assign_coords(region=("neuroid", ["IT"] * 5 + ["V4"] * 4)),
            BrainScoreRSA(),
            "has IT, V4; select one",
        ),
        (lambda ds: ds.isel(neuroid=slice(3)), Nili2014(), "needs 2 or more; the recording has 1"),
        (lambda ds: ds.drop_vars("stimulus_id"), Kornblith2019(), "by id"),
    ],
)
def test_errors_say_what_is_missing(brain, layer, change, recipe, message):
    with pytest.raises(ValueError, match=message):
        recipe(change(brain), layer)


def test_versions_are_two():
    with pytest.raises(ValueError, match="version is 2; there are 3"):
        MajajHong2015PLS(version=2)


@pytest.mark.parametrize("recipe", [MajajHong2015PLS(components=6), BrainScoreRSA(), Nili2014()])
def test_missing_trials_are_left_out_of_averages(brain, layer, recipe):
    full = recipe(brain, layer).raw
    gaps = brain.copy(deep=True)
    gaps["response"][:7] = np.nan  # whole trials
    found = recipe(gaps, layer).raw
    assert found == pytest.approx(full, abs=0.15)
    assert found != full
    trials = trials_of(gaps)
    filled = brain.isel(presentation=brain["repetition"] == 0).sortby("stimulus_id")
    filled = filled.copy(deep=True)
    filled["response"][:] = np.nanmean(trials, axis=0)
    if not isinstance(recipe, MajajHong2015PLS):
        assert recipe(filled, layer).raw == pytest.approx(found)


@pytest.mark.parametrize("recipe", [RECIPES[name]() for name in RECIPES], ids=list(RECIPES))
def test_a_stimulus_that_was_never_recorded_is_named(brain, layer, recipe):
    gaps = brain.copy(deep=True)
    gaps["response"][(brain["stimulus_id"] == "image007").values] = np.nan
    with pytest.raises(ValueError, match="image007.*no response in any repetition"):
        recipe(gaps, layer)
