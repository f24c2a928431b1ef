"""Channels of epochs files: which are taken, where they are, what unit and region they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.card_schemas import DatasetCard
from repalign.loaders.array_labels import read_table
from repalign.loaders.fif_files import EpochsFile, Note
from repalign.recording import RESERVED

DATA_TYPES = ("mag", "grad", "eeg", "seeg", "ecog", "dbs", "csd", "hbo", "hbr")
TYPES = {"meg": ("mag", "grad")}  # names of several types
UNITS = {107: "V", 112: "T", 201: "T/m"}
FRAMES = {1: "device", 4: "head", 5: "mri", 6: "mri_slice", 7: "mri_voxel"}

Array = np.ndarray[Any, np.dtype[Any]]


def _types(source: EpochsFile) -> dict[str, str]:
    """The type of each channel."""
    info = source.epochs.info
    return dict(zip(info["ch_names"], info.get_channel_types(), strict=True))


def pick_channels(
    card: DatasetCard, picks: str | Sequence[str] | None, opened: Sequence[EpochsFile], note: Note
) -> list[str]:
    """Names of the channels taken, in the order of the first file.

    Bad channels of any file are left out, unless they are picked by name.

    Raises:
        ValueError: a pick that is neither a type nor a channel, nothing left, or files that have
            different channels.
    """
    types = _types(opened[0])
    wanted = [picks] if isinstance(picks, str) else picks
    named: set[str] = set()
    chosen_types: set[str] = set(DATA_TYPES) if wanted is None else set()
    for pick in wanted or ():
        meant = {t for t in TYPES.get(pick, (pick,)) if t in types.values()}
        if pick in types:
            named.add(pick)
        elif meant:
            chosen_types |= meant
        else:
            have = ", ".join(dict.fromkeys(types.values()))
            raise ValueError(
                f"card {card.path}: options.picks has {pick!r}, which is no channel of"
                f" {opened[0].path} nor a type of channel in it ({have})"
            )
    for other in opened[1:]:
        _check_same(opened[0], other, named, chosen_types)
    bads = {str(name) for one in opened for name in one.epochs.info["bads"]}
    taken = [name for name, kind in types.items() if name in named or kind in chosen_types]
    bad = [name for name in taken if name in bads]
    kept = [name for name in taken if name not in bads or name in named]
    left = [name for name in bad if name not in named]
    if left:
        note(f"{len(left)} bad channels left out: {', '.join(left[:10])}")
    if set(bad) - set(left):
        note(f"bad channels kept, since picks names them: {', '.join(sorted(set(bad) & named))}")
    if not kept:
        have = ", ".join(dict.fromkeys(types.values()))
        raise ValueError(
            f"card {card.path}: no channel of {opened[0].path} is left; it has types {have}, and"
            f" {len(left)} bad channels; say which to take by picks under [options]"
        )
    return kept


def _check_same(first: EpochsFile, other: EpochsFile, named: set[str], kinds: set[str]) -> None:
    """Raise unless what is picked means the same channels in both files, in any order."""
    ours, theirs = (
        {(n, kind) for n, kind in _types(one).items() if n in named or kind in kinds}
        for one in (first, other)
    )
    if ours != theirs:
        unlike = sorted({name for name, _ in ours ^ theirs})
        raise ValueError(
            f"{first.path} and {other.path} have different channels: {', '.join(unlike)} are not"
            " in both, with one type; name those that all sessions have by picks under [options],"
            " or drop the others with MNE"
        )


def channel_columns(
    card: DatasetCard,
    opened: Sequence[EpochsFile],
    names: Sequence[str],
    unit_scale: float | Mapping[str, float],
    note: Note,
) -> dict[str, Array]:
    """Type, unit, scale and, where known, position in mm of each channel.

    Raises:
        ValueError: a scale that is no number above 0, is missing, or is of a type not taken.
    """
    types = _types(opened[0])
    kinds = [types[name] for name in names]
    scales = unit_scale if isinstance(unit_scale, Mapping) else dict.fromkeys(kinds, unit_scale)
    if set(scales) != set(kinds):
        raise ValueError(
            f"card {card.path}: options.unit_scale is given for {', '.join(scales)}; the channels"
            f" taken are of types {', '.join(dict.fromkeys(kinds))}: give one number for each type"
        )
    wrong = [value for value in scales.values() if not (np.isfinite(value) and value > 0)]
    if wrong:
        raise ValueError(f"card {card.path}: options.unit_scale = {wrong[0]:g}, expected above 0")
    lists = [{ch["ch_name"]: ch for ch in one.epochs.info["chs"]} for one in opened]
    chosen = [lists[0][name] for name in names]
    units = [UNITS.get(int(ch["unit"]), str(ch["unit"])) for ch in chosen]
    for other, source in zip(lists[1:], opened[1:], strict=True):
        if [int(other[name]["unit"]) for name in names] != [int(ch["unit"]) for ch in chosen]:
            raise ValueError(f"{source.path} has other units than {opened[0].path}")
    columns: dict[str, Array] = {
        "channel_type": np.array(kinds, dtype=object),
        "file_unit": np.array(units, dtype=object),
        "unit_scale": np.array([scales[kind] for kind in kinds], dtype=np.float64),
    }
    positions = np.stack([_position(ch) for ch in chosen])
    if np.isfinite(positions).any():
        columns |= {f"{axis}_mm": positions[:, i] for i, axis in enumerate("xyz")}
        frames = [FRAMES.get(int(ch["coord_frame"]), "unknown") for ch in chosen]
        columns["coordinate_frame"] = np.array(frames, dtype=object)
        others = [np.stack([_position(other[name]) for name in names]) for other in lists[1:]]
        if any(not np.allclose(positions, one, atol=0.01, equal_nan=True) for one in others):
            note("positions of channels differ between sessions; those of the first are kept")
    return columns


def _position(channel: Mapping[str, Any]) -> Array:
    """x, y, z in mm; NaN where the file gives none, which some programs write as 0, 0, 0."""
    metres = np.asarray(channel["loc"][:3], dtype=np.float64)
    return metres * 1000 if np.isfinite(metres).all() and metres.any() else np.full(3, np.nan)


def read_regions(
    card: DatasetCard,
    files: Mapping[str, Path],
    names: Sequence[str],
    channels: Mapping[str, Array],
    option: str | None,
    note: Note,
) -> tuple[list[str], dict[str, Array]]:
    """The region of each channel, and what else the csv ``neuroids`` tells of it.

    Raises:
        ValueError: a channel without row, or no way or two ways to tell the regions.
    """
    table = read_table(files["neuroids"]) if "neuroids" in files else None
    extra: dict[str, Array] = {}
    told = None
    if table is not None:
        path = files["neuroids"]
        if "neuroid_id" not in table.columns:
            raise ValueError(f"{path} has no column neuroid_id; it has {', '.join(table.columns)}")
        ids = table["neuroid_id"]
        if ids.duplicated().any():
            raise ValueError(f"{path}: neuroid_id {ids[ids.duplicated()].iloc[0]!r} stands twice")
        missing = [name for name in names if name not in set(ids)]
        if missing:
            raise ValueError(
                f"{path} has no row for {len(missing)} of {len(names)} channels (first"
                f" {missing[0]!r}); add them, or choose channels by picks under [options]"
            )
        if len(ids) > len(names):
            note(f"{len(ids) - len(names)} of {len(ids)} rows of {path.name} left out: not taken")
        table = table.set_index("neuroid_id").loc[list(names)]
        taken = [c for c in table.columns if c != "region" and (c in RESERVED or c in channels)]
        if taken:
            raise ValueError(f"{path} has a column {taken[0]!r}, a name of ours; rename it")
        for column in table.columns:
            values = table[column].to_numpy()
            if column == "region":
                told = ["" if value != value else str(value) for value in values.tolist()]
                if "" in told:
                    empty = names[told.index("")]
                    raise ValueError(f"{path}: channel {empty!r} has no region; fill it in")
            else:
                number = values.dtype.kind in "fiub"
                texts = ["" if v != v else str(v) for v in values.tolist()]
                extra[str(column)] = values if number else np.array(texts, dtype=object)
    if option is not None:
        if told is not None:
            raise ValueError(
                f"card {card.path}: options.region = {option!r}, but {files['neuroids']} has a"
                " column region; remove one of the two"
            )
        return [str(kind) for kind in channels["channel_type"]], extra
    if told is None and len(card.regions) != 1:
        raise ValueError(
            f"card {card.path}: {len(card.regions)} regions; say which channel is where by a csv"
            ' neuroids (neuroid_id, region), or set region = "channel_type" under [options]'
        )
    return told if told is not None else [card.regions[0]] * len(names), extra
