"""Verbs for cards, raw files and recordings."""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import (
    DatasetCardName,
    Json,
    Mirror,
    Offline,
    Select,
    To,
)


def cards(
    name: Annotated[str | None, typer.Argument(help="Show one card in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets and models that have a card, or show one."""
    from repalign.cards import KINDS, kind_of_file, list_cards, load_card
    from repalign.tables import print_records

    if name is not None:
        kinds = [kind for kind in KINDS if name in list_cards(kind)]
        if not kinds and not name.endswith(".toml"):
            known = [card for kind in KINDS for card in list_cards(kind)]
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            raise ValueError(f"no card is called {name!r}; near: {', '.join(near) or 'none'}")
        kind = kinds[0] if kinds else kind_of_file(Path(name))
        card = load_card(name, kind)
        shown = {"kind": kind, **card.model_dump(mode="json", exclude_none=True)}
        if as_json:
            print(json.dumps(shown, indent=1))
        else:
            print(f"# {card.path}\n{card.path.read_text(encoding='utf-8')}", end="")
        return
    rows = []
    for kind in KINDS:
        for card_name in list_cards(kind):
            try:
                card = load_card(card_name, kind)
            except ValueError as error:
                print(f"error: {error}", file=sys.stderr)
                continue
            rows.append(
                {
                    "kind": kind,
                    "name": card_name,
                    "title": card.title,
                    "access": getattr(card, "access", None) or getattr(card, "weights", None),
                    "licence": card.licence,
                    "path": str(card.path),
                }
            )
    print_records(rows, ("kind", "name", "title", "access", "licence"), as_json=as_json)


def fetch(
    dataset: DatasetCardName,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download the raw files of a dataset and check their hashes."""
    from repalign.cards import load_dataset_card
    from repalign.fetch import fetch_files
    from repalign.tables import print_records

    files = fetch_files(load_dataset_card(dataset), to=to, mirror=mirror, offline=offline or None)
    rows = [{"role": role, "path": str(path)} for role, path in files.items()]
    print_records(rows, ("role", "path"), as_json=as_json)


def ingest(
    dataset: DatasetCardName,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Read the raw files again in any case.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read the raw files of a dataset into a chunked Zarr store."""
    from repalign.inputs import recording_rows
    from repalign.loaders import ingest as run
    from repalign.tables import print_records

    recording = run(dataset, to=to, mirror=mirror, offline=offline or None, overwrite=overwrite)
    rows = recording_rows(recording)
    print_records(rows, tuple(rows[0]), as_json=as_json)


def inspect(
    dataset: DatasetCardName,
    select: Select = None,
    splits: Annotated[
        int, typer.Option(help="Random halves of the repetitions; fewer are quicker.")
    ] = 100,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a report: HTML, JSON and figures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how good a recording is: repetitions, reliability, noise ceiling, drift, dead units."""
    from repalign.inputs import open_selected
    from repalign.quality import inspect_recording

    where = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = open_selected(dataset, select, **where)
    quality = inspect_recording(recording, splits=splits)
    print(json.dumps(quality.to_dict(), indent=1, allow_nan=False) if as_json else quality)
    if out is not None:
        from repalign.reporting.recording_page import write_recording_report

        report = write_recording_report(quality, recording, out)
        if not as_json:
            print(f"report: {report}")


def export(
    dataset: DatasetCardName,
    path: Annotated[
        Path,
        typer.Argument(
            help="File to write: .nc (BrainIO, its images beside it), .npz (NumPy) or .h5"
            " (rsatoolbox)."
        ),
    ],
    select: Select = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what stands at the path.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a recording in the format of another tool; ingests it first where that is missing."""
    from repalign.exporting import export as run
    from repalign.inputs import open_selected
    from repalign.tables import print_records

    where = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = open_selected(dataset, select, **where)
    rows = [
        {"file": str(file), "bytes": file.stat().st_size}
        for file in run(recording, path, overwrite=overwrite)
    ]
    print_records(rows, ("file", "bytes"), as_json=as_json)


def verify_store(
    stores: Annotated[
        list[str], typer.Argument(help="Paths or URLs of stores, or names of ingested datasets.")
    ],
    to: To = None,
    as_json: Json = False,
) -> None:
    """Read stores again from end to end, and compare them with what was written."""
    from repalign.opening import is_store
    from repalign.places import find_place
    from repalign.store import default_folder
    from repalign.store_checks import verify_store as run
    from repalign.tables import print_records

    rows = []
    for name in stores:
        folder = find_place(default_folder() if to is None else to)
        place = find_place(name) if is_store(name) else folder / f"{Path(name).stem}.zarr"
        rows += [{"store": str(place), **dataclasses.asdict(one)} for one in run(place)]
    failed = any(row["passed"] is False for row in rows)
    if not as_json:
        for row in rows:
            row["passed"] = {None: "", True: "yes", False: "NO"}[row["passed"]]
    print_records(rows, ("store", "check", "passed", "detail"), as_json=as_json)
    if failed:
        raise typer.Exit(1)


def copy_store(
    source: Annotated[
        str,
        typer.Argument(
            help="A store: NAME.zarr, NAME.zarr.zip, or a URL (s3://…) of either; or a dataset that"
            " was ingested."
        ),
    ],
    target: Annotated[str, typer.Argument(help="Where its copy goes, named likewise.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what stands there, when the copy is whole.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy a store to a folder, into one zip file, or to an object store, and check it."""
    from repalign.cards import list_cards
    from repalign.copying import copy_store as run
    from repalign.store import default_folder
    from repalign.tables import print_records

    if source in list_cards("dataset"):  # where ingest puts it
        source = str(default_folder() / f"{source}.zarr")
    size = run(source, target, overwrite=overwrite)
    print_records([{"store": target, "bytes": size}], ("store", "bytes"), as_json=as_json)
