"""The page of a study, or of the results of earlier runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repalign.cards import Kind, load_card, split_twin
from repalign.local_files import write_file
from repalign.reporting import RESULTS, SOURCES, read_rows, read_sources, rows_as_csv
from repalign.reporting.interactive.document import PageMaterial, interactive_page
from repalign.reporting.interactive.matrices import RdmSource, rdm_pictures
from repalign.reporting.profiles import Profile, Row, gather_profiles
from repalign.reporting.references import Work, bibtex, work_of
from repalign.reporting.sources import software
from repalign.results import similarity
from repalign.studies.collecting import join_results
from repalign.studies.configuration import CONFIGURATION, StudyConfig, read_study
from repalign.studies.grid import Grid
from repalign.studies.grid_building import build_grid, open_selected
from repalign.studies.results_store import PARTS, read_failures, read_stored, say_damaged

Source = str | Path | Mapping[str, Any] | StudyConfig


def write_study_report(
    source: Source | Sequence[str | Path],
    folder: str | Path = "repalign-report",
    *,
    title: str | None = None,
    command: Sequence[str] = (),
) -> Path:
    """Write one self-contained page of a study, or of results collected before.

    The page holds a leaderboard, layer profiles, maps, RDMs with their stimuli, the spread over
    subjects, every comparison, what was run, and what to cite. It loads nothing. Beside it lie
    results.json, results.csv, sources.json and citations.bib; each is written atomically.

    Args:
        source: a study's TOML file, its content, its `StudyConfig`, or the folder it has run in;
            else one or more results.json, or folders that hold them, whose page has no RDMs.
        folder: made if absent; files of these names in it are replaced.
        title: of the page; by default the name of the study or its datasets.
        command: words that made the report, shown as the way to make it again.

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: the study has no results yet, a file is damaged, or two rows contradict.

    Example:
        >>> write_study_report("study.toml", "report/")  # doctest: +SKIP
    """
    if isinstance(source, Mapping | StudyConfig):
        material = _of_study(read_study(source), "", title, command)
    else:
        paths = [source] if isinstance(source, str | Path) else list(source)
        material = _of_paths([Path(path).expanduser() for path in paths], title, command)
    html = interactive_page(material)
    folder = Path(folder).expanduser()
    rows = list(material.rows)
    write_file(folder / RESULTS, json.dumps(rows, indent=1, allow_nan=False) + "\n")
    write_file(folder / "results.csv", rows_as_csv(rows))
    sources = {
        "command": shlex.join(map(str, command)),
        "citations": [work.sentence for work in material.works],
    }
    write_file(folder / SOURCES, json.dumps(sources, indent=1) + "\n")
    write_file(folder / "citations.bib", bibtex(material.works))
    write_file(folder / "report.html", html)
    return folder / "report.html"


def _of_paths(paths: Sequence[Path], title: str | None, command: Sequence[str]) -> PageMaterial:
    studies = [path for path in paths if _is_study(path)]
    if not studies:
        return _of_results(paths, title, command)
    if len(paths) > 1:
        raise ValueError(
            f"{studies[0]} is a study, whose page stands alone; to join several, collect each:"
            " repalign study collect STUDY.toml --out NAME/results.json"
        )
    if studies[0].suffix == ".toml":
        config = read_study(studies[0])
        return _of_study(config, studies[0].read_text(encoding="utf-8"), title, command)
    kept = studies[0] / CONFIGURATION
    if not kept.is_file():
        raise ValueError(
            f"{studies[0]} holds a study's results without its configuration (an earlier version"
            " ran it); give the study's TOML file: repalign report STUDY.toml"
        )
    try:
        config = read_study(json.loads(kept.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{kept} cannot be used: {error}; give the study's TOML file") from error
    return _of_study(config, "", title, command)


def _is_study(path: Path) -> bool:
    """Whether a path is a study's file, or the folder it runs in."""
    return path.suffix == ".toml" or (path / PARTS).is_dir() or (path / CONFIGURATION).is_file()


def _of_study(
    config: StudyConfig, text: str, title: str | None, command: Sequence[str]
) -> PageMaterial:
    grid = build_grid(config)
    stored = read_stored(config.folder)
    say_damaged(stored)
    results = join_results(grid, stored)
    if not len(results.table):
        raise ValueError(
            f"study {config.name} has no results yet in {config.folder}; run it first:"
            " repalign study run STUDY.toml"
        )
    rows = results.rows()
    recordings = {str(group.recording): group.recording for group in grid.groups}
    cited = {one.name: one.store for one in recordings.values()}
    pictures, lacking = rdm_pictures(_rdm_sources(grid, rows))
    failures = read_failures(config.folder)
    notes = [
        *([f"{results.missing:,} cells are not computed yet."] if results.missing else []),
        *(f"Not recorded: {who}: {why}" for who, why in failures.items()),
        *(f"Left out: {reason}" for reason in grid.left_out),
        *(f"Damaged and not used: {path}" for path in stored.damaged),
    ]
    inference = config.inference.model_dump()
    return PageMaterial(
        rows=rows,
        title=title or config.name,
        provenance={
            **({"command": shlex.join(map(str, command))} if command else {}),
            "study": config.name,
            "computed by": f"repalign {_listed(rows, 'version')}",
            "seed": config.inference.seed,
            "inference": ", ".join(f"{k} = {v}" for k, v in inference.items() if v is not None),
            "page made": ", ".join(software().values()),
        },
        tables=[_recordings_table(grid), _layers_table(grid)],
        configuration=text or json.dumps(config.model_dump(mode="json"), indent=1),
        notes=notes,
        missing=results.missing,
        works=works_of(rows, recordings=cited),
        rdms=pictures,
        no_rdms=lacking,
    )


def _of_results(
    paths: Sequence[str | Path], title: str | None, command: Sequence[str]
) -> PageMaterial:
    rows = read_rows(paths)
    commands, citations = read_sources(paths)
    made = " | ".join(filter(None, dict.fromkeys(commands)))
    return PageMaterial(
        rows=rows,
        title=title or ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows)),
        provenance={
            **({"command": shlex.join(map(str, command))} if command else {}),
            **({"made from": made} if made else {}),
            "computed by": f"repalign {_listed(rows, 'version')}",
            "seed": _listed(rows, "seed"),
            "page made": ", ".join(software().values()),
        },
        works=works_of(rows, sentences=citations),
        no_rdms=[
            "Results alone name no stores, which RDMs are read from: give the study's TOML file or"
            " its folder instead, as in repalign report STUDY.toml."
        ],
    )


def _listed(rows: Iterable[Row], name: str) -> str:
    return ", ".join(dict.fromkeys(str(row[name]) for row in rows))


Table = tuple[str, dict[str, str], list[dict[str, Any]]]


def _recordings_table(grid: Grid) -> Table:
    every = {str(group.recording): group.recording for group in grid.groups}
    rows = [
        {
            "name": name,
            "stimuli": one.n_stimuli,
            "targets": len(one.targets),
            "fingerprint": one.fingerprint,
        }
        for name, one in every.items()
    ]
    columns = {
        "name": "Recording", "stimuli": "Stimuli", "targets": "Targets",
        "fingerprint": "Fingerprint of the content",
    }  # fmt: skip
    return "Recordings", columns, rows


def _layers_table(grid: Grid) -> Table:
    rows = [
        {
            "recording": str(group.recording),
            "model": layer.model,
            "layer": layer.layer,
            "units": layer.units,
            "fingerprint": layer.fingerprint or "not recorded",
        }
        for group in grid.groups
        for layer in group.layers
    ]
    columns = {
        "recording": "Recording", "model": "Model", "layer": "Layer", "units": "Units",
        "fingerprint": "Fingerprint of the content",
    }  # fmt: skip
    return "Layers", columns, rows


def _rdm_sources(grid: Grid, rows: Sequence[Row]) -> list[RdmSource]:
    """Recordings with the stores of their layers; the models that score best come first."""
    every = [profile for profile in gather_profiles(rows) if profile.best is not None]
    sources = []
    for recording in dict.fromkeys(group.recording for group in grid.groups):
        groups = [group for group in grid.groups if group.recording == recording]
        layers = {
            (layer.model, layer.layer): layer.store
            for group in groups
            for layer in group.layers
            if layer.fingerprint and layer.part is None  # a group of a brain has no store alone
        }
        place = recording.name, recording.selection
        own = [one for one in every if (one.target.dataset, one.target.selection) == place]
        first = [one for one in own if (one.target, one.metric) == (own[0].target, own[0].metric)]
        leading = sorted(first, key=_score, reverse=True)
        order = [(one.model, one.best[0]) for one in (*leading, *own) if one.best is not None]
        opened = open_selected(recording.store, recording.conditions, None)
        sources.append(RdmSource(str(recording), opened, layers, order))
    return sources


def _score(profile: Profile) -> float:
    return similarity(profile.best[1] if profile.best else None, profile.is_distance)


def works_of(
    rows: Sequence[Row],
    *,
    recordings: Mapping[str, str] | None = None,
    sentences: Sequence[str] = (),
) -> list[Work]:
    """What to cite for the datasets and models of rows, each work once.

    Args:
        rows: with ``dataset`` and ``model``.
        recordings: stores by dataset, whose attributes cite; cards are asked for the others.
        sentences: citations that were kept with the rows.
    """
    found: dict[tuple[str, str | None], dict[str, None]] = {}

    def add(work: Work, name: str) -> None:
        if work.text:
            found.setdefault((work.text, work.address), {})[name] = None

    for dataset in dict.fromkeys(str(row["dataset"]) for row in rows):
        store = (recordings or {}).get(dataset)
        if store is not None:
            attrs = open_selected(store, (), None).attrs
            text, doi = str(attrs.get("citation", "")), attrs.get("doi")
            add(Work(" ".join(text.split()), str(doi) if doi else None), dataset)
        else:
            add(_of_card(dataset, "dataset"), dataset)
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        own = _of_card(model, "model")
        add(own if own.text else _of_card(model, "dataset"), model)  # of a brain as a model
    known = {text for text, _ in found}
    for sentence in sentences:
        work = work_of(sentence)
        if work.text not in known:
            add(work, "")
    return [
        Work(text, address, tuple(filter(None, names))) for (text, address), names in found.items()
    ]


def _of_card(name: str, kind: Kind) -> Work:
    """What a card cites; an empty work where no card bears the name."""
    try:
        card = load_card(split_twin(name)[0] if kind == "model" else name, kind)
    except (ValueError, OSError):
        return Work("")
    return Work(" ".join(card.citation.split()), card.doi or card.url)
