"""From the names and patterns of a study to the cards and stores that they stand for."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repalign.cards import Kind, kind_of_file, list_cards, load_card, split_twin
from repalign.choices import check_known
from repalign.opening import is_store
from repalign.studies.configuration import RecordingEntry, StudyConfig, looks_like_a_path

WILD = "*?["
BRAIN = "@"  # before the name of a dataset that stands as a model


def is_pattern(text: str) -> bool:
    """Whether a word stands for several names."""
    return any(sign in text for sign in WILD)


def named_recordings(config: StudyConfig) -> list[RecordingEntry]:
    """The recordings of a study, patterns replaced by what they match.

    Raises:
        ValueError: an unknown name, or a pattern that matches nothing.
        FileNotFoundError: no file at a path.
    """
    found: dict[RecordingEntry, None] = {}
    for entry in config.recordings:
        for name in _matches(entry.name, "dataset", "recordings"):
            found[entry.model_copy(update={"name": name})] = None
    return list(found)


def named_models(config: StudyConfig) -> list[str]:
    """The models of a study, patterns replaced by what they match, without the excluded ones.

    Raises:
        ValueError: an unknown name, a pattern that matches nothing, or none is left.
        FileNotFoundError: no file at a path.
    """
    found: dict[str, None] = {}
    for text in config.models:
        if text.startswith(BRAIN):
            names = _matches(text.removeprefix(BRAIN), "dataset", "models")
            found |= dict.fromkeys(f"{BRAIN}{name}" for name in names)
            continue
        base, twin = text, ""
        if not looks_like_a_path(text) or "@random" in text:
            base = split_twin(text)[0]
            twin = text[len(base) :]
        found |= dict.fromkeys(f"{name}{twin}" for name in _matches(base, "model", "models"))
    for pattern in config.exclude:
        left_out = [name for name in found if fnmatch.fnmatchcase(name, pattern)]
        if not left_out:
            raise ValueError(
                f"exclude: {pattern!r} matches no model of the study; there are {_some(found)}"
            )
        for name in left_out:
            del found[name]
    if not found:
        raise ValueError("the grid is empty: every model is excluded")
    return list(found)


def brain_of(model: str) -> str | None:
    """The recording that stands as a model: ``@NAME``, or the path of a dataset's card."""
    if model.startswith(BRAIN):
        return model.removeprefix(BRAIN)
    path = Path(model)
    if model.endswith(".toml") and path.is_file() and kind_of_file(path) == "dataset":
        return model
    return None


def layers_by_model(config: StudyConfig, models: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The layers asked for of each model; a model that no pattern of ``layers`` names has none.

    Raises:
        ValueError: a pattern that names no model.
    """
    models = list(models)
    wanted: dict[str, tuple[str, ...]] = {}
    for pattern, layers in config.layers.items():
        named = [name for name in models if fnmatch.fnmatchcase(name, pattern)]
        if not named:
            raise ValueError(f"layers: {pattern!r} matches no model; there are {_some(models)}")
        for name in named:
            wanted.setdefault(name, layers)
    return wanted


def _matches(text: str, kind: Kind, key: str) -> list[str]:
    if looks_like_a_path(text):
        if not is_pattern(text):
            if not is_store(text) and not Path(text).is_file():
                inside = sorted(path.name for path in Path(text).glob("*.zarr"))
                hint = f", but {', '.join(inside)} in it" if inside else ""
                raise FileNotFoundError(
                    f"{key}: there is neither a store nor a card at {text}{hint}"
                )
            return [text]
        found = sorted(glob.glob(text))  # noqa: PTH207 (an absolute pattern)
        if not found:
            raise ValueError(f"{key}: {text!r} matches no file")
        return found
    cards = list_cards(kind)
    if not is_pattern(text):
        try:
            check_known(text, cards, kind)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        load_card(text, kind)
        return [text]
    found = fnmatch.filter(cards, text)
    if not found:
        raise ValueError(f"{key}: {text!r} matches no {kind} card; there are {_some(cards)}")
    return found


def _some(names: Iterable[Any]) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
