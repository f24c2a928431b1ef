"""The page that judges sparse features: their overlap between seeds, and all controls' matches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repalign.autoencoders.matches import LEVEL, p_text
from repalign.autoencoders.study import FeatureStudy
from repalign.reporting import autoencoder_figures as figures
from repalign.reporting.figures import save_figure
from repalign.reporting.shell import (
    Section,
    code_html,
    figure_html,
    page,
    table_html,
    text_html,
)
from repalign.store import write_file

OVERLAP = {
    "first": "Directions of", "second": "In", "max_cosine": "Nearest", "chance": "By chance",
    "matched_cosine": "One to one",
}  # fmt: skip
POPULATIONS = {
    "population": "Features", "seed": "Seed", "features": "Number",
    "explained_variance": "Explained variance", "l0": "Active a sample",
    "neuroids_held_out": "Neuroids' r", "neuroids_held_out_p": "p",
    "neuroids_certain": "Neuroids named", "features_held_out": "Features' r",
}  # fmt: skip
HOW_OVERLAP = (
    "Cosine of each living direction with its nearest in the other autoencoder, averaged (Nearest),"
    " beside random directions of the same second moments (By chance), and with partners that no"
    " two directions share (One to one). Features that another seed does not find again are of the"
    " training's accidents, not of the layer. Principal components span the same space: a high"
    " cosine with them says that the features are little more than components."
)
HOW_MATCHES = (
    "Neuroids' r and features' r are median correlations with the best match, on stimuli that did"
    " not choose it; p compares that of neuroids to permuted stimuli. Neuroids named have a best"
    " feature beyond what the best of all pairs reaches by chance (family-wise p of 0.05 or less)."
    " All match by |r|, so that components, whose sign says nothing, are on a par. A larger set of"
    " features has more to choose from: held-out correlations are fair to that."
)


def write_feature_study_report(
    study: FeatureStudy, out: str | Path, *, title: str = "", command: str = ""
) -> Path:
    """Write report.html, study.json and the figures as PNG, each atomically.

    Args:
        study: what `repalign.feature_study` found.
        out: folder, made if absent; files of these names in it are replaced.
        title: of the page; by default it names the layer.
        command: what made it, shown as the way to reproduce it.

    Returns:
        The path of report.html.

    Example:
        >>> study = repalign.feature_study(acts, twin, it, features=512, k=16)  # doctest: +SKIP
        >>> write_feature_study_report(study, "page/")                          # doctest: +SKIP
    """
    areas = list(dict.fromkeys(row["area"] for row in study.rows))
    rows = [
        {**row, "population": figures.population_name(row["network"], row["kind"])}
        for row in study.rows
    ]
    drawn = {"overlap": figures.overlap_figure(study)}
    drawn |= {f"area-{i}": figures.area_figure(study, area) for i, area in enumerate(areas)}
    for fig in drawn.values():  # each is rendered twice: lay it out once
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    overlap = figure_html(
        drawn["overlap"],
        "Dots: mean cosines of directions between seeds and with principal components.",
        "One dot a pair of autoencoders; bars are what random directions reach.",
    )
    sections = [
        Section("What was found", text_html(study_summary(study))),
        Section(
            "Overlap of features",
            overlap
            + table_html(study.overlaps, OVERLAP, "All pairs of autoencoders of one network")
            + text_html(HOW_OVERLAP),
        ),
    ]
    for i, area in enumerate(areas):
        figure = figure_html(
            drawn[f"area-{i}"],
            "Lines: held-out correlations of all neuroids, best first, one line a set of features.",
            "Correlation of each neuroid with its best match, on stimuli that did not choose it;"
            " one line a seed.",
        )
        own = [row for row in rows if row["area"] == area]
        n = own[0]["neuroids_matched"]
        caption = f"The same matching of {n} neuroids to each set; r is held out"
        table = table_html(own, POPULATIONS, caption)
        heading = f"Matches with {area or 'the recording'}"
        sections.append(Section(heading, figure + table + text_html(HOW_MATCHES)))
    if command:
        sections.append(Section("How to reproduce", code_html(command)))
    first = next(iter(study.autoencoders.values()))
    called = first.source["called"]
    found = next(iter(study.matches.values()))
    subtitle = (
        f"{first.settings.name} beside its controls; {found.n_stimuli} stimuli,"
        f" {found.permutations} permutations"
    )
    html = page(title or f"Sparse features of {called}, judged", sections, subtitle=subtitle)
    folder = Path(out)
    kept = {"rows": _strict(study.rows), "overlaps": _strict(study.overlaps)}
    write_file(folder / "study.json", json.dumps(kept, indent=1, allow_nan=False) + "\n")
    for name, fig in drawn.items():
        save_figure(fig, folder / f"{name}.png")
    write_file(folder / "report.html", html)
    return folder / "report.html"


def study_summary(study: FeatureStudy) -> str:
    """Say whether features are stable, and in which areas they are ahead of every control."""
    lines = []
    seeds = {
        network: [
            row
            for row in study.overlaps
            if row["first"].startswith(f"{network} ") and " pca-" not in row["second"]
        ]
        for network in ("trained", "untrained")
    }
    parts = [
        f"{_mean(found, 'max_cosine'):.2f} in the {network} network (chance"
        f" {_mean(found, 'chance'):.2f})"
        for network, found in seeds.items()
    ]
    lines.append(
        "Between seeds, a feature's direction and its nearest have a mean cosine of"
        f" {' and '.join(parts)}."
    )
    for area in dict.fromkeys(row["area"] for row in study.rows):
        lines.append(_area_summary([row for row in study.rows if row["area"] == area], area))
    return "\n\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _area_summary(rows: Sequence[dict[str, Any]], area: str) -> str:
    """One area: the worst seed of the trained network's features against the best of controls."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        kind = row["kind"] if row["kind"] in ("pca", "units") else "sparse"
        values.setdefault((row["network"], kind), []).append(row["neuroids_held_out"])
    own = values.pop(("trained", "sparse"))
    seeds = f"{min(own):.2f}" if len(own) == 1 else f"{min(own):.2f} to {max(own):.2f}"
    others = ", ".join(f"{max(found):.2f} by {_called(*key)}" for key, found in values.items())
    said = (
        f"{area or 'The recording'}: on stimuli that did not choose it, the median correlation of a"
        f" neuroid with its best match is {seeds} (over seeds) for the trained network's sparse"
        f" features. The controls reach {others}."
    )
    p = [
        row["neuroids_held_out_p"]
        for row in rows
        if row["network"] == "trained" and row["kind"] not in ("pca", "units")
    ]
    behind = [_called(*key) for key, found in values.items() if not min(own) > np.nanmax(found)]
    if not max(p) <= LEVEL:
        verdict = f"Permuted stimuli give as much (p up to {p_text(max(p))}): there is no match."
    elif behind:
        verdict = (
            f"Not every seed is ahead of {' and '.join(behind)}: the matches do not speak for"
            " sparse features."
        )
    else:
        verdict = (
            "Every seed is ahead of every control: the matches speak for these sparse features."
        )
    return f"{said} {verdict}".replace(" -", " −")


def _called(network: str, kind: str) -> str:
    words = {"pca": "principal components", "units": "raw units", "sparse": "sparse features"}
    return f"the {network} network's {words[kind]}"


def _strict(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as strict JSON has them: NaN is null."""
    return [
        {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        for row in rows
    ]
