"""False positive rates of every test that is offered, on simulated data without the effect.

python scripts/bench/null_rates.py [--small] [--write] [name ...]

Each row is a test on data in which its null hypothesis is true. A rate above the binomial upper
bound of alpha, Bonferroni-corrected for the number of rows that claim to hold, fails the script.
Rows that are invalid by design stand below, with the reason: they are what the others protect from.
--write puts the table into docs/null_rates.md. One more test is one more entry of TESTS: a function
of a seed that returns the p value (of a family: the smallest corrected one), and the smallest that
it can return.
"""

import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor

import repalign as ra
from repalign.ceiling import nili_ceiling
from repalign.inference import (
    ModelRDMs,
    Significance,
    benjamini_hochberg,
    bootstrap_draws,
    bootstrap_predictions,
    crossvalidate_resamples,
    crossvalidated_variances,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    holm,
    jackknife_cka,
    label_permutation_test,
    resample_test,
    sign_flip_test,
    subsample_draws,
    subsampled_cka,
    t_test,
    two_factor_crossvalidated_variances,
    two_factor_variances,
)
from repalign.layer_regions import LayerMapping
from repalign.metrics import CKA, RSA, Metric, Ridge, compare_rdms, rdm
from repalign.recording import make_activations, make_recording

SMALL = "--small" in sys.argv
DATA_SETS = 60 if SMALL else 500
WORKERS = os.cpu_count() or 1  # the numbers do not depend on it
ALPHA = 0.05
STIMULI, SUBJECTS, NEUROIDS, LAYERS = 24, 8, 20, 20
DRAWS = 199  # permutations, and resamples
PAGE = Path(__file__).parents[2] / "docs" / "null_rates.md"
BEGIN, END = "<!-- begin: null_rates -->", "<!-- end: null_rates -->"

Found = tuple[float, float]


@dataclass(frozen=True)
class Null:
    """A test on data without its effect.

    Args:
        run: from a seed to p and the smallest p; 0 where a formula has none.
        data: what the data are, in a few words.
        invalid: why this row is no test of its hypothesis; empty for those that claim to be.
    """

    run: Callable[[int], Found]
    data: str
    invalid: str = ""


def normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def distances(x: Tensor) -> Tensor:
    return torch.stack([rdm(one, method="euclidean") for one in x])


def unrelated(seed: int, n_models: int = 1) -> tuple[Tensor, Tensor]:
    """Models, and subjects who share a geometry that no model knows; models are correlated."""
    draw = np.random.default_rng(seed)
    own = draw.normal(size=(n_models, STIMULI, 6)) + draw.normal(size=(1, STIMULI, 6))
    shared = draw.normal(size=(STIMULI, 5))
    brains = np.stack(
        [
            shared @ draw.normal(size=(5, NEUROIDS)) + 2 * draw.normal(size=(STIMULI, NEUROIDS))
            for _ in range(SUBJECTS)
        ]
    )
    return distances(torch.from_numpy(own)), distances(torch.from_numpy(brains))


def reader(draw: np.random.Generator, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A brain that reads both by the same weights: whoever is held fixed, both are as good."""
    weights = draw.normal(size=(first.shape[1], NEUROIDS // 2))
    signal = np.hstack([first @ weights, second @ weights])
    return signal + 2 * draw.normal(size=signal.shape)


def equal(seed: int) -> tuple[Tensor, Tensor]:
    """Two models that stand for the brain equally well: it holds as much of one as of the other."""
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=(2, STIMULI, 5))
    brains = np.stack([reader(draw, first, second) for _ in range(SUBJECTS)])
    models = torch.from_numpy(np.stack([first, second]))
    return distances(models), distances(torch.from_numpy(brains))


def equal_for_these_stimuli(seed: int) -> tuple[Tensor, Tensor]:
    """The same for given stimuli: subjects' weights of two models are exchangeable."""
    draw = np.random.default_rng(seed)
    n_pairs = STIMULI * (STIMULI - 1) // 2
    models = draw.normal(size=(2, n_pairs))
    models = (models - models.mean(1, keepdims=True)) / models.std(1, keepdims=True)
    weights = 0.2 + 0.2 * draw.normal(size=(SUBJECTS, 2))
    noise = draw.normal(size=(SUBJECTS, n_pairs))
    return torch.from_numpy(models), torch.from_numpy(weights @ models + noise)


def similarities(models: Tensor, subjects: Tensor) -> Tensor:
    """Subject × model."""
    return compare_rdms(subjects[:, None], models[None], method="corr", batch_dims=2)


def smallest(found: Significance, *, family: bool = False) -> Found:
    p = found.p_family if family else found.p
    if p is None:
        raise AssertionError("no family")
    return float(p.min()), found.smallest_p


# Relatedness


def label_permutation(comparator: str = "corr", **settings: object) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        models, subjects = unrelated(seed)
        return smallest(
            label_permutation_test(
                models, subjects, comparator=comparator, n_permutations=DRAWS, seed=seed, **settings
            )[1]
        )

    return run


def exact_label_permutation(seed: int) -> Found:
    x = normal(seed, 2, 5, 6)
    models, subjects = distances(x[:1]), distances(x[1:])
    return smallest(label_permutation_test(models, subjects, n_permutations=1000)[1])


def twenty_models(correct: str) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        models, subjects = unrelated(seed, LAYERS)
        n = DRAWS if correct in ("max-T", "none") else 999  # Holm needs p as small as alpha/20
        found = label_permutation_test(
            models, subjects, comparator="corr", n_permutations=n, seed=seed
        )[1]
        if correct in ("max-T", "none"):
            return smallest(found, family=correct == "max-T")
        corrected = {"holm": holm, "bh": benjamini_hochberg}[correct](found.p)
        return float(corrected.min()), found.smallest_p

    return run


# Subjects


def sign_flips(n: int, alternative: str) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        values = normal(seed, n)
        return smallest(sign_flip_test(values, alternative=alternative, n_flips=1024, seed=seed))

    return run


def sign_flips_of_differences(seed: int) -> Found:
    values = similarities(*equal_for_these_stimuli(seed))
    return smallest(sign_flip_test(values[:, 0] - values[:, 1]))


def sign_flips_max_t(seed: int) -> Found:
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(SUBJECTS, LAYERS)) + draw.normal(size=(SUBJECTS, 1))
    return smallest(sign_flip_test(torch.from_numpy(values)), family=True)


def sign_flips_of_similarities(seed: int) -> Found:
    return smallest(sign_flip_test(similarities(*unrelated(seed))[:, 0], alternative="greater"))


# Resamples of stimuli, subjects, both


def by_t(
    data: Callable[[int], tuple[Tensor, Tensor]], over: str, what: str
) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        models, subjects = data(seed)
        draws = bootstrap_draws(STIMULI, SUBJECTS, over=over, n_resamples=DRAWS, seed=seed)
        if over == "both":
            dual = evaluate_dual(models, subjects, draws, comparator="corr")
            spread = two_factor_variances(dual, draws)
        else:
            found = evaluate_resamples(models, subjects, draws, comparator="corr")
            spread = estimated_variances(found, draws)
        value = similarities(models, subjects).mean(0)
        if what == "value":
            effect, variance = value[0], spread.models[0]
        elif what == "difference":
            effect, variance = value[0] - value[1], spread.differences[0, 1]
        else:
            effect, variance = value[0] - lower_ceiling(subjects), spread.to_lower[0]
        return smallest(t_test(effect, variance, degrees_of_freedom=spread.degrees_of_freedom))

    return run


def lower_ceiling(subjects: Tensor) -> Tensor:
    return nili_ceiling(subjects, comparator="corr")[0].mean()


def as_good_as_subjects(seed: int) -> tuple[Tensor, Tensor]:
    """A model that is the mean of as many other subjects as the lower ceiling averages."""
    draw = np.random.default_rng(seed)
    shared = draw.normal(size=(STIMULI, 5))
    brains = [
        shared @ draw.normal(size=(5, NEUROIDS)) + 2 * draw.normal(size=(STIMULI, NEUROIDS))
        for _ in range(2 * SUBJECTS - 1)
    ]
    rdms = distances(torch.from_numpy(np.stack(brains)))
    scaled = rdms - rdms.mean(1, keepdim=True)
    scaled = scaled / scaled.norm(dim=1, keepdim=True)
    return scaled[SUBJECTS:].mean(0, keepdim=True), rdms[:SUBJECTS]


def by_share(
    data: Callable[[int], tuple[Tensor, Tensor]], over: str, what: str, *, widened: bool = True
) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        models, subjects = data(seed)
        draws = bootstrap_draws(STIMULI, SUBJECTS, over=over, n_resamples=DRAWS, seed=seed)
        found = evaluate_resamples(models, subjects, draws, comparator="corr")
        if what == "value":
            value = found.models[:, 0]
            return smallest(resample_test(value, n_units=draws.n_units, alternative="greater"))
        other = found.models[:, 1] if what == "difference" else found.lower
        effects = found.models[:, 0] - other
        return smallest(resample_test(effects, n_units=draws.n_units if widened else None))

    return run


# Cross-validated, flexible models


def crossvalidated(over: str) -> Callable[[int], Found]:
    """Two families of three models each, of which one is selected in every training set."""

    def run(seed: int) -> Found:
        draw = np.random.default_rng(seed)
        parts = draw.normal(size=(6, STIMULI, 4))
        brains = np.stack([reader(draw, parts[0], parts[3]) for _ in range(SUBJECTS)])
        rdms, subjects = distances(torch.from_numpy(parts)), distances(torch.from_numpy(brains))
        models = [ModelRDMs(rdms[:3], fit="select"), ModelRDMs(rdms[3:], fit="select")]
        draws = bootstrap_draws(
            STIMULI, SUBJECTS, over=over, n_resamples=400, seed=seed, at_least_stimuli=6
        )
        settings = {"comparator": "corr", "n_folds": 2, "seed": seed}
        plain = bootstrap_draws(STIMULI, SUBJECTS, over=over, n_resamples=1, seed=seed)
        once = type(plain)(
            torch.ones_like(plain.stimuli), torch.ones_like(plain.subjects), over, "bootstrap"
        )
        value = crossvalidate_resamples(
            models, subjects, once, n_repeats=40, **settings
        ).models.mean((0, 1))  # many divisions, for the variance is without what they add
        parts_of = [crossvalidate_resamples(models, subjects, draws, **settings).values]
        if over == "both":
            ones = torch.ones_like(draws.stimuli), torch.ones_like(draws.subjects)
            for stimuli, of_subjects in ((ones[0], draws.subjects), (draws.stimuli, ones[1])):
                part = type(draws)(stimuli, of_subjects, over, "bootstrap")
                parts_of.append(crossvalidate_resamples(models, subjects, part, **settings).values)
            spread = two_factor_crossvalidated_variances(*parts_of, draws)
        else:
            spread = crossvalidated_variances(parts_of[0], draws)
        return smallest(
            t_test(
                value[0] - value[1],
                spread.differences[0, 1],
                degrees_of_freedom=spread.degrees_of_freedom,
            )
        )

    return run


# CKA and predictivity


def responses(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two populations that a third holds equally much of, on 40 stimuli."""
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=(2, 40, 5))
    brain = reader(draw, first, second)
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(brain)


def cka_subsampling(seed: int) -> Found:
    first, second, brain = map(CKA().prepare, responses(seed))
    draws = subsample_draws(40, n_resamples=DRAWS, seed=seed)
    values = subsampled_cka(brain, torch.stack([first, second]), draws)
    difference = values[:, 0] - values[:, 1]
    variance = difference.var()  # times m/(n − m), which is 1 of subsets of half
    effect = CKA().compare_prepared(brain, first) - CKA().compare_prepared(brain, second)
    return smallest(t_test(effect, variance, degrees_of_freedom=39))


def cka_jackknife(seed: int) -> Found:
    interval = jackknife_cka(
        *map(CKA().prepare, (normal(seed, 40, 6), normal(seed + 10**6, 40, 9)))
    )
    return 0.04 if interval.low > 0 or interval.high < 0 else 1.0, 0.0


def predictions(seed: int) -> Found:
    x, y = normal(seed, 40, 6), normal(seed + 10**6, 40, 3)
    guess, fold = Ridge(folds=4).predict(x, y)
    interval = bootstrap_predictions(guess, y, fold, n_resamples=DRAWS, seed=seed)
    return 0.04 if interval.low > 0 or interval.high < 0 else 1.0, 2 / (DRAWS + 1)


# The one call


def inferred(metric: Metric, column: str, **settings: object) -> Callable[[int], Found]:
    """The smallest corrected p of three models that know nothing of the subjects, or of a pair."""

    def run(seed: int) -> Found:
        draw = np.random.default_rng(seed)
        shared = draw.normal(size=(STIMULI, 5))
        brains = {
            f"p{i}": shared @ draw.normal(size=(5, 10)) + 2 * draw.normal(size=(STIMULI, 10))
            for i in range(4)
        }
        models = {f"m{i}": draw.normal(size=(STIMULI, 6)) for i in range(3)}
        if settings.get("fit"):
            models = {name: {"a": x, "b": draw.normal(size=x.shape)} for name, x in models.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ra.infer(
                brains, models, metric, n_resamples=DRAWS, seed=seed, workers=1, **settings
            )
        table = found.pairs if column == "pairs" else found.table
        p = table[column if column != "pairs" else "p_corrected"]
        if column == "pairs":
            return float(p.min()), float(table["smallest_p"].max())
        of = found.tests[found.tests["hypothesis"] == column.split("_")[0].replace("p", "chance")]
        return float(p.min()), float(of["smallest_p"].max())

    return run


# Choice of layers


def mapping(seed: int, *, disjoint: str, shared: bool, n_permutations: int) -> LayerMapping:
    """Twenty layers without any relation to the subjects, who share a geometry or do not."""
    draw = np.random.default_rng(seed)
    ids = [f"s{i}" for i in range(STIMULI)]
    common = draw.normal(size=(STIMULI, 5))
    brains = [
        shared * common @ draw.normal(size=(5, 10)) + 2 * draw.normal(size=(STIMULI, 10))
        for _ in range(SUBJECTS)
    ]
    recording = make_recording(
        np.hstack(brains),
        stimulus_id=ids,
        region="IT",
        subject=np.repeat([f"p{i}" for i in range(SUBJECTS)], 10),
    )
    of_all = draw.normal(size=(STIMULI, 6))
    layers = {
        f"layer{i}": make_activations(x, ids, "net", f"layer{i}", x.shape)
        for i, x in enumerate(draw.normal(size=(LAYERS, STIMULI, 6)) + 0.5 * of_all)
    }
    return ra.map_layers(
        recording,
        layers,
        RSA(rdm="euclidean", comparator="corr"),
        disjoint=disjoint,
        folds=3,
        n_permutations=n_permutations,
        seed=seed,
    )


def nested(disjoint: str) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        one = mapping(seed, disjoint=disjoint, shared=True, n_permutations=DRAWS)["IT"]
        return one.p, one.smallest_p

    return run


def nested_interval(disjoint: str, *, shared: bool) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        one = mapping(seed, disjoint=disjoint, shared=shared, n_permutations=0)["IT"]
        return 0.04 if one.interval.low > 0 or one.interval.high < 0 else 1.0, 0.0

    return run


# Hierarchy


def hierarchy(summary: str) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        scores = np.random.default_rng(seed).normal(size=(5, 8)).cumsum(1)
        if summary == "mean":
            scores = np.exp(scores)
        found = ra.hierarchy_score(scores, summary=summary)
        return found.p, found.smallest_p

    return run


def units(exchange: str, *, correlated: bool) -> Callable[[int], Found]:
    def run(seed: int) -> Found:
        draw = np.random.default_rng(seed)
        areas = np.repeat(np.arange(5), 20)
        scores = draw.normal(size=(100, 8)) + correlated * draw.normal(size=(5, 8))[areas]
        found = ra.brain_hierarchy_score(
            scores, areas, least=-9, exchange=exchange, n_permutations=DRAWS, seed=seed
        )
        return found.p, found.smallest_p

    return run


EUCLIDEAN = RSA(rdm="euclidean", comparator="corr")
UNRELATED = "models unrelated to subjects who share a geometry"
EQUAL = "two models equally good, over random stimuli"
EQUAL_HERE = "two models equally good for these stimuli"
POOL = "a model as good as the mean of the other subjects"
LUCK = (
    "subjects share a geometry, which resembles a model by chance on these stimuli: all of them"
    " show it. Test by permuted labels or the two-factor bootstrap"
)
TESTS: dict[str, Null] = {
    "label permutation": Null(label_permutation(), UNRELATED),
    "label permutation, two-sided": Null(label_permutation(alternative="two-sided"), UNRELATED),
    "label permutation, Spearman": Null(label_permutation("spearman"), UNRELATED),
    "label permutation, whitened": Null(label_permutation("corr_cov"), UNRELATED),
    "label permutation, exact, 5 stimuli": Null(exact_label_permutation, "unrelated, 1 subject"),
    "max-T of 20 models": Null(twenty_models("max-T"), UNRELATED),
    "Holm of 20 models": Null(twenty_models("holm"), UNRELATED),
    "Benjamini–Hochberg of 20 models": Null(twenty_models("bh"), UNRELATED),
    "sign flips, 8 subjects": Null(sign_flips(8, "two-sided"), "symmetric values"),
    "sign flips, 5 subjects": Null(sign_flips(5, "two-sided"), "symmetric values"),
    "sign flips, random, 20 subjects": Null(sign_flips(20, "greater"), "symmetric values"),
    "sign flips, paired": Null(sign_flips_of_differences, EQUAL_HERE),
    "sign flips, max-T of 20": Null(sign_flips_max_t, "symmetric, correlated values"),
    "t test over subjects, paired": Null(
        by_t(equal_for_these_stimuli, "subjects", "difference"), EQUAL_HERE
    ),
    "t test over stimuli, paired": Null(by_t(equal, "stimuli", "difference"), EQUAL),
    "t test over both (two-factor), paired": Null(by_t(equal, "both", "difference"), EQUAL),
    "t test over stimuli, against 0": Null(by_t(unrelated, "stimuli", "value"), UNRELATED),
    "t test over both (two-factor), against 0": Null(by_t(unrelated, "both", "value"), UNRELATED),
    "t test over both, against the lower ceiling": Null(
        by_t(as_good_as_subjects, "both", "ceiling"), POOL
    ),
    "share of resamples of stimuli, paired": Null(by_share(equal, "stimuli", "difference"), EQUAL),
    "share of resamples of stimuli, against 0": Null(
        by_share(unrelated, "stimuli", "value"), UNRELATED
    ),
    "share of resamples of stimuli, lower ceiling": Null(
        by_share(as_good_as_subjects, "stimuli", "ceiling"), POOL
    ),
    "share of resamples of subjects, paired": Null(
        by_share(equal_for_these_stimuli, "subjects", "difference"), EQUAL_HERE
    ),
    "cross-validated t test over stimuli": Null(
        crossvalidated("stimuli"), "two families of models equally good"
    ),
    "cross-validated t test over both": Null(
        crossvalidated("both"), "two families of models equally good"
    ),
    "CKA, subsampling, paired": Null(cka_subsampling, "two populations equally alike"),
    "CKA, jackknife interval": Null(cka_jackknife, "unrelated populations"),
    "infer, RSA over stimuli, Holm": Null(inferred(EUCLIDEAN, "p_corrected"), UNRELATED),
    "infer, RSA over both, Holm": Null(inferred(EUCLIDEAN, "p_corrected", over="both"), UNRELATED),
    "infer, RSA over stimuli, max-T": Null(
        inferred(EUCLIDEAN, "p_corrected", correction="max-t"), UNRELATED
    ),
    "infer, RSA, permuted labels, Holm": Null(
        inferred(EUCLIDEAN, "labels_p_corrected", n_permutations=999), UNRELATED
    ),
    "infer, RSA over both, pairs": Null(inferred(EUCLIDEAN, "pairs", over="both"), UNRELATED),
    "infer, chosen layers, RSA over both, pairs": Null(
        inferred(EUCLIDEAN, "pairs", over="both", fit="select"), UNRELATED
    ),
    "infer, CKA over stimuli, Holm": Null(inferred(CKA(), "p_corrected"), UNRELATED),
    "infer, CKA over stimuli, pairs": Null(inferred(CKA(), "pairs"), UNRELATED),
    "infer, ridge over stimuli, Holm": Null(
        inferred(Ridge(folds=4), "p_corrected", n_permutations=19), UNRELATED
    ),
    "20 layers, chosen on other stimuli": Null(nested("stimuli"), UNRELATED),
    "20 layers, chosen on other subjects": Null(nested("subjects"), UNRELATED),
    "20 layers, chosen on both": Null(nested("both"), UNRELATED),
    "20 layers, other stimuli, jackknife interval": Null(
        nested_interval("stimuli", shared=True), UNRELATED
    ),
    "20 layers, other subjects, jackknife interval": Null(
        nested_interval("subjects", shared=False), "unrelated, subjects share nothing"
    ),
    "hierarchy of 5 areas, best layers": Null(hierarchy("best"), "areas' profiles exchangeable"),
    "hierarchy of 5 areas, mean depths": Null(hierarchy("mean"), "areas' profiles exchangeable"),
    "brain hierarchy score, levels": Null(
        units("levels", correlated=True), "neuroids of an area alike, areas exchangeable"
    ),
    "brain hierarchy score, units": Null(
        units("units", correlated=False), "neuroids independent of each other"
    ),
    "share of resamples of subjects, paired, not widened": Null(
        by_share(equal_for_these_stimuli, "subjects", "difference", widened=False),
        EQUAL_HERE,
        "8 subjects: resamples of few units vary too little. Give n_units",
    ),
    "held-out predictions, bootstrap interval": Null(
        predictions,
        "unrelated populations",
        "the interval is for the models as they were fitted, and narrow with 10 stimuli a fold."
        " Permute stimuli (`map_layers` with permutations) to test for a relation",
    ),
    "the best of 20 models, uncorrected": Null(
        twenty_models("none"), UNRELATED, "chosen and tested on the same data"
    ),
    "sign flips of similarities": Null(sign_flips_of_similarities, UNRELATED, LUCK),
    "t test over subjects, against 0": Null(by_t(unrelated, "subjects", "value"), UNRELATED, LUCK),
    "20 layers, other subjects, jackknife interval, shared": Null(
        nested_interval("subjects", shared=True), UNRELATED, LUCK
    ),
    "brain hierarchy score, units, areas alike within": Null(
        units("units", correlated=True),
        "neuroids of an area alike, areas exchangeable",
        "neuroids are taken for independent; exchange='levels' exchanges areas",
    ),
}


def upper_bound(n_rows: int) -> int:
    """Return the most rejections that DATA_SETS valid tests may show."""
    return int(binom.ppf(1 - 0.05 / n_rows, DATA_SETS, ALPHA))


def run_one(name: str, seed: int) -> Found:
    return TESTS[name].run(seed)


def main() -> None:
    asked = [word for word in sys.argv[1:] if not word.startswith("--")]
    chosen = {
        name: null for name, null in TESTS.items() if not asked or any(a in name for a in asked)
    }
    bound = upper_bound(sum(not null.invalid for null in TESTS.values()))
    lines = ["| test | data | rate at .05 | smallest p | |", "| --- | --- | --- | --- | --- |"]
    print("\n".join(lines))
    failed = []
    torch.set_num_threads(1)
    pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("fork"))
    for name, null in chosen.items():
        begin = time.perf_counter()
        found = list(pool.map(partial(run_one, name), range(DATA_SETS), chunksize=20))
        rejected = sum(p <= ALPHA for p, _ in found)
        least = max(smallest_p for _, smallest_p in found)
        verdict = f"**invalid**: {null.invalid}" if null.invalid else ""
        if not null.invalid and rejected > bound:
            failed.append(name)
            verdict = "**above the bound**"
        elif not null.invalid and rejected < binom.ppf(0.025, DATA_SETS, ALPHA):
            verdict = "conservative"
        smallest_text = f"{least:.2g}" if least > 1e-300 else "none"
        lines.append(
            f"| {name} | {null.data} | {rejected / DATA_SETS:.3f} | {smallest_text} | {verdict} |"
        )
        print(lines[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
    said = (
        f"{DATA_SETS} data sets a row; the upper bound is {bound / DATA_SETS:.3f}: alpha .05, 95 %,"
        f" Bonferroni-corrected for {sum(not n.invalid for n in TESTS.values())} rows."
    )
    pool.shutdown()
    print(f"\n{said}")
    if "--write" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        table = "\n".join([BEGIN, "", *lines, "", said, ""])
        PAGE.write_text(head + table + END + rest.split(END)[1], encoding="utf-8")
    if failed:
        sys.exit(f"above the bound: {', '.join(failed)}")


if __name__ == "__main__":
    main()
