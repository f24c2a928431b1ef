"""Sparse autoencoders: a layer's activations as sums of few of many learned directions.

    x ≈ m + s·(b + Σᵢ fᵢ(x)·dᵢ)      fᵢ ≥ 0, few of them above 0, ‖dᵢ‖ = 1

This module is the network and its losses, on tensors; `repalign.autoencoders.training` trains it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

AUXILIARY_WEIGHT = 1 / 32  # of the loss that revives dead features, as Gao et al. 2024 advise


def _keep_largest(drive: Float[Tensor, "sample feature"], k: int | None) -> Tensor:
    """The k largest drives of each sample where they are above 0; the others become 0."""
    assert k is not None
    values, places = torch.relu(drive).topk(k, dim=-1, sorted=False)
    return torch.zeros_like(drive).scatter(-1, places, values)


def _keep_positive(drive: Float[Tensor, "sample feature"], k: int | None) -> Tensor:
    return torch.relu(drive)


def _keep_all(drive: Float[Tensor, "sample feature"], k: int | None) -> Tensor:
    return drive


KINDS: dict[str, Callable[[Tensor, int | None], Tensor]] = {
    "topk": _keep_largest,
    "l1": _keep_positive,
    "pca": _keep_all,  # principal components: the dense, linear control
}


class SparseAutoencoder(nn.Module):
    """A linear encoder with a sparse nonlinearity, and a linear decoder of unit directions.

    ``f(x) = σ(W((x − m)/s − b) + c)``,  ``x̂ = m + s·(b + Σᵢ fᵢ·dᵢ)``

    where σ keeps the k largest positive values (``topk``), all positive ones (``l1``) or every
    value (``pca``). The centre m and the scale s come from the data and are not learned: after
    them the inputs have mean 0 and a mean variance of 1 an input, so that one learning rate and
    one penalty fit all layers.

    Args:
        n_inputs: units of a sample.
        n_features: directions.
        kind: a name in ``KINDS``.
        k: features a sample, of ``topk`` alone.
        seed: of the random directions. The encoder begins as the decoder's transpose.

    Raises:
        ValueError: an unknown kind, or a k that does not apply or does not fit.

    Example:
        >>> net = SparseAutoencoder(4, 8, kind="topk", k=2)
        >>> features = net.encode(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
        >>> int((features != 0).sum(1).max()), net.decode(features).shape
        (2, torch.Size([5, 4]))

    References:
        TopK: Gao et al. 2024, https://doi.org/10.48550/arXiv.2406.04093. L1: Bricken et al. 2023,
        https://transformer-circuits.pub/2023/monosemantic-features (no DOI). Sparse coding:
        Olshausen & Field 1996, https://doi.org/10.1038/381607a0
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, n_inputs: int, n_features: int, *, kind: str, k: int | None = None, seed: int = 0
    ) -> None:
        """Make random unit directions."""
        super().__init__()
        check_kind(kind, n_features, k)
        self.kind, self.k = kind, k
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(n_features, n_inputs, generator=generator)
        directions /= torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        self.directions = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(n_features))
        self.input_bias = nn.Parameter(torch.zeros(n_inputs))
        self.register_buffer("centre", torch.zeros(n_inputs))
        self.register_buffer("scale", torch.ones(()))

    @property
    def n_features(self) -> int:
        """Number of directions."""
        return len(self.directions)

    @property
    def n_inputs(self) -> int:
        """Units of a sample."""
        return int(self.directions.shape[1])

    def scaled(self, x: Float[Tensor, "sample input"]) -> Float[Tensor, "sample input"]:
        """Return the samples as the losses see them: (x − m)/s."""
        return (x - self.centre) / self.scale

    def drive(self, scaled: Float[Tensor, "sample input"]) -> Float[Tensor, "sample feature"]:
        """Return what each feature receives, before the nonlinearity."""
        return (scaled - self.input_bias) @ self.encoder.mT + self.encoder_bias

    def activate(self, drive: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample feature"]:
        """Apply the nonlinearity of this kind."""
        return KINDS[self.kind](drive, self.k)

    def assemble(self, features: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample input"]:
        """Return the reconstruction in scaled units."""
        return self.input_bias + features @ self.directions

    def encode(self, x: Float[Tensor, "sample input"]) -> Float[Tensor, "sample feature"]:
        """Return the features of samples in the layer's own units."""
        return self.activate(self.drive(self.scaled(x)))

    def decode(self, features: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample input"]:
        """Return the reconstruction in the layer's own units."""
        return self.centre + self.scale * self.assemble(features)

    def forward(self, x: Float[Tensor, "sample input"]) -> Float[Tensor, "sample input"]:
        """Reconstruct samples in the layer's own units."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring all directions back to length 1."""
        length = torch.linalg.vector_norm(self.directions, dim=1, keepdim=True)
        self.directions.div_(length.where(length > 0, 1))

    @torch.no_grad()
    def drop_radial_gradient(self) -> None:
        """Take out of the gradient what would only change the directions' lengths."""
        gradient = self.directions.grad
        if gradient is not None:
            gradient -= (gradient * self.directions).sum(1, keepdim=True) * self.directions


def check_kind(kind: str, n_features: int, k: int | None) -> None:
    """Raise a ValueError where kind, number of features and k do not go together."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
    if n_features < 1:
        raise ValueError(f"features is {n_features}, expected 1 or more")
    if kind == "topk" and k is None:
        raise ValueError("kind 'topk' needs k, the number of features a sample, such as k=16")
    if kind != "topk" and k is not None:
        raise ValueError(f"k = {k} applies to kind 'topk', not to {kind!r}; leave it out")
    if k is not None and not 1 <= k <= n_features:
        raise ValueError(f"k is {k}, expected 1 to {n_features}, the number of features")


def reconstruction_loss(
    scaled: Float[Tensor, "sample input"], reconstruction: Float[Tensor, "sample input"]
) -> Float[Tensor, ""]:
    """Return the mean squared error, ``mean over samples of ‖x − x̂‖² / inputs``.

    Example:
        >>> reconstruction_loss(torch.ones(2, 3), torch.zeros(2, 3)).item()
        1.0
    """
    return (scaled - reconstruction).square().mean()


def l1_loss(
    scaled: Float[Tensor, "sample input"],
    reconstruction: Float[Tensor, "sample input"],
    features: Float[Tensor, "sample feature"],
    *,
    sparsity: float,
) -> Float[Tensor, ""]:
    """Return the mean over samples of ``(‖x − x̂‖² + λ·Σᵢ fᵢ) / inputs``, with λ = ``sparsity``.

    With directions of length 1 a feature that alone explains a sample is shrunk by λ/2.

    Example:
        >>> l1_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(1, 4), sparsity=0.5).item()
        2.0
    """
    penalty = features.sum(1).mean() * sparsity / scaled.shape[1]
    return reconstruction_loss(scaled, reconstruction) + penalty


def auxiliary_loss(
    residual: Float[Tensor, "sample input"],
    drive: Float[Tensor, "sample feature"],
    directions: Float[Tensor, "feature input"],
    dead: Bool[Tensor, " feature"],
) -> Float[Tensor, ""]:
    """Return the error of dead features at explaining what the living ones leave unexplained.

    ``‖e − ê‖² / inputs``, with e the residual and ê what the inputs/2 dead features with the
    largest drives make of it: a dead feature gets a gradient although it is never among the k.

    Args:
        residual: x − x̂, taken as given: no gradient flows into it.
        drive: of all features.
        directions: of all features.
        dead: which are dead; 0 is returned where none is.

    Reference:
        Gao et al. 2024, appendix A.2, https://doi.org/10.48550/arXiv.2406.04093
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return residual.new_zeros(())
    k = min(n_dead, max(1, residual.shape[1] // 2))
    explained = _keep_largest(drive[:, dead], k) @ directions[dead]
    return (residual.detach() - explained).square().mean()


@torch.no_grad()
def resample_dead(
    network: SparseAutoencoder,
    samples: Float[Tensor, "sample input"],
    dead: Bool[Tensor, " feature"],
    generator: torch.Generator,
) -> None:
    """Point dead features at samples that are badly reconstructed.

    A sample is drawn with a probability that grows as its squared loss. The feature's direction
    becomes that sample's (less the bias, at length 1), its encoder the same at a fifth of the mean
    length of living encoders, and its bias 0.

    Args:
        network: changed in place.
        samples: to draw from, in scaled units.
        dead: which features are to begin anew.
        generator: on the CPU.

    Reference:
        Bricken et al. 2023, https://transformer-circuits.pub/2023/monosemantic-features (no DOI)
    """
    n_dead = int(dead.sum())
    if n_dead == 0:
        return
    features = network.activate(network.drive(samples))
    loss = (samples - network.assemble(features)).square().sum(1).cpu().double()
    odds = loss.square()
    if float(odds.sum()) == 0:  # all is explained already
        return
    chosen = torch.multinomial(odds, n_dead, replacement=True, generator=generator)
    new = samples[chosen.to(samples.device)] - network.input_bias
    length = torch.linalg.vector_norm(new, dim=1, keepdim=True)
    new = new / length.where(length > 0, 1)
    lengths = torch.linalg.vector_norm(network.encoder[~dead], dim=1)
    size = float(lengths.mean()) if len(lengths) else 1.0
    network.directions[dead] = new
    network.encoder[dead] = 0.2 * size * new
    network.encoder_bias[dead] = 0
