"""The steps of an autoencoder's training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.autoencoders.checkpoints import TrainingState
from repalign.autoencoders.data import seeded
from repalign.autoencoders.networks import (
    AUXILIARY_WEIGHT,
    SparseAutoencoder,
    auxiliary_loss,
    l1_loss,
    reconstruction_loss,
    resample_dead,
)
from repalign.autoencoders.results import AutoencoderSettings
from repalign.progress import track

DECAY = 0.8  # share of the steps after which the learning rate falls to 0
RESAMPLE_UNTIL = 0.6  # share of the steps after which dead features are no longer resampled
HISTORY_ROWS = 50
CHECKPOINT_SECONDS = 30.0  # between two checkpoints
CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into writing them


def take_steps(
    state: TrainingState,
    settings: AutoencoderSettings,
    batches: Iterator[Tensor],
    probe: Float[Tensor, "sample input"],
    unseen: Float[Tensor, "sample input"] | None,
    *,
    keep: Callable[[], None],
    progress: bool,
) -> None:
    """Take all steps that are left; the state changes in place.

    Args:
        state: where the training is.
        settings: of the training.
        batches: from the state's step on.
        probe: samples that dead features of ``l1`` are pointed at.
        unseen: held-out samples, for the history.
        keep: writes a checkpoint; it is called now and then, and at the end.
        progress: show a progress bar on stderr.
    """
    network, optimiser = state.network, state.optimiser
    every = max(1, settings.steps // HISTORY_ROWS)
    kept, pause = time.monotonic(), CHECKPOINT_SECONDS
    label = f"autoencoder {settings.name}"
    for step in track(range(state.step, settings.steps), label, show=progress):
        left = (1 - step / settings.steps) / (1 - DECAY)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * min(1.0, left)
        scaled = network.scaled(next(batches).to(probe.device))
        drive = network.drive(scaled)
        features = network.activate(drive)
        reconstruction = network.assemble(features)
        dead = state.idle >= settings.dead_steps
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
        state.idle = (state.idle + 1).masked_fill((features > 0).any(0), 0)
        state.step = step + 1
        if state.step % every == 0 or state.step == settings.steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss is {value} at step {state.step}: the training stopped. Try a lower"
                    f" learning_rate than {settings.learning_rate}"
                )
            state.history.append(
                {
                    "step": state.step,
                    "loss": value,
                    "explained_variance": 1 - _error(scaled, reconstruction),
                    "l0": float((features > 0).sum(1).float().mean()),
                    "dead": int(dead.sum()),
                    "held_out_loss": None if unseen is None else _loss_of(network, unseen),
                }
            )
        due = state.step % (2 * settings.dead_steps) == 0
        if settings.kind == "l1" and due and step < RESAMPLE_UNTIL * settings.steps:
            generator = seeded(settings.seed, state.step, 1)  # apart from those of the epochs
            resample_dead(network, network.scaled(probe), dead, generator)
            _forget(optimiser, network, dead)
            state.idle = state.idle.masked_fill(dead, 0)
        now = time.monotonic()
        if now - kept >= pause or state.step == settings.steps:
            keep()
            kept = time.monotonic()
            pause = max(CHECKPOINT_SECONDS, (kept - now) / CHECKPOINT_SHARE)


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
