"""Resampled RSA beside rsatoolbox, in the very same resamples."""

import contextlib
import io
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from repalign.inference import (
    RESAMPLED,
    Draws,
    ModelRDMs,
    bootstrap_draws,
    crossvalidate_resamples,
    crossvalidated_variances,
    estimated_variances,
    evaluate_dual,
    evaluate_resamples,
    t_test,
    two_factor_variances,
)
from repalign.inference.crossvalidation import random_folds
from repalign.inference.draws import stream
from repalign.inference.variances import Variances
from repalign.metrics import rdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.inference import evaluate
    from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's
N_STIMULI, N_SUBJECTS, N_MODELS, N_RESAMPLES = 9, 4, 3, 25
EACH = pytest.mark.parametrize("comparator", RESAMPLED)
PAIRS = [(i, j) for i in range(N_MODELS) for j in range(i + 1, N_MODELS)]


def material(*, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    random = torch.Generator().manual_seed(5)
    shared = torch.randn(N_STIMULI, 4, generator=random, dtype=torch.float64)

    def noisy(amount: float) -> torch.Tensor:
        noise = torch.randn(N_STIMULI, 4, generator=random, dtype=torch.float64)
        return rdm(shared + amount * noise, method="euclidean")

    subjects = torch.stack([noisy(1.0) for _ in range(N_SUBJECTS)])
    models = torch.stack([noisy(amount) for amount in (0.3, 1.0, 3.0)])
    if ties:
        subjects[1:3], models[:2] = subjects[1:3].round(), models[:2].round()
    return models.numpy(), subjects.numpy()


def peers(models: np.ndarray) -> list:
    return [rsatoolbox.model.ModelFixed(f"m{i}", model) for i, model in enumerate(models)]


@contextlib.contextmanager
def same_draws(draws: Draws):
    """rsatoolbox takes our resamples for its own, one after the other."""
    rows = iter(zip(draws.subjects.numpy(), draws.stimuli.numpy(), strict=True))

    def indices() -> list[np.ndarray]:
        return [np.repeat(np.arange(len(row)), row) for row in next(rows)]

    def both(rdms, **_):
        subjects, stimuli = indices()
        sample = rdms.subsample("index", subjects).subsample_pattern("index", stimuli)
        return sample, subjects, stimuli

    def over_stimuli(rdms, *_, **__):
        _, stimuli = indices()
        return rdms.subsample_pattern("index", stimuli), stimuli

    def over_subjects(rdms, *_, **__):
        subjects, _ = indices()
        return rdms.subsample("index", subjects), subjects

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()):
        patch.setattr(evaluate, "bootstrap_sample", both)
        patch.setattr(evaluate, "bootstrap_sample_pattern", over_stimuli)
        patch.setattr(evaluate, "bootstrap_sample_rdm", over_subjects)
        yield


def check_variances(found: Variances, peer) -> None:
    np.testing.assert_allclose(found.models, peer.model_var, rtol=1e-8, atol=1e-12)
    differences = [found.differences[i, j] for i, j in PAIRS]
    np.testing.assert_allclose(differences, peer.diff_var, rtol=1e-8, atol=1e-12)
    ceilings = torch.stack([found.to_lower, found.to_upper], 1)
    np.testing.assert_allclose(ceilings, peer.noise_ceil_var, rtol=1e-8, atol=1e-12)
    assert found.degrees_of_freedom == peer.dof


@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "ties"])
@pytest.mark.parametrize("over", ["stimuli", "subjects", "both"])
@EACH
def test_bootstrap_equals_rsatoolbox(comparator, over, ties):
    models, subjects = material(ties=ties)
    draws = bootstrap_draws(
        N_STIMULI, N_SUBJECTS, over=over, n_resamples=N_RESAMPLES, at_least_subjects=2
    )
    peer = {
        "stimuli": evaluate.eval_bootstrap_pattern,
        "subjects": evaluate.eval_bootstrap_rdm,
        "both": evaluate.eval_bootstrap,
    }[over]
    with same_draws(draws):
        expected = peer(
            peers(models), rsatoolbox.rdm.RDMs(subjects), method=comparator, N=N_RESAMPLES
        )
    found = evaluate_resamples(models, subjects, draws, comparator=comparator)
    np.testing.assert_allclose(found.models, expected.evaluations, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.lower, expected.noise_ceiling[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.upper, expected.noise_ceiling[1], rtol=0, atol=1e-8)
    assert found.models.std(0).min() > 0.001
    variances = estimated_variances(found, draws)
    if over == "subjects":  # the peer's variances are without the ceilings here
        np.testing.assert_allclose(variances.models, expected.model_var, rtol=1e-8)
        assert variances.degrees_of_freedom == expected.dof
    else:
        check_variances(variances, expected)


@EACH
def test_dual_bootstrap_equals_rsatoolbox(comparator):
    models, subjects = material(ties=False)
    draws = bootstrap_draws(N_STIMULI, N_SUBJECTS, n_resamples=N_RESAMPLES, at_least_subjects=2)
    with same_draws(draws):
        expected = evaluate.eval_dual_bootstrap(
            peers(models), rsatoolbox.rdm.RDMs(subjects), method=comparator, N=N_RESAMPLES
        )
    found = evaluate_dual(models, subjects, draws, comparator=comparator)
    for i, part in enumerate(found):
        close = partial(np.testing.assert_allclose, rtol=0, atol=1e-8)
        close(part.models, expected.evaluations[:, :, 0, 0, i])
        close(part.lower, expected.noise_ceiling[0, :, 0, i])
        close(part.upper, expected.noise_ceiling[1, :, 0, i])
    variances = two_factor_variances(found, draws)
    check_variances(variances, expected)
    # and so do the tests that are made of them; the peer's value is the mean over all three
    values = torch.stack([part.models.mean(0) for part in found]).mean(0)
    tests = partial(t_test, degrees_of_freedom=variances.degrees_of_freedom)
    against_zero = tests(values, variances.models, alternative="greater").p
    np.testing.assert_allclose(against_zero, expected.test_zero(), atol=1e-8)
    differences = tests(values[:, None] - values, variances.differences).p
    np.testing.assert_allclose(differences, expected.test_pairwise(), atol=1e-8)
    lower = torch.stack([part.lower.mean() for part in found]).mean()
    to_lower = tests(values - lower, variances.to_lower).p
    np.testing.assert_allclose(to_lower, expected.test_noise(), atol=1e-8)


def test_resamples_that_hold_one_stimulus_half_the_time_equal_rsatoolbox():
    # its multiplicity is N/2 + 1: the matrix of row effects has a zero on its diagonal
    random = np.random.default_rng(0)
    models, subjects = random.random((2, 15)), random.random((3, 15))
    counts = torch.tensor([[4, 1, 1, 0, 0, 0], [1, 0, 4, 0, 0, 1], [1, 1, 1, 1, 1, 1]])
    draws = Draws(counts, torch.ones(3, 3, dtype=torch.int64), "stimuli", "bootstrap")
    for comparator in ("cosine_cov", "corr_cov"):
        with same_draws(draws):
            expected = evaluate.eval_bootstrap_pattern(
                peers(models), rsatoolbox.rdm.RDMs(subjects), method=comparator, N=3
            )
        found = evaluate_resamples(models, subjects, draws, comparator=comparator)
        np.testing.assert_allclose(found.models, expected.evaluations, atol=1e-8)
        np.testing.assert_allclose(found.upper, expected.noise_ceiling[1], atol=1e-8)


def test_missing_pairs_equal_rsatoolbox():
    models, subjects = material(ties=False)
    subjects = subjects.copy()
    subjects[:, [2, 11]] = np.nan
    draws = bootstrap_draws(N_STIMULI, N_SUBJECTS, n_resamples=10, at_least_subjects=2)
    gaps = models.copy()
    gaps[:, [2, 11]] = np.nan
    for comparator in ("cosine", "corr", "spearman", "tau-a"):
        with same_draws(draws):
            expected = evaluate.eval_bootstrap(
                peers(gaps), rsatoolbox.rdm.RDMs(subjects), method=comparator, N=10
            )
        alone = subjects.copy()
        alone[1:, 2] = 0.3  # missed by the first subject only: left out for all
        found = evaluate_resamples(models, alone, draws, comparator=comparator)
        np.testing.assert_allclose(found.models, expected.evaluations, atol=1e-8)
        np.testing.assert_allclose(found.lower, expected.noise_ceiling[0], atol=1e-8)
        np.testing.assert_allclose(found.upper, expected.noise_ceiling[1], atol=1e-8)


# Bootstrap with cross-validation


def rows_of(counts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def sampled(rdms: np.ndarray, subjects: np.ndarray, stimuli: np.ndarray):
    of = rsatoolbox.rdm.RDMs(np.atleast_2d(rdms))
    return of.subsample("index", subjects).subsample_pattern("index", stimuli)


FITTERS = {
    "fixed": (rsatoolbox.model.ModelFixed, None),
    "weights": (rsatoolbox.model.ModelWeighted, rsatoolbox.model.fitter.fit_regress_nn),
    "select": (rsatoolbox.model.ModelSelect, rsatoolbox.model.fitter.fit_select),
}


@pytest.mark.parametrize("n_subject_folds", [1, 2])
@pytest.mark.parametrize(
    ("comparator", "fit"),
    [(c, f) for c in ("cosine", "corr") for f in FITTERS]
    + [("spearman", "select"), ("tau-a", "fixed"), ("cosine_cov", "select")],
)
def test_crossvalidated_bootstrap_equals_fitting_and_testing_with_rsatoolbox(
    comparator, fit, n_subject_folds
):
    random = np.random.default_rng(1)
    n_stimuli, n_resamples = 20, 4
    shared = random.random(190)
    components = np.stack([shared + random.random(190) for _ in range(3)])
    subjects = np.stack([shared + 0.5 * random.random(190) for _ in range(N_SUBJECTS)])
    used = components[:1] if fit == "fixed" else components
    draws = bootstrap_draws(
        n_stimuli, N_SUBJECTS, n_resamples=n_resamples, at_least_stimuli=9, at_least_subjects=2
    )
    settings = {"n_folds": 3, "n_subject_folds": n_subject_folds, "n_repeats": 2}
    found = crossvalidate_resamples(
        [ModelRDMs(used, fit=fit)], subjects, draws, comparator=comparator, **settings
    )
    kind, fitter = FITTERS[fit]
    generator = stream(0, "folds")
    for repeat in range(2):
        stimulus_fold = random_folds(draws.stimuli, n_folds=3, generator=generator)
        subject_fold = random_folds(draws.subjects, n_folds=n_subject_folds, generator=generator)
        for b in range(n_resamples):
            w, v = draws.stimuli[b].numpy(), draws.subjects[b].numpy()
            values, lower, upper = [], [], []
            for k in range(3):
                out = stimulus_fold[b].numpy() == k
                tested, trained = rows_of(w * out), rows_of(w * ~out)
                ceilings = boot_noise_ceiling(
                    sampled(subjects, rows_of(v), tested), method=comparator
                )
                lower.append(ceilings[0])
                upper.append(ceilings[1])
                for s in range(n_subject_folds):
                    of_fold = subject_fold[b].numpy() == s
                    held_out = rows_of(v * of_fold)
                    rest = rows_of(v * ~of_fold) if n_subject_folds > 1 else held_out
                    model = kind("m", used[0] if fit == "fixed" else used)
                    theta = fitter and fitter(
                        model,
                        sampled(subjects, rest, trained),
                        method=comparator,
                        pattern_idx=trained,
                        pattern_descriptor="index",
                    )
                    predicted = model.predict_rdm(theta).subsample_pattern("index", tested)
                    data = sampled(subjects, held_out, tested)
                    values.append(rsatoolbox.rdm.compare(predicted, data, comparator).mean())
            at = (b, repeat)
            assert found.models[at].item() == pytest.approx(np.mean(values), abs=1e-8)
            assert found.lower[at].item() == pytest.approx(np.mean(lower), abs=1e-8)
            assert found.upper[at].item() == pytest.approx(np.mean(upper), abs=1e-8)


def test_correction_for_the_choice_of_folds_equals_rsatoolbox():
    models, subjects = material(ties=False)
    draws = bootstrap_draws(9, N_SUBJECTS, n_resamples=30, at_least_stimuli=6, at_least_subjects=2)
    found = crossvalidate_resamples(
        [ModelRDMs(model) for model in models], subjects, draws, n_folds=2
    )
    results = iter(
        [
            (found.models[b, r].numpy(), (found.lower[b, r].item(), found.upper[b, r].item()))
            for b in range(30)
            for r in range(2)
        ]
    )

    def same_values(*_):
        values, ceilings = next(results)
        return np.repeat(values[None, :, None], 2, 2), ceilings

    with same_draws(draws), pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "_internal_cv", same_values)
        expected = evaluate.bootstrap_crossval(
            peers(models), rsatoolbox.rdm.RDMs(subjects), k_pattern=2, k_rdm=1, N=30
        )
    check_variances(crossvalidated_variances(found.values, draws), expected)
