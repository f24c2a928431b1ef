"""rsatoolbox as an oracle of RDMs, their comparison and the noise ceiling."""

import warnings

import numpy as np
import pytest
import torch

from repalign.ceiling import nili_ceiling
from repalign.metrics import COMPARATORS, rdm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import rsatoolbox
    from rsatoolbox.inference import boot_noise_ceiling

NAMES = {"pearson": "corr", "cosine": "cosine", "spearman": "spearman"}


def patterns(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(14, 9)) + 2


@pytest.mark.parametrize("method", ["euclidean", "correlation"])
def test_rdms_equal_rsatoolbox(method):
    data = rsatoolbox.data.Dataset(patterns(0))
    expected = rsatoolbox.rdm.calc_rdm(data, method=method).dissimilarities[0]
    np.testing.assert_allclose(rdm(torch.from_numpy(patterns(0)), method=method), expected, 1e-10)


@pytest.mark.parametrize("comparator", sorted(NAMES))
def test_comparisons_equal_rsatoolbox(comparator):
    a, b = (rdm(torch.from_numpy(patterns(seed)), method="euclidean") for seed in (0, 1))
    theirs = [rsatoolbox.rdm.RDMs(v.numpy()[None]) for v in (a, b)]
    expected = rsatoolbox.rdm.compare(*theirs, method=NAMES[comparator]).item()
    assert COMPARATORS[comparator](a, b).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("comparator", sorted(NAMES))
def test_noise_ceilings_equal_rsatoolbox(comparator):
    shared = patterns(0)
    subjects = torch.stack(
        [rdm(torch.from_numpy(shared + 2 * patterns(s)), method="euclidean") for s in range(1, 6)]
    )
    subjects = subjects * torch.tensor([[1.0], [10.0], [0.1], [2.0], [5.0]])
    theirs = rsatoolbox.rdm.RDMs(subjects.numpy())
    expected = boot_noise_ceiling(theirs, method=NAMES[comparator])
    found = [bound.mean().item() for bound in nili_ceiling(subjects, comparator=comparator)]
    np.testing.assert_allclose(found, np.ravel(expected), atol=1e-10)
    assert found[1] - found[0] > 0.01
