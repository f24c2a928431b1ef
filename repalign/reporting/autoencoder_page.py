"""The page on one autoencoder of a layer: one file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.autoencoders.matches import FeatureMatches, Matches
from repalign.autoencoders.report import overfitting
from repalign.autoencoders.results import TrainedAutoencoder
from repalign.reporting import autoencoder_figures as figures
from repalign.reporting.figures import save_figure
from repalign.reporting.shell import (
    Section,
    code_html,
    definitions_html,
    figure_html,
    page,
    table_html,
    text_html,
)
from repalign.store import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 25  # neuroids, of the best matched ones
RECONSTRUCTION = {
    "samples": "Samples of", "n": "Number", "explained_variance": "Explained variance",
    "loss": "Loss", "l0": "Active features a sample", "never": "Features never active",
    "share": "Share never active",
}  # fmt: skip
MATCHES = {
    "name": "Neuroid", "partner": "Best feature", "held_out": "Held-out r", "r": "r", "p": "p",
    "q": "q", "p_family": "Family-wise p",
}  # fmt: skip
MEASURES = (
    "Explained variance is 1 less the squared error over the variance of the same samples; the loss"
    " is the mean squared error an input, where inputs have a mean variance of 1. A feature is"
    " active where it is not 0."
)
MATCHING = (
    "r is the correlation over all shared stimuli with the best feature, which the choice inflates."
    " Held-out r is the correlation on stimuli that did not choose the feature: half of the stimuli"
    " choose, the other half score, and the other way round; 0 is what unrelated units give. p is"
    " the chance that permuted stimuli bring the neuroid a feature that is as close; q is p after"
    " Benjamini and Hochberg's correction over neuroids, the expected share of false ones among all"
    " with this q or less. Family-wise p is the chance that permuted stimuli bring any neuroid at"
    " all such a feature: where it is 0.05 or less, this very pair may be named."
)
CAUTION = (
    "Stimuli are taken as exchangeable: where they come in groups (views of one object, frames of a"
    " film), p is too small. Features of an untrained network, principal components and raw units"
    " match neuroids too: repalign autoencoder --untrained puts them beside these."
)

Drawn = Sequence[tuple[str, "Figure", str, str]]


def write_autoencoder_report(
    trained: TrainedAutoencoder,
    out: str | Path,
    *,
    matches: FeatureMatches | None = None,
    recording: str = "",
    command: str = "",
) -> Path:
    """Write report.html and its figures as PNG, each atomically.

    Args:
        trained: the autoencoder.
        out: folder, made if absent; files of these names in it are replaced.
        matches: of its features and a recording's neuroids; without them nothing is said of a
            brain.
        recording: how the recording is called.
        command: what made it, shown as the way to reproduce it.

    Returns:
        The path of report.html.

    Example:
        >>> sae = repalign.train_autoencoder(layer, features=512, k=16)  # doctest: +SKIP
        >>> write_autoencoder_report(sae, "page/")                       # doctest: +SKIP
    """
    of_features, of_matches = _own_figures(trained), _match_figures(matches, recording)
    for _, fig, _, _ in (*of_features, *of_matches):  # each is rendered twice: lay it out once
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    sections = [
        Section("What was found", text_html(summary_text(trained, matches))),
        Section("Reconstruction and sparsity", _reconstruction_html(trained)),
        *(Section(heading, figure_html(fig, alt, text)) for heading, fig, alt, text in of_features),
    ]
    if matches is not None:
        parts = [figure_html(fig, alt, text) for _, fig, alt, text in of_matches]
        parts += [_best_html(matches.neuroids), text_html(f"{MATCHING}\n\n{CAUTION}")]
        heading = f"Matches with {recording or 'the recording'}"
        sections.append(Section(heading, "".join(parts)))
    sections.append(Section("What was trained", _source_html(trained, command)))
    folder = Path(out)
    for heading, fig, _, _ in (*of_features, *of_matches):
        save_figure(fig, folder / f"{heading.lower().replace(' ', '-')}.png")
    title = f"{_kind_words(trained)} of {trained.source['called']}"
    write_file(folder / "report.html", page(title, sections, subtitle=_extent(trained)))
    return folder / "report.html"


def summary_text(trained: TrainedAutoencoder, matches: FeatureMatches | None) -> str:
    """Say in a few sentences how good an autoencoder is, and what its matches mean."""
    report = trained.report
    part, whose = report.train, "trained"
    if report.held_out is not None:
        part, whose = report.held_out, "held-out"
    n = trained.settings.features
    lines = [
        f"{n} features explain {part.explained_variance:.1%} of the variance of {whose} stimuli"
        f" with {part.l0:.1f} of them active in a sample; {round(report.dead_fraction * n)} are"
        " never active."
    ]
    if (warning := overfitting(report, trained.layout)) is not None:
        lines.append(f"Take care: {warning}.")
    if matches is not None:
        lines.append(f"{matches.n_stimuli} shared stimuli. {matches.conclusion()}")
    return "\n\n".join(lines)


def _own_figures(trained: TrainedAutoencoder) -> Drawn:
    """Heading, figure, alt text and caption; principal components are neither trained nor rare."""
    if trained.settings.kind == "pca":
        return []
    return [
        (
            "Training", figures.training_figure(trained),
            "Lines: loss, and numbers of active and dead features, against the step.",
            "Left: the squared error of each batch, with its penalties, and that of held-out"
            " stimuli; where the second rises the features begin to fit noise. Right: features"
            f" that are active in a sample, and those that were not for"
            f" {trained.settings.dead_steps} steps.",
        ),
        (
            "Feature frequency", figures.frequency_figure(trained),
            "Histogram of the share of samples in which each feature is active.",
            "Features by the share of samples that activate them, on a logarithmic scale. Features"
            " that are active nearly always say little, and those that never are say nothing.",
        ),
    ]  # fmt: skip


def _match_figures(matches: FeatureMatches | None, recording: str) -> Drawn:
    if matches is None:
        return []
    n = len(matches.neuroids.held_out_null)
    return [
        (
            "Matches", figures.match_figure(matches),
            "Histograms of held-out correlations of best matches, above those of permuted stimuli.",
            f"Correlation of each best match on stimuli that did not choose it, above the same for"
            f" {n} permutations of {recording or 'the recording'}'s stimuli.",
        )
    ]  # fmt: skip


def _reconstruction_html(trained: TrainedAutoencoder) -> str:
    parts = {"trained stimuli": trained.report.train, "held-out stimuli": trained.report.held_out}
    rows = [
        {
            "samples": name,
            "n": part.n_samples,
            "explained_variance": part.explained_variance,
            "loss": part.loss,
            "l0": part.l0,
            "never": int((part.density == 0).sum()),
            "share": float((part.density == 0).mean()),
        }
        for name, part in parts.items()
        if part is not None
    ]
    return table_html(rows, RECONSTRUCTION, "One pass over all samples") + text_html(MEASURES)


def _best_html(neuroids: Matches) -> str:
    rows = best_matched(neuroids, SHOWN)
    n = int(neuroids.defined.sum())
    which = f"{len(rows)} of {n}" if n > len(rows) else f"All {n}"
    return table_html(rows, MATCHES, f"{which} neuroids, the best matched first")


def best_matched(neuroids: Matches, most: int) -> list[dict[str, Any]]:
    """Rows of the neuroids with the highest held-out correlations."""
    known = [row for row in neuroids.rows() if row["held_out"] is not None]
    return sorted(known, key=lambda row: -row["held_out"])[:most]


def _kind_words(trained: TrainedAutoencoder) -> str:
    return "Principal components" if trained.settings.kind == "pca" else "Sparse features"


def _extent(trained: TrainedAutoencoder) -> str:
    report, settings = trained.report, trained.settings
    n_out = len(trained.held_out)
    sparse = f", {settings.k} a sample" if settings.k else ""
    seen = f", each sample seen {report.epochs:.1f} times" if settings.kind != "pca" else ""
    return (
        f"{settings.name}{sparse}: {report.train.n_samples} samples of {trained.layout.n_inputs}"
        f" inputs{seen}; {n_out} stimuli held out"
    )


def _source_html(trained: TrainedAutoencoder, command: str) -> str:
    from repalign import __version__

    layout, source = trained.layout, trained.source
    entries = {
        "layer": source["called"],
        "shape of the layer": "×".join(map(str, layout.shape)),
        "a sample is": {
            "flat": "the whole layer",
            "positions": "the channels at one position",
            "mean": "the channels, averaged over positions",
        }[layout.samples],
        **{
            name.replace("_", " "): value
            for name, value in vars(trained.settings).items()
            if value is not None and name not in ("samples",)
        },
        "fingerprint of the layer": source["fingerprint"] or "none: not from a store",
        "repalign": __version__,
    }
    table = definitions_html(entries, "The layer and all settings")
    return (code_html(command) if command else "") + table
