"""Principal components of a layer: what sparse features are held against."""

from __future__ import annotations

import torch

from repalign.autoencoders.data import as_layer, summarise
from repalign.autoencoders.networks import SparseAutoencoder
from repalign.autoencoders.results import (
    AutoencoderSettings,
    TrainedAutoencoder,
    finish,
    split_layer,
)
from repalign.metrics.calls import pick_device
from repalign.populations import Population


def principal_components(
    activations: Population,
    *,
    features: int,
    samples: str = "flat",
    channel_axis: int | None = None,
    holdout: float = 0.1,
    split_seed: int = 0,
    device: str | torch.device = "auto",
) -> TrainedAutoencoder:
    """Return a layer's first principal components as an autoencoder: the dense control.

    It takes the same samples, holds out the same stimuli and gives the same report, so that its
    features go wherever those of a sparse autoencoder go. The components are the eigenvectors of
    the covariance, which is gathered in float64 in one pass over the shards.

    Args:
        activations, samples, channel_axis, holdout, split_seed, device: as in
            `train_autoencoder`.
        features: how many components.

    Raises:
        ValueError: more components than inputs or training samples, or a bad input.

    Example:
        >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).numpy()
        >>> found = principal_components(x, features=4, device="cpu")
        >>> round(found.report.held_out.explained_variance, 4)
        1.0

    Reference:
        As the optimal linear autoencoder: Baldi & Hornik 1989,
        https://doi.org/10.1016/0893-6080(89)90014-2
    """
    settings = AutoencoderSettings(
        kind="pca",
        features=features,
        samples=samples,
        channel_axis=channel_axis,
        holdout=holdout,
        split_seed=split_seed,
    )
    where = pick_device(device)
    train, held_out, names = split_layer(as_layer(activations), settings)
    d = train.layout.n_inputs
    if features > min(d, train.n_samples - 1):
        raise ValueError(
            f"features is {features}; {train.n_samples} training samples of {d} inputs have"
            f" {min(d, train.n_samples - 1)} principal components"
        )
    summary = summarise(train, seed=0, covariance=True)
    assert summary.covariance is not None
    vectors = torch.linalg.eigh(summary.covariance).eigenvectors.flip(1)[:, :features].mT
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = (vectors * largest.sign()).float()  # eigenvectors have no sign of their own
    network = SparseAutoencoder(d, features, kind="pca")
    with torch.no_grad():
        network.centre.copy_(summary.mean)
        network.scale.fill_(summary.spread)
        network.directions.copy_(vectors)
        network.encoder.copy_(vectors)
    return finish(network.to(where), settings, train, held_out, names, (), 1.0)
