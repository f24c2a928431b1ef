"""What an autoencoder was trained with, and what comes back from training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import xarray as xr

from repalign.autoencoders.data import Source, hold_out
from repalign.autoencoders.layout import Layout, called, layout_of
from repalign.autoencoders.networks import SparseAutoencoder, check_kind
from repalign.autoencoders.report import AutoencoderReport, evaluate, overfitting


@dataclass(frozen=True)
class AutoencoderSettings:
    """All that decides what an autoencoder learns; `train_autoencoder` explains each."""

    kind: str
    features: int
    k: int | None = None
    sparsity: float | None = None
    samples: str = "flat"
    channel_axis: int | None = None
    steps: int = 0
    batch_size: int = 256
    learning_rate: float = 1e-3
    holdout: float = 0.1
    split_seed: int = 0
    seed: int = 0
    dead_after: int | None = None
    buffer_samples: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        check_kind(self.kind, self.features, self.k)
        if self.kind == "l1" and (self.sparsity is None or not self.sparsity > 0):
            raise ValueError(
                f"sparsity is {self.sparsity}; kind 'l1' needs a penalty above 0, such as 1.0"
            )
        if self.kind != "l1" and self.sparsity is not None:
            raise ValueError(f"sparsity applies to kind 'l1', not to {self.kind!r}; leave it out")
        for name in ("batch_size", "dead_after", "buffer_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected 1 or more")
        if self.kind != "pca" and self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")

    @property
    def name(self) -> str:
        """Kind and number of features, as in ``topk-512``."""
        return f"{self.kind}-{self.features}"

    @property
    def dead_steps(self) -> int:
        """Steps without activity after which a feature counts as dead."""
        return self.dead_after or max(1, self.steps // 20)


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A trained autoencoder with all that is needed to use it and to train it again.

    Args:
        network: the module, on the CPU and in evaluation mode.
        settings: what it was trained with.
        layout: what of a layer is one sample.
        source: model, layer and fingerprint of the activations.
        held_out: names of the stimuli that it has not seen.
        history: every fiftieth of the training: step, loss, explained variance and L0 of the
            batch, features dead, and the loss on held-out stimuli.
        report: how well it does.
    """

    network: SparseAutoencoder
    settings: AutoencoderSettings
    layout: Layout
    source: dict[str, str]
    held_out: tuple[str, ...]
    history: tuple[dict[str, float | None], ...]
    report: AutoencoderReport


def split_layer(
    layer: xr.Dataset, settings: AutoencoderSettings
) -> tuple[Source, Source | None, tuple[str, ...]]:
    """The trained and the held-out presentations of a layer."""
    layout = layout_of(layer, settings.samples, settings.channel_axis)
    kept, out, names = hold_out(layer, holdout=settings.holdout, seed=settings.split_seed)
    return Source(layer, kept, layout), Source(layer, out, layout) if names else None, names


def finish(
    network: SparseAutoencoder,
    settings: AutoencoderSettings,
    train: Source,
    held_out: Source | None,
    names: tuple[str, ...],
    history: tuple[dict[str, float | None], ...],
    epochs: float,
) -> TrainedAutoencoder:
    """Evaluate a network, warn where it overfits, and put it with what it came from."""
    size = max(settings.batch_size, 1024)
    report = AutoencoderReport(
        evaluate(network, train, batch_size=size),
        None if held_out is None else evaluate(network, held_out, batch_size=size),
        epochs,
    )
    if (warning := overfitting(report, train.layout)) is not None:
        warnings.warn(f"{called(train.activations)} {settings.name}: {warning}", stacklevel=3)
    attrs = train.activations.attrs
    source = {key: str(attrs.get(key, "")) for key in ("model", "layer", "fingerprint")}
    source["called"] = called(train.activations)
    network = network.cpu().eval().requires_grad_(False)
    return TrainedAutoencoder(network, settings, train.layout, source, names, history, report)
