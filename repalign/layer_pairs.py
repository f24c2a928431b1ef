"""CKA of all layers of one network with all layers of another, in one pass over the images."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repalign.evaluation import evaluating
from repalign.layer_outputs import LayerReader, layer_readers
from repalign.metrics.calls import pick_device
from repalign.metrics.cka import CKA, centre_gram
from repalign.metrics.gram import in_working_precision, symmetric_product
from repalign.metrics.hsic_terms import HSICTerms
from repalign.metrics.streaming import left_out
from repalign.networks import find_layers
from repalign.progress import track

CACHE_ELEMENTS = 1 << 18  # of a layer at a time on a CPU: what its cache holds
DEVICE_ELEMENTS = 1 << 26  # on a GPU
SYRK_PAYS = 64  # rows from which half the work outweighs a slower kernel


@dataclass(frozen=True)
class LayerPairs:
    """Debiased linear CKA of pairs of layers.

    Args:
        first_layers, second_layers: names of the layers.
        values: CKA of each first with each second layer, on the CPU.
        n_stimuli: stimuli that were compared.
        n_batches: batches in which they came.
    """

    first_layers: tuple[str, ...]
    second_layers: tuple[str, ...]
    values: Float[Tensor, "first second"]
    n_stimuli: int
    n_batches: int

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a pair."""
        return [
            {"first_layer": first, "second_layer": second, "cka": value}
            for first, values in zip(self.first_layers, self.values.tolist(), strict=True)
            for second, value in zip(self.second_layers, values, strict=True)
        ]


def cka_of_layers(
    first: nn.Module,
    second: nn.Module | None,
    batches: Iterable[Tensor | Sequence[Tensor]],
    *,
    layers: Sequence[str] = ("all",),
    second_layers: Sequence[str] | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> LayerPairs:
    """Return the debiased linear CKA of all pairs of layers, from one forward pass a network.

    ``cka(i, j) = Σ⟨K̃ᵢ, L̃ⱼ⟩ / √(Σ⟨K̃ᵢ, K̃ᵢ⟩ · Σ⟨L̃ⱼ, L̃ⱼ⟩)``, summed over batches, with K̃ᵢ the U-centred
    Gram matrix of a batch in layer i. It is made while the layer runs: no activations are kept,
    and an in-place operation that follows does no harm.

    Args:
        first, second: networks; None compares the first with itself. Both see every batch.
        batches: inputs, image first; of a tuple or list, as data loaders give it, the first
            element. A batch of fewer than 4 is left out with a warning. Larger batches see more
            pairs of stimuli: 128 or more are advised.
        layers: module names or patterns, see `repalign.networks.find_layers`; ``all`` are those
            without children.
        second_layers: of the second network; None: as ``layers``.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar.

    Returns:
        A ``LayerPairs``; NaN where a layer has the same output for all images. Networks are in
        evaluation mode meanwhile, and afterwards as they were.

    Raises:
        ValueError: unknown layers, one that does not run, whose output is not one row an image or
            not finite, no batch of 4 or more, or ``second_layers`` without a second network.
        TypeError: a layer that gives no tensor.

    Note:
        Of a layer that runs several times in a pass the last output counts. float32 activations are
        multiplied in float32 and summed in float64, which is within 1e-5 of float64 throughout.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
        >>> images = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> cka_of_layers(net, None, images.split(32), device="cpu").values.diagonal()
        tensor([1.0000, 1.0000, 1.0000], dtype=torch.float64)

    Reference:
        Nguyen, Raghu & Kornblith 2021, https://doi.org/10.48550/arXiv.2010.15327
    """
    if second is None and second_layers is not None:
        raise ValueError(
            "second_layers does not apply to one network; leave it out, or give the network twice."
        )
    names = find_layers(first, layers)
    others = names if second is None else find_layers(second, second_layers or layers)
    where = pick_device(device)
    total: HSICTerms | None = None
    n_stimuli = n_batches = 0
    with contextlib.ExitStack() as stack:
        for module in {id(module): module for module in (first, second) if module}.values():
            stack.enter_context(evaluating(module, where))
        stack.enter_context(torch.inference_mode(False))  # which counts no in-place operations
        stack.enter_context(torch.no_grad())
        for batch in track(cast(Sequence[Any], batches), "layer pairs", show=progress):
            images = (batch if isinstance(batch, Tensor) else batch[0]).to(where)
            if len(images) < CKA().minimum_stimuli:
                warnings.warn(left_out(len(images)), stacklevel=2)
                continue
            u = _centred_grams(first, names, images)
            v = u if second is None else _centred_grams(second, others, images)
            terms = HSICTerms(u @ v.mT, u.square().sum(1)[:, None], v.square().sum(1))
            total = terms if total is None else total + terms
            n_stimuli, n_batches = n_stimuli + len(images), n_batches + 1
    if total is None:
        raise ValueError("No batch has 4 or more images; debiased HSIC needs 4. Use larger ones.")
    return LayerPairs(tuple(names), tuple(others), total.cka().cpu(), n_stimuli, n_batches)


def _centred_grams(
    module: nn.Module, names: Sequence[str], images: Tensor
) -> Float[Tensor, "layer pair"]:
    """Run the network, and return the U-centred Gram matrix of each layer in a row."""
    with _watch(module, names, len(images)) as grams:
        module(images)
    idle = [name for name in names if name not in grams]
    if idle:
        raise ValueError(
            f"layer {idle[0]!r} does not run in a forward pass ({len(idle)} such); leave it out"
        )
    stacked = torch.stack([grams[name] for name in names])
    if not bool(stacked.sum().isfinite()):
        bad = next(name for name in names if not bool(grams[name].isfinite().all()))
        raise ValueError(f"layer {bad!r} gives values that are NaN or infinite. Leave it out.")
    return centre_gram(stacked, debiased=True).flatten(1)


@contextlib.contextmanager
def _watch(module: nn.Module, names: Sequence[str], n: int) -> Iterator[dict[str, Tensor]]:
    """Within the block, a forward pass leaves the Gram matrices of the named layers in a dict.

    A module often returns the very output of its last child, whose Gram matrix then counts for
    both, unless an in-place operation has changed it.
    """
    grams: dict[str, Tensor] = {}
    latest: tuple[Tensor, int, Tensor] | None = None

    def hook(name: str, pick: LayerReader) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal latest
            tensor = pick(output)
            if tensor is None:
                return
            if latest is None or latest[0] is not tensor or latest[1] != tensor._version:
                latest = (tensor, tensor._version, _gram(tensor, n, name))
            grams[name] = latest[2]

        return keep

    with contextlib.ExitStack() as stack:
        for name, pick in stack.enter_context(layer_readers(module, names)).items():
            stack.callback(pick.part.register_forward_hook(hook(name, pick)).remove)
        yield grams


def _gram(output: Tensor, n: int, name: str) -> Float[Tensor, "stimulus stimulus"]:
    """Return the Gram matrix of a layer's patterns relative to the first one, in float64.

    The first pattern stands in for the mean, which the U-centring removes exactly later: what
    matters is that a common offset is gone before float32 products are taken.
    """
    if output.ndim == 0 or len(output) != n:
        raise ValueError(
            f"layer {name!r} gives shape {tuple(output.shape)} for {n} images; expected one row an "
            "image first. Leave it out."
        )
    if output.ndim == 4 and output.is_contiguous(memory_format=torch.channels_last):
        output = output.permute(0, 2, 3, 1)  # as it lies in memory; the order does not matter
    flat = output.reshape(n, -1)
    if flat.dtype != torch.float64:
        flat = flat.float()
    size = CACHE_ELEMENTS if flat.device.type == "cpu" else DEVICE_ELEMENTS
    gram = in_working_precision(flat.new_zeros(n, n))
    for block in torch.split(flat, max(1, size // n), dim=1):
        shifted = block - block[:1]
        gram += shifted @ shifted.mT if n < SYRK_PAYS else symmetric_product(shifted)
    return gram
