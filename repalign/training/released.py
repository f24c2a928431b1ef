"""What a training run hands on: weights as safetensors, and a model card that names them."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from repalign.card_schemas import ModelCard
from repalign.cards import load_model_card, split_twin
from repalign.network_sources import SOURCES
from repalign.networks import Network
from repalign.store import file_hash, write_file


class Released(NamedTuple):
    """Files of a trained network; ``card`` is None where the network came from no card."""

    weights: Path
    card: Path | None


def write_released(
    network: Network,
    folder: Path,
    *,
    name: str,
    model: str | None,
    description: str,
) -> Released:
    """Write ``NAME.safetensors`` and ``NAME.toml``, which `repalign.record` can use at once.

    A network of Hugging Face transformers becomes the folder ``NAME/``, as ``save_pretrained``
    writes it, for its config says how to build it.

    Args:
        network: the trained network.
        folder: where to write; each file appears whole or not at all.
        name: of the files and of the card.
        model: the card that the network was built from (``NAME@random`` too); None: no card is
            written, for a card says how to build the module, and nobody knows.
        description: what the network was trained on, in a sentence.

    Example:
        >>> import tempfile
        >>> from repalign.networks import load_network
        >>> folder, start = Path(tempfile.mkdtemp()), load_network("digits_cnn")
        >>> files = write_released(
        ...     start, folder, name="tuned", model="digits_cnn", description="Not trained."
        ... )
        >>> load_network(files.card).name
        'tuned'
    """
    original = None if model is None else load_model_card(split_twin(model)[0])
    on_hub = original is not None and original.source.startswith("hf:")
    if on_hub:
        weights = _save_pretrained(folder / name, network.module)
        digest, label = file_hash(weights, "sha256").removeprefix("sha256:"), f"{name}/"
    else:
        weights = folder / f"{name}.safetensors"
        digest, label = write_weights(weights, network.module), weights.name
    if original is None:
        return Released(weights, None)
    if not on_hub and original.source.partition(":")[0] not in SOURCES:
        print(
            f"the card {name}.toml builds the network by {original.source!r}: keep that module on"
            " Python's path, or beside the card",
            file=sys.stderr,
        )
    card = folder / f"{name}.toml"
    write_file(card, _card(network, original, name, label, digest, description))
    return Released(weights, card)


def _save_pretrained(folder: Path, module: Any) -> Path:
    """Write a Hugging Face network, whole or not at all, and return the file of its weights."""
    building = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    try:
        module.save_pretrained(building, max_shard_size="1000GB")
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder / "model.safetensors"


def write_weights(path: Path, module: nn.Module) -> str:
    """Write a module's state as safetensors, whole or not at all, and return its sha256."""
    from safetensors.torch import save

    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a {type(value).__name__}: safetensors keep tensors only; leave it out"
                " of the module's state_dict"
            )
        state[name] = value.detach().cpu().contiguous().clone()  # shared weights stand twice
    content = save(state, metadata={"format": "pt"})
    write_file(path, content)
    return hashlib.sha256(content).hexdigest()


def _card(
    network: Network, original: ModelCard, name: str, weights: str, digest: str, description: str
) -> str:
    """The text of the card: the original's, with other weights."""
    of_original = original.title or original.name
    fields: dict[str, Any] = {
        "name": name,
        "title": f"{of_original}, fine-tuned ({name})",
        "description": description,
        "source": original.source,
        "weights": weights,
        "weights_hash": f"sha256:{digest}",
        "licence": original.licence,
        "licence_note": original.licence_note or None,
        "citation": original.citation or None,
        "doi": original.doi,
        "url": original.url,
        "layers": list(network.layers) or None,
        "visual_degrees": network.visual_degrees,
    }
    lines = _lines(fields)
    tables = {"preprocessing": network.preprocessing, "aligned_to": network.aligned_to}
    for table, content in tables.items():
        if content is not None:
            lines += ["", f"[{table}]", *_lines(content.model_dump(mode="json"))]
    return "\n".join([*lines, ""])


def _lines(fields: Mapping[str, Any]) -> list[str]:
    """Keys and values as TOML; of text, numbers and flat lists JSON is a part of it."""
    return [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in fields.items()
        if value is not None
    ]
