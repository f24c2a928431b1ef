"""Layers of regions: nested choices beside plain loops, planted layers, commitments, warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import repalign as ra
from repalign.inference import jackknife_cka
from repalign.layer_regions.nested_choice import choose_nested
from repalign.layer_regions.part_scores import score_parts
from repalign.metrics import (
    CKA,
    PLS,
    RSA,
    OneToOne,
    Procrustes,
    Ridge,
)
from repalign.metrics.folds import fold_scores, shuffled_folds
from repalign.recording import make_activations, make_rdm_recording, make_recording

IDS = [f"s{i:02d}" for i in range(40)]
METRICS = [
    RSA(),
    RSA(rdm="euclidean", comparator="corr_cov"),
    RSA(comparator="tau-a"),
    CKA(),
    CKA(debiased=False),
    Ridge(folds=3),
    PLS(folds=3, components=3),
    Procrustes(),
]


def layers_of(arrays: dict[str, np.ndarray], ids: list[str] = IDS) -> dict[str, xr.Dataset]:
    return {name: make_activations(x, ids, "net", name, x.shape) for name, x in arrays.items()}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {f"layer{i}": random.normal(size=(40, 6 + 20 * i)) for i in range(3)}


@pytest.fixture(scope="module")
def brain(arrays: dict[str, np.ndarray]) -> xr.Dataset:
    """V1 reads layer0 and IT layer2, in two monkeys, through random weights and noise."""
    random = np.random.default_rng(2)
    columns, regions, subjects = [], [], []
    for subject in ("a", "b"):
        for region, layer in (("V1", "layer0"), ("IT", "layer2")):
            x = arrays[layer]
            read = x @ random.normal(size=(x.shape[1], 12)) / x.shape[1] ** 0.5
            columns.append(read + 0.7 * random.normal(size=read.shape))
            regions += [region] * 12
            subjects += [subject] * 12
    return make_recording(
        np.hstack(columns),
        stimulus_id=IDS,
        region=regions,
        subject=subjects,
        attrs={"dataset": "planted", "fingerprint": "sha256:abc"},
    )


def responses(brain: xr.Dataset, region: str, subject: str) -> np.ndarray:
    return ra.select(brain, region=region, subject=subject)["response"].values


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_scores_of_parts_equal_the_metric_on_those_stimuli(brain, arrays, metric):
    y = responses(brain, "V1", "a")
    fold = shuffled_folds(40, folds=3, seed=5)
    mapping = ra.map_layers(
        ra.select(brain, subject="a"),
        layers_of(arrays),
        metric,
        folds=3,
        seed=5,
        n_permutations=0,
    )
    found = mapping.to_xarray().sel(region="V1")
    for j, x in enumerate(arrays.values()):
        assert float(found["whole"][j]) == pytest.approx(float(metric(x, y)), abs=1e-9)
        for k in range(3):
            out = (fold == k).numpy()
            choosing = float(metric(x[~out], y[~out]))
            assert float(found["choosing"][k, j]) == pytest.approx(choosing, abs=1e-9)
            if not hasattr(metric, "scores"):
                held_out = float(metric(x[out], y[out]))
                assert float(found["held_out"][k, j]) == pytest.approx(held_out, abs=1e-9)


def test_held_out_predictivity_is_of_a_fit_to_the_other_folds(brain, arrays):
    """Against a ridge regression written out, with the one penalty that is offered."""
    y, x = responses(brain, "V1", "a"), arrays["layer0"]
    fold = shuffled_folds(40, folds=4, seed=0).numpy()
    mapping = ra.map_layers(
        ra.select(brain, subject="a"), layers_of(arrays), Ridge(alphas=(1.0,)), folds=4
    )
    for k in range(4):
        a, b = x[fold != k], y[fold != k]
        centred, mean = a - a.mean(0), a.mean(0)
        penalty = (centred**2).sum() / len(a)
        weights = np.linalg.solve(
            centred.T @ centred + penalty * np.eye(a.shape[1]), centred.T @ (b - b.mean(0))
        )
        guess = torch.from_numpy((x[fold == k] - mean) @ weights + b.mean(0))
        score = fold_scores(guess, torch.from_numpy(y[fold == k]), torch.zeros(10)).median()
        correlations = fold_scores(guess, torch.from_numpy(y[fold == k]), torch.zeros(10))
        found = float(mapping.to_xarray()["held_out"].sel(region="V1", layer="layer0")[k])
        assert found == pytest.approx(float(np.median(correlations.numpy())), abs=1e-9), score


@pytest.mark.parametrize("disjoint", ["stimuli", "subjects", "both"])
@pytest.mark.parametrize("metric", [RSA(rdm="euclidean", comparator="corr"), Procrustes()])
def test_nested_choice_equals_a_plain_loop(brain, arrays, disjoint, metric):
    """The choice never sees what is scored: written out with loops over folds and subjects."""
    sign = 1 if metric.higher_is_more_similar else -1
    fold = shuffled_folds(40, folds=4, seed=7).numpy()
    folds = [fold == k for k in range(4)] if disjoint != "subjects" else [np.ones(40, bool)]
    y = {subject: responses(brain, "IT", subject) for subject in "ab"}

    def score(x: np.ndarray, subject: str, rows: np.ndarray) -> float:
        return float(metric(x[rows], y[subject][rows]))

    values, chosen = [], []
    for out in folds:
        seen = ~out if disjoint != "subjects" else out
        for subject in "ab":
            choosers = "ab" if disjoint == "stimuli" else "ab".replace(subject, "")
            means = [
                sign * np.mean([score(x, one, seen) for one in choosers]) for x in arrays.values()
            ]
            best = list(arrays)[int(np.argmax(means))]
            chosen.append(best)
            values.append(score(arrays[best], subject, out))
    mapping = ra.map_layers(
        brain,
        layers_of(arrays),
        metric,
        disjoint=disjoint,
        folds=4,
        seed=7,
        n_permutations=0,
        regions=["IT"],
    )
    one = mapping["IT"]
    assert one.value == pytest.approx(np.mean(values), abs=1e-9)
    times = 0.5 if disjoint == "stimuli" else 1  # both subjects share one choice
    assert one.times_chosen == {
        name: int(times * chosen.count(name)) for name in arrays if name in chosen
    }


@pytest.mark.parametrize("metric", [RSA(), CKA(), Ridge()], ids=lambda m: m.name)
@pytest.mark.parametrize("disjoint", ["stimuli", "subjects", "both"])
def test_planted_layers_are_found(brain, arrays, metric, disjoint):
    mapping = ra.map_layers(
        brain, layers_of(arrays), metric, disjoint=disjoint, folds=4, n_permutations=0
    )
    assert [one.layer for one in mapping.regions] == ["layer0", "layer2"]
    assert mapping["V1"].value > 0.2
    assert all(one.p is None for one in mapping.regions)


def test_permuted_scores_are_those_of_permuted_brains(arrays):
    random = np.random.default_rng(0)
    y = torch.from_numpy(random.normal(size=(40, 9)))
    orders = torch.stack([torch.arange(40), *(torch.randperm(40) for _ in range(3))])
    fold = shuffled_folds(40, folds=4, seed=0)
    for metric in (RSA(), CKA(), RSA(comparator="tau-b"), Ridge(folds=3)):
        models = [metric.prepare(torch.from_numpy(x)) for x in arrays.values()]
        predicts = hasattr(metric, "scores")

        brains = [y if predicts else metric.prepare(y) for y in (y, *y[orders])]
        together = score_parts(metric, brains[:1], models, fold, orders)[0]
        for i, brain in enumerate(brains[1:]):
            alone = score_parts(metric, [brain], models, fold, orders[:1])[0]
            for a, b in zip(vars(together).values(), vars(alone).values(), strict=True):
                torch.testing.assert_close(a[i], b[0], atol=1e-10, rtol=0)


def test_p_values_are_small_for_planted_layers_and_say_the_smallest(brain, arrays):
    mapping = ra.map_layers(brain, layers_of(arrays), n_permutations=199)
    for one in mapping.regions:
        assert one.p == one.p_family == one.smallest_p == 1 / 200
    assert "199 permutations of stimuli, the choice repeated, smallest 0.005" in str(mapping)
    again = ra.map_layers(brain, layers_of(arrays), n_permutations=199)
    assert again.rows() == mapping.rows()


def test_the_best_of_many_is_too_good_and_the_held_out_score_is_not():
    """Twenty unrelated layers: on the same data the best is above zero, held out it is not."""
    same, held_out = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        layers = layers_of({f"l{i}": random.normal(size=(30, 5)) for i in range(20)}, IDS[:30])
        noise = make_recording(random.normal(size=(30, 8)), stimulus_id=IDS[:30], region="IT")
        metric = RSA(rdm="euclidean", comparator="corr")
        one = ra.map_layers(noise, layers, metric, folds=3, n_permutations=0)["IT"]
        same.append(one.same_data_value)
        held_out.append(one.value)
    assert min(same) > 0
    assert abs(np.mean(held_out)) < 3 * np.std(held_out) / 40**0.5
    assert np.mean(same) > 0.1


def test_jackknife_interval_of_one_fold_equals_that_of_cka(arrays):
    """With the variance of each fold by the package's own jackknife of CKA."""
    random = np.random.default_rng(3)
    y = random.normal(size=(40, 9)) + arrays["layer0"] @ random.normal(size=(6, 9))
    noise = make_recording(y, stimulus_id=IDS, region="IT")
    mapping = ra.map_layers(noise, layers_of(arrays), CKA(), folds=2, n_permutations=0)
    fold, reaches = shuffled_folds(40, folds=2, seed=0), []
    assert mapping["IT"].times_chosen == {"layer0": 2}
    for k in range(2):
        grams = [CKA().prepare(torch.from_numpy(x)[fold == k]) for x in (y, arrays["layer0"])]
        one = jackknife_cka(*grams)
        from scipy.stats import t

        reaches.append((one.high - one.low) / 2 / t.ppf(0.975, 19))
    error = np.sqrt(np.square(reaches).sum()) / 2
    interval = mapping["IT"].interval
    assert interval is not None
    assert interval.high - mapping["IT"].value == pytest.approx(error * t.ppf(0.975, 38), rel=1e-9)
    assert "38 degrees of freedom" in interval.kind


def test_interval_over_subjects_repeats_the_choice_without_each(arrays):
    """Beside the whole mapping of the recordings that lack one subject."""
    random = np.random.default_rng(5)
    read = [
        arrays["layer1"] @ random.normal(size=(26, 5)) + 9 * random.normal(size=(40, 5))
        for _ in range(4)
    ]
    subjects = np.repeat(list("abcd"), 5)
    recording = make_recording(
        np.hstack(read), stimulus_id=IDS, region="IT", subject=list(subjects)
    )

    def value(kept: str) -> ra.layer_regions.RegionLayer:
        part = ra.select(recording, subject=list(kept))
        return ra.map_layers(part, layers_of(arrays), disjoint="subjects", n_permutations=0)["IT"]

    left = np.array([value(kept).value for kept in ("bcd", "acd", "abd", "abc")])
    error = np.sqrt(3 / 4 * np.square(left - left.mean()).sum())
    one = value("abcd")
    assert one.interval is not None
    assert one.interval.high - one.value == pytest.approx(3.182446305 * error, rel=1e-6)
    assert "over subjects, t with 3 degrees of freedom" in one.interval.kind
    assert value("ab").interval is None


def test_published_rdms_of_individuals_and_of_a_group(arrays):
    random = np.random.default_rng(4)
    squares = []
    for _ in range(3):
        y = arrays["layer1"] + random.normal(size=arrays["layer1"].shape)
        squares.append(1 - np.corrcoef(y))
    for square in squares:
        np.fill_diagonal(square, 0)
    recording = make_rdm_recording(
        np.array([*squares, np.mean(squares, axis=0)]),
        stimulus_id=IDS,
        subject=["a", "b", "c", "group"],
        species="human",
        region="IT",
    )
    one = ra.map_layers(recording, layers_of(arrays), n_permutations=99)["IT"]
    assert (one.layer, one.subjects, one.p) == ("layer1", ("a", "b", "c"), 0.01)
    alone = ra.map_layers(ra.select(recording, subject="group"), layers_of(arrays))["IT"]
    assert alone.subjects == ("group",)
    with pytest.raises(ValueError, match="needs responses of single neuroids: use metric rsa"):
        ra.map_layers(recording, layers_of(arrays), CKA())


def test_groups_stay_in_one_fold_and_leave_out_interval_and_permutations(brain, arrays):
    objects = [f"object{i // 4}" for i in range(40)]
    grouped = brain.assign_coords(object=("presentation", objects))
    mapping = ra.map_layers(grouped, layers_of(arrays), groups="object")
    assert mapping["V1"].interval is None
    assert mapping["V1"].p is None
    assert "not tested" in mapping.note
    with pytest.raises(ValueError, match="leave n_permutations out"):
        ra.map_layers(grouped, layers_of(arrays), groups="object", n_permutations=10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disjoint": "voxels"}, "disjoint is 'voxels'; expected one of stimuli, subjects, both"),
        ({"folds": 1}, "folds is 1; expected a whole number, 2 or more"),
        ({"folds": 2.5}, "folds is 2.5; expected a whole number"),
        ({"regions": []}, "regions is empty; there are V1, IT"),
        ({"seed": None}, "seed is None; expected a whole number"),
        ({"folds": 20}, "20 folds are 2 a fold and 38 beside it; rsa needs 3 and 3 or more"),
        ({"regions": ["V9"]}, "no region 'V9'; there are V1, IT"),
        ({"n_permutations": -1}, "n_permutations is -1"),
    ],
)
def test_bad_settings_are_explained(brain, arrays, settings, message):
    with pytest.raises(ValueError, match=message):
        ra.map_layers(brain, layers_of(arrays), **settings)


def test_bad_data_are_explained(brain, arrays):
    layers = layers_of(arrays)
    with pytest.raises(ValueError, match="there are no layers"):
        ra.map_layers(brain, {})
    with pytest.raises(ValueError, match="region 'V1' has 1 subject; disjoint='subjects' needs 2"):
        ra.map_layers(ra.select(brain, subject="a"), layers, disjoint="subjects")
    other = make_activations(arrays["layer0"][:30], IDS[:30], "net", "short", (30, 6))
    with pytest.raises(ValueError, match="layer 'short' was recorded on different stimuli"):
        ra.map_layers(brain, {**layers, "short": other})
    mixed = brain.assign_coords(species=("neuroid", ["macaque"] * 24 + ["human"] * 24))
    with pytest.raises(ValueError, match=r"region 'V1' is in 2 species \(human, macaque\)"):
        ra.map_layers(mixed, layers)
    with pytest.raises(KeyError, match="no region 'V4'; there are V1, IT"):
        ra.map_layers(brain, layers, n_permutations=0)["V4"]


def test_what_is_no_list_of_regions_and_no_layer_is_explained(brain, arrays):
    layers = layers_of(arrays)
    with pytest.raises(TypeError, match=r"regions is 'IT'; expected a list .* \['IT'\]"):
        ra.map_layers(brain, layers, regions="IT")
    with pytest.raises(ValueError, match="layer 'monkeys' holds 4 populations"):
        ra.map_layers(brain, {**layers, "monkeys": brain})
    holes = arrays["layer0"].copy()
    holes[3, 2] = np.nan
    with pytest.raises(ValueError, match="net holes has 1 values that are NaN"):
        ra.map_layers(brain, {**layers, **layers_of({"holes": holes})}, CKA())


def test_of_layers_that_are_equal_but_for_rounding_the_first_is_chosen(brain, arrays):
    x = arrays["layer0"]
    order = np.random.default_rng(0).permutation(x.shape[1])
    copies = layers_of({"a": x, "b": x[:, ::-1], "c": 3 * x, "d": x[:, order] + 7})
    for metric in (RSA(), CKA()):
        mapping = ra.map_layers(brain, copies, metric, n_permutations=9)
        assert [(one.layer, one.times_chosen) for one in mapping.regions] == [("a", {"a": 5})] * 2


def test_a_choice_with_no_defined_layer_is_an_error():
    nothing = torch.full((1, 1, 1, 2), torch.nan)
    with pytest.raises(ValueError, match="No layer has a defined score"):
        choose_nested(nothing, nothing, leave_subject_out=False)
    some = torch.tensor([[[[torch.nan, 0.1, 0.2], [0.9, 0.5, torch.nan]]]])
    nested = choose_nested(some, some, leave_subject_out=False)
    assert nested.chosen.flatten().tolist() == [1, 1]
    assert choose_nested(some, some, leave_subject_out=True).chosen.flatten().tolist() == [0, 2]


# Commitments


def test_a_commitment_says_all_and_reads_back(brain, arrays, tmp_path):
    mapping = ra.map_layers(brain, layers_of(arrays), CKA(debiased=False), n_permutations=99)
    path = ra.write_commitment(mapping, tmp_path / "choice.toml")
    first = path.read_bytes()
    ra.write_commitment(mapping, path)
    assert path.read_bytes() == first
    found = ra.read_commitment(path)
    assert found.layers == {"V1": "layer0", "IT": "layer2"}
    assert found.built_metric() == CKA(debiased=False)
    assert found.chosen_on.stimuli == IDS
    assert found.chosen_on.fingerprint == "sha256:abc"
    assert found.chosen_on.subjects == {"V1": ["a", "b"], "IT": ["a", "b"]}
    assert found.held_out["V1"].smallest_p == 0.01
    assert (found.model, found.folds, found.seed) == ("net", 5, 0)
    assert set(found.candidates) == set(arrays)
    assert found.versions["torch"] == torch.__version__.partition("+")[0] or found.versions["torch"]


def test_odd_names_survive_a_commitment(brain, arrays, tmp_path):
    odd = 'sé"l\\ 1.\x7f\n😀'
    layers = {odd: layers_of(arrays)["layer0"], "a.b": layers_of(arrays)["layer2"]}
    renamed = brain.assign_coords(region=("neuroid", ["V1.d # x"] * 48))
    mapping = ra.map_layers(renamed, layers, n_permutations=0)
    found = ra.read_commitment(ra.write_commitment(mapping, tmp_path / "c.toml"))
    assert set(found.candidates) == {odd, "a.b"}
    assert list(found.layers) == ["V1.d # x"]


def test_a_commitment_is_scored_on_other_data_without_a_warning(brain, arrays, tmp_path):
    mapping = ra.map_layers(brain, layers_of(arrays), n_permutations=0)
    commitment = ra.read_commitment(ra.write_commitment(mapping, tmp_path / "c.toml"))
    random = np.random.default_rng(9)
    ids = [f"new{i}" for i in range(30)]
    fresh = {name: random.normal(size=(30, x.shape[1])) for name, x in arrays.items()}
    read = fresh["layer2"] @ random.normal(size=(fresh["layer2"].shape[1], 12))
    other = make_recording(read, stimulus_id=ids, region="IT", attrs={"dataset": "other"})
    results = ra.score_commitment(commitment, other, layers_of(fresh, ids), n_resamples=0)
    assert [(one.region, one.layer) for one in results] == [("IT", "layer2")]
    assert results[0].value > 0.3
    assert "not recorded here: V1" in results.note
    assert "in other subjects" not in results.note


def test_data_that_chose_a_layer_are_recognised(brain, arrays, tmp_path):
    layers = layers_of(arrays)
    mapping = ra.map_layers(ra.select(brain, subject="a"), layers, n_permutations=0)
    commitment = ra.read_commitment(ra.write_commitment(mapping, tmp_path / "c.toml"))
    with pytest.warns(ra.ReusedDataWarning, match="V1: the layer was chosen from 3 on 40 of these"):
        found = ra.score_commitment(
            commitment, ra.select(brain, region="V1"), layers, n_resamples=0
        )
    assert "its score there is too good" in found.note
    found = ra.score_commitment(commitment, ra.select(brain, subject="b"), layers, n_resamples=0)
    assert "V1: 40 of these 40 stimuli chose the layer in other subjects" in found.note
    chosen = mapping.chosen_layer("V1", layers)
    some = ra.select(brain, region="V1", stimulus_id=IDS[:12])
    with pytest.warns(ra.ReusedDataWarning, match="on 12 of these 12 stimuli, by responses of a"):
        assert "too good" in ra.compare(some, chosen, n_resamples=0).note
    ra.compare(ra.select(some, subject="b"), chosen, n_resamples=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 0", "seed = zero"), "is no TOML"),
        (("seed = 0", 'seed = "0"'), "is no commitment: seed: Input should be a valid integer"),
        (("seed = 0", "seed = 0\nsteps = 1"), "steps: Extra inputs are not permitted"),
        (('"s03", ', ""), "the list was changed after it was written"),
        (('"V1" = "layer0"', '"V1" = "layer9"'), "'layer9', which is not among the candidates"),
        (('kind = "layer-commitment"', 'kind = "model"'), "Input should be 'layer-commitment'"),
    ],
)
def test_a_damaged_commitment_is_refused(brain, arrays, tmp_path, change, message):
    mapping = ra.map_layers(brain, layers_of(arrays), n_permutations=0)
    path: Path = ra.write_commitment(mapping, tmp_path / "c.toml")
    text = path.read_text().replace('"kind"', "kind").replace('"seed"', "seed")
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        ra.read_commitment(path)


def test_commitments_refuse_what_they_are_not_about(brain, arrays, tmp_path):
    layers = layers_of(arrays)
    mapping = ra.map_layers(brain, layers, OneToOne(), folds=2)
    commitment = ra.read_commitment(ra.write_commitment(mapping, tmp_path / "c.toml"))
    assert isinstance(commitment.built_metric(), OneToOne)
    with pytest.raises(ValueError, match="about V1, IT; the recording has V4"):
        ra.score_commitment(
            commitment,
            make_recording(np.zeros((40, 2)), stimulus_id=IDS, region="V4"),
            layers,
        )
    with pytest.raises(ValueError, match="layer 'layer0' of region 'V1' is missing"):
        ra.score_commitment(commitment, brain, {"layer2": layers["layer2"]})
    twin = {name: ds.assign_attrs(model="twin") for name, ds in layers.items()}
    with pytest.raises(ValueError, match="about 'net', these are of 'twin'"):
        ra.score_commitment(commitment, brain, twin)
    with pytest.raises(ValueError, match=r"does not end in \.toml"):
        ra.write_commitment(mapping, tmp_path / "c.json")
