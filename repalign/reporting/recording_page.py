"""The page on the quality of one recording: one file that loads nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from repalign.quality import RecordingQuality
from repalign.reporting import recording_figures as figures
from repalign.reporting.figures import save_figure
from repalign.reporting.shell import (
    Section,
    definitions_html,
    figure_html,
    page,
    table_html,
    text_html,
)
from repalign.stimuli import GROUP, open_stimuli
from repalign.store import has_group, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "quality.json"
TARGET = {"species": "Species", "region": "Region", "subject": "Subject"}
TABLES = {
    "Size and noise, one row a species, region and subject": {
        "neuroids": "Neuroids", "stimuli": "Stimuli", "sessions": "Sessions",
        "repetitions_min": "Fewest repetitions", "repetitions_median": "Median",
        "repetitions_max": "Most", "reliability": "Reliability", "ceiling": "Noise ceiling",
        "ceiling_low": "Low", "ceiling_high": "High", "drift": "Drift",
        "between_subjects": "Between subjects", "between_sessions": "Between sessions",
    },
    "Responses, and what the noise ceiling was computed from": {
        "mean": "Mean", "spread": "Spread", "minimum": "Least", "maximum": "Greatest",
        "ceiling_stimuli": "Stimuli of ceiling", "ceiling_neuroids": "Neuroids of ceiling",
    },
    "How many trials and neuroids look wrong": {
        "missing": "Missing trials", "dead": "Dead", "copies": "Duplicated",
        "incomplete": "Incomplete", "drifting": "Drifting",
    },
}  # fmt: skip
METHOD = {
    "responses": (
        "Reliability is the split-half correlation over stimuli, raised by Spearman and Brown's"
        " formula to the average over all repetitions. The noise ceiling is what a perfect model"
        " would score by RSA with correlation distances, from split halves of at most 500 stimuli;"
        " low and high are percentiles 2.5 and 97.5 over splits. Drift is the share of a neuroid's"
        " variance over presentations that sessions (or the first and second half of each"
        " stimulus' presentations) explain beside the stimuli, less what chance explains. Mean,"
        " spread, reliability and drift are medians over neuroids."
    ),
    "rdm": (
        "Between subjects: the mean Spearman correlation of a subject's RDM, averaged over its"
        " sessions, with those of the other individual subjects of the species and region. Between"
        " sessions: the mean over pairs of the subject's own sessions."
    ),
}


def write_recording_report(quality: RecordingQuality, ds: xr.Dataset, out: str | Path) -> Path:
    """Write report.html, quality.json and the figures as PNG, each atomically.

    Args:
        quality: what `repalign.quality.inspect_recording` found.
        ds: the recording that it was found of; its images are shown, where it has some.
        out: folder, made if absent; files of these names in it are replaced.

    Returns:
        The path of report.html.

    Raises:
        ValueError: the numbers are of another recording.

    Example:
        >>> ds = repalign.ingest("cowley2023_v4_190923")  # doctest: +SKIP
        >>> write_recording_report(inspect_recording(ds), ds, "page/")  # doctest: +SKIP
    """
    if str(ds.attrs.get("fingerprint", "")) != quality.fingerprint:
        raise ValueError(
            f"the numbers are of {quality.dataset} with another fingerprint than this recording;"
            " inspect the recording that the page is about"
        )
    drawn = make_figures(quality, ds)
    sections = [
        Section("What looks wrong", _warnings_html(quality)),
        Section("Numbers", _numbers_html(quality)),
        *(Section(heading, figure_html(fig, alt, text)) for heading, fig, alt, text in drawn),
        Section("What was inspected", _source_html(quality)),
    ]
    html = page(f"Quality of {quality.dataset}", sections, subtitle=quality.extent())
    folder = Path(out)
    record = json.dumps(quality.to_dict(), allow_nan=False, ensure_ascii=False)
    write_file(folder / RECORD, record + "\n")
    for heading, fig, _, _ in drawn:
        save_figure(fig, folder / f"{heading.lower().replace(' ', '-')}.png")
    write_file(folder / "report.html", html)
    return folder / "report.html"


def make_figures(quality: RecordingQuality, ds: xr.Dataset) -> list[tuple[str, Figure, str, str]]:
    """Heading, figure, alt text and caption of every figure that there are data for."""
    found: list[tuple[str, Figure, str, str]] = []
    own = figures.response_targets(quality)
    more = "" if len(own) <= figures.PANELS else f" The first {figures.PANELS} of {len(own)}."
    if any(not np.isnan(one.reliability).all() for one in own):
        found.append((
            "Reliability", figures.reliability_figure(quality),
            "Histograms of the reliability of neuroids, a panel a region.",
            "Split-half reliability of each neuroid's average over repetitions; the dashed line is"
            " the median, colours are subjects. Values below −1 are drawn at −1.",
        ))  # fmt: skip
    if own:
        found.append((
            "Responses", figures.histogram_figure(quality),
            "Histograms of responses on a logarithmic scale, a panel a target.",
            f"All responses; the vertical axis is linear up to 1 and logarithmic above.{more}",
        ))  # fmt: skip
        found.append((
            "Repetitions", figures.repetition_figure(quality),
            "Bars: how many stimuli have how many presentations.",
            f"Presentations of each stimulus, without missing ones.{more}",
        ))  # fmt: skip
    if any(np.isfinite(one.part_means).sum() > 1 for one in own):
        parts = "session" if quality.part_kind == "session" else "half of the presentations"
        found.append((
            "Drift", figures.session_figure(quality),
            f"Lines: mean response in each {parts}, one a target.",
            f"Mean response in each {parts}. Drift is the median over neuroids of the share of"
            f" variance explained beside the stimuli; neuroids may drift apart while their mean"
            f" stays. The axis spans at least the spread of a neuroid's responses.{more}",
        ))  # fmt: skip
    if quality.kind == "rdm" and len(quality.targets) > 1:
        found.append((
            "Agreement of RDMs", figures.rdm_figure(quality),
            "A matrix of Spearman correlations between all RDMs.",
            "Spearman correlation of the RDMs of all subjects, each averaged over its sessions.",
        ))  # fmt: skip
    if (store := ds.attrs.get("store")) and has_group(store, GROUP):
        stimuli = open_stimuli(ds)
        fig = figures.thumbnail_figure(stimuli)
        text = f"{min(figures.THUMBNAILS, len(stimuli))} of {len(stimuli)} images, evenly spaced."
        found.append(("Stimuli", fig, "A strip of stimulus images.", text))
    for _, fig, _, _ in found:  # each is rendered twice: solve its layout once
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    return found


def _warnings_html(quality: RecordingQuality) -> str:
    lines = "\n".join(f"- {warning}" for warning in quality.warnings)
    notes = "\n".join(f"- {note}" for note in quality.notes)
    text = lines or "Nothing: no warnings."
    return text_html(f"{text}\n\nTo know:\n\n{notes}" if notes else text)


def _numbers_html(quality: RecordingQuality) -> str:
    unknown: dict[str, list[str]] = {}
    for one in quality.targets:
        for name, reason in one.reasons.items():
            text = f"{name.replace('_', ' ')}: {reason}"
            unknown.setdefault(text, []).append(figures.name_of(one))
    tables = "".join(
        table_html(quality.rows(), TARGET | columns, caption)
        for caption, columns in TABLES.items()
        if any(name in row for row in quality.rows() for name in columns)
    )
    why = "\n".join(f"- {text} ({', '.join(names)})." for text, names in unknown.items())
    unsaid = text_html(f"Unknown numbers, and why:\n\n{why}") if why else ""
    return tables + unsaid + text_html(METHOD[quality.kind])


def _source_html(quality: RecordingQuality) -> str:
    entries = {
        "dataset": quality.dataset,
        "size": quality.extent(),
        "units": quality.units or "not stated",
        "processing": ", ".join(quality.processing) or "none",
        **({"splits": quality.splits, "seed": quality.seed} if quality.kind == "responses" else {}),
        "fingerprint": quality.fingerprint or "none: not from a store",
        "repalign": quality.version,
    }
    return definitions_html(entries, "The recording and how it was inspected")
