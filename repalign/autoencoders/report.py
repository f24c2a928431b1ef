"""How well an autoencoder reconstructs, how sparse it is, and what its reconstruction costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from repalign.autoencoders.data import Source
from repalign.autoencoders.layout import Layout
from repalign.autoencoders.networks import SparseAutoencoder

FAR = 0.2  # of explained variance, that trained samples may be ahead of held-out ones
DENSITY_EDGES = (-5.0, -4.0, -3.0, -2.0, -1.0, 0.0)  # log₁₀ of the share of samples


@dataclass(frozen=True)
class Reconstruction:
    """What one pass of an autoencoder over samples gives.

    Args:
        explained_variance: 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², with x̄ the mean of these samples.
        loss: mean squared error an input, in scaled units.
        l0: mean number of active features a sample.
        density: share of the samples in which each feature is active.
        n_samples: how many there were.
    """

    explained_variance: float
    loss: float
    l0: float
    density: Float[np.ndarray, " feature"]
    n_samples: int


@dataclass(frozen=True)
class AutoencoderReport:
    """What a trained autoencoder is worth.

    Args:
        train: over all trained samples.
        held_out: over the samples of held-out stimuli; None where none were held out.
        epochs: how often each trained sample was seen, on average.
    """

    train: Reconstruction
    held_out: Reconstruction | None
    epochs: float

    @property
    def dead_fraction(self) -> float:
        """Share of the features that no trained sample activates."""
        return float((self.train.density == 0).mean())

    @property
    def overfits(self) -> bool:
        """Whether held-out samples are explained far worse than trained ones (by ``FAR``)."""
        if self.held_out is None:
            return False
        return self.train.explained_variance - self.held_out.explained_variance > FAR

    @property
    def density_histogram(self) -> dict[str, int]:
        """Number of features by the share of trained samples that activate them."""
        density = self.train.density
        powers = np.log10(density[density > 0])
        counts, _ = np.histogram(powers.clip(DENSITY_EDGES[0], 0), bins=DENSITY_EDGES)
        labels = [f"1e{low:.0f} to 1e{high:.0f}" for low, high in itertools.pairwise(DENSITY_EDGES)]
        alive = dict(zip(labels, map(int, counts), strict=True))
        return {"dead": int((density == 0).sum()), **alive}

    def row(self) -> dict[str, Any]:
        """The report as plain numbers, for tables and JSON."""
        parts = {"train": self.train, "held_out": self.held_out}
        values: dict[str, Any] = {
            f"{measure}_{name}": None if part is None else float(getattr(part, measure))
            for measure in ("explained_variance", "loss", "l0")
            for name, part in parts.items()
        }
        return {
            **values,
            "n_samples_train": self.train.n_samples,
            "n_samples_held_out": 0 if self.held_out is None else self.held_out.n_samples,
            "dead_fraction": self.dead_fraction,
            "density_histogram": self.density_histogram,
            "epochs": self.epochs,
        }


def what_helps(layout: Layout) -> str:
    """What to do where an autoencoder fits the noise of its trained samples."""
    advice = "fewer features, fewer steps or more stimuli help"
    if layout.samples == "flat" and len(layout.shape) > 1:
        shape = "×".join(map(str, layout.shape))
        advice = (
            f"the layer is {shape}, taken whole as one sample a stimulus; samples='positions'"
            f" (--samples positions) makes a sample of each position, and helps most; {advice} too"
        )
    return advice


def overfitting(report: AutoencoderReport, layout: Layout) -> str | None:
    """A warning, with both figures and what helps, where held-out stimuli fare far worse."""
    if not report.overfits:
        return None
    assert report.held_out is not None
    return (
        f"explained variance is {report.train.explained_variance:.2f} of trained stimuli and"
        f" {report.held_out.explained_variance:.2f} of held-out ones: much of what the features"
        f" explain is noise of the trained stimuli ({what_helps(layout)})"
    )


@torch.no_grad()
def evaluate(network: SparseAutoencoder, source: Source, *, batch_size: int) -> Reconstruction:
    """Reconstruct all samples of a source once, in float64 sums, and say how well.

    Args:
        network: on the device to use.
        source: the samples, read shard by shard.
        batch_size: samples a pass.
    """
    device, d = network.centre.device, network.n_inputs
    total = torch.zeros(d, dtype=torch.float64)
    squares = errors = active = 0.0
    counts = torch.zeros(network.n_features, dtype=torch.float64)
    n = 0
    for block in source.blocks():
        for batch in torch.split(block, batch_size):
            scaled = network.scaled(batch.to(device))
            features = network.activate(network.drive(scaled))
            error = scaled - network.assemble(features)
            on = (features != 0).sum(0).cpu().double()
            counts += on
            active += float(on.sum())
            errors += float(error.square().sum(1).cpu().double().sum())
            squares += float(scaled.square().sum(1).cpu().double().sum())
            total += scaled.sum(0).cpu().double()
            n += len(batch)
    variance = squares - float(total.square().sum()) / n
    explained = 1 - errors / variance if variance > 0 else math.nan  # one sample varies not
    return Reconstruction(explained, errors / (n * d), active / n, (counts / n).numpy(), n)


def loss_recovered(
    module: nn.Module,
    layer: str,
    network: SparseAutoencoder,
    loss: Callable[[], float],
    *,
    layout: Layout,
) -> float:
    """Return how much of a network's performance its layer's reconstruction keeps.

    ``(L_mean − L_reconstruction) / (L_mean − L)``: 1 where the network does as well with the
    layer's output replaced by its reconstruction, 0 where it does as badly as with the mean.

    Args:
        module: the network whose layer was learned.
        layer: name of the module whose output is replaced.
        network: the autoencoder, on the same device.
        loss: runs ``module`` and returns its loss.
        layout: what of the layer one sample is; ``mean`` cannot be put back.

    Raises:
        ValueError: an unknown layer, samples that cannot be put back, or a loss that does not rise
            without the layer.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Identity())
        >>> sae = SparseAutoencoder(2, 2, kind="pca")
        >>> x = torch.eye(2)
        >>> def loss(): return float((net(x) - net[0](x)).square().sum())
        >>> with torch.no_grad():
        ...     sae.directions.copy_(torch.eye(2)); sae.encoder.copy_(torch.eye(2))
        Parameter containing:
        tensor([[1., 0.],
                [0., 1.]], requires_grad=True)
        Parameter containing:
        tensor([[1., 0.],
                [0., 1.]], requires_grad=True)
        >>> round(loss_recovered(net, "1", sae, loss, layout=Layout("flat", (2,))), 6)
        1.0
    """
    modules = dict(module.named_modules())
    if layer not in modules:
        raise ValueError(f"no layer {layer!r}; there are {', '.join(filter(None, modules))}")

    def value(change: Callable[[Tensor], Tensor] | None) -> float:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            if change is None:
                return None
            samples = layout.take(output.flatten(1))
            return layout.put_back(change(samples)).reshape(output.shape).to(output.dtype)

        handle = modules[layer].register_forward_hook(hook)
        try:
            with torch.no_grad():
                return float(loss())
        finally:
            handle.remove()

    whole, ablated = value(None), value(lambda x: network.centre.expand_as(x))
    if not ablated > whole:
        raise ValueError(
            f"the loss is {whole:.4g} with layer {layer!r} and {ablated:.4g} with its mean instead:"
            " there is nothing to recover. Take another layer, or the loss that was trained"
        )
    return (ablated - value(network)) / (ablated - whole)
