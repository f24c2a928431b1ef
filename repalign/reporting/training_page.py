"""The page on an experiment of training, or on one run of it: one file that loads nothing."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repalign.experiments.run_records import Experiment, attacks_of, runs_of, titles_of
from repalign.reporting import training_audits as audits
from repalign.reporting import training_sections as sections
from repalign.reporting.figures import save_figure
from repalign.reporting.shell import Section, page, text_html
from repalign.reporting.training_figures import (
    control_panels,
    gain_figure,
    has_controls,
    robustness_curves,
)
from repalign.reporting.training_panels import (
    HISTORY,
    alignment_cells,
    alignment_change,
    corruption_figure,
    dose_figure,
    learning_curves,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD = "experiment.json"
SECTIONS: dict[str, sections.SectionMaker] = {
    "Verdict": sections.verdict_html,
    "What was done": sections.method_html,
    "Robustness": sections.robustness_html,
    "Accuracy at each ε": sections.accuracy_html,
    "Differences and statistics": sections.difference_html,
    "Alignment before and after": audits.alignment_html,
    "Goodhart audit": audits.goodhart_html,
    "Dose and response": sections.dose_html,
    "Corruptions": sections.corruption_html,
    "Learning curves": audits.learning_html,
    "Masking audit": audits.masking_html,
    "Error patterns": audits.pattern_html,
    "Conditions that did not apply": audits.absent_html,
    "Configuration and environment": audits.configuration_html,
}
RUN_FIELDS = (
    "condition", "seed", "lambda", "clean", "attack", "norm", "eps", "accuracy", "ci_low",
    "ci_high", "n_images", "reference", "upper_bound", "auc", "auc_low", "auc_high", "folder",
)  # fmt: skip


def write_training_report(experiment: Experiment, out: str | Path) -> Path:
    """Write report.html, experiment.json, runs.csv and the figures as PNG, each atomically.

    Args:
        experiment: the record: conditions, runs and audits, JSON-able. Of its parts only "runs" is
            needed; the page says of each other one that it is missing. NaN becomes null.
        out: folder, made if absent; files of these names in it are replaced.

    Returns:
        The path of report.html.

    Raises:
        ValueError: there is no run, or two runs of one condition and seed.
        TypeError: a value that JSON cannot hold, or citations as a single string.

    Example:
        >>> write_training_report(read_experiment("results/"), "page/")  # doctest: +SKIP
    """
    from repalign.store import write_file

    if isinstance(experiment.get("citations"), str):
        raise TypeError("citations is a single string; give a list of strings, one a work")
    if not experiment.get("runs"):
        raise ValueError("the experiment has no run to report; expected a list under 'runs'.")
    record = plain(experiment)
    figures = make_figures(record)
    parts = [Section(name, make(record, figures)) for name, make in SECTIONS.items()]
    if record.get("citations"):
        works = (" ".join(str(work).split()) for work in record["citations"])
        parts.append(Section("Cite", text_html("\n".join(f"- {work}" for work in works))))
    html = page(str(record.get("title") or "Training"), parts, subtitle=_extent(record))
    folder = Path(out)
    write_file(folder / RECORD, json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n")
    write_file(folder / "runs.csv", _csv(record))
    for name, fig in figures.items():
        save_figure(fig, folder / f"{name}.png")
    write_file(folder / "report.html", html)
    return folder / "report.html"


def read_experiment(path: str | Path) -> dict[str, Any]:
    """Read the record beside a report, from its folder or its file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no JSON, or holds no experiment.

    Example:
        >>> read_experiment("results/")["title"]  # doctest: +SKIP
    """
    path = Path(path)
    file = path / RECORD if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; name a folder that holds a {RECORD}")
    try:
        record = json.loads(file.read_text("utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(record, dict) or "runs" not in record:
        raise ValueError(f"{file} holds no experiment: expected a mapping with 'runs'")
    return record


def make_figures(experiment: Experiment) -> dict[str, Figure]:
    """Return every figure that the record has data for, by name."""
    makers = {
        "robustness": (robustness_curves, bool(attacks_of(experiment))),
        "controls": (control_panels, has_controls(experiment)),
        "gains": (gain_figure, _has_gains(experiment)),
        "alignment": (alignment_change, bool(alignment_cells(experiment))),
        "dose": (dose_figure, _is_dosed(experiment)),
        "corruptions": (corruption_figure, _any(experiment, "corruptions")),
        "learning": (learning_curves, _is_logged(experiment)),
    }
    figures = {name: make(experiment) for name, (make, has_data) in makers.items() if has_data}
    for fig in figures.values():  # each is rendered twice: solve its layout once
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
    return figures


def _has_gains(experiment: Experiment) -> bool:
    names = {run["condition"] for run in experiment["runs"]}
    return bool(attacks_of(experiment)) and "aligned" in names and len(names) > 1


def _is_dosed(experiment: Experiment) -> bool:
    rows = experiment.get("dose") or ()
    return any(row["condition"] in ("aligned", "baseline") for row in rows)


def _any(experiment: Experiment, part: str) -> bool:
    return any(run.get(part) for run in experiment["runs"])


def _is_logged(experiment: Experiment) -> bool:
    logs = (run.get("history") or () for run in experiment["runs"])
    return any(row.get(name) is not None for log in logs for row in log for name in HISTORY)


def plain(value: Any) -> Any:
    """Return the strict-JSON form of a record: NaN and infinity are None, arrays are lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot be written as JSON; a record holds None, "
        "numbers, text, and lists and dicts of them"
    )


def _csv(experiment: Experiment) -> str:
    """One line a run and point of its curves; a run without curves has one line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, RUN_FIELDS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for run in experiment["runs"]:
        for row in run.get("curves") or [{}]:
            writer.writerow({**run, **row})
    return text.getvalue()


def _extent(experiment: Experiment) -> str:
    """Conditions, seeds and runs, in words."""
    names = [name for name in titles_of(experiment) if runs_of(experiment, name)]
    seeds = {run["seed"] for run in experiment["runs"]}
    counts = ((len(experiment["runs"]), "run"), (len(names), "condition"), (len(seeds), "seed"))
    return ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in counts)
