"""`infer` beside rsatoolbox: ceilings and values of the 92 images, tests in the same resamples."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from test_rsatoolbox_inference import peers, same_draws

import repalign as ra
from repalign.inference import bootstrap_draws
from repalign.metrics import RSA
from repalign.recording import make_rdm_recording

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.inference import evaluate
    from rsatoolbox.inference.noise_ceiling import boot_noise_ceiling

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's
UPPER = np.triu_indices(92, 1)


def published(data_folder: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """RDMs of 4 subjects (mean of their 2 sessions) and of 8 models, as the files hold them."""
    folder = data_folder / "kriegeskorte2008"
    brains = scipy.io.loadmat(folder / "92_brainRDMs.mat")["RDMs"]
    models = scipy.io.loadmat(folder / "92_modelRDMs.mat")["Models"]
    squares = np.array([[one["RDM"] for one in subject] for subject in brains[0]], dtype=float)
    assert squares.shape == (4, 2, 92, 92)
    candidates = np.array([one["RDM"] for one in models[0]], dtype=float)
    names = [str(one["name"].item()) for one in models[0]]
    return squares.mean(1), candidates, names


@pytest.mark.parametrize("comparator", ["cosine", "corr", "spearman", "tau-a", "corr_cov"])
def test_the_92_images_have_the_ceilings_and_tests_of_rsatoolbox(data_folder, comparator):
    squares, candidates, names = published(data_folder)
    recording = ra.ingest("kriegeskorte2008", mirror=data_folder)
    human = ra.select(recording, species="human")
    ids = [str(name) for name in recording["stimulus_id"].values]
    models = {
        name: make_rdm_recording(
            one[None], stimulus_id=ids, subject=["model"], species="model", region="model"
        )
        for name, one in zip(names, candidates, strict=True)
    }
    n = 20 if comparator == "tau-a" else 100
    found = ra.infer(
        human,
        models,
        RSA(comparator=comparator),
        over="both",
        n_resamples=max(n, 100),
        alternative="greater",
        n_permutations=10,
    )
    table = found.table.set_index("name")
    subjects = squares[:, *UPPER]
    lower, upper = boot_noise_ceiling(rsatoolbox.rdm.RDMs(subjects), method=comparator)
    np.testing.assert_allclose(table["ceiling_lower"], lower, rtol=0, atol=1e-8)
    np.testing.assert_allclose(table["ceiling_upper"], upper, rtol=0, atol=1e-8)
    assert any("group RDM is left out" in note for note in found.notes)
    assert table["n_subjects"].tolist() == [4] * 8
    flat = candidates[:, *UPPER]
    similar = rsatoolbox.rdm.compare(
        rsatoolbox.rdm.RDMs(flat), rsatoolbox.rdm.RDMs(subjects), method=comparator
    )
    np.testing.assert_allclose(table.loc[names, "value"], similar.mean(1), rtol=0, atol=1e-8)
    if comparator != "corr":
        return
    draws = bootstrap_draws(92, 4, n_resamples=100)
    with same_draws(draws):
        expected = evaluate.eval_dual_bootstrap(
            peers(flat), rsatoolbox.rdm.RDMs(subjects), method=comparator, N=100
        )
    data = found.to_xarray().isel(region=0)
    for i, name in enumerate(("both", "subjects", "stimuli")):
        np.testing.assert_allclose(
            data[f"models_over_{name}"], expected.evaluations[:, :, 0, 0, i], atol=1e-8
        )
        lower = data[f"lower_over_{name}"].values
        known = np.isfinite(lower)  # with itself alone a subject has similarity 1 there
        assert known.mean() > 0.9
        expected_lower = expected.noise_ceiling[0, :, 0, i]
        np.testing.assert_allclose(lower[known], expected_lower[known], atol=1e-8)
    np.testing.assert_allclose(data["variance"], expected.model_var, rtol=1e-8)
    values = torch.tensor(similar.mean(1))
    t = (values / torch.tensor(expected.model_var).sqrt()).numpy()
    np.testing.assert_allclose(
        table.loc[names, "p"], scipy.stats.t.sf(t, 3).clip(1e-300), rtol=1e-6
    )
