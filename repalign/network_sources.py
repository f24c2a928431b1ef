"""Where networks come from: the builders that a card's ``source`` names, and its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from repalign.card_schemas import FileSource, ModelCard
from repalign.cards import import_code
from repalign.checkpoints import SUFFIXES, find_checkpoint, load_checkpoint
from repalign.fetch import fetch_file
from repalign.store import file_hash


def _torchvision(name: str) -> nn.Module:
    from repalign.torchvision_import import import_torchvision

    module: nn.Module = import_torchvision().models.get_model(name, weights=None)
    return module


def _timm(name: str) -> nn.Module:
    from repalign.torchvision_import import import_torchvision

    import_torchvision()
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm networks need: pip install 'repalign[timm]'") from error
    module: nn.Module = timm.create_model(name, pretrained=False)
    return module


def _builtin(name: str) -> nn.Module:
    from repalign import baselines, efficientnet_lite, small_networks

    if name in small_networks.SMALL_NETWORKS:
        return small_networks.build(name)
    if name.startswith("efficientnet_lite"):
        return efficientnet_lite.build(name)
    return baselines.build(name)


SOURCES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "repalign": _builtin,
}


def build_network(
    card: ModelCard,
    *,
    seed: int | None,
    cache: Path,
    mirror: str | Path | None = None,
    offline: bool | None = None,
) -> nn.Module:
    """Build the module of a card, with its weights, or untrained with a seed.

    Args:
        card: the model card.
        seed: of the untrained twin; None for the card's weights.
        cache, mirror, offline: as in `repalign.fetch.fetch_file`.

    Raises:
        ValueError: the source or the weights cannot be had, or do not fit each other.
        ImportError: the package that builds it is missing; the message names what to install.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        if card.source.startswith("hf:"):
            from repalign.hugging_face import build_hugging_face

            return build_hugging_face(card, trained=seed is None, offline=offline)
        module = _build(card)
    if seed is None and card.weights != "none":
        _load_weights(module, card, cache=cache, mirror=mirror, offline=offline)
    return module


def _build(card: ModelCard) -> nn.Module:
    prefix, _, name = card.source.partition(":")
    if prefix in SOURCES:
        try:
            return SOURCES[prefix](name)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"card {card.path}: source = {card.source!r} failed: {error}"
            ) from error
    if not name:
        raise ValueError(
            f"card {card.path}: source = {card.source!r}, expected one of"
            f" {', '.join(f'{s}:NAME' for s in SOURCES)}, hf:OWNER/NAME, or your own"
            " 'module:function'"
        )
    build = import_code(card, card.source, "source")
    try:
        built = build()
    except Exception as error:  # whatever the user's function raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"card {card.path}: source = {card.source!r} failed: {reason}") from error
    if not isinstance(built, nn.Module):
        raise TypeError(
            f"card {card.path}: {card.source} gave a {type(built).__name__}, no nn.Module"
        )
    return built


def _load_weights(
    module: nn.Module,
    card: ModelCard,
    *,
    cache: Path,
    mirror: str | Path | None,
    offline: bool | None,
) -> None:
    """Load the card's checkpoint, which is found beside the card or fetched."""
    if card.weights == "package":
        if not card.source.startswith("repalign:"):
            return  # the user's function gave the module with its weights
        from repalign import efficientnet_lite

        efficientnet_lite.load_weights(module, card.source.partition(":")[2])
        return
    expected = card.weights_hash or card.weights_hash_prefix
    if card.weights_url is not None:
        source = FileSource.model_construct(
            url=card.weights_url, name=card.weights_url.rpartition("/")[2], hash=expected, path=None
        )
        path = fetch_file(source, card, cache=cache, mirror=mirror, offline=offline)
    else:
        path = _local_checkpoint(card)
        check_weights_hash(card, path, expected)
    load_checkpoint(module, path, called=card.source)


def _local_checkpoint(card: ModelCard) -> Path:
    path = find_checkpoint(card.path.parent, card.weights)
    if path is not None:
        return path
    if card.weights.endswith(SUFFIXES):
        missing = card.path.parent / card.weights
        raise FileNotFoundError(f"card {card.path}: weights = {card.weights!r}: no file {missing}")
    raise ValueError(
        f"card {card.path}: weights = {card.weights!r} needs weights_url, or should be a file"
        f" that ends in {', '.join(SUFFIXES)}, 'random' or 'none'"
    )


def check_weights_hash(card: ModelCard, path: Path, expected: str | None) -> None:
    """Raise a ValueError where a file of weights has another hash than its card says."""
    if expected is None:
        return
    found = file_hash(path, expected.partition(":")[0])
    if not found.startswith(expected):
        raise ValueError(
            f"{card.name}: {path} has hash {found}, the card {card.path} says {expected}; copy it"
            " again, or put its hash into the card"
        )
