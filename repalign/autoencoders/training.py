"""Training of sparse autoencoders on a layer's activations, streamed from the store."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.autoencoders.data import BUFFER_BYTES, as_layer, shuffled_batches, summarise
from repalign.autoencoders.networks import (
    AUXILIARY_WEIGHT,
    SparseAutoencoder,
    auxiliary_loss,
    l1_loss,
    reconstruction_loss,
    resample_dead,
)
from repalign.autoencoders.results import (
    AutoencoderSettings,
    TrainedAutoencoder,
    finish,
    split_layer,
)
from repalign.metrics.calls import pick_device
from repalign.populations import Population
from repalign.progress import track

DECAY = 0.8  # share of the steps after which the learning rate falls to 0
RESAMPLE_UNTIL = 0.6  # share of the steps after which dead features are no longer resampled
HISTORY_ROWS = 50
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
        advice = "" if samples == "positions" else ", samples='positions' where the layer has them"
        warnings.warn(
            f"{train.n_samples} samples are seen {epochs:.0f} times each, which fits their noise:"
            f" compare train and held out in the report; fewer steps{advice}, or more stimuli help",
            stacklevel=2,
        )
    summary = summarise(train, seed=seed)
    network = SparseAutoencoder(train.layout.n_inputs, features, kind=kind, k=k, seed=seed)
    network.centre.copy_(summary.mean)
    network.scale.fill_(summary.spread)
    network.to(where)
    generator = torch.Generator().manual_seed(seed)
    room = buffer_samples or max(batch_size, BUFFER_BYTES // (4 * train.layout.n_inputs))
    batches = shuffled_batches(
        train, batch_size=batch_size, buffer_samples=room, generator=generator
    )
    unseen = None if held_out is None else summarise(held_out, seed=0).probe.to(where)
    history = _train(
        network, settings, batches, summary.probe.to(where), unseen, generator, progress=progress
    )
    return finish(network, settings, train, held_out, names, history, epochs)


def _train(
    network: SparseAutoencoder,
    settings: AutoencoderSettings,
    batches: Iterator[Tensor],
    probe: Float[Tensor, "sample input"],
    unseen: Float[Tensor, "sample input"] | None,
    generator: torch.Generator,
    *,
    progress: bool,
) -> tuple[dict[str, float | None], ...]:
    """Take all steps, and say how it went."""
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    idle = torch.zeros(network.n_features, dtype=torch.int64, device=probe.device)
    every = max(1, settings.steps // HISTORY_ROWS)
    history: list[dict[str, float | None]] = []
    label = f"autoencoder {settings.name}"
    for step in track(range(settings.steps), label, show=progress):
        left = (1 - step / settings.steps) / (1 - DECAY)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, left)
        scaled = network.scaled(next(batches).to(probe.device))
        drive = network.drive(scaled)
        features = network.activate(drive)
        reconstruction = network.assemble(features)
        dead = idle >= settings.dead_steps
        if settings.sparsity is not None:
            loss = l1_loss(scaled, reconstruction, features, sparsity=settings.sparsity)
        else:
            loss = reconstruction_loss(scaled, reconstruction)
            residual = scaled - reconstruction
            loss = loss + AUXILIARY_WEIGHT * auxiliary_loss(
                residual, drive, network.directions, dead
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        network.drop_radial_gradient()
        optimiser.step()
        network.normalise()
        idle = (idle + 1).masked_fill((features > 0).any(0), 0)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            history.append(
                {
                    "step": step + 1,
                    "loss": float(loss.detach()),
                    "explained_variance": 1 - _error(scaled, reconstruction),
                    "l0": float((features > 0).sum(1).float().mean()),
                    "dead": int(dead.sum()),
                    "held_out_loss": None if unseen is None else _loss_of(network, unseen),
                }
            )
        due = (step + 1) % (2 * settings.dead_steps) == 0
        if settings.kind == "l1" and due and step < RESAMPLE_UNTIL * settings.steps:
            resample_dead(network, network.scaled(probe), dead, generator)
            _forget(optimiser, network, dead)
            idle = idle.masked_fill(dead, 0)
    return tuple(history)


@torch.no_grad()
def _error(scaled: Tensor, reconstruction: Tensor) -> float:
    """Unexplained share of a batch's variance."""
    spread = (scaled - scaled.mean(0)).square().sum()
    return float((scaled - reconstruction).square().sum() / spread)


@torch.no_grad()
def _loss_of(network: SparseAutoencoder, samples: Tensor) -> float:
    scaled = network.scaled(samples)
    features = network.activate(network.drive(scaled))
    return float(reconstruction_loss(scaled, network.assemble(features)))


def _forget(
    optimiser: torch.optim.Adam, network: SparseAutoencoder, dead: Bool[Tensor, " feature"]
) -> None:
    """Take back what Adam remembers of features that begin anew."""
    for parameter in (network.directions, network.encoder, network.encoder_bias):
        for name, value in optimiser.state[parameter].items():
            if name.startswith("exp_avg"):
                value[dead] = 0
