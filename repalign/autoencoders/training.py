"""Training of sparse autoencoders on a layer's activations, streamed from the store."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

from repalign.autoencoders.checkpoints import (
    TrainingState,
    read_checkpoint,
    training_identity,
    write_checkpoint,
)
from repalign.autoencoders.data import BUFFER_BYTES, as_layer, shuffled_batches, summarise
from repalign.autoencoders.loop import take_steps
from repalign.autoencoders.networks import SparseAutoencoder
from repalign.autoencoders.report import what_helps
from repalign.autoencoders.results import (
    AutoencoderSettings,
    TrainedAutoencoder,
    finish,
    split_layer,
)
from repalign.choices import as_whole_number
from repalign.metrics.calls import pick_device
from repalign.populations import Population

MANY_EPOCHS = 1000


def train_autoencoder(
    activations: Population,
    *,
    kind: str = "topk",
    features: int,
    k: int | None = None,
    sparsity: float | None = None,
    samples: str = "flat",
    channel_axis: int | None = None,
    steps: int = 3000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    holdout: float = 0.1,
    split_seed: int = 0,
    seed: int = 0,
    dead_after: int | None = None,
    buffer_samples: int | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> TrainedAutoencoder:
    """Learn sparse features of a layer, streaming its activations from the store.

    ``topk`` minimises the squared error with k features a sample, and dead features explain what
    is left over (AuxK). ``l1`` minimises the squared error and λ·Σᵢ fᵢ, and dead features are
    resampled. Directions are brought to length 1 after each step of Adam; the learning rate falls
    to 0 over the last fifth of the steps. Memory is bounded by the buffer and the size of a shard.

    Args:
        activations: one layer, as `repalign.record` gives it, or an array of stimulus × unit.
        kind: ``topk`` or ``l1``; `principal_components` is the dense control.
        features: how many to learn.
        k: active features a sample, of ``topk``.
        sparsity: λ of ``l1``, with inputs scaled to a mean variance of 1.
        samples: ``flat`` takes the whole layer as one sample; ``positions`` the channels at each
            position, as more samples; ``mean`` the channels averaged over positions.
        channel_axis: axis of the channels in ``attrs["shape"]``; by default the first of three
            (channel, height, width) and the last of two (token, channel).
        steps: of Adam.
        batch_size: samples a step.
        learning_rate: of Adam.
        holdout: share of the stimuli below 1, or their number, that training never sees in any
            presentation or position; 0: none.
        split_seed: of the choice of held-out stimuli, so that several seeds share them.
        seed: of the first directions and of the order of samples.
        dead_after: steps without activity after which a feature counts as dead; by default a
            twentieth of the steps.
        buffer_samples: samples in the shuffle buffer; by default 64 MB of them.
        checkpoint: path of a file (``.safetensors``) that keeps the state of the training every
            half minute. A training that was killed goes on from it and ends with the same
            weights, bit by bit. It stays when the training is done: remove it once the
            autoencoder is saved.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar on stderr.

    Returns:
        The autoencoder and its report. The same settings and seed give the same one on one
        device and number of threads.

    Raises:
        ValueError: settings that do not apply or fit, NaN or infinite activations, fewer stimuli
            than are held out, or a device that is not there.

    Note:
        Centre and scale are those of the trained samples. The centre is their mean, not the
        geometric median of Bricken et al.; the bias learns the difference.

    Example:
        >>> x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).numpy()
        >>> found = train_autoencoder(x, features=12, k=3, steps=200, device="cpu")
        >>> found.settings.name, found.report.held_out.l0 <= 3
        ('topk-12', True)

    References:
        Gao et al. 2024, https://doi.org/10.48550/arXiv.2406.04093; Bricken et al. 2023,
        https://transformer-circuits.pub/2023/monosemantic-features (no DOI)
    """
    if kind == "pca":
        raise ValueError("principal components are not trained: call principal_components")
    seed = as_whole_number(seed, "seed")
    split_seed = as_whole_number(split_seed, "split_seed")
    settings = AutoencoderSettings(
        kind=kind,
        features=features,
        k=k,
        sparsity=sparsity,
        samples=samples,
        channel_axis=channel_axis,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        holdout=holdout,
        split_seed=split_seed,
        seed=seed,
        dead_after=dead_after,
        buffer_samples=buffer_samples,
    )
    where = pick_device(device)
    train, held_out, names = split_layer(as_layer(activations), settings)
    epochs = steps * min(batch_size, train.n_samples) / train.n_samples
    if epochs > MANY_EPOCHS:
        warnings.warn(
            f"{train.n_samples} samples are seen {epochs:.0f} times each, which fits their noise:"
            f" compare train and held out in the report; {what_helps(train.layout)}",
            stacklevel=2,
        )
    summary = summarise(train, seed=seed)
    network = SparseAutoencoder(train.layout.n_inputs, features, kind=kind, k=k, seed=seed)
    network.centre.copy_(summary.mean)
    network.scale.fill_(summary.spread)
    network.to(where)
    state = TrainingState(
        network,
        torch.optim.Adam(network.parameters(), lr=learning_rate),
        torch.zeros(features, dtype=torch.int64, device=where),
    )
    file = None if checkpoint is None else Path(checkpoint)
    identity = training_identity(settings, train, summary)
    if file is not None:
        read_checkpoint(file, state, identity)
        if progress and state.step:
            print(f"going on after step {state.step} of {steps} ({file})", file=sys.stderr)

    def keep() -> None:
        if file is not None:
            write_checkpoint(file, state, identity)

    room = buffer_samples or max(batch_size, BUFFER_BYTES // (4 * train.layout.n_inputs))
    batches = shuffled_batches(
        train, batch_size=batch_size, buffer_samples=room, seed=seed, start=state.step
    )
    unseen = None if held_out is None else summarise(held_out, seed=0).probe.to(where)
    probe = summary.probe.to(where)
    take_steps(state, settings, batches, probe, unseen, keep=keep, progress=progress)
    return finish(network, settings, train, held_out, names, tuple(state.history), epochs)
