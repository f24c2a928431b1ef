"""Raw files of a dataset: a local path, the mirror folder, the download cache, the network.

Every file is checked against the hash of its card. Nothing that was downloaded is unpickled,
unpacked or executed.
"""

from __future__ import annotations

import glob
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repalign.card_schemas import Card, DatasetCard, FileSource
from repalign.store import file_hash, local_folder


def fetch_files(
    card: DatasetCard,
    *,
    to: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
) -> dict[str, Path]:
    """Make every file of a card available and return their paths by role.

    Looks for each file at the card's local path, then in ``mirror`` (by file name and hash, in
    all its subfolders), then in the download cache, then on the network.

    Args:
        card: a dataset card.
        to: folder of the cache; ``$REPALIGN_CACHE`` or the user's cache folder by default.
        mirror: folder that is searched before the network; ``$REPALIGN_MIRROR`` by default.
        offline: never use the network; ``$REPALIGN_OFFLINE`` by default.

    Raises:
        FileNotFoundError: a file cannot be had; the message says what to do.
        ValueError: a file has another hash than its card says.
    """
    cache = local_folder(to) / "downloads" / card.name
    return {
        role: _local(card, source)
        if source.path is not None
        else fetch_file(source, card, cache=cache, mirror=mirror, offline=offline)
        for role, source in card.files.items()
    }


def fetch_file(
    source: FileSource,
    card: Card,
    *,
    cache: Path,
    mirror: str | Path | None = None,
    offline: bool | None = None,
) -> Path:
    """One file: from the mirror, the cache or the network, checked against its hash.

    The hash may be cut short, as in the file names of torchvision's weights.
    """
    if offline is None:
        offline = os.environ.get("REPALIGN_OFFLINE", "").lower() not in ("", "0", "false", "no")
    refused = ""
    for candidate in _candidates(source.name, cache, _mirror_folder(mirror)):
        if _has_hash(candidate, source.hash):
            return candidate
        refused = f"; {candidate} has another hash than the card says ({source.hash})"
    advice = f"put {source.name} into a folder and name that folder in REPALIGN_MIRROR or --mirror"
    access = getattr(card, "access", "open")
    if access != "open":
        instructions = " ".join(getattr(card, "instructions", "").split())
        raise FileNotFoundError(
            f"{card.name}: {source.name} is not public (access: {access}). {instructions}"
            f" Then {advice}{refused}"
        )
    if source.url is None or offline:
        why = "its card gives no url" if source.url is None else "and this run is offline"
        raise FileNotFoundError(
            f"{card.name}: {source.name} is neither in the mirror nor in the cache, {why};"
            f" {advice}{refused}"
        )
    return _download(card, source, cache, advice)


def _mirror_folder(mirror: str | Path | None) -> Path | None:
    mirror = mirror or os.environ.get("REPALIGN_MIRROR") or None
    if mirror is None:
        return None
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"the mirror {folder} is no folder (REPALIGN_MIRROR, --mirror)")
    return folder


def _local(card: DatasetCard, source: FileSource) -> Path:
    """A file that the card names by its path, relative to the card."""
    assert source.path is not None
    path = card.path.parent / Path(source.path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{card.name}: no file at {path}; correct path = {source.path!r} in {card.path}"
        )
    if source.hash is not None and path.is_dir():
        raise ValueError(f"{card.name}: {path} is a folder, and a folder has no hash")
    if path.is_file() and not _has_hash(path, source.hash):
        raise ValueError(
            f"{card.name}: {path} has hash {file_hash(path, _algorithm(source.hash))}, the card"
            f" {card.path} says {source.hash}; copy it again, or put its hash into the card"
        )
    return path


def _candidates(name: str, cache: Path, mirror: Path | None) -> Iterator[Path]:
    if mirror is not None:
        yield from sorted(p for p in mirror.rglob(glob.escape(name)) if p.is_file())
    if (cache / name).is_file():
        yield cache / name


def _algorithm(expected: str | None) -> str:
    return "sha256" if expected is None else expected.split(":")[0]


def _has_hash(path: Path, expected: str | None) -> bool:
    return expected is None or file_hash(path, _algorithm(expected)).startswith(expected)


def _reason(error: Exception) -> str:
    """A network error in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    return "no connection" if "Max retries" in str(error) else type(error).__name__


def _download(card: Card, source: FileSource, cache: Path, advice: str) -> Path:
    import pooch

    assert source.url is not None
    terms = f"licence {card.licence or 'not stated'}; cite {card.citation or card.doi or card.url}"
    print(f"{card.name}: downloading {source.url}\n  {terms}", file=sys.stderr)
    pooch.get_logger().setLevel("ERROR")
    downloader = pooch.DOIDownloader if source.url.startswith("doi:") else pooch.HTTPDownloader
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        try:
            found = pooch.retrieve(
                source.url,
                known_hash=None,
                fname=source.name,
                path=folder,
                downloader=downloader(progressbar=sys.stderr.isatty()),
            )
        except Exception as error:  # requests has a family of network errors of its own
            raise OSError(
                f"{card.name}: could not download {source.url} ({_reason(error)}); {advice}"
            ) from error
        digest = file_hash(Path(found), _algorithm(source.hash))
        if source.hash is not None and not digest.startswith(source.hash):
            raise ValueError(
                f"{card.name}: {source.url} has hash {digest}, the card says {source.hash}; the"
                " publisher changed the file, or the download was damaged; it was not kept"
            )
        path = cache / source.name
        Path(found).replace(path)
    if source.hash is None or digest != source.hash:  # unknown so far, or known in part
        key = "hash" if isinstance(card, DatasetCard) else "weights_hash"
        print(f'  pin it in {card.path}: {key} = "{digest}"', file=sys.stderr)
    return path
