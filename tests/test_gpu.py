"""The same numbers on a GPU as on the CPU; skipped where there is none."""

import numpy as np
import pytest
import torch

import repalign as ra
from repalign.choices import as_metric
from repalign.metrics import COMPARATORS, METRICS, RDM_METHODS, compare_rdms, rdm
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
WORDS = (*METRICS, "cka:debiased=false", "cka:kernel=rbf", "rsa:rdm=euclidean,comparator=corr")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("word", WORDS)
def test_metrics_agree(word, dtype):
    metric = as_metric(word)
    x, y = normal(3, 60, 20).to(dtype), normal(60, 15, seed=1).to(dtype)
    found = metric(x, y, device="cuda")
    assert found.device.type == "cuda"
    tolerance = 1e-8 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.cpu(), metric(x, y), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", RDM_METHODS)
def test_rdms_agree(method):
    x = normal(4, 30, 12).exp()
    found = rdm(x, method=method, device="cuda")
    torch.testing.assert_close(found.cpu(), rdm(x, method=method), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", COMPARATORS)
def test_comparators_agree(method):
    a, b = (rdm(normal(20, 9, seed=s), method="euclidean") for s in (0, 1))
    found = compare_rdms(a, b, method=method, device="cuda")
    expected = compare_rdms(a, b, method=method)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("word", WORDS)
def test_batches_agree(word):
    metric = as_metric(word)
    x, y = normal(2, 60, 20), normal(1, 60, 15, seed=1)
    found = metric(x, y, batch_dims=1, device="cuda")
    torch.testing.assert_close(found.cpu(), metric(x, y, batch_dims=1), rtol=1e-8, atol=1e-8)


def test_recorded_layers_agree(tmp_path):
    """Up to TF32, which torch takes for convolutions unless told otherwise."""
    scenes = make_scenes(20, size=64)
    stimuli = ra.Stimuli(scenes.stimulus_id, [encode_png(image) for image in scenes.images])
    network = ra.load_network("resnet18@random")
    found = {
        device: ra.record(
            network,
            stimuli=stimuli,
            layers="all",
            device=device,
            batch_size=8,
            to=tmp_path / device,
            progress=False,
        )
        for device in ("cpu", "cuda")
    }
    for name, expected in found["cpu"].items():
        values = expected["response"].values
        error = np.abs(found["cuda"][name]["response"].values - values).max()
        assert error <= 5e-3 * np.abs(values).max(), name
    assert next(network.module.parameters()).device.type == "cpu"
