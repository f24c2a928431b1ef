"""One safetensors file of tensors and a JSON header, which cannot part and run no code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from repalign.store import write_file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, form: str
) -> None:
    """Write tensors and a header as one file, whole or not at all.

    Args:
        path: of the file.
        tensors: on any device.
        header: what JSON can hold.
        form: name and version of the file's format.
    """
    from safetensors.torch import save

    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"format": form, "content": json.dumps(header), "sha256": _digest(kept)}
    write_file(path, save(kept, metadata=metadata))


def read_tensors(path: Path, *, form: str, writer: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read header and tensors of a file; nothing in it is executed.

    Args:
        path: of the file.
        form: name and version of the format that is expected.
        writer: the function that writes such files, for the error.

    Raises:
        ValueError: another format, or a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    if metadata.get("format") != form:
        raise ValueError(
            f"{path} is no {form}: its format is {metadata.get('format')!r}; give a file that"
            f" {writer} wrote"
        )
    if metadata.get("sha256", digest := _digest(tensors)) != digest:
        raise ValueError(f"{path} is damaged: its numbers are not those that were written")
    try:
        header = json.loads(metadata["content"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from error
    return header, tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).numpy().data)
    return digest.hexdigest()
