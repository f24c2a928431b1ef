"""Finding and reading cards: descriptions of datasets and models, one TOML file each.

A card says *what* (sources, hashes, licence, layers); the code says *how*. A card is data: it
never runs anything by itself, and ``module:function`` is honoured only in cards that a user
names by path or keeps in ``$REPALIGN_CARDS``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from repalign.card_schemas import Card, DatasetCard, ModelCard

Kind = Literal["dataset", "model"]
KINDS: tuple[Kind, ...] = ("dataset", "model")
FOLDERS: dict[Kind, str] = {"dataset": "neural_data", "model": "models"}


CardType = TypeVar("CardType", bound=Card)


def load_card(name: str | Path, kind: Kind) -> DatasetCard | ModelCard:
    """Read the card called ``name``, or the one at a path that ends in ``.toml``.

    Looks at an explicit path, then in the folders of ``$REPALIGN_CARDS``, then among the cards
    that come with repalign.

    Raises:
        ValueError: the name is unknown (near matches are listed), stands in two files, or the
            card does not validate (file, key, value and expectation are given).

    Example:
        >>> load_card("resnet18", "model").source
        'torchvision:resnet18'
    """
    text = str(name)
    if text.endswith(".toml"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no card at {path}; give the path of a TOML file")
        return _read(path, kind, trusted=True)
    found = {path.stem: (path, trusted) for path, trusted in _iterate(kind)}
    if text not in found:
        near = difflib.get_close_matches(text, found, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(found))}"
        raise ValueError(
            f"no {kind} card is called {text!r}; {hint} (a path ending in .toml also works)"
        )
    path, trusted = found[text]
    return _read(path, kind, trusted=trusted)


def load_dataset_card(name: str | Path) -> DatasetCard:
    """Read one dataset card (see `load_card`)."""
    card = load_card(name, "dataset")
    assert isinstance(card, DatasetCard)
    return card


def load_model_card(name: str | Path) -> ModelCard:
    """Read one model card (see `load_card`)."""
    card = load_card(name, "model")
    assert isinstance(card, ModelCard)
    return card


def list_cards(kind: Kind) -> list[str]:
    """Names of all cards of a kind, sorted.

    Example:
        >>> "kriegeskorte2008" in list_cards("dataset")
        True
    """
    return sorted(path.stem for path, _ in _iterate(kind))


def split_twin(model: str) -> tuple[str, int | None]:
    """``resnet18@random:7`` → (``resnet18``, 7); ``resnet18`` → (``resnet18``, None).

    Raises:
        ValueError: something else than ``random`` or ``random:SEED`` after the last ``@``.
    """
    name, at, twin = model.rpartition("@")
    if not at or "/" in twin or twin.endswith(".toml"):
        return model, None
    word, colon, seed = twin.partition(":")
    if word != "random" or (colon and not seed.isdigit()):
        raise ValueError(f"{model!r}: expected NAME@random or NAME@random:SEED after the name")
    return name, int(seed) if colon else 0


def import_code(card: Card, target: str, key: str) -> Callable[..., Any]:
    """The ``module:function`` that a card of the user's own names; looks beside the card too.

    Raises:
        ValueError: the card is not the user's own, or the import fails.
    """
    if not card.trusted:
        raise ValueError(
            f"card {card.path}: {key} = {target!r} names code, which is run only for cards given"
            " by path or kept in $REPALIGN_CARDS"
        )
    module, _, function = target.partition(":")
    beside = str(card.path.parent)
    sys.path.append(beside)
    try:
        code: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"card {card.path}: {key} = {target!r} failed: {error} (modules are looked for on"
            f" Python's path and in {beside})"
        ) from error
    finally:
        sys.path.remove(beside)
    return code


def _iterate(kind: Kind) -> Iterator[tuple[Path, bool]]:
    """Each card file of a kind once, with whether its folder is the user's own."""
    seen: dict[str, Path] = {}
    for folder, trusted in _folders(kind):
        for path in sorted(folder.glob("*.toml")):
            if path.stem.startswith("_") or (trusted and _kind_of(path, kind) != kind):
                continue
            if path.stem in seen:
                raise ValueError(
                    f"two {kind} cards are called {path.stem!r}: {seen[path.stem]} and {path};"
                    " rename one of them"
                )
            seen[path.stem] = path
            yield path, trusted


def _folders(kind: Kind) -> Iterator[tuple[Path, bool]]:
    for entry in os.environ.get("REPALIGN_CARDS", "").split(os.pathsep):
        if entry:
            root = Path(entry).expanduser()
            if not root.is_dir():
                raise FileNotFoundError(f"REPALIGN_CARDS names {root}, which is no folder")
            yield root, True
            if (root / FOLDERS[kind]).is_dir():
                yield root / FOLDERS[kind], True
    here = Path(__file__).parent
    packaged = here / "_cards" / FOLDERS[kind]
    yield packaged if packaged.is_dir() else here.parent / FOLDERS[kind], False


def kind_of_file(path: Path) -> Kind:
    """The kind of a card given by path; a file that cannot be read counts as a dataset's."""
    try:
        data = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return "dataset"
    return "model" if "source" in data else "dataset"


def _kind_of(path: Path, wanted: Kind) -> Kind:
    """The kind of a card in a folder that may mix both, by the key that only one of them has.

    A card that says neither, or is no TOML, counts as wanted: loading it says what is wrong.
    """
    for kind, folder in FOLDERS.items():
        if path.parent.name == folder:
            return kind
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return wanted
    return "dataset" if "loader" in data else "model" if "source" in data else wanted


def _read(path: Path, kind: Kind, *, trusted: bool) -> DatasetCard | ModelCard:
    raw = path.read_bytes()
    try:
        data = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"card {path} is not valid TOML: {error}") from error
    model: type[DatasetCard | ModelCard] = DatasetCard if kind == "dataset" else ModelCard
    try:
        card = model.model_validate(data)
    except ValidationError as error:
        raise ValueError(_explain(path, error, model)) from error
    if card.name != path.stem:
        raise ValueError(
            f"card {path}: name = {card.name!r}, but the file is called {path.name};"
            " make the two equal"
        )
    card._path = path.resolve()
    card._trusted = trusted
    card._sha256 = hashlib.sha256(raw).hexdigest()
    return card


def _explain(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    """All complaints in one line: file, key, value, expectation."""
    complaints = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        key = ".".join(location)
        if item["type"] == "missing":
            complaints.append(f"key {key!r} is missing")
        elif item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(location[-1], model.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            complaints.append(f"unknown key {key!r}{hint}")
        else:
            value = "" if isinstance(item["input"], dict) else f" = {item['input']!r}"
            message = item["msg"].removeprefix("Value error, ")
            complaints.append(f"{key}{value}: {message}" if key else message)
    return f"card {path}: " + "; ".join(complaints)
